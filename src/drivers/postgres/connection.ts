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
import type { PoolClient } from 'pg'
import { HeadraceError } from '../../contracts/errors.ts'
import { connectionLost, type Doing, isPlanTrouble, postgresError, sqlState } from './errors.ts'
import { flightClassOf, fly, type Part, type Result } from './flight.ts'
import type { Plans, PreparedStatements } from './prepared.ts'
import { columnTypes } from './values.ts'

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

/** What is known of a client from one use to the next. */
export interface Memory {
  readonly greeting: Greeting
  readonly prepared: PreparedStatements
  /** The statement that set its session as it is; null: as the server starts it. */
  settings: string | null
}

export class Connection {
  /** The client of `pg`. */
  readonly client: PoolClient
  /** Queries may be sent before the earlier ones are answered. */
  readonly pipelined: boolean
  readonly #name: string
  readonly #memory: Memory
  readonly #plans: Plans
  readonly #over: (connection: Connection) => void
  readonly #deadlines: number[] = []
  readonly #idle = new Set<() => void>()
  #watchdog: NodeJS.Timeout | null = null
  #lost: HeadraceError | null = null
  #tainted = false
  #done = false

  constructor(name: string, client: PoolClient, memory: Memory, plans: Plans, over: (connection: Connection) => void) {
    this.#name = name
    this.client = client
    this.#memory = memory
    this.#plans = plans
    this.pipelined = client.pipeline === true && flightClassOf(client) !== null
    this.#over = over
    client.on('error', this.#broke)
    client.on('end', this.#broke)
  }

  get greeting(): Greeting {
    return this.#memory.greeting
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
    const results = await this.#within(text, doing, deadlineMs, () => this.#sent({ text, types: columnTypes }))
    return Array.isArray(results) ? results : [results]
  }

  /** One statement with parameters. */
  query(text: string, values: readonly unknown[], doing: Doing, deadlineMs: number): Promise<Result> {
    // The extended protocol takes one statement only, also when there are no parameters.
    const query = { text, values, types: columnTypes, queryMode: 'extended' }
    return this.#within(text, doing, deadlineMs, () => this.#sent(query)) as Promise<Result>
  }

  /** Several statements with parameters in one round trip; it stops at the first that fails. Results in their order. */
  async flight(parts: readonly Part[], doing: Doing, deadlineMs: number): Promise<Result[]> {
    const { client } = this
    const Flight = flightClassOf(client)
    if (Flight === null) return this.#oneByOne(parts, doing, deadlineMs)
    const said = parts.at(-1)?.text ?? ''
    return (await this.#within(said, doing, deadlineMs, () => fly(client, Flight, this.#memory.prepared, parts))) as Result[]
  }

  /** Sets the session once, until another text is asked for. Settings that the app changes through its client are set again. */
  async settle(settings: string, deadlineMs: number): Promise<void> {
    if (this.#memory.settings === settings) return
    await this.script(settings, 'statement', deadlineMs)
    this.#memory.settings = settings
  }

  /** Whoever gets the client may set the session otherwise. */
  unsettle(): void {
    this.#memory.settings = null
  }

  async #oneByOne(parts: readonly Part[], doing: Doing, deadlineMs: number): Promise<Result[]> {
    const results: Result[] = []
    for (const { text, values } of parts) results.push(await this.query(text, values, doing, deadlineMs))
    return results
  }

  #sent(query: object): Promise<Result | Result[]> {
    return this.client.query(query as never) as unknown as Promise<Result | Result[]>
  }

  async #within(text: string, doing: Doing, deadlineMs: number, send: () => Promise<Result | Result[]>): Promise<Result | Result[]> {
    if (this.#lost !== null) throw this.#lost
    this.#deadlines.push(deadlineMs)
    if (this.#deadlines.length === 1) this.#watch()
    try {
      return await send()
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
      if (isPlanTrouble(error)) this.#plans.renew()
      if (sqlState(error) === '26000') this.#memory.prepared.doubtAll()
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
