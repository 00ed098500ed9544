/**
 * One connection while somebody has it: one statement at a time, each within a
 * bound, and known for lost as soon as it is.
 *
 * A statement that runs out of time, or whose signal is given, is ended by KILL
 * QUERY from another connection. If that does not come through, the connection
 * is closed. A connection whose state is not known is never given back to its
 * pool: it is closed, which ends what was open on it (but for what is prepared).
 */
import type { PoolConnection } from 'mysql2/promise'
import { HeadraceError } from '../../contracts/errors.ts'
import { type ErrorContext, isLost, mysqlError } from './errors.ts'
import { type Result, reading, resultsOf } from './rows.ts'

/** How long an interrupted statement may take to end before its connection is closed, in milliseconds. */
const interruptGraceMs = 1_000

export interface RunOptions {
  readonly timeoutMs: number
  readonly signal?: AbortSignal | undefined
  /** For messages: the statement without its values. */
  readonly shape?: string
  /** It reads or writes Headrace's own tables. */
  readonly own?: boolean
  /** False: out of time it is not ended but given up, and the connection closed: for commits, which must not be half told. */
  readonly interruptible?: boolean
}

/** What stays the same from one holder of a connection to the next. */
export interface ConnectionState {
  pinned: boolean
  readOnly: boolean
  lockWaitS: number
}

export interface SessionHost {
  readonly context: ErrorContext
  /** Ends the statement of a connection, from another one; rejects when it cannot. */
  killQuery(id: number): Promise<void>
  give(session: Session, whole: boolean): void
}

export class Session {
  /** A statement that goes ahead of the next one, in the same call; for pools that take several. */
  ahead: string | null = null
  readonly client: PoolConnection
  readonly state: ConnectionState
  readonly #host: SessionHost
  #interrupt: ((code: 'engine-timeout' | 'wait-aborted' | 'transaction-closed') => void) | null = null
  #lost = false
  #tainted = false
  #given = false

  constructor(client: PoolConnection, state: ConnectionState, host: SessionHost) {
    this.client = client
    this.state = state
    this.#host = host
  }

  /** The number that the server knows it by. */
  get id(): number {
    return this.client.threadId
  }

  /** Nothing more can be asked of it. */
  get lost(): boolean {
    return this.#lost
  }

  get foundRows(): boolean {
    const { config } = (this.client as unknown as { connection: { config: { clientFlags: number } } }).connection
    return (config.clientFlags & 2) !== 0
  }

  /** Ends the statement under way, if there is one. */
  interrupt(): void {
    this.#interrupt?.('transaction-closed')
  }

  /** Runs statements; throws errors of the table. */
  async run(text: string, options: RunOptions): Promise<Result[]> {
    const context: ErrorContext = {
      ...this.#host.context,
      ...(options.shape === undefined ? {} : { statement: options.shape }),
      own: options.own === true,
    }
    if (this.#lost)
      throw new HeadraceError('engine-unavailable', `The connection to MySQL '${context.name}' at ${context.address} is lost.`)
    if (options.signal?.aborted === true) throw stopped('wait-aborted', context, options)
    const { ahead } = this
    this.ahead = null
    try {
      if (ahead === null) return await this.#bounded(text, options, context)
      return (await this.#bounded(text === '' ? ahead : `${ahead}; ${text}`, options, context)).slice(1)
    } catch (error) {
      if (!HeadraceError.is(error) && isLost(error)) this.#lost = true
      throw mysqlError(error, context)
    }
  }

  #bounded(text: string, options: RunOptions, context: ErrorContext): Promise<Result[]> {
    return new Promise((resolve, reject) => {
      let why: HeadraceError | null = null
      const timer = setTimeout(() => interrupt('engine-timeout'), options.timeoutMs)
      const onAbort = (): void => interrupt('wait-aborted')
      options.signal?.addEventListener('abort', onAbort, { once: true })
      const end = (): void => {
        clearTimeout(timer)
        options.signal?.removeEventListener('abort', onAbort)
        this.#interrupt = null
      }
      const giveUp = (error: HeadraceError): void => {
        end()
        this.#lost = true
        this.client.destroy()
        reject(error)
      }
      const interrupt = (code: 'engine-timeout' | 'wait-aborted' | 'transaction-closed'): void => {
        if (why !== null) return
        why = stopped(code, context, options)
        this.#tainted = true
        if (options.interruptible === false) {
          giveUp(why)
          return
        }
        const late = setTimeout(() => giveUp(why as HeadraceError), interruptGraceMs)
        // The statement may end by itself meanwhile; the kill must have come through all the same, or it would hit the next one.
        void Promise.allSettled([this.#host.killQuery(this.id), running]).then(([killed]) => {
          clearTimeout(late)
          if (this.#lost) return
          if (killed.status === 'rejected') giveUp(why as HeadraceError)
          else {
            end()
            reject(why as HeadraceError)
          }
        })
      }
      this.#interrupt = interrupt
      const running = this.client.query({ sql: text, ...reading }).then(([results, fields]) => resultsOf(results, fields))
      running.then(
        (results) => {
          if (why !== null) return
          end()
          resolve(results)
        },
        (error: unknown) => {
          if (why !== null) return
          end()
          reject(error as Error)
        },
      )
    })
  }

  /** Gives the connection back: to its pool when nothing is open on it, else it is closed. */
  release(): void {
    if (this.#given) return
    this.#given = true
    this.#host.give(this, !this.#lost && !this.#tainted)
  }

  destroy(): void {
    this.#lost = true
    this.release()
  }
}

function stopped(
  code: 'engine-timeout' | 'wait-aborted' | 'transaction-closed',
  context: ErrorContext,
  options: RunOptions,
): HeadraceError {
  const statement = options.shape === undefined ? '' : `: ${options.shape.slice(0, 200)}`
  switch (code) {
    case 'engine-timeout':
      return new HeadraceError(
        code,
        `MySQL '${context.name}' at ${context.address} did not end a statement within ${options.timeoutMs} ms${statement}`,
      )
    case 'wait-aborted':
      return new HeadraceError(code, `The caller ended a statement of MySQL '${context.name}'${statement}`)
    case 'transaction-closed':
      return new HeadraceError(code, `The transaction of MySQL '${context.name}' ended while a statement was under way${statement}`)
  }
}
