import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { afterTest, codeOf, temporaryFolder } from '../../test/support/apps.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { sqliteQueue } from '../drivers/sqlite/queue.ts'
import { type App, accept, command, defineApp, reject } from '../index.ts'
import type { QueueEngine } from '../contracts/queue.ts'

const topic = 'order.placed'

const order = z.object({ sku: z.string(), n: z.number(), how: z.enum(['take', 'reject', 'throw', 'elsewhere', 'bulky']).default('take') })

function shop(dataDir: string, queue: QueueEngine | undefined): App {
  const book = sqlite('book', { schema: 'create table if not exists sold (id text primary key not null, n integer not null)' })
  const shared = { input: order, key: ({ sku }: { sku: string }) => sku, databases: { book }, retries: 0 }
  const emitted = ({ how, n, sku }: z.output<typeof order>) => ({
    emit: [
      {
        topic: how === 'elsewhere' ? 'nowhere' : topic,
        message: how === 'bulky' ? 'x'.repeat(17 * 1024 ** 2) : { n },
        headers: { type: 'placed' },
      },
      { topic, message: { mail: n }, key: `mail ${sku}` },
    ],
  })
  const run = command('order.run', {
    ...shared,
    async run({ input, id, databases: { book } }) {
      await book.insertMany('sold', [{ id, n: input.n }])
      if (input.how === 'reject') return reject('not-wanted')
      if (input.how === 'throw') throw new Error('broken')
      return accept(input.n, emitted(input))
    },
  })
  const batch = command('order.batch', {
    ...shared,
    load: () => null,
    decide: (_state, input) => (input.how === 'reject' ? reject('not-wanted') : accept(input.n, emitted(input))),
    async save(_state, accepted, { book }) {
      await book.insertMany(
        'sold',
        accepted.map(({ id, input }) => ({ id, n: input.n })),
      )
    },
  })
  return defineApp({
    name: 'shop',
    commands: [run, batch],
    dataDir,
    events: { topics: { [topic]: { partitions: 2, groups: ['mail'] } }, ...(queue === undefined ? {} : { queue }) },
  })
}

interface Site {
  readonly app: App
  readonly dataDir: string
  readonly file: string
  /** What the topic holds, in order, per key. */
  readonly published: () => Promise<Record<string, unknown[]>>
}

async function site(): Promise<Site> {
  const dataDir = temporaryFolder()
  const file = join(temporaryFolder(), 'queue.sqlite')
  const app = shop(dataDir, sqliteQueue({ file }))
  afterTest(() => app.stop())
  await app.start()
  return {
    app,
    dataDir,
    file,
    async published() {
      const engine = sqliteQueue({ file })
      const queue = await engine.open(topic)
      const messages = (await Promise.all([0, 1].map((partition) => queue.peek('mail', partition, 1_000)))).flat()
      await engine.close()
      const byKey: Record<string, unknown[]> = {}
      for (const { key, body } of messages) byKey[key] = [...(byKey[key] ?? []), JSON.parse(body)]
      return byKey
    },
  }
}

const send = (app: App, name: string, input: object, id?: string): Promise<{ body: string }> =>
  app.gateway.take(name, input, id === undefined ? {} : { id }).then((receipt) => receipt.outcome)

const empty = async (app: App): Promise<void> => {
  await expect.poll(async () => (await app.status()).counts.events, { timeout: 10_000 }).toBe(0)
}

describe('what a command emits', () => {
  it.each(['order.run', 'order.batch'])('is published when it has committed, in order per key (%s)', async (name) => {
    const { app, published } = await site()
    await Promise.all(Array.from({ length: 50 }, (_, n) => send(app, name, { sku: `s${n % 2}`, n })))
    await empty(app)
    const all = await published()
    for (const parity of [0, 1]) {
      const own = Array.from({ length: 25 }, (_, index) => index * 2 + parity)
      expect(all[`s${parity}`]).toEqual(own.map((n) => ({ n })))
      expect(all[`mail s${parity}`]).toEqual(own.map((mail) => ({ mail })))
    }
  })

  it.each(['order.run', 'order.batch'])('is not published when it is rejected or fails (%s)', async (name) => {
    const { app, published } = await site()
    const bodies = await Promise.all(
      (['take', 'reject', 'throw', 'elsewhere', 'bulky'] as const).map((how, n) => send(app, name, { sku: `s${n}`, n, how })),
    )
    const outcomes = bodies.map(({ body }) => JSON.parse(body) as { status: string; code?: string })
    await empty(app)
    expect(outcomes[0]?.status).toBe('committed')
    expect(outcomes[1]).toMatchObject({ status: 'rejected' })
    expect(outcomes[3]).toMatchObject({ status: 'failed', code: 'topic-unknown' })
    expect(outcomes[4]).toMatchObject({ status: 'failed', code: 'message-too-large' })
    expect(Object.keys(await published()).filter((key) => ['s1', 's3', 's4'].includes(key))).toEqual([])
  })

  it('is published once for a command that is sent twice', async () => {
    const { app, published } = await site()
    await send(app, 'order.run', { sku: 'a', n: 1 }, 'same')
    await send(app, 'order.run', { sku: 'a', n: 1 }, 'same')
    await empty(app)
    expect(await published()).toEqual({ a: [{ n: 1 }], 'mail a': [{ mail: 1 }] })
  })

  it('waits in the journal while its queue is away, and is published by the next start, in order', async () => {
    const { app, dataDir, file, published } = await site()
    await app.stop()
    const second = shop(dataDir, sqliteQueue({ file, timeoutMs: 200 }))
    afterTest(() => second.stop())
    await second.start()
    const other = new DatabaseSync(file)
    other.exec('begin immediate')
    for (let n = 0; n < 5; n++) await send(second, 'order.run', { sku: 'a', n })
    expect((await second.status()).counts.events).toBe(10)
    await second.stop()
    other.exec('rollback')
    other.close()
    const third = shop(dataDir, sqliteQueue({ file }))
    afterTest(() => third.stop())
    await third.start()
    await empty(third)
    expect((await published())['a']).toEqual([0, 1, 2, 3, 4].map((n) => ({ n })))
  })

  it('needs a queue, and topics that are defined well', async () => {
    const app = shop(temporaryFolder(), undefined)
    afterTest(() => app.stop())
    expect(await codeOf(app.start())).toBe('option-invalid')
    const defined = (events: object) =>
      codeOf(Promise.resolve().then(() => defineApp({ name: 'shop', commands: [], events: events as never })))
    expect(await defined({ topics: {} })).toBe('option-invalid')
    expect(await defined({ topics: { 'Bad Name': {} } })).toBe('topic-invalid')
    expect(await defined({ topics: { placed: { partition: 2 } } })).toBe('option-unknown')
    expect(await defined({ topics: { placed: {} }, queue: {} })).toBe('option-invalid')
  })
})
