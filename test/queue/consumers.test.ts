/** Consumers that are killed and stopped, as processes of their own: their database changes exactly once, in order per key. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { postgres } from '../../src/drivers/postgres/database.ts'
import { postgresQueue } from '../../src/drivers/postgres/queue.ts'
import { rabbitmqQueue } from '../../src/drivers/rabbitmq/index.ts'
import { sqliteQueue } from '../../src/drivers/sqlite/queue.ts'
import { type SqliteTransactions, sqliteTransactions } from '../../src/drivers/sqlite/queue-transact.ts'
import { createQueue, inboxSchema, type Queue } from '../../src/queue/index.ts'
import { type Server, serverMissing, startPostgres, startRabbitmq } from '../../src/testing/servers/index.ts'
import { QueueWorker, type WorkerOptions } from './process.ts'

const engines = ['sqlite', 'postgres', 'rabbitmq'] as const
/** Those on RabbitMQ have their locks and their data in PostgreSQL. */
const missing = { sqlite: null, postgres: serverMissing('postgres'), rabbitmq: serverMissing('postgres') ?? serverMissing('rabbitmq') }
const ttlMs = 600
const directory = mkdtempSync(join(tmpdir(), 'headrace-test-queue-'))

interface Written {
  readonly id: string
  readonly key: string
}

interface Site {
  readonly options: () => Pick<WorkerOptions, 'engine' | 'queue' | 'data'>
  readonly queue: () => Queue
  /** What the database has, in the order of the commits of each key. */
  readonly history: () => Promise<Written[]>
  readonly ledger: () => Promise<Map<string, number>>
}

let server: Server | null = null
let broker: Server | null = null
let pool: pg.Pool | null = null
let file: SqliteTransactions | null = null

beforeAll(async () => {
  file = sqliteTransactions({
    file: join(directory, 'data.sqlite'),
    schema: `create table history (n integer primary key, id text not null, key_text text not null) strict;
      create table ledger (id text primary key not null, n integer not null) strict; ${inboxSchema.sqlite}`,
  })
  if (missing.rabbitmq === null) broker = await startRabbitmq()
  if (missing.postgres !== null) return
  server = await startPostgres({ args: ['-c', 'synchronous_commit=off'] })
  pool = new pg.Pool({ connectionString: server.url })
  pool.on('error', () => {})
  const participant = await postgres('data', {
    url: server.url,
    schema: `create table if not exists history (n bigint generated always as identity primary key, id text not null, key_text text not null);
      create table if not exists ledger (id text primary key, n integer not null); ${inboxSchema.postgres}`,
  }).connect()
  await participant.migrate()
  await participant.close()
})
afterEach(() => QueueWorker.endAll())
afterAll(async () => {
  file?.close()
  await pool?.end()
  await server?.stop()
  await broker?.stop()
  rmSync(directory, { recursive: true })
})

const inPostgres: Pick<Site, 'history' | 'ledger'> = {
  history: async () => ((await pool?.query('select id, key_text as key from history order by n'))?.rows ?? []) as Written[],
  ledger: async () =>
    new Map(((await pool?.query('select id, n from ledger'))?.rows ?? []).map(({ id, n }) => [id as string, n as number])),
}

const sites: Readonly<Record<(typeof engines)[number], Site>> = {
  sqlite: {
    options: () => ({ engine: 'sqlite', queue: join(directory, 'queue.sqlite'), data: join(directory, 'data.sqlite') }),
    queue: () => createQueue({ engine: sqliteQueue({ file: join(directory, 'queue.sqlite') }) }),
    history: async () =>
      ((await file?.transact((database) => database.sql`select id, key_text from history order by n`)) ?? []).map((row) => ({
        id: String(row['id']),
        key: String(row['key_text']),
      })),
    ledger: async () =>
      new Map(
        ((await file?.transact((database) => database.sql`select id, n from ledger`)) ?? []).map((row) => [
          String(row['id']),
          Number(row['n']),
        ]),
      ),
  },
  postgres: {
    options: () => ({ engine: 'postgres', queue: server?.url ?? '', data: server?.url ?? '' }),
    queue: () => createQueue({ engine: postgresQueue({ url: server?.url ?? '' }) }),
    ...inPostgres,
  },
  rabbitmq: {
    options: () => ({ engine: 'rabbitmq', queue: broker?.url ?? '', data: server?.url ?? '' }),
    queue: () => createQueue({ engine: rabbitmqQueue({ url: broker?.url ?? '' }) }),
    ...inPostgres,
  },
}

for (const engine of engines) {
  describe.skipIf(missing[engine] !== null)(`consumers on ${engine}${missing[engine] === null ? '' : ` (${missing[engine]})`}`, () => {
    const site = sites[engine]

    it('that are killed with -9 in the middle of a batch leave every message done once, in order per key', async () => {
      const queue = site.queue()
      const topic = `killed-${engine}`
      const id = (index: number): string => `${engine}-${index}`
      const numberIn = (said: string): number => Number(said.slice(engine.length + 1))
      const isOurs = (said: string): boolean => said.startsWith(`${engine}-`)
      const total = 240
      try {
        await queue.declare(topic, { partitions: 2 })
        await Promise.all(
          Array.from({ length: total }, (_, index) => queue.producer.publish(topic, index, { id: id(index), key: `key-${index % 6}` })),
        )
        const options: WorkerOptions = { ...site.options(), topic, partitions: 2, ttlMs }
        for (const at of [20, 90, 160]) {
          const worker = await QueueWorker.start(options)
          // Its work is written and not committed.
          await worker.seen(({ inside }) => inside !== undefined && numberIn(inside) >= at)
          await worker.kill()
        }
        await QueueWorker.start(options)
        await expect.poll(async () => [...(await site.ledger()).keys()].filter(isOurs).length, { timeout: 60_000 }).toBe(total)
        const ledger = await site.ledger()
        for (let index = 0; index < total; index++) expect(ledger.get(id(index)), id(index)).toBe(1)
        const history = (await site.history()).filter((each) => isOurs(each.id))
        for (let key = 0; key < 6; key++) {
          const order = history.filter((each) => each.key === `key-${key}`).map((each) => numberIn(each.id))
          expect(order).toEqual(Array.from({ length: total / 6 }, (_, index) => index * 6 + key))
        }
      } finally {
        await queue.close()
      }
    })

    /** One consumer is stopped past its lease with a message in hand; another does it; then the first goes on. */
    const stopped = async (name: string, fault?: 'no-inbox'): Promise<{ readonly count: number; readonly error: string | undefined }> => {
      const queue = site.queue()
      const topic = `${name}-${engine}`
      const id = `${topic}-stalled`
      try {
        await queue.declare(topic, { partitions: 1 })
        const options: WorkerOptions = { ...site.options(), topic, partitions: 1, ttlMs, ...(fault === undefined ? {} : { fault }) }
        const old = await QueueWorker.start(options)
        await queue.producer.publish(topic, 1, { id, key: 'k', headers: { stall: '200' } })
        const { epoch = 0 } = await old.seen(({ begun }) => begun === id)
        old.stop()
        const next = await QueueWorker.start(options)
        const taken = await next.seen(({ begun }) => begun === id)
        expect(taken.epoch).toBeGreaterThan(epoch)
        await next.seen(({ done }) => done === id)
        old.goOn()
        const end = await old.seen(({ done, failed }) => done === id || failed === id)
        return { count: (await site.ledger()).get(id) ?? 0, error: end.error }
      } finally {
        await queue.close()
      }
    }

    it('that were stopped for longer than their lease are refused by the database', async () => {
      expect(await stopped('stopped')).toEqual({ count: 1, error: 'fenced' })
    })

    it('would do the message twice without the inbox: the test above can fail', async () => {
      expect(await stopped('unguarded', 'no-inbox')).toEqual({ count: 2, error: undefined })
    })
  })
}
