/**
 * The connections of a pool, greeted when they are new, and known while they are
 * taken.
 */
import type { Pool, PoolClient, PoolConfig } from 'pg'
import { HeadraceError } from '../../contracts/errors.ts'
import { Connection, type Memory } from './connection.ts'
import { postgresError } from './errors.ts'
import { type Plans, PreparedStatements } from './prepared.ts'
import { columnTypes } from './values.ts'

const memories = new WeakMap<object, Memory>()
const greetingQuery = `select current_setting('server_version_num')::int as version,
  current_setting('max_prepared_transactions')::int as prepared_max, current_setting('synchronous_commit') = 'off' as loosely`

export interface ConnectionsOptions {
  readonly connectTimeoutMs: number
  /** Sent once on each new connection. */
  readonly prelude?: string
  readonly plans: Plans
}

/** A pool, and who has taken its connections. */
export class Connections {
  readonly #name: string
  readonly #pool: Pool
  readonly #own: boolean
  readonly #options: ConnectionsOptions
  readonly #taken = new Set<Connection>()
  #closed = false

  /** Whether the pool was made here, so that its sessions are nobody else's. */
  get own(): boolean {
    return this.#own
  }

  constructor(name: string, pool: Pool, own: boolean, options: ConnectionsOptions) {
    this.#name = name
    this.#pool = pool
    this.#own = own
    this.#options = options
    // A connection that breaks while it idles is gone from the pool; the next call opens another.
    if (own) pool.on('error', () => {})
  }

  /** A pool of our own. */
  static open(name: string, PoolClass: new (config: PoolConfig) => Pool, config: PoolConfig, options: ConnectionsOptions): Connections {
    return new Connections(
      name,
      new PoolClass({
        ...config,
        connectionTimeoutMillis: options.connectTimeoutMs,
        keepAlive: true,
        // A process that has nothing else to do may end.
        allowExitOnIdle: true,
        idleTimeoutMillis: 60_000,
      }),
      true,
      options,
    )
  }

  async take(): Promise<Connection> {
    if (this.#closed) throw closed(this.#name)
    const client = await this.#checkOut()
    if (this.#closed) {
      client.release()
      throw closed(this.#name)
    }
    const unheard = (): void => {}
    client.on('error', unheard)
    try {
      const memory = memories.get(client) ?? (await this.#greet(client))
      const connection = new Connection(this.#name, client, memory, this.#options.plans, (over) => this.#taken.delete(over))
      this.#taken.add(connection)
      return connection
    } finally {
      client.off('error', unheard)
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const connection of this.#taken) connection.destroy()
    if (this.#own) await this.#pool.end().catch(() => {})
  }

  async #greet(client: PoolClient): Promise<Memory> {
    const { connectTimeoutMs, prelude, plans } = this.#options
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${connectTimeoutMs} ms`)), connectTimeoutMs)
    })
    try {
      if (prelude !== undefined) await Promise.race([client.query(prelude), late])
      const { rows } = await Promise.race([client.query({ text: greetingQuery, types: columnTypes }), late])
      const [row] = rows as { version: number; prepared_max: number; loosely: boolean }[]
      const greeting = { version: row?.version ?? 0, preparedMax: row?.prepared_max ?? 0, loosely: row?.loosely === true }
      const memory: Memory = { greeting, prepared: new PreparedStatements(plans), settings: null }
      memories.set(client, memory)
      return memory
    } catch (error) {
      client.on('error', () => {})
      client.release(true)
      ;(client as { readonly connection?: { readonly stream?: { destroy(): void } } }).connection?.stream?.destroy()
      throw postgresError(this.#name, error, 'connect')
    } finally {
      clearTimeout(timer)
    }
  }

  /** A pool of the user's own may wait for ever; here nobody does. */
  async #checkOut(): Promise<PoolClient> {
    const { connectTimeoutMs } = this.#options
    let timer: NodeJS.Timeout | undefined
    let late = false
    const connecting = this.#pool.connect()
    const timeout = new Promise<never>((_, reject) => {
      // The pool's own words come first when it is bounded alike.
      timer = setTimeout(() => {
        late = true
        reject(new Error('timeout exceeded when trying to connect'))
      }, connectTimeoutMs + 50)
    })
    connecting.then(
      (client) => {
        if (late) client.release()
      },
      () => {},
    )
    try {
      return await Promise.race([connecting, timeout])
    } catch (error) {
      if (this.#closed) throw closed(this.#name)
      throw postgresError(this.#name, error, 'connect')
    } finally {
      clearTimeout(timer)
    }
  }
}

const closed = (name: string): HeadraceError =>
  new HeadraceError('engine-unavailable', `PostgreSQL '${name}' is closed: do not use it after close().`)
