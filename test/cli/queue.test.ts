import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { QueueEngine } from '../../src/contracts/queue.ts'
import { postgresQueue } from '../../src/drivers/postgres/index.ts'
import { rabbitmqQueue } from '../../src/drivers/rabbitmq/index.ts'
import { sqliteLocks, sqliteQueue } from '../../src/drivers/sqlite/index.ts'
import { createLocks } from '../../src/lock/index.ts'
import { createQueue, type Queue, type RunOptions, Unprocessable } from '../../src/queue/index.ts'
import { type RabbitmqServer, type Server, serverMissing, startPostgres, startRabbitmq } from '../../src/testing/servers/index.ts'
import { as, askPassword, onPostgres } from './databases.ts'
import { type Ended, headrace, onlyDocument, spawnHeadrace, temporaryFolder } from './headrace.ts'

const missing = serverMissing('postgres') ?? serverMissing('rabbitmq')
const startMs = 100_000

type Row = Readonly<Record<string, unknown>> & { readonly group: string; readonly partition?: number; readonly depth: number }

describe.skipIf(missing !== null)(`headrace queue${missing === null ? '' : ` (${missing})`}`, () => {
  const folder = temporaryFolder()
  const file = join(folder.path, 'queue.sqlite')
  let pg: Server
  let rabbit: RabbitmqServer

  beforeAll(async () => {
    ;[pg, rabbit] = await Promise.all([startPostgres(), startRabbitmq()])
  }, startMs)
  afterAll(async () => {
    await Promise.all([pg?.stop(), rabbit?.stop()])
    folder.drop()
  }, startMs)

  const run = (args: readonly string[], url: string): Promise<Ended> => headrace(['queue', ...args, '--url', url])
  const documents = <T = Row>({ code, stdout, stderr }: Ended): T[] => {
    expect(code, stderr).toBe(0)
    return stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as T)
  }

  const engines: Record<string, { url(): string; open(): QueueEngine }> = {
    'a SQLite file': { url: () => `sqlite:${file}`, open: () => sqliteQueue({ file }) },
    'PostgreSQL': { url: () => pg.url, open: () => postgresQueue({ url: pg.url }) },
    'RabbitMQ': { url: () => rabbit.url, open: () => rabbitmqQueue({ url: rabbit.url }) },
  }

  const withQueue = async (open: () => QueueEngine, test: (queue: Queue) => Promise<void>): Promise<void> => {
    const locks = createLocks(sqliteLocks({ file: join(folder.path, 'locks.sqlite') }))
    const queue = createQueue({ engine: open(), locks, onError: () => {} })
    try {
      await test(queue)
    } finally {
      await queue.close()
      await locks.close()
    }
  }

  /** Consumes until `count` messages are handled or dead: those that `kills` names die. */
  const consume = async (queue: Queue, group: string, count: number, kills: (id: string) => boolean): Promise<void> => {
    let rest = count
    let done = (): void => {}
    const ended = new Promise<void>((resolve) => {
      done = resolve
    })
    const consumption = await queue.consumer.run(
      'orders',
      ({ id }) => {
        rest -= 1
        if (rest === 0) setImmediate(done)
        if (kills(id)) throw new Unprocessable(`no address for ${id}`)
      },
      { group, concurrency: 1 } satisfies RunOptions,
    )
    await ended
    await consumption.close()
  }

  for (const [name, { url, open }] of Object.entries(engines)) {
    it(`lists, peeks, redrives in order and purges on ${name}`, () =>
      withQueue(open, async (queue) => {
        await queue.declare('orders', { partitions: 4, groups: ['billing', 'mail'] })
        const ids = Array.from({ length: 20 }, (_, index) => `order-${index}`)
        for (const [index, id] of ids.entries())
          await queue.producer.publish('orders', { index, note: 'a\u001b[31mb' }, { id, key: index % 2 === 0 ? 'even' : `odd-${index}` })
        const dying = ['order-4', 'order-8', 'order-12']
        await consume(queue, 'mail', 20, (id) => dying.includes(id))
        const groups = ['--group', 'billing', '--group', 'mail']
        const all = async (...args: readonly string[]): Promise<Row[]> =>
          documents(await run(['ls', 'orders', ...groups, '--interval', '0', '--ages', '--json', ...args], url()))

        expect(await all()).toMatchObject([
          { topic: 'orders', group: 'billing', partitions: 4, depth: 20, dead: 0, leased: 0 },
          { topic: 'orders', group: 'mail', partitions: 4, depth: 0, dead: 3, oldestAgeMs: null },
        ])
        const rows = await all('--partitions')
        expect(rows.map(({ group, partition }) => `${group} ${partition}`)).toEqual(
          ['billing', 'mail'].flatMap((group) => [0, 1, 2, 3].map((partition) => `${group} ${partition}`)),
        )
        expect(rows.reduce((sum, { depth }) => sum + depth, 0)).toBe(20)
        for (const { depth, oldestAgeMs } of rows) expect(typeof oldestAgeMs).toBe(depth > 0 ? 'number' : 'object')
        const person = await run(['ls', 'orders', ...groups, '--interval', '50ms'], url())
        const age = name === 'RabbitMQ' ? '–' : '\\d'
        expect(person.stdout).toMatch(new RegExp(`orders +billing +20 +0 +0 +${age}.* 0/4 +nobody consumes it\\n`))
        expect(person.stdout).toMatch(/\n +mail +0 +0 +3 +– /)
        expect(person.stdout).toMatch(name === 'RabbitMQ' ? /growth\/s/ : /in\/s +out\/s/)

        const waiting = documents<{ id: string; body: string }>(
          await run(['peek', 'orders', '--group', 'billing', '--limit', '100', '--json'], url()),
        )
        expect(waiting.map(({ id }) => id).sort()).toEqual([...ids].sort())
        expect(waiting.map(({ id }) => id).filter((id) => Number(id.slice(6)) % 2 === 0)).toEqual(ids.filter((_, index) => index % 2 === 0))
        expect(JSON.parse(waiting[0]?.body ?? '')).toEqual({ index: 0, note: 'a\u001b[31mb' })
        const peeked = await run(['peek', 'orders', '--group', 'billing', '--limit', '2'], url())
        expect(peeked.stdout).toMatch(/even +order-0 .*"index":0/)
        expect(peeked.stdout).not.toContain('\u001b')
        expect((await all())[0]).toMatchObject({ depth: 20 })

        const letters = documents<{ letter: string; message: { id: string }; reason: object }>(
          await run(['peek', 'orders', '--group', 'mail', '--dead', '--json'], url()),
        )
        expect(letters.map(({ message }) => message.id)).toEqual(dying)
        expect(letters[0]?.reason).toEqual({ code: 'unprocessable', message: 'no address for order-4', attempts: 1 })
        const page = await run(['peek', 'orders', '--group', 'mail', '--dead', '--limit', '1'], url())
        expect(page.stdout).toContain(`go on with --after ${letters[0]?.letter}.`)
        const rest = await run(['peek', 'orders', '--group', 'mail', '--dead', '--after', letters[0]?.letter ?? '', '--json'], url())
        expect(documents<{ letter: string }>(rest).map(({ letter }) => letter)).toEqual(letters.slice(1).map(({ letter }) => letter))

        const letterOf = (id: string): string => letters.find(({ message }) => message.id === id)?.letter as string
        expect((await run(['redrive', 'orders', '--group', 'mail'], url())).code).toBe(2)
        const one = await run(['redrive', 'orders', '--group', 'mail', '--id', letterOf('order-8'), '--json'], url())
        expect(documents(one)).toEqual([{ topic: 'orders', group: 'mail', redriven: 1, dead: 2 }])
        const none = await run(['redrive', 'orders', '--group', 'mail', '--id', letterOf('order-8'), '--json'], url())
        expect([none.code, onlyDocument(none)]).toEqual([1, { topic: 'orders', group: 'mail', redriven: 0, dead: 2 }])
        expect((await run(['redrive', 'orders', '--group', 'mail', '--all'], url())).stdout).toContain('Redriven: 2 dead letters')
        const again = documents<{ id: string; redriven: number }>(await run(['peek', 'orders', '--group', 'mail', '--json'], url()))
        expect(again.map(({ id, redriven }) => [id, redriven])).toEqual([
          ['order-8', 1],
          ['order-4', 1],
          ['order-12', 1],
        ])

        await consume(queue, 'mail', 3, () => true)
        const back = documents<{ letter: string }>(await run(['peek', 'orders', '--group', 'mail', '--dead', '--json'], url()))
        expect(back).toHaveLength(3)
        expect((await run(['purge', 'orders', '--group', 'mail', '--dead'], url())).code).toBe(2)
        const dropped = await run(['purge', 'orders', '--group', 'mail', '--dead', '--id', back[0]?.letter ?? '', '--yes', '--json'], url())
        expect(documents(dropped)).toEqual([{ topic: 'orders', group: 'mail', dropped: 1, dead: 2 }])
        expect((await run(['purge', 'orders', '--group', 'mail', '--dead', '--yes'], url())).stdout).toBe(
          'Dropped 2 dead letters of mail of orders.\n',
        )

        const refused = await run(['purge', 'orders', '--group', 'billing'], url())
        expect([refused.code, refused.stderr]).toEqual([2, expect.stringContaining('Purge 20 messages that wait for billing of orders')])
        expect((await all())[0]).toMatchObject({ depth: 20 })
        const purged = await run(['purge', 'orders', '--group', 'billing', '--yes', '--json'], url())
        expect(documents(purged)).toEqual([{ topic: 'orders', group: 'billing', purged: 20, left: 0, delayed: 0, dead: 0 }])
        expect(await all()).toMatchObject([
          { group: 'billing', depth: 0, dead: 0 },
          { group: 'mail', depth: 0, dead: 0 },
        ])
      }))
  }

  for (const [name, { url, open }] of Object.entries(engines).filter(([each]) => each !== 'RabbitMQ')) {
    it(`pauses and resumes a group on ${name}, whichever process consumes it, and tells rates`, () =>
      withQueue(open, async (queue) => {
        await queue.declare('steady', { partitions: 2, groups: ['slow', 'fast'] })
        await queue.declare('another', { partitions: 1 })
        let handled = 0
        let wake = (): void => {}
        const more = (): Promise<void> =>
          new Promise((resolve) => {
            wake = resolve
          })
        await queue.consumer.run(
          'steady',
          () => {
            handled += 1
            wake()
          },
          { group: 'fast' },
        )
        const publish = (id: number) => queue.producer.publish('steady', { id }, { key: String(id) })
        const first = more()
        await publish(0)
        await first

        const stop = new AbortController()
        const publishing = (async () => {
          for (let id = 1; !stop.signal.aborted; id++) await Promise.all([publish(id), new Promise((resolve) => setTimeout(resolve, 5))])
        })()
        const rows = documents<Record<string, number>>(await run(['ls', 'steady', '--interval', '500ms', '--json'], url()))
        stop.abort()
        await publishing
        expect(rows).toMatchObject([
          { group: 'fast', paused: false, leased: 2 },
          { group: 'slow', paused: false, leased: 0, outPerSecond: 0 },
        ])
        for (const { inPerSecond } of rows) expect(inPerSecond).toBeGreaterThan(1)
        expect(rows[0]?.['outPerSecond']).toBeGreaterThan(1)
        expect(rows[1]?.['growthPerSecond']).toBe(rows[1]?.['inPerSecond'])

        expect(documents(await run(['pause', 'steady', '--group', 'fast', '--json'], url()))).toEqual([
          { topic: 'steady', group: 'fast', paused: true, was: false },
        ])
        const person = await run(['ls', 'steady', '--group', 'fast', '--interval', '0'], url())
        expect(person.stdout).toMatch(/fast .* 2\/2 +paused\n/)
        const before = handled
        await publish(-1)
        expect((await run(['pause', 'steady', '--group', 'fast'], url())).stdout).toContain('already paused')
        expect(handled).toBe(before)
        const next = more()
        expect((await run(['resume', 'steady', '--group', 'fast'], url())).code).toBe(0)
        await next
        expect((await run(['ls', '--interval', '0'], url())).stdout).toMatch(/another +default[\s\S]*steady +fast/)
      }))
  }

  it('says of RabbitMQ what to give, what it cannot show, and makes nothing there', () =>
    withQueue(
      () => rabbitmqQueue({ url: rabbit.url }),
      async (queue) => {
        await queue.declare('held', { partitions: 3, groups: ['only'] })
        const before = await rabbit.ctl('list_queues', 'name')
        const unnamed = await run(['ls'], rabbit.url)
        expect([unnamed.code, unnamed.stderr]).toEqual([2, expect.stringContaining('RabbitMQ does not list topics')])
        expect(unnamed.stderr).toContain('headrace queue ls orders --group billing')
        for (const args of [
          ['ls', 'held'],
          ['ls', 'held', '--group', 'other'],
          ['peek', 'nowhere'],
        ]) {
          const unknown = await run([...args, '--json'], rabbit.url)
          expect([unknown.code, onlyDocument(unknown)]).toMatchObject([1, { error: { code: 'topic-unknown' } }])
        }
        const paused = await run(['pause', 'held', '--group', 'only'], rabbit.url)
        expect([paused.code, paused.stderr]).toEqual([1, expect.stringContaining('RabbitMQ keeps no pauses')])
        expect(await rabbit.ctl('list_queues', 'name')).toBe(before)

        let taken = (): void => {}
        const begun = new Promise<void>((resolve) => {
          taken = resolve
        })
        let finish = (): void => {}
        const finished = new Promise<void>((resolve) => {
          finish = resolve
        })
        await queue.consumer.run(
          'held',
          async () => {
            taken()
            await finished
          },
          { group: 'only', leaseRetryMs: 20 },
        )
        await queue.producer.publish('held', 1, { key: 'k' })
        await begun
        const rows = documents(await run(['ls', 'held', '--group', 'only', '--interval', '0', '--json'], rabbit.url))
        expect(rows).toMatchObject([{ partitions: 3, paused: null, inPerSecond: null, outPerSecond: null }])
        expect(rows[0]?.['leased']).toBeGreaterThanOrEqual(1)
        const hidden = await run(['peek', 'held', '--group', 'only'], rabbit.url)
        expect([hidden.code, hidden.stderr]).toEqual([0, expect.stringContaining('RabbitMQ shows nobody else')])
        finish()
      },
    ))

  it('looks again and again with --watch, until it is interrupted', () =>
    withQueue(
      () => sqliteQueue({ file }),
      async (queue) => {
        await queue.declare('watched', { partitions: 1 })
        const { child, ended } = spawnHeadrace(['queue', 'ls', 'watched', '--url', file, '--watch', '--interval', '100ms', '--json'])
        let rows: Row[] = []
        await new Promise<void>((resolve, reject) => {
          let text = ''
          let published = false
          child.stdout?.on('data', (chunk: string) => {
            text += chunk
            rows = text
              .split('\n')
              .slice(0, -1)
              .map((line) => JSON.parse(line) as Row)
            if (rows.length > 0 && !published) {
              published = true
              queue.producer.publish('watched', 1).catch(reject)
            }
            if (rows.at(-1)?.depth === 1) resolve()
          })
          void ended.then(({ stderr }) => reject(new Error(stderr)))
        })
        child.kill('SIGINT')
        expect((await ended).signal).toBe('SIGINT')
        expect(rows[0]).toMatchObject({ topic: 'watched', group: 'default', depth: 0 })
      },
    ))

  it('makes nothing where it only looks: no file, no table', async () => {
    const nowhere = join(folder.path, 'nowhere.sqlite')
    for (const url of [nowhere, `sqlite:${nowhere}`, `file://${nowhere}`]) expect((await run(['ls'], url)).code).toBe(2)
    expect(existsSync(nowhere)).toBe(false)
    const other = join(folder.path, 'other.txt')
    writeFileSync(other, 'something else')
    expect((await run(['ls'], `sqlite:${other}`)).code).toBe(2)
    await onPostgres(pg.url, 'create database empty')
    const empty = pg.url.replace(/[^/]+$/, 'empty')
    const ended = await run(['ls', '--json'], empty)
    expect([ended.code, onlyDocument(ended)]).toMatchObject([1, { error: { code: 'queues-missing' } }])
    expect(await onPostgres(empty, "select from pg_class where relname like 'headrace%'")).toEqual([])
    const known = join(folder.path, 'known.sqlite')
    await sqliteQueue({ file: known }).close()
    const unknown = await run(['peek', 'nobody', '--json'], `sqlite:${known}`)
    expect([unknown.code, onlyDocument(unknown)]).toMatchObject([1, { error: { code: 'topic-unknown' } }])
  })

  it('never prints a password, and ends with 3 when it is wrong', async () => {
    await onPostgres(pg.url, "create role locked login password 'right'")
    await askPassword(pg, 'locked')
    for (const url of [as(pg.url, 'locked', 'wr0ng'), as(rabbit.url, 'guest', 'wr0ng')]) {
      for (const args of [
        ['ls', 'orders'],
        ['ls', 'orders', '--json'],
        ['purge', 'orders', '--yes'],
      ]) {
        const ended = await run(args, url)
        expect(ended.code, ended.stderr).toBe(3)
        expect(ended.stdout + ended.stderr).not.toContain('wr0ng')
      }
    }
    const environment = { HEADRACE_QUEUE_URL: as(pg.url, 'locked', 'right') }
    expect((await headrace(['queue', 'ls', '--help'], { environment })).stdout).not.toContain('right@')
    const elsewhere = join(folder.path, 'elsewhere.sqlite')
    await withQueue(
      () => sqliteQueue({ file: elsewhere }),
      async (queue) => void (await queue.declare('placed')),
    )
    const placed = await headrace(['queue', 'ls', 'placed', '--interval', '0'], {
      environment: { HEADRACE_QUEUE_URL: `sqlite:${elsewhere}` },
    })
    expect(placed.code, placed.stderr).toBe(0)
  })

  it('ends in bounded time with 3 when nothing answers, be it gone or paused', async () => {
    for (const url of ['postgres://u@127.0.0.1:1/x', 'amqp://127.0.0.1:1']) {
      const startedAt = performance.now()
      expect((await run(['ls', 'orders'], url)).code).toBe(3)
      expect(performance.now() - startedAt).toBeLessThan(40_000)
    }
    for (const server of [pg, rabbit]) {
      const startedAt = performance.now()
      server.pause()
      const ended = await run(['ls', 'orders'], server.url)
      server.resume()
      expect(ended.code, ended.stderr).toBe(3)
      expect(performance.now() - startedAt).toBeLessThan(40_000)
    }
  })

  it.each([
    [['ls'], 'Where are the queues?'],
    [['ls', '--url', 'redis://:geh3im@127.0.0.1/0'], 'no queues on redis:'],
    [['ls', '--url', 'postgres://user:geh3im@'], 'not valid'],
    [['ls', '--url', 'x.sqlite', '--watch', '--interval', '0'], '--watch needs an --interval'],
    [['peek', '--url', 'x.sqlite'], 'missing required argument'],
    [['peek', 'orders', '--url', 'x.sqlite', '--after', '1'], '--after goes with --dead'],
    [['redrive', 'orders', '--url', 'x.sqlite'], 'Which dead letters?'],
    [['redrive', 'orders', '--url', 'x.sqlite', '--id', '1', '--all'], 'exclude each other'],
    [['purge', 'orders', '--url', 'x.sqlite', '--id', '1'], 'goes with --dead'],
  ])('ends with 2 for %j', async (args, words) => {
    const ended = await headrace(['queue', ...args])
    expect(ended.code).toBe(2)
    expect(ended.stderr).toContain(words)
    expect(ended.stderr).not.toContain('geh3im')
  })
})
