/** Holders and waiters that are killed and stopped, as processes of their own, on every engine that processes share. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { postgresLocks } from '../../src/drivers/postgres/lock.ts'
import { postgresFenced, postgresFenceSql } from '../../src/drivers/postgres/fence.ts'
import { redisLocks } from '../../src/drivers/redis/lock.ts'
import { sqliteLocks } from '../../src/drivers/sqlite/lock.ts'
import { createLocks, type Locks } from '../../src/lock/index.ts'
import { type Server, serverMissing, startPostgres, startRedis } from '../../src/testing/servers/index.ts'
import { LockWorker, type WorkerOptions } from './process.ts'

const missing = serverMissing('redis') ?? serverMissing('postgres')
const ttlMs = 700
/** What the figure allows beside the lease, and what a busy machine may add. */
const slackMs = 100 + 900

describe.skipIf(missing !== null)(`lock holders and waiters that die${missing === null ? '' : ` (${missing})`}`, () => {
  let redis: Server
  let postgres: Server
  let pool: pg.Pool
  let admin: Redis
  const directory = mkdtempSync(join(tmpdir(), 'headrace-test-lock-'))
  beforeAll(async () => {
    ;[redis, postgres] = await Promise.all([startRedis(), startPostgres({ args: ['-c', 'synchronous_commit=off'] })])
    pool = new pg.Pool({ connectionString: postgres.url })
    pool.on('error', () => {})
    admin = new Redis(redis.url)
    await pool.query(`${postgresFenceSql}; create table register (value bigint not null); insert into register values (0)`)
  })
  afterEach(() => LockWorker.endAll())
  afterAll(async () => {
    await pool.end()
    admin.disconnect()
    await Promise.all([redis.stop(), postgres.stop()])
    rmSync(directory, { recursive: true })
  })

  /** `listening` counts the clients that the engine believes to listen: it learns of a death when it reads the end of the stream. */
  const engines = {
    redis: {
      options: () => ({ url: redis.url }),
      open: () => redisLocks({ url: redis.url }),
      listening: async () => ((await admin.pubsub('CHANNELS', '*')) as string[]).length,
    },
    postgres: {
      options: () => ({ url: postgres.url }),
      open: () => postgresLocks({ url: postgres.url }),
      listening: async () => (await pool.query("select from pg_locks where locktype = 'advisory' and granted")).rowCount ?? 0,
    },
    sqlite: {
      options: () => ({ file: join(directory, 'locks.sqlite') }),
      open: () => sqliteLocks({ file: join(directory, 'locks.sqlite') }),
      // The waker asks each waiter itself.
      listening: async () => 1,
    },
  }

  for (const engine of ['redis', 'postgres', 'sqlite'] as const) {
    const worker = (): Promise<LockWorker> =>
      LockWorker.start({ engine, options: engines[engine].options(), databaseUrl: postgres.url } satisfies WorkerOptions)
    const using = async (run: (locks: Locks) => Promise<void>): Promise<void> => {
      const locks = createLocks(engines[engine].open(), { ttlMs: 30_000, waitMs: 60_000 })
      try {
        await run(locks)
      } finally {
        await locks.close()
      }
    }

    it(`${engine}: a holder that is killed with -9 stalls the next one for its lease and no longer`, () =>
      using(async (locks) => {
        const holder = await worker()
        const { token } = await holder.call({ do: 'acquire', key: 'killed', ttlMs }).answer
        const next = locks.acquire('killed')
        await expect.poll(() => locks.counts.waiting, { interval: 2 }).toBe(1)
        const start = performance.now()
        await holder.kill()
        const lease = await next
        expect(performance.now() - start).toBeLessThan(ttlMs + slackMs)
        expect(lease.token).toBeGreaterThan(token ?? Number.POSITIVE_INFINITY)
      }))

    it(`${engine}: waiters that are killed with -9 are skipped at once`, () =>
      using(async (locks) => {
        const doomed = await worker()
        const held = await locks.acquire('skipped')
        const calls = Array.from({ length: 40 }, () => doomed.call({ do: 'acquire', key: 'skipped', ttlMs: 30_000 }))
        await expect
          .poll(async () => (await locks.list()).find((lock) => lock.key === 'skipped')?.waiting, { interval: 5, timeout: 10_000 })
          .toBe(calls.length)
        const next = locks.acquire('skipped')
        await expect.poll(() => locks.counts.waiting, { interval: 2 }).toBe(1)
        await doomed.kill()
        await expect.poll(engines[engine].listening, { interval: 2, timeout: 5_000 }).toBe(1)
        const start = performance.now()
        await held.release()
        await next
        // One lease of a dead waiter would be 30 s.
        expect(performance.now() - start).toBeLessThan(3_000)
      }))

    it(`${engine}: a holder that was stopped past its lease finds it lost, and its write is refused`, () =>
      using(async (locks) => {
        const holder = await worker()
        const { n, answer } = holder.call({ do: 'acquire', key: 'stopped', ttlMs })
        await answer
        expect(await holder.call({ do: 'write', lease: n, value: 1 }).answer).toMatchObject({ written: true })
        holder.stop()
        const lease = await locks.acquire('stopped')
        await postgresFenced(pool, lease, (client) => client.query('update register set value = 2'))
        holder.goOn()
        expect(await holder.call({ do: 'write', lease: n, value: 3 }).answer).toMatchObject({ error: 'fenced' })
        expect(await holder.seen((line) => line.n === n && line.lost === true)).toMatchObject({ held: false })
        expect((await pool.query('select value from register')).rows).toEqual([{ value: '2' }])
        expect(lease.held).toBe(true)
        await pool.query('truncate headrace_fence')
      }))
  }

  it('postgres: waiters go on when the sessions that listen are ended', async () => {
    const locks = createLocks(postgresLocks({ url: postgres.url }), { ttlMs: 20_000 })
    const others = createLocks(postgresLocks({ url: postgres.url }), { ttlMs: 20_000 })
    const held = await others.acquire('cut')
    const waiting = [1, 2, 3].map(() => locks.using('cut', () => 1))
    await expect.poll(() => locks.counts.waiting, { interval: 2 }).toBe(3)
    await pool.query("select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen headrace_lock%'")
    const start = performance.now()
    await held.release()
    expect(await Promise.all(waiting)).toEqual([1, 1, 1])
    // Without the word of the gap, they would ask after two thirds of their lease of 20 s.
    expect(performance.now() - start).toBeLessThan(6_000)
    await Promise.all([locks.close(), others.close()])
  })

  it('postgres: locks outlive a crash of the server, and waiters get them after it', async () => {
    const crashing = await startPostgres()
    const mine = createLocks(postgresLocks({ url: crashing.url }), { ttlMs: 20_000, waitMs: 60_000 })
    const theirs = createLocks(postgresLocks({ url: crashing.url }), { ttlMs: 20_000, waitMs: 60_000 })
    const lease = await mine.acquire('kept')
    const next = theirs.acquire('kept')
    await expect.poll(() => theirs.counts.waiting, { interval: 2 }).toBe(1)
    await crashing.restart({ hard: true })
    await expect.poll(() => theirs.tryAcquire('kept').catch(() => 'not yet'), { interval: 20, timeout: 10_000 }).toBeNull()
    expect(lease.held).toBe(true)
    await expect
      .poll(
        () =>
          lease.extend().then(
            () => 'extended',
            () => 'not yet',
          ),
        { interval: 20, timeout: 10_000 },
      )
      .toBe('extended')
    await lease.release()
    expect((await next).token).toBeGreaterThan(lease.token)
    await Promise.all([mine.close(), theirs.close()])
    await crashing.stop()
  })
})
