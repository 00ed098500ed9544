/**
 * The connections of a queue on PostgreSQL: a pool for calls, and one session
 * that listens while somebody waits for messages.
 *
 * What must hold: every call ends within `timeoutMs`, for past it the connection
 * is destroyed; when the session that listens is lost, all who wait are woken,
 * because notifications may have been missed, and another one is opened.
 */
import type { Client, Pool, PoolClient, PoolConfig } from 'pg'
import { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs } from '../../std/backoff.ts'
import { clientName } from '../../std/client-name.ts'
import { connectionLost, postgresError, sqlState } from './errors.ts'
import { queueCalls } from './queue-calls.ts'
import { postgresQueueSql, queueChannel, queueTablesVersion } from './queue-sql.ts'

export interface QueueClientOptions {
  readonly url: string
  readonly schema: string
  readonly setUp: boolean
  readonly timeoutMs: number
  readonly connectionsMax: number
}

export type QueueRow = Readonly<Record<string, string | number | boolean | null>>

const reconnectBaseMs = 50
const reconnectMaxMs = 1_000
/** Two clients that set up at once wait for each other under this number. */
const setUpLock = '4712061871090717'
const name = 'queue'

export class QueueClient {
  readonly calls: ReturnType<typeof queueCalls>
  readonly #options: QueueClientOptions
  readonly #waiting = new Map<string, Set<() => void>>()
  #pool: Promise<Pool> | null = null
  #ready: Promise<void> | null = null
  #session: Client | null = null
  #listening: Promise<void> | null = null
  #retry: NodeJS.Timeout | null = null
  #closed = false

  constructor(options: QueueClientOptions) {
    this.#options = options
    this.calls = queueCalls(options.schema)
  }

  get closed(): boolean {
    return this.#closed
  }

  /** One statement; its rows, and how many it changed. */
  async query(text: string, values: readonly unknown[] = []): Promise<{ readonly rows: QueueRow[]; readonly changed: number }> {
    await this.#setUp()
    return this.#within(text, values)
  }

  /** Calls back when there may be something in the partition, or notifications may have been missed; returns the way to stop. */
  async watch(topic: number, partition: number, wake: () => void): Promise<() => void> {
    const place = `${topic} ${partition}`
    let waiting = this.#waiting.get(place)
    if (waiting === undefined) {
      waiting = new Set()
      this.#waiting.set(place, waiting)
    }
    waiting.add(wake)
    const stop = (): void => {
      waiting.delete(wake)
      if (waiting.size === 0 && this.#waiting.get(place) === waiting) this.#waiting.delete(place)
    }
    try {
      await this.#listen()
    } catch (error) {
      stop()
      throw error
    }
    return stop
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    if (this.#retry !== null) clearTimeout(this.#retry)
    this.#wakeAll()
    destroy(this.#session)
    const pool = await this.#pool?.catch(() => null)
    await pool?.end().catch(() => {})
  }

  #setUp(): Promise<void> {
    if (this.#closed) return Promise.reject(queueClosed())
    if (this.#ready === null) {
      const ready = this.#start()
      this.#ready = ready
      ready.catch(() => {
        // The next call tries again.
        if (this.#ready === ready) this.#ready = null
      })
    }
    return this.#ready
  }

  async #start(): Promise<void> {
    const { schema, setUp } = this.#options
    const { rows } = await this.#within(this.calls.version, [])
    if (rows[0]?.['found'] === null && !setUp)
      throw new HeadraceError(
        'tables-missing',
        `PostgreSQL has no tables for queues in the schema ${schema}: run postgresQueueSql('${schema}') in a migration, or leave setUp on.`,
      )
    if (rows[0]?.['found'] !== null) {
      const { rows: meta } = await this.#within(this.calls.tables, [])
      const found = Number(meta[0]?.['version'] ?? 0)
      if (found !== queueTablesVersion)
        throw new HeadraceError(
          'tables-outdated',
          `The queue tables (headrace_queue_…) of PostgreSQL have version ${found}; this Headrace needs version ${queueTablesVersion}. ${found < queueTablesVersion ? `Run postgresQueueSql('${schema}') in a migration.` : 'Use the newer Headrace that made them.'}`,
          { details: { found, needed: queueTablesVersion } },
        )
    }
    if (setUp && rows[0]?.['found'] === null)
      await this.#within(`begin; select pg_advisory_xact_lock(${setUpLock}); ${postgresQueueSql(schema)}; commit`, null)
  }

  async #within(text: string, values: readonly unknown[] | null): Promise<{ readonly rows: QueueRow[]; readonly changed: number }> {
    const { timeoutMs } = this.#options
    if (this.#closed) throw queueClosed()
    const client = await this.#connect()
    let broken = false
    const breaks = (): void => {
      broken = true
    }
    client.on('error', breaks)
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        broken = true
        reject(new HeadraceError('engine-timeout', `PostgreSQL did not answer a call of the queue within ${timeoutMs} ms.`))
      }, timeoutMs)
    })
    try {
      const running = values === null ? client.query(text) : client.query({ text, values: values as unknown[] })
      running.catch(() => {})
      const result = await Promise.race([running, late])
      return { rows: (result.rows ?? []) as QueueRow[], changed: result.rowCount ?? 0 }
    } catch (error) {
      if (connectionLost(error)) broken = true
      throw this.#closed ? queueClosed() : this.#explained(error)
    } finally {
      clearTimeout(timer)
      client.off('error', breaks)
      if (broken) client.on('error', () => {})
      client.release(broken)
      if (broken) destroyStream(client)
    }
  }

  async #connect(): Promise<PoolClient> {
    if (this.#pool === null) {
      const pool = this.#open()
      this.#pool = pool
      pool.catch(() => {
        if (this.#pool === pool) this.#pool = null
      })
    }
    try {
      return await (await this.#pool).connect()
    } catch (error) {
      throw this.#closed ? queueClosed() : postgresError(name, error, 'connect')
    }
  }

  async #open(): Promise<Pool> {
    const { Pool } = await driver()
    const pool = new Pool({ ...this.#config('calls'), max: this.#options.connectionsMax, allowExitOnIdle: true, idleTimeoutMillis: 60_000 })
    // A connection that breaks while it idles is gone from the pool; the next call opens another.
    pool.on('error', () => {})
    return pool
  }

  #config(what: string): PoolConfig {
    const { url, timeoutMs } = this.#options
    return {
      connectionString: url,
      application_name: `headrace-queue:${what}:${clientName().slice(-12)}`,
      connectionTimeoutMillis: timeoutMs,
      statement_timeout: timeoutMs,
      keepAlive: true,
    }
  }

  #listen(): Promise<void> {
    if (this.#listening === null) {
      const listening = this.#openSession()
      this.#listening = listening
      listening.catch(() => {
        if (this.#listening === listening) this.#listening = null
      })
    }
    return this.#listening
  }

  async #openSession(): Promise<void> {
    const { Client } = await driver()
    if (this.#closed) throw queueClosed()
    const session = new Client(this.#config('listen'))
    let over = false
    const lose = (): void => {
      if (over) return
      over = true
      destroy(session)
      if (this.#session === session) this.#lost()
    }
    session.on('error', lose)
    session.on('end', lose)
    session.on('notification', ({ payload = '' }) => this.#hear(payload))
    try {
      await session.connect()
      await session.query(`listen ${queueChannel}`)
    } catch (error) {
      over = true
      destroy(session)
      throw this.#explained(error)
    }
    if (over || this.#closed) {
      destroy(session)
      throw queueClosed()
    }
    this.#session = session
  }

  #lost(): void {
    this.#session = null
    this.#listening = null
    if (this.#closed) return
    this.#wakeAll()
    const again = (attempt: number): void => {
      if (this.#closed || this.#waiting.size === 0) return
      this.#retry = setTimeout(
        () => {
          this.#listen().then(
            () => this.#wakeAll(),
            () => again(attempt + 1),
          )
        },
        backoffMs(attempt, reconnectBaseMs, reconnectMaxMs),
      )
      this.#retry.unref()
    }
    again(0)
  }

  #hear(payload: string): void {
    if (payload.endsWith(' *')) {
      const topic = payload.slice(0, -1)
      for (const [place, waiting] of this.#waiting) if (place.startsWith(topic)) for (const wake of waiting) wake()
      return
    }
    for (const wake of this.#waiting.get(payload) ?? []) wake()
  }

  #wakeAll(): void {
    for (const waiting of this.#waiting.values()) for (const wake of waiting) wake()
  }

  #explained(error: unknown): HeadraceError {
    const code = sqlState(error)
    if (code === '42P01' || code === '42883')
      return new HeadraceError(
        'tables-missing',
        `PostgreSQL lacks tables or functions of the queue in the schema ${this.#options.schema}: run postgresQueueSql('${this.#options.schema}') in a migration.`,
        { cause: error },
      )
    return postgresError(name, error, 'statement')
  }
}

export const queueClosed = (): HeadraceError => new HeadraceError('queue-closed', 'The queue is closed: do not use it after close().')

function destroy(session: Client | null): void {
  if (session === null) return
  session.on('error', () => {})
  session.end().catch(() => {})
  destroyStream(session)
}

/** The client would wait for answers that are under way. */
function destroyStream(client: object): void {
  ;(client as { readonly connection?: { readonly stream?: { destroy(): void } } }).connection?.stream?.destroy()
}

/** The client library, which is the user's to install. */
async function driver(): Promise<typeof import('pg')> {
  try {
    const module = (await import('pg')) as typeof import('pg') & { readonly default?: typeof import('pg') }
    return module.default ?? module
  } catch (error) {
    throw new HeadraceError('engine-refused', 'The package pg is missing: npm install pg', { cause: error })
  }
}
