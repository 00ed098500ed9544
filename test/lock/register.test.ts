/**
 * The proof that a lock with a guard is safe, and that without it is not: a
 * register in a database, read and written in two transactions under a lock,
 * by processes that are stopped at random and think past their leases.
 */
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { postgresFenceSql } from '../../src/drivers/postgres/fence.ts'
import { type Server, serverMissing, startPostgres, startRedis } from '../../src/testing/servers/index.ts'
import { createRandom } from '../../src/std/random.ts'
import { LockWorker } from './process.ts'

const missing = serverMissing('redis') ?? serverMissing('postgres')
const ttlMs = 60
const workers = 4
/** How long a worker is stopped, or thinks: past its lease. */
const pauseMs = 2 * ttlMs
const roundsWanted = 2_500
const longestMs = 60_000

interface Verdict {
  readonly rounds: number
  readonly fenced: number
  readonly stale: number
  /** Rows of the history whose token is lower than an earlier one. */
  readonly backwards: number
  /** Rows that were not made from the value before them. */
  readonly overwritten: number
}

describe.skipIf(missing !== null)(`a register under a lock${missing === null ? '' : ` (${missing})`}`, () => {
  let redis: Server
  let postgres: Server
  let pool: pg.Pool
  beforeAll(async () => {
    ;[redis, postgres] = await Promise.all([startRedis(), startPostgres({ args: ['-c', 'synchronous_commit=off'] })])
    pool = new pg.Pool({ connectionString: postgres.url })
    pool.on('error', () => {})
  })
  afterEach(() => LockWorker.endAll())
  afterAll(async () => {
    await pool.end()
    await Promise.all([redis.stop(), postgres.stop()])
  })

  async function play(
    fault: 'none' | 'no-guard' | 'token-reused',
    enough: (rows: number, overwritten: number) => boolean,
  ): Promise<Verdict> {
    await pool.query(`
      ${postgresFenceSql}; truncate headrace_fence;
      drop table if exists register, history;
      create table register (value bigint not null); insert into register values (0);
      create table history (n bigint generated always as identity, token bigint, based_on bigint, value bigint, writer text)`)
    const random = createRandom(Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000))
    const players = await Promise.all(
      Array.from({ length: workers }, () => LockWorker.start({ engine: 'redis', options: { url: redis.url }, databaseUrl: postgres.url })),
    )
    const ends = players.map((player) => player.call({ do: 'register', key: `register:${fault}`, ttlMs, fault, thinkMs: pauseMs }).answer)
    const deadline = performance.now() + longestMs
    for (;;) {
      const victim = random.pick(players)
      victim.stop()
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
      victim.goOn()
      await new Promise((resolve) => setTimeout(resolve, random.between(50, 300)))
      const { rows, overwritten } = await count()
      if (enough(rows, overwritten) || performance.now() > deadline) break
    }
    for (const player of players) player.call({ do: 'end' })
    const seen = await Promise.all(ends)
    for (const end of seen)
      if (end.error !== undefined) throw new Error(`with HEADRACE_SEED=${random.seed}: a worker failed: ${JSON.stringify(end)}`)
    const { rows, overwritten, backwards } = await count()
    const sum = (name: 'fenced' | 'stale'): number => seen.reduce((total, end) => total + (end[name] ?? 0), 0)
    return { rounds: rows, fenced: sum('fenced'), stale: sum('stale'), backwards, overwritten }
  }

  async function count(): Promise<{ rows: number; overwritten: number; backwards: number }> {
    const { rows } = await pool.query(`
      with steps as (select token, based_on, lag(value, 1, 0) over (order by n) as before, max(token) over (order by n rows between unbounded preceding and 1 preceding) as highest from history)
      select count(*)::int as rows, (count(*) filter (where based_on <> before))::int as overwritten, (count(*) filter (where token < highest))::int as backwards from steps`)
    return rows[0] as { rows: number; overwritten: number; backwards: number }
  }

  it(`takes no stale write in ${roundsWanted} rounds, while its writers are stopped and lose their leases`, async () => {
    const verdict = await play('none', (rows) => rows >= roundsWanted)
    expect(verdict).toMatchObject({ stale: 0, overwritten: 0, backwards: 0 })
    expect(verdict.rounds).toBeGreaterThanOrEqual(roundsWanted)
    // The guard had work to do; else this run proves nothing.
    expect(verdict.fenced).toBeGreaterThan(0)
  })

  it('is overwritten when the guard is left out: the lock alone is not safe', async () => {
    expect((await play('no-guard', (_rows, overwritten) => overwritten > 0)).overwritten).toBeGreaterThan(0)
  })

  it('is overwritten when tokens are reused: the guard lives on tokens that grow', async () => {
    expect((await play('token-reused', (_rows, overwritten) => overwritten > 0)).overwritten).toBeGreaterThan(0)
  })
})
