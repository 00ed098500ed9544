/**
 * Connections of `pg`, checked out for one branch or one call.
 *
 * What must hold: every query ends within its deadline, for when it passes the
 * connection is destroyed; a connection goes back to its pool only when it is
 * known to be idle; an error between queries ends nobody's process.
 *
 * States: taken → (queries) → released or destroyed. A connection that breaks,
 * or answers too late, is lost: it takes no query any more.
 */
import { connect as connectSocket } from 'node:net'
import type { Pool, PoolClient, PoolConfig } from 'pg'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Row } from '../../contracts/database.ts'
import { connectionLost, type Doing, postgresError } from './errors.ts'
import { columnTypes } from './values.ts'

export interface Result {
  readonly command: string
  readonly rowCount: number | null
  readonly rows: Row[]
}

/** How long a cancel request may take, in milliseconds; then the connection is destroyed. */
const cancelTimeoutMs = 1_000
/** The server ends a statement by itself; the client waits this much longer for it to say so, in milliseconds. */
export const deadlineGraceMs = 1_000

/** What a connection says about its server when it is used for the first time. */
export interface Greeting {
  readonly version: number
  readonly preparedMax: number
  /** Commits would not wait for the disk, unless told to. */
  readonly loosely: boolean
}

const greetings = new WeakMap<object, Greeting>()
const greetingQuery = `select current_setting('server_version_num')::int as version,
  current_setting('max_prepared_transactions')::int as prepared_max, current_setting('synchronous_commit') = 'off' as loosely`

export class Connection {
  /** The client of `pg`. */
  readonly client: PoolClient
  readonly greeting: Greeting
  /** Queries may be sent before the earlier ones are answered. */
  readonly pipelined: boolean
  readonly #name: string
  readonly #over: (connection: Connection) => void
  readonly #deadlines: number[] = []
  readonly #idle = new Set<() => void>()
  #watchdog: NodeJS.Timeout | null = null
  #lost: HeadraceError | null = null
  #tainted = false
  #done = false

  constructor(name: string, client: PoolClient, greeting: Greeting, over: (connection: Connection) => void) {
    this.#name = name
    this.client = client
    this.greeting = greeting
    this.pipelined = client.pipeline === true
    this.#over = over
    client.on('error', this.#broke)
    client.on('end', this.#broke)
  }

  /** Why it takes no queries any more; null while it does. */
  get lost(): HeadraceError | null {
    return this.#lost
  }

  get pending(): number {
    return this.#deadlines.length
  }

  /** 'T' in a transaction, 'E' in one that failed, 'I' outside; null when the client does not tell. */
  get status(): string | null {
    return (this.client as { getTransactionStatus?: () => string | null }).getTransactionStatus?.() ?? null
  }

  /** Several statements in one round trip, without parameters: it stops at the first that fails. */
  async script(text: string, doing: Doing, deadlineMs: number): Promise<Result[]> {
    const results = await this.#within(text, doing, deadlineMs, { text, types: columnTypes })
    return Array.isArray(results) ? results : [results]
  }

  /** One statement with parameters. */
  query(text: string, values: readonly unknown[], doing: Doing, deadlineMs: number): Promise<Result> {
    // The extended protocol takes one statement only, also when there are no parameters.
    return this.#within(text, doing, deadlineMs, { text, values, types: columnTypes, queryMode: 'extended' }) as Promise<Result>
  }

  async #within(text: string, doing: Doing, deadlineMs: number, query: object): Promise<Result | Result[]> {
    if (this.#lost !== null) throw this.#lost
    this.#deadlines.push(deadlineMs)
    if (this.#deadlines.length === 1) this.#watch()
    try {
      return await (this.client.query(query as never) as unknown as Promise<Result | Result[]>)
    } catch (error) {
      // The words of the deadline rather than those of the socket that it closed; but a commit stays unknown.
      const late = this.lost
      if (late?.code === 'engine-timeout') {
        if (doing === 'commit')
          throw new HeadraceError(
            'transaction-unknown',
            `PostgreSQL '${this.#name}' did not answer COMMIT in time. Whether it is committed, its marker tells.`,
            { details: { database: this.#name }, cause: error },
          )
        throw late
      }
      const known = postgresError(this.#name, error, doing, doing === 'statement' || doing === 'read' ? text : undefined)
      if (connectionLost(error)) this.#lose(postgresError(this.#name, error, 'statement'))
      throw known
    } finally {
      this.#deadlines.shift()
      this.#watch()
      if (this.#deadlines.length === 0) {
        for (const wake of this.#idle) wake()
        this.#idle.clear()
      }
    }
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    if (this.#deadlines.length > 0) await new Promise<void>((resolve) => this.#idle.add(resolve))
  }

  /**
   * Asks the server to end the statement under way. The request goes another
   * way and may come late, so the connection is not used by anybody afterwards;
   * when nothing ends within a second, it is destroyed.
   * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-CANCELING-REQUESTS
   */
  cancel(): void {
    if (this.#done || this.#lost !== null || this.#tainted) return
    this.#tainted = true
    const { host, port, processID, secretKey } = this.client as unknown as CancelAddress
    if (typeof processID === 'number' && typeof secretKey === 'number') {
      const request = Buffer.alloc(16)
      request.writeInt32BE(16, 0)
      request.writeInt32BE(80877102, 4)
      request.writeInt32BE(processID, 8)
      request.writeInt32BE(secretKey, 12)
      const socket = host.startsWith('/') ? connectSocket(`${host}/.s.PGSQL.${port}`) : connectSocket(port, host)
      socket.setTimeout(cancelTimeoutMs, () => socket.destroy())
      socket.on('error', () => socket.destroy())
      socket.end(request)
      socket.resume()
    }
    const timer = setTimeout(() => this.#lose(late(this.#name)), cancelTimeoutMs)
    void this.settled().then(() => clearTimeout(timer))
  }

  /** Back to the pool when it is idle and clean; else it is closed. */
  release(): void {
    if (this.#done) return
    if (this.#lost !== null || this.#tainted || this.#deadlines.length > 0 || (this.status ?? 'I') !== 'I') {
      this.destroy()
      return
    }
    this.#finish()
    this.client.release()
  }

  /** Closes it, whatever it is doing; the server then undoes what is not committed or prepared. */
  destroy(): void {
    if (this.#done) return
    this.#finish()
    // What it says from now on is of no interest, and must not end the process.
    this.client.on('error', () => {})
    this.client.release(true)
    // The client would wait for answers that are under way.
    ;(this.client as { readonly connection?: { readonly stream?: { destroy(): void } } }).connection?.stream?.destroy()
  }

  readonly #broke = (error?: Error): void => {
    this.#lose(postgresError(this.#name, error ?? new Error('the connection ended'), 'statement'))
  }

  #lose(why: HeadraceError): void {
    if (this.#lost !== null) return
    this.#lost = why
    ;(this.client as { readonly connection?: { readonly stream?: { destroy(): void } } }).connection?.stream?.destroy()
  }

  /** The deadline of the oldest query runs from when it is the oldest. */
  #watch(): void {
    if (this.#watchdog !== null) clearTimeout(this.#watchdog)
    this.#watchdog = null
    const [deadlineMs] = this.#deadlines
    if (deadlineMs !== undefined) this.#watchdog = setTimeout(() => this.#lose(late(this.#name, deadlineMs)), deadlineMs)
  }

  #finish(): void {
    this.#done = true
    if (this.#watchdog !== null) clearTimeout(this.#watchdog)
    this.client.off('error', this.#broke)
    this.client.off('end', this.#broke)
    this.#over(this)
  }
}

interface CancelAddress {
  readonly host: string
  readonly port: number
  readonly processID?: number
  readonly secretKey?: number
}

const late = (name: string, deadlineMs?: number): HeadraceError =>
  new HeadraceError(
    'engine-timeout',
    deadlineMs === undefined
      ? `PostgreSQL '${name}' did not end a statement that was cancelled; the connection is closed.`
      : `PostgreSQL '${name}' did not answer within ${deadlineMs} ms; the connection is closed.`,
    { details: { database: name } },
  )

export interface ConnectionsOptions {
  readonly connectTimeoutMs: number
  /** Sent once on each new connection. */
  readonly prelude?: string
}

/** A pool, and who has taken its connections. */
export class Connections {
  readonly #name: string
  readonly #pool: Pool
  readonly #own: boolean
  readonly #options: ConnectionsOptions
  readonly #taken = new Set<Connection>()
  #closed = false

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
      const greeting = greetings.get(client) ?? (await this.#greet(client))
      const connection = new Connection(this.#name, client, greeting, (over) => this.#taken.delete(over))
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

  async #greet(client: PoolClient): Promise<Greeting> {
    const { connectTimeoutMs, prelude } = this.#options
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no answer within ${connectTimeoutMs} ms`)), connectTimeoutMs)
    })
    try {
      if (prelude !== undefined) await Promise.race([client.query(prelude), late])
      const { rows } = await Promise.race([client.query({ text: greetingQuery, types: columnTypes }), late])
      const [row] = rows as { version: number; prepared_max: number; loosely: boolean }[]
      const greeting = { version: row?.version ?? 0, preparedMax: row?.prepared_max ?? 0, loosely: row?.loosely === true }
      greetings.set(client, greeting)
      return greeting
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
