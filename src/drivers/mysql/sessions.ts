/**
 * Connections of a pool, by number: at most so many at once, each pinned to the
 * settings that Headrace relies on before it is used.
 *
 * The settings are those of the session (strict SQL mode, UTC, READ COMMITTED,
 * bounded waits for locks), so a pool that is handed over should serve Headrace
 * alone. Nothing is reset on release: a reset after XA PREPARE breaks a
 * connection of MariaDB for good.
 */
import type { Pool, PoolConnection } from 'mysql2/promise'
import { HeadraceError } from '../../contracts/errors.ts'
import { type ErrorContext, mysqlError } from './errors.ts'
import { rowsOf } from './rows.ts'
import { type ConnectionState, Session, type SessionHost } from './session.ts'

/** How long the server keeps a connection that says nothing, in seconds: one that is lost to the network holds its locks no longer. */
const idleS = 300
/** How long a statement waits for a change of the schema, in seconds. */
const schemaWaitS = 10

const pin = [
  "set session sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'",
  "session time_zone = '+00:00'",
  `session wait_timeout = ${idleS}`,
  `session lock_wait_timeout = ${schemaWaitS}`,
  'session autocommit = 1',
].join(', ')

export interface Server {
  readonly version: string
  readonly mariadb: boolean
  /** Bytes of the longest statement. */
  readonly packetBytesMax: number
}

export interface SessionsOptions {
  readonly pool: Pool
  /** Connections in use at the same time, at most. */
  readonly max: number
  readonly context: ErrorContext
  killQuery(id: number): Promise<void>
  /** Called when all are in use: closes one that can be spared; false when there is none. */
  spare(): boolean
}

interface Waiter {
  take(): void
  readonly timer: NodeJS.Timeout
}

const states = new WeakMap<object, ConnectionState>()
const noListener = (): void => {}

export class Sessions implements SessionHost {
  readonly context: ErrorContext
  readonly #options: SessionsOptions
  readonly #waiting: Waiter[] = []
  #used = 0
  #server: Server | null = null

  constructor(options: SessionsOptions) {
    this.#options = options
    this.context = options.context
  }

  get server(): Server | null {
    return this.#server
  }

  killQuery(id: number): Promise<void> {
    return this.#options.killQuery(id)
  }

  /** A connection within `timeoutMs`; `lockWaitS` is how long its statements wait for a row lock. */
  async acquire(timeoutMs: number, lockWaitS: number, readOnly = false): Promise<Session> {
    const deadline = performance.now() + timeoutMs
    await this.#slot(timeoutMs)
    let session: Session | null = null
    try {
      session = await this.#connect(Math.max(1, deadline - performance.now()))
      await this.#ready(session, Math.max(1, deadline - performance.now()), lockWaitS, readOnly)
      return session
    } catch (error) {
      if (session === null) this.#free()
      else session.destroy()
      throw mysqlError(error, this.context)
    }
  }

  give(session: Session, whole: boolean): void {
    if (whole) session.client.release()
    else session.client.destroy()
    this.#free()
  }

  async #slot(timeoutMs: number): Promise<void> {
    if (this.#used < this.#options.max) {
      this.#used += 1
      return
    }
    await new Promise<void>((resolve, reject) => {
      const waiter: Waiter = {
        take: () => {
          clearTimeout(waiter.timer)
          resolve()
        },
        timer: setTimeout(() => {
          this.#waiting.splice(this.#waiting.indexOf(waiter), 1)
          reject(
            new HeadraceError(
              'engine-timeout',
              `None of the ${this.#options.max} connections to MySQL '${this.context.name}' was free within ${timeoutMs} ms: raise poolMax, or run fewer branches at once.`,
            ),
          )
        }, timeoutMs),
      }
      this.#waiting.push(waiter)
      this.#options.spare()
    })
  }

  #free(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#used -= 1
    else next.take()
  }

  #connect(timeoutMs: number): Promise<Session> {
    return new Promise((resolve, reject) => {
      let late = false
      const timer = setTimeout(() => {
        late = true
        const { name, address } = this.context
        reject(new HeadraceError('engine-timeout', `MySQL '${name}' at ${address} gave no connection within ${Math.round(timeoutMs)} ms.`))
      }, timeoutMs)
      this.#options.pool.getConnection().then(
        (client) => {
          clearTimeout(timer)
          if (late) client.release()
          else resolve(new Session(client, this.#stateOf(client), this))
        },
        (error: unknown) => {
          clearTimeout(timer)
          reject(error as Error)
        },
      )
    })
  }

  #stateOf(client: PoolConnection): ConnectionState {
    const { connection } = client as unknown as {
      connection: NodeJS.EventEmitter & { config: { jsonStrings: boolean; decimalNumbers: boolean } }
    }
    const known = states.get(connection)
    if (known !== undefined) return known
    // A connection that breaks while nobody waits for it must not end the process.
    connection.on('error', noListener)
    // The two settings that the client takes per connection alone: values arrive the same whatever the pool says.
    connection.config.jsonStrings = true
    connection.config.decimalNumbers = false
    const state: ConnectionState = { pinned: false, readOnly: false, lockWaitS: 0 }
    states.set(connection, state)
    return state
  }

  async #ready(session: Session, timeoutMs: number, lockWaitS: number, readOnly: boolean): Promise<void> {
    const { state } = session
    const run = (text: string) => session.run(text, { timeoutMs, shape: text, interruptible: false })
    if (!state.pinned) {
      await run(pin)
      await run('set session transaction isolation level read committed')
      if (this.#server === null) this.#server = await serverOf(session, timeoutMs)
      state.pinned = true
    }
    if (state.lockWaitS !== lockWaitS) {
      await run(`set session innodb_lock_wait_timeout = ${lockWaitS}`)
      state.lockWaitS = lockWaitS
    }
    if (state.readOnly !== readOnly) {
      await run(`set session transaction ${readOnly ? 'read only' : 'read write'}`)
      state.readOnly = readOnly
    }
  }
}

async function serverOf(session: Session, timeoutMs: number): Promise<Server> {
  const [result] = await session.run('select version() as version, @@max_allowed_packet as packet', { timeoutMs, interruptible: false })
  const [row] = rowsOf(result)
  const version = String(row?.['version'] ?? '')
  return { version, mariadb: /mariadb/i.test(version), packetBytesMax: Number(row?.['packet'] ?? 1024 ** 2) }
}
