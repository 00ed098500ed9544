/**
 * Locks on PostgreSQL. The protocol is in `lock-sql.ts`, the pushes in
 * `lock-session.ts`.
 *
 * A lock is on disk before it is granted, so it outlives a crash of the server.
 * It needs sessions of its own: not through a pooler in transaction mode, which
 * gives neither LISTEN nor session locks.
 */
import { Client, Pool } from 'pg'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { LockAnswer, LockEnd, LockEngine, LockEvents, LockHolder, LockRequest, LockStatus } from '../../contracts/lock.ts'
import { clientName } from '../../std/client-name.ts'
import { type OpenSession, type PostgresClient, PostgresLockSession } from './lock-session.ts'
import { lockCalls, postgresLocksSql } from './lock-sql.ts'

/** The part of a `pg` pool that is used here. */
export interface PostgresPool {
  query(query: { readonly text: string; readonly values?: readonly unknown[] }): Promise<{ readonly rows: Record<string, unknown>[] }>
  connect(): Promise<PostgresClient & { release(destroy?: boolean): void }>
}

export interface PostgresLocksOptions {
  /** `postgres://user:password@host:port/database`. */
  readonly url?: string
  /** A pool of your own instead (`pg`); one of its connections is kept while callers wait. It is not closed here. */
  readonly pool?: PostgresPool
  /** Where tables and functions live: a plain name. Default: 'public'. */
  readonly schema?: string
  /** Creates what is missing at the first call. Default: true. Otherwise run `postgresLocksSql()` in a migration. */
  readonly setUp?: boolean
  /** Longest time for one call, in milliseconds. Default: 2000. */
  readonly timeoutMs?: number
  /** Connections for calls. Default: 4. Not with a pool of your own. */
  readonly connectionsMax?: number
  /** How many may wait for one key. Default: 10000. */
  readonly waitersMax?: number
  /** Waits for the disk before a lock is granted. Default: true. With false a crash of the server can forget the last locks, as Redis does; tokens grow all the same. */
  readonly durable?: boolean
  /** How long the row of an idle key is kept, in milliseconds. Default: one day. */
  readonly tokenMemoryMs?: number
}

const pruneEveryMs = 600_000
const pruneRowsMax = 10_000
/** Two clients that set up at once wait for each other under this number. */
const setUpLock = '4712061871090715'

/** Locks on PostgreSQL: `createLocks(postgresLocks({ url }))`. */
export function postgresLocks(options: PostgresLocksOptions): LockEngine {
  return new PostgresLockEngine(options)
}

class PostgresLockEngine implements LockEngine {
  readonly engine = 'postgres'
  readonly client = clientName()
  readonly tellsGaps = true
  readonly #pool: PostgresPool
  readonly #ownPool: Pool | null
  readonly #session: PostgresLockSession
  readonly #calls: ReturnType<typeof lockCalls>
  readonly #schema: string
  readonly #timeoutMs: number
  readonly #waitersMax: number
  readonly #durable: boolean
  readonly #tokenMemoryMs: number
  readonly #setsUp: boolean
  #setUp: Promise<void> | null = null
  #pruning: NodeJS.Timeout | null = null
  #closed = false

  constructor(options: PostgresLocksOptions) {
    const {
      url,
      pool,
      schema = 'public',
      setUp = true,
      timeoutMs = 2_000,
      connectionsMax = 4,
      waitersMax = 10_000,
      durable = true,
      tokenMemoryMs = 86_400_000,
    } = options
    if ((url === undefined) === (pool === undefined))
      throw new HeadraceError('option-invalid', 'Give the url of PostgreSQL or a pool of your own: one of them.')
    if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema))
      throw new HeadraceError('option-invalid', 'schema must be a plain name: lower-case letters, digits and underscores.')
    checkWhole('timeoutMs', timeoutMs, 10, 60_000)
    checkWhole('connectionsMax', connectionsMax, 1, 1_000)
    checkWhole('waitersMax', waitersMax, 1, 1_000_000)
    checkWhole('tokenMemoryMs', tokenMemoryMs, 1_000, 30 * 86_400_000)
    this.#schema = schema
    this.#calls = lockCalls(schema)
    this.#timeoutMs = timeoutMs
    this.#waitersMax = waitersMax
    this.#durable = durable
    this.#tokenMemoryMs = tokenMemoryMs
    this.#setsUp = setUp
    const config = {
      connectionString: url,
      application_name: `headrace-lock:${this.client.slice(this.client.lastIndexOf(':') + 1)}`,
      connectionTimeoutMillis: timeoutMs,
      keepAlive: true,
    }
    this.#ownPool =
      pool === undefined ? new Pool({ ...config, max: connectionsMax, query_timeout: timeoutMs, idleTimeoutMillis: 60_000 }) : null
    // A connection that idles in the pool may break; the next call tells.
    this.#ownPool?.on('error', () => {})
    this.#pool = pool ?? (this.#ownPool as unknown as PostgresPool)
    const openSession = async (): Promise<OpenSession> => {
      if (pool !== undefined) {
        const client = await this.#within('connecting', pool.connect())
        return { client, end: once(() => client.release(true)) }
      }
      const client = new Client(config)
      client.on('error', () => {})
      await this.#within('connecting', client.connect())
      return { client: client as unknown as PostgresClient, end: once(() => void client.end().catch(() => {})) }
    }
    this.#session = new PostgresLockSession(openSession, (what, work) => this.#within(what, work))
  }

  listen(events: LockEvents): void {
    this.#session.listen(events)
  }

  async acquire(request: LockRequest): Promise<LockAnswer> {
    const { key, id, permits, limit, ttlMs, waitMs, tokenFloor } = request
    await this.#ready()
    const session = waitMs > 0 ? await this.#within('listening for locks', this.#session.ready()) : '0'
    const [row] = await this.#query('taking a lock', this.#calls.acquire, [
      key,
      id,
      session,
      permits,
      limit,
      ttlMs,
      waitMs,
      tokenFloor,
      this.#waitersMax,
      this.#durable,
    ])
    const { state, value, ms, token_before } = row as { state: number; value: string; ms: number; token_before: string }
    const tokenBefore = Number(token_before)
    switch (state) {
      case 1:
        return { state: 'granted', token: Number(value), remainingMs: ms }
      case 0:
        return { state: 'queued', endsInMs: ms, tokenBefore }
      case -1:
        return { state: 'refused', endsInMs: ms, tokenBefore }
      case -2:
        return { state: 'limit-differs', limit: Number(value) }
      default:
        return { state: 'full' }
    }
  }

  async extend(key: string, id: string, token: number, ttlMs: number): Promise<LockEnd> {
    await this.#ready()
    return end(await this.#query('extending a lock', this.#calls.extend, [key, id, token, ttlMs, this.#durable]))
  }

  async release(key: string, id: string): Promise<LockEnd> {
    await this.#ready()
    return end(await this.#query('releasing a lock', this.#calls.release, [key, id, this.#durable]))
  }

  async break(key: string, id = ''): Promise<number> {
    await this.#ready()
    const [row] = await this.#query('breaking a lock', this.#calls.break, [key, id])
    return Number(row?.['broken'])
  }

  async list(max: number): Promise<LockStatus[]> {
    await this.#ready()
    const rows = await this.#query('listing locks', this.#calls.list, [max])
    return rows.map((row) => ({
      key: String(row['key']),
      limit: Number(row['capacity']),
      lastToken: Number(row['token']),
      waiting: Number(row['waiting']),
      holders: row['holders'] as LockHolder[],
    }))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    if (this.#pruning !== null) clearInterval(this.#pruning)
    this.#session.close()
    await this.#ownPool?.end().catch(() => {})
  }

  #ready(): Promise<void> {
    if (this.#setUp === null) {
      const setUp = this.#start()
      this.#setUp = setUp
      setUp.catch(() => {
        // The next call tries again.
        if (this.#setUp === setUp) this.#setUp = null
      })
    }
    return this.#setUp
  }

  async #start(): Promise<void> {
    const [row] = await this.#query('looking for its functions', this.#calls.installed, [])
    if (row?.['installed'] !== true) {
      if (!this.#setsUp)
        throw new HeadraceError(
          'engine-refused',
          `PostgreSQL has no functions for locks in the schema ${this.#schema}: run postgresLocksSql('${this.#schema}') in a migration, or leave setUp on.`,
        )
      await this.#query(
        'creating its tables',
        `begin; select pg_advisory_xact_lock(${setUpLock}); ${postgresLocksSql(this.#schema)}; commit`,
      )
    }
    const prune = (): void => {
      this.#query('pruning locks', this.#calls.prune, [this.#tokenMemoryMs, pruneRowsMax]).catch(() => {})
    }
    this.#pruning ??= setInterval(prune, pruneEveryMs)
    this.#pruning.unref()
  }

  async #query(what: string, text: string, values?: readonly unknown[]): Promise<Record<string, unknown>[]> {
    if (this.#closed) throw new HeadraceError('engine-unavailable', 'The connection to PostgreSQL is closed.')
    const { rows } = await this.#within(what, this.#pool.query(values === undefined ? { text } : { text, values }))
    return rows
  }

  /** Bounds a call, and gives its error a code of ours; the client's own error is not passed on. */
  async #within<T>(what: string, work: Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(
        () => reject(new HeadraceError('engine-timeout', `PostgreSQL did not answer ${what} within ${this.#timeoutMs} ms.`)),
        this.#timeoutMs,
      )
    })
    try {
      return await Promise.race([work, late])
    } catch (error) {
      throw explained(what, error)
    } finally {
      clearTimeout(timer)
    }
  }
}

function once(run: () => void): () => void {
  let done = false
  return () => {
    if (done) return
    done = true
    run()
  }
}

function end(rows: readonly Record<string, unknown>[]): LockEnd {
  const [row] = rows
  return { held: row?.['held'] === true, tokenBefore: Number(row?.['token_before']) }
}

function explained(what: string, error: unknown): HeadraceError {
  if (error instanceof HeadraceError) return error
  const { message, code = '' } = error as { message: string; code?: string }
  const said = (message ?? '').split('\n')[0]?.slice(0, 200) ?? ''
  if (code.startsWith('28'))
    return new HeadraceError('engine-refused', `PostgreSQL refused the user or password while ${what}. Correct them in its url.`)
  if (code === '3D000') return new HeadraceError('engine-refused', `PostgreSQL: ${said}. Correct the database in its url.`)
  if (code === '42501')
    return new HeadraceError(
      'engine-refused',
      `PostgreSQL does not allow ${what}: ${said}. Give the user the rights, or run postgresLocksSql() as the owner.`,
    )
  if (code === '25006')
    return new HeadraceError('engine-refused', `PostgreSQL is read-only here: ${what} needs the primary. Correct its url.`)
  if (code === '57014' || said === 'Query read timeout')
    return new HeadraceError('engine-timeout', `PostgreSQL did not answer ${what} in time.`)
  // Classes: connection, resources, operator intervention; then serialization and deadlock.
  if (/^(08|53|57P|40)/.test(code) || code.startsWith('E') || code === '')
    return new HeadraceError('engine-unavailable', `PostgreSQL cannot be reached for ${what}: ${said}.`)
  return new HeadraceError('engine-failed', `PostgreSQL answered ${what} with an error: ${said}.`)
}
