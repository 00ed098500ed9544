/**
 * A process that holds and waits for locks, driven over lines of JSON; the lock
 * tests kill it, stop it, and let it run on.
 *
 *   in   { n, do: 'acquire', key, ttlMs, waitMs, extend }
 *        { n, do: 'write', lease, value }                   under the guard of the lease
 *        { n, do: 'register', key, ttlMs, fault }           until { do: 'end' }
 *   out  { n, token } or { n, error }                       the answer
 *        { n, lost: true, held }                            the lease was lost
 *        { n, rounds, fenced, leasesLost, stale }           what the register saw
 *
 * Lines go out by synchronous writes: what the parent reads is what this
 * process has said before it died or stood still.
 *
 * Plain JavaScript on the built package, since Node 20 runs no TypeScript.
 */
import { writeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import pg from 'pg'
import { postgresFenced, postgresLocks } from 'headrace/postgres'
import { redisLocks } from 'headrace/redis'
import { sqliteLocks } from 'headrace/sqlite'
import { createLocks } from 'headrace/lock'

const { engine, options, databaseUrl } = JSON.parse(process.argv[2])
const factories = { redis: redisLocks, postgres: postgresLocks, sqlite: sqliteLocks }
const locks = createLocks(factories[engine](options))
const pool = databaseUrl === undefined ? null : new pg.Pool({ connectionString: databaseUrl, max: 2 })
const leases = new Map()
let ending = false

const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`)

async function acquire({ n, key, ttlMs, waitMs = 60_000, extend = true }) {
  const lease = await locks.acquire(key, { ttlMs, waitMs, extend })
  leases.set(n, lease)
  lease.signal.addEventListener('abort', () => say({ n, lost: true, held: lease.held }))
  return { token: lease.token }
}

/** The value, and the row that it makes in the history. */
const write =
  'with moved as (update register set value = $1 returning value) insert into history (token, based_on, value, writer) select $2, $3, value, $4 from moved'

/**
 * Reads the register, thinks, and writes it one higher, each in a transaction of
 * its own, as long as the parent lets it. Faults leave the guard out, or give it
 * the same token each time.
 */
async function register({ key, ttlMs, fault, thinkMs }) {
  const seen = { rounds: 0, fenced: 0, leasesLost: 0, stale: 0 }
  while (!ending) {
    const lease = await locks.acquire(key, { ttlMs, waitMs: 60_000 })
    const guarded = fault === 'token-reused' ? { tokens: new Map([[key, 1]]) } : lease
    const transaction = async (run) => {
      if (fault !== 'no-guard') return postgresFenced(pool, guarded, run)
      return run(pool)
    }
    try {
      const read = await transaction((client) => client.query('select value from register'))
      const basedOn = Number(read.rows[0].value)
      // Now and then it thinks past its lease, and knows nothing of that: nothing else of this process runs.
      if (Math.random() < 0.01) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, thinkMs)
      await transaction(async (client) => {
        const now = await client.query('select value from register')
        if (Number(now.rows[0].value) !== basedOn) seen.stale += 1
        await client.query(write, [basedOn + 1, lease.token, basedOn, String(process.pid)])
      })
      seen.rounds += 1
    } catch (error) {
      if (error.code !== 'fenced') throw error
      seen.fenced += 1
    }
    if (!(await lease.release())) seen.leasesLost += 1
  }
  return seen
}

const actions = {
  acquire,
  async write({ lease, value }) {
    await postgresFenced(pool, leases.get(lease), (client) => client.query('update register set value = $1', [value]))
    return { written: true }
  },
  register,
  async end() {
    ending = true
    return {}
  },
}

createInterface({ input: process.stdin })
  .on('line', (line) => {
    const call = JSON.parse(line)
    actions[call.do](call).then(
      (answer) => say({ n: call.n, ...answer }),
      (error) => say({ n: call.n, error: error.code ?? String(error), message: error.message }),
    )
  })
  .on('close', () => process.exit())
say({ ready: true })
