/**
 * One XA branch on one connection.
 *
 * States: open → prepared (the connection stays with the participant, which ends
 * the branch on it, or lets it go) or ended (committed, aborted, lost).
 *
 * What must hold:
 * - A statement that failed is a vote to abort. After a lock wait timeout the
 *   server would prepare what the branch did before; after a deadlock it has
 *   undone the branch, and a statement after that would be outside of it.
 * - A savepoint rescues the first kind and not the second.
 * - The marker is the last thing written before XA END.
 * - XA START goes in one call with the first statement, where the pool takes
 *   several in one: the server stops at the first that fails.
 * - Calls on the database are sent one after the other; the end of the branch
 *   waits for those that nobody awaited, and is held to their failures.
 */
import type { Database } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Branch, BranchStart, Decision } from '../../contracts/participant.ts'
import { writeDatabase } from './database.ts'
import { errno } from './errors.ts'
import { decisionInsert, markerInsert, xidOf } from './own-tables.ts'
import type { Result } from './rows.ts'
import type { Session } from './session.ts'
import type { Quote } from './statement.ts'
import { Verbs, type VerbsOptions } from './verbs.ts'

/** How long the end of an aborted branch may take before its connection is closed, in milliseconds. */
const abortMs = 2_000

/** Errors after which the server has undone the whole branch. */
const undoneBy = new Set<number>([errno.xidTaken, errno.deadlock, errno.xaDeadlock, errno.xaTimedOut, errno.xaRolledBack])

/**
 * Errors that come before XA COMMIT in the statements of a commit, or with which
 * XA COMMIT says that it has undone the branch. After any other, only the marker tells.
 */
const certain = new Set<number>([
  errno.duplicateKey,
  errno.unknownColumn,
  errno.noSuchTable,
  errno.lockWaitTimeout,
  ...undoneBy,
  1142,
  1143,
  1290,
  1364,
  1836,
  errno.readOnlyTransaction,
])

export interface BranchHost extends Omit<VerbsOptions, 'onWrite'> {
  readonly quote: Quote
  /** Whether several statements may go in one call. */
  readonly several: boolean
  /** Keeps the connection of a prepared branch. */
  attach(gid: string, session: Session): void
  /** The branch may have been prepared, or not: undoes it. Never throws. */
  undo(gid: string): Promise<void>
  /** Forgets a branch that has ended. */
  ended(branch: MysqlBranch): void
}

/** Runs statements in one call where the pool allows it, else one by one. */
export async function runAll(
  session: Session,
  statements: readonly string[],
  several: boolean,
  options: Parameters<Session['run']>[1],
): Promise<Result[]> {
  if (several) return session.run(statements.join('; '), { shape: statements.join('; '), ...options })
  const results: Result[] = []
  for (const text of statements) results.push(...(await session.run(text, { shape: text, ...options })))
  return results
}

export class MysqlBranch implements Branch {
  readonly participant: string
  readonly gid: string
  readonly database: Database
  readonly #host: BranchHost
  readonly #session: Session
  readonly #start: BranchStart
  readonly #verbs: Verbs
  #state: 'open' | 'prepared' | 'ended' = 'open'
  #wrote = false
  /** What was called so far: the next call waits for it. */
  #last: Promise<unknown> = Promise.resolve()
  /** The first failure since the last savepoint that was rolled back. */
  #failure: unknown = null
  /** A failure that no savepoint rescues. */
  #undone: unknown = null
  /** Its end was asked for: the database takes no more calls. */
  #closing = false
  /** It may be prepared: the answer was lost. */
  #uncertain = false

  constructor(host: BranchHost, session: Session, start: BranchStart) {
    this.#host = host
    this.#session = session
    this.#start = start
    this.participant = host.name
    this.gid = start.gid
    this.#verbs = new Verbs({
      ...host,
      onWrite: () => {
        this.#wrote = true
      },
    })
    this.database = writeDatabase((verb) => this.#call((options) => this.#verbs.run(verb, session, options)))
  }

  get wrote(): boolean {
    return this.#wrote
  }

  get client(): unknown {
    this.#wrote = true
    // What its owner sends comes after XA START, also when nothing was sent before.
    if (this.#session.ahead !== null && this.#state === 'open') {
      const begun = this.#session.run('', { ...this.#finalOptions(), shape: 'the begin of a branch' }).catch((error: unknown) => {
        this.#failure ??= error
        this.#undone ??= error
      })
      this.#last = Promise.all([this.#last, begun])
    }
    return this.#session.client
  }

  savepoint(): Promise<void> {
    return this.#own('savepoint headrace_command')
  }

  async rollbackToSavepoint(): Promise<void> {
    await this.#call(
      async (options) => {
        await this.#session.run('rollback to savepoint headrace_command', options)
        this.#failure = null
      },
      { evenAfterFailure: true },
    )
  }

  async releaseSavepoint(): Promise<void> {
    await this.#call(async (options) => {
      if (this.#failure !== null) throw this.#failure
      await this.#session.run('release savepoint headrace_command', options)
    })
  }

  async prepare(): Promise<void> {
    await this.#end()
    const xid = xidOf(this.gid, this.participant)
    const { name, several } = this.#host
    try {
      await runAll(
        this.#session,
        [markerInsert(this.gid, name, 'committed'), `xa end ${xid}`, `xa prepare ${xid}`],
        several,
        this.#finalOptions(),
      )
    } catch (error) {
      this.#failure ??= error
      // Without an answer, it may be prepared.
      this.#uncertain = this.#session.lost
      // At once: the failed insert of a marker keeps a lock on the row of whoever has it.
      await this.abort()
      throw this.#taken(error)
    }
    this.#state = 'prepared'
    this.#host.attach(this.gid, this.#session)
    this.#host.ended(this)
  }

  async commit(decision?: Decision): Promise<void> {
    await this.#end()
    const xid = xidOf(this.gid, this.participant)
    const { name, several, quote } = this.#host
    const decided = decision === undefined ? [] : [decisionInsert(decision, quote)]
    try {
      await runAll(
        this.#session,
        [...decided, markerInsert(this.gid, name, 'committed'), `xa end ${xid}`, `xa commit ${xid} one phase`],
        several,
        this.#finalOptions(),
      )
    } catch (error) {
      this.#failure ??= error
      const number = errnoOf(error)
      if (!this.#session.lost && number !== null && certain.has(number)) {
        // At once: the failed insert of a marker or a decision keeps a lock on the row of whoever has it.
        await this.abort()
        throw this.#taken(error)
      }
      this.#state = 'ended'
      this.#session.destroy()
      this.#host.ended(this)
      throw new HeadraceError(
        'transaction-unknown',
        `It is not known whether MySQL '${name}' committed ${this.gid}: ${error instanceof Error ? error.message : String(error)}`,
        { details: { database: name, gid: this.gid }, cause: error },
      )
    }
    this.#state = 'ended'
    this.#session.release()
    this.#host.ended(this)
  }

  async abort(): Promise<void> {
    if (this.#state !== 'open') return
    this.#state = 'ended'
    this.#session.interrupt()
    await this.#last
    const xid = xidOf(this.gid, this.participant)
    const options = { timeoutMs: abortMs, interruptible: false }
    if (this.#session.ahead !== null && !this.#session.lost) {
      // Not begun.
      this.#session.ahead = null
      this.#session.release()
    } else if (errnoOf(this.#failure) === errno.xidTaken) {
      // The branch of this name is somebody else's, and would be rolled back.
      this.#session.destroy()
    } else if (!this.#session.lost) {
      // After a deadlock the branch is marked for rollback, and XA END may fail; XA ROLLBACK works all the same.
      await this.#session.run(`xa end ${xid}`, options).catch(() => undefined)
      await this.#session.run(`xa rollback ${xid}`, options).then(
        () => this.#session.release(),
        () => this.#session.destroy(),
      )
    } else this.#session.destroy()
    if (this.#uncertain) await this.#host.undo(this.gid)
    this.#host.ended(this)
  }

  /** Ends it at once, as a lost connection would. */
  drop(): void {
    if (this.#state !== 'open') return
    this.#state = 'ended'
    this.#session.destroy()
  }

  /** Waits for what was called, and takes no more; throws when one of it failed. */
  async #end(): Promise<void> {
    this.#openOrThrow()
    const last = this.#last
    const gate = last.then(() => {
      this.#openOrThrow()
      if (this.#start.signal?.aborted === true && this.#failure === null)
        this.#failure = new HeadraceError('wait-aborted', `The caller ended the transaction ${this.gid}.`)
      const failure = this.#undone ?? this.#failure
      if (failure !== null) throw failure
    })
    // What is called from now on finds it closing.
    this.#last = gate.catch(() => undefined)
    this.#closing = true
    await gate
  }

  #openOrThrow(): void {
    if (this.#state !== 'open') throw closed(this.participant, this.gid)
  }

  #finalOptions() {
    return { timeoutMs: this.#start.statementTimeoutMs, own: true, interruptible: false, shape: 'the end of a branch' }
  }

  #own(text: string): Promise<void> {
    return this.#call(async (options) => {
      await this.#session.run(text, { ...options, shape: text })
    })
  }

  /** One call after the other; the first failure is a vote to abort. */
  #call<T>(
    run: (options: { timeoutMs: number; signal: AbortSignal | undefined }) => Promise<T>,
    { evenAfterFailure = false } = {},
  ): Promise<T> {
    if (this.#state !== 'open' || this.#closing) return Promise.reject(closed(this.participant, this.gid))
    const running = this.#last.then(async () => {
      if (this.#state !== 'open') throw closed(this.participant, this.gid)
      if (this.#undone !== null) throw this.#undone
      if (this.#failure !== null && !evenAfterFailure && this.#session.lost) throw this.#failure
      try {
        return await run({ timeoutMs: this.#start.statementTimeoutMs, signal: this.#start.signal })
      } catch (error) {
        this.#failure ??= error
        const number = errnoOf(error)
        // An interrupted statement may leave a late KILL behind; such a connection is not trusted with more.
        if (this.#session.lost || (number !== null && undoneBy.has(number)) || isInterrupted(error)) this.#undone ??= error
        throw error
      }
    })
    this.#last = running.catch(() => undefined)
    return running
  }

  /** A key that is there already is that of the marker or the decision. */
  #taken(error: unknown): unknown {
    if (errnoOf(error) !== errno.duplicateKey) return error
    return new HeadraceError(
      'gid-taken',
      `MySQL '${this.participant}' has the marker or the decision of ${this.gid} already: it was ended by somebody else, or the gid was used before.`,
      { details: { database: this.participant, gid: this.gid } },
    )
  }
}

const closed = (name: string, gid: string): HeadraceError =>
  new HeadraceError(
    'transaction-closed',
    `The transaction ${gid} on MySQL '${name}' has ended. Await every database call before the handler returns.`,
  )

export function errnoOf(error: unknown): number | null {
  const number = HeadraceError.is(error) ? error.details?.['errno'] : undefined
  return typeof number === 'number' ? number : null
}

function isInterrupted(error: unknown): boolean {
  return HeadraceError.is(error) && (error.code === 'engine-timeout' || error.code === 'wait-aborted')
}
