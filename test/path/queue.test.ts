/** The write path on a queue on a server: one suite for SQLite, PostgreSQL and RabbitMQ. */
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { QueueEngine, QueueTopic } from '../../src/contracts/queue.ts'
import { postgresQueue } from '../../src/drivers/postgres/queue.ts'
import { rabbitmqQueue } from '../../src/drivers/rabbitmq/index.ts'
import { sqliteQueue } from '../../src/drivers/sqlite/queue.ts'
import { partitionOf } from '../../src/queue/index.ts'
import { type Server, serverMissing, startPostgres, startRabbitmq } from '../../src/testing/servers/index.ts'
import { afterTest, codeOf, heard, type Notes, type NotesOptions, notes, temporaryFolder } from '../support/apps.ts'

const partitions = 4
const topic = 'notes.commands'

interface Place {
  engine(): QueueEngine
  stop?(): Promise<void>
  goOn?(): Promise<void>
}

const servers: Server[] = []

const places: Record<string, { readonly missing: string | null; readonly open: () => Promise<() => Place> }> = {
  sqlite: {
    missing: null,
    open: async () => () => {
      const file = join(temporaryFolder(), 'queue.sqlite')
      return { engine: () => sqliteQueue({ file }) }
    },
  },
  postgres: {
    missing: serverMissing('postgres'),
    open: async () => {
      const server = await startPostgres({ args: ['-c', 'synchronous_commit=off'] })
      servers.push(server)
      return () => ({ engine: () => postgresQueue({ url: server.url }) })
    },
  },
  rabbitmq: {
    missing: serverMissing('rabbitmq'),
    open: async () => {
      const server = await startRabbitmq()
      servers.push(server)
      return () => ({ engine: () => rabbitmqQueue({ url: server.url }) })
    },
  },
}

afterAll(async () => {
  for (const server of servers) await server.stop()
})

for (const [name, { missing, open }] of Object.entries(places)) {
  describe.skipIf(missing !== null)(`the write path on a queue in ${name}${missing === null ? '' : ` (${missing})`}`, () => {
    let place: () => Place
    beforeAll(async () => {
      place = await open()
    })

    /** Nothing of an earlier test waits in the topic. */
    const empty = async (): Promise<{ readonly engine: () => QueueEngine; readonly queue: QueueTopic }> => {
      const { engine } = place()
      const client = engine()
      afterTest(() => client.close())
      const queue = await client.declare({ name: topic, partitions, groups: ['apply'], messagesMax: 1_000_000 })
      await queue.purge('apply')
      for (const { letter } of await queue.deadLetters({ group: 'apply', limit: 1_000 }))
        await queue.drop({ group: 'apply', letters: [letter] })
      return { engine, queue }
    }

    const start = async (engine: () => QueueEngine, options: NotesOptions = {}): Promise<Notes> => {
      const n = notes({ partitions, queueLeaseTtlMs: 1_000, retryBaseMs: 5, retryMaxMs: 20, ...options })
      afterTest(() => n.app.stop())
      await n.app.start({ queue: engine() })
      return n
    }

    const foreign = (
      type: string,
      input: unknown,
      more: { id: string; key?: string; headers?: Record<string, string>; body?: string },
    ) => ({
      partition: partitionOf(more.key ?? '', partitions),
      key: more.key ?? '',
      id: more.id,
      headers: { type, ...more.headers },
      body: more.body ?? JSON.stringify(input),
      publishedAt: Date.now(),
      availableAt: null,
    })

    const acknowledged = (queue: QueueTopic): Promise<void> =>
      expect.poll(async () => (await queue.counts('apply')).reduce((sum, { depth }) => sum + depth, 0), { timeout: 10_000 }).toBe(0)

    it('applies what callers send, once, in order per key, and acknowledges it', async () => {
      const { engine, queue } = await empty()
      const n = await start(engine)
      const sent = Array.from({ length: 200 }, (_, value) => ({ key: `k${value % 3}`, value }))
      const outcomes = await Promise.all(sent.map((input, index) => n.app.submit(index % 2 === 0 ? n.batch : n.run, input)))
      expect(outcomes.every(({ status }) => status === 'committed')).toBe(true)
      const effects = n.effects()
      expect(effects).toHaveLength(200)
      for (const key of ['k0', 'k1', 'k2'])
        expect(effects.filter((effect) => effect.key === key).map(({ value }) => value)).toEqual(
          sent.filter((input) => input.key === key).map(({ value }) => value),
        )
      await acknowledged(queue)
      expect((await n.app.status()).inFlight).toBe(0)
    })

    it('accepts a command when the queue has it, tells that it waits, and applies it after a restart', async () => {
      const { engine, queue } = await empty()
      const first = await start(engine)
      const gate = first.hold()
      await first.gates.reached('hold')
      await Promise.all(Array.from({ length: 20 }, (_, value) => first.app.enqueue(first.run, { key: 'a', value }, { id: `r-${value}` })))
      expect(await first.app.gateway.outcomeState('note.run', 'default', 'r-7')).toEqual({ state: 'pending' })
      // The gate never opens in this life: what was taken is not acknowledged.
      void gate.catch(() => undefined)
      first.gates.open('hold')
      await first.app.stop()
      const before = first.effects().length
      const second = await start(engine, { dataDir: first.dataDir })
      const state = await second.app.gateway.waitForOutcome('note.run', 'default', 'r-19', AbortSignal.timeout(20_000))
      expect(state).toMatchObject({ state: 'done', status: 'committed' })
      expect(second.effects().map(({ value }) => value)).toEqual(Array.from({ length: 20 }, (_, value) => value))
      expect(before).toBeLessThanOrEqual(20)
      await acknowledged(queue)
      // Once nothing that was accepted before can come again, an id that is not known was never accepted.
      await expect
        .poll(() => second.app.gateway.outcomeState('note.run', 'default', 'never'), { timeout: 10_000 })
        .toEqual({ state: 'unknown' })
    })

    it('applies commands of any other sender, under their ids, in the partition of their key', async () => {
      const { engine, queue } = await empty()
      const n = await start(engine)
      await queue.append([
        foreign('note.run', { key: 'elsewhere', value: 1 }, { id: 'f-1' }),
        foreign('note.run', { key: 'elsewhere', value: 2 }, { id: 'f-2', headers: { id: 'own' } }),
        foreign('note.run', { key: 'a', value: 3 }, { id: 'f-3', key: 'a', body: '{ "key": "a",  "value": 3 }' }),
      ])
      const outcome = (id: string): Promise<unknown> => n.app.gateway.waitForOutcome('note.run', 'default', id, AbortSignal.timeout(20_000))
      await expect.poll(() => n.effects().length, { timeout: 20_000 }).toBe(3)
      expect(await outcome('f-1')).toMatchObject({ status: 'committed' })
      expect(await outcome('own')).toMatchObject({ status: 'committed' })
      // The same command from a caller over HTTP is the same command.
      expect(await n.app.submit(n.run, { key: 'a', value: 3 }, { id: 'f-3' })).toMatchObject({ status: 'committed' })
      expect(
        n
          .effects()
          .filter(({ key }) => key === 'elsewhere')
          .map(({ value }) => value),
      ).toEqual([1, 2])
      expect(n.totals()).toEqual({ elsewhere: 3, a: 3 })
      await acknowledged(queue)
    })

    it('puts what is no command into the dead letters with a reason, and goes on', async () => {
      const { engine, queue } = await empty()
      const n = await start(engine)
      const letters = heard('headrace:notice')
      await queue.append([
        foreign('note.run', null, { id: 'b-1', body: 'not json' }),
        foreign('note.nothing', { key: 'a', value: 1 }, { id: 'b-2' }),
        foreign('note.run', { key: 'a', value: 'text' }, { id: 'b-3' }),
        foreign('note.run', { key: 'a', value: 1 }, { id: 'b-4', headers: { tenant: 'a b' } }),
        foreign('note.run', { key: 'good', value: 1 }, { id: 'b-5' }),
      ])
      await expect.poll(() => n.effects().length, { timeout: 20_000 }).toBe(1)
      await acknowledged(queue)
      const dead = await queue.deadLetters({ group: 'apply', limit: 10 })
      expect(dead.map(({ message, reason }) => [message.id, reason.code]).sort()).toEqual([
        ['b-1', 'body-not-json'],
        ['b-2', 'command-unknown'],
        ['b-3', 'input-invalid'],
        ['b-4', 'message-invalid'],
      ])
      expect(letters.filter(({ level }) => level === 'warn').length).toBeGreaterThanOrEqual(4)
    })

    it('takes the first of two inputs under one id, and refuses the other', async () => {
      const { engine, queue } = await empty()
      const n = await start(engine)
      await queue.append([foreign('note.run', { key: 'a', value: 1 }, { id: 'i-1', key: 'a' })])
      await expect.poll(() => n.effects().length, { timeout: 20_000 }).toBe(1)
      expect(await codeOf(n.app.submit(n.run, { key: 'a', value: 2 }, { id: 'i-1' }))).toBe('id-reused')
      await queue.append([foreign('note.run', { key: 'a', value: 3 }, { id: 'i-2', headers: { id: 'i-1' }, key: 'a' })])
      await acknowledged(queue)
      await expect.poll(async () => (await queue.deadLetters({ group: 'apply', limit: 10 })).length, { timeout: 10_000 }).toBe(1)
      expect(n.effects().map(({ value }) => value)).toEqual([1])
    })

    it('lets a command that fails wait in its place: nothing of its key passes it, and the queue need not keep it', async () => {
      const { engine, queue } = await empty()
      let broken = true
      const n = await start(engine, { does: ({ value }) => (broken && value === 1 ? 'throw' : 'accept'), retries: 1_000, retryBaseMs: 20 })
      const outcomes = Promise.all([0, 1, 2, 3].map((value) => n.app.submit(n.run, { key: 'a', value })))
      expect(await n.app.submit(n.run, { key: 'b', value: 9 })).toMatchObject({ status: 'committed' })
      await acknowledged(queue)
      expect(
        n
          .effects()
          .filter(({ key }) => key === 'a')
          .map(({ value }) => value),
      ).toEqual([0])
      broken = false
      expect((await outcomes).every(({ status }) => status === 'committed')).toBe(true)
      expect(
        n
          .effects()
          .filter(({ key }) => key === 'a')
          .map(({ value }) => value),
      ).toEqual([0, 1, 2, 3])
    })

    it('remembers the queue of its data directory, and starts without it only when told to', async () => {
      const { engine } = await empty()
      const first = await start(engine)
      await first.app.submit(first.run, { key: 'a', value: 1 })
      await first.app.stop()
      const { dataDir } = first
      expect(await codeOf(notes({ partitions, dataDir }).app.start())).toBe('queue-differs')
      const third = notes({ partitions, dataDir })
      afterTest(() => third.app.stop())
      await third.app.start({ queue: 'none' })
      expect(await third.app.submit(third.run, { key: 'a', value: 2 })).toMatchObject({ status: 'committed' })
      await third.app.stop()
      const fourth = notes({ partitions, dataDir })
      afterTest(() => fourth.app.stop())
      await fourth.app.start()
      expect(fourth.effects().map(({ value }) => value)).toEqual([1, 2])
    })

    it('keeps outcomes for as long as a message may come again, whatever their retention', async () => {
      const { engine, queue } = await empty()
      const first = await start(engine, { outcomeRetentionMs: 1_000 })
      await first.app.submit(first.run, { key: 'a', value: 1 }, { id: 'once' })
      await acknowledged(queue)
      await first.app.stop()
      await new Promise((resolve) => setTimeout(resolve, 1_200))
      // As if the acknowledgement had been lost with the node.
      const message = foreign('note.run', { key: 'a', value: 1 }, { id: 'again', key: 'a', headers: { id: 'once' } })
      await queue.append([message])
      const second = await start(engine, { dataDir: first.dataDir, outcomeRetentionMs: 1_000 })
      await acknowledged(queue)
      expect(second.effects().map(({ value }) => value)).toEqual([1])
    })
  })
}
