/**
 * The transaction of one global transaction in a SQLite file.
 *
 * States: open → committed or aborted. Beside `open` it may have *failed*: a
 * statement ended with an error, and until the savepoint from before it is
 * rolled back nothing but `abort` is taken.
 *
 * It has the file to itself from its begin to its end, and every statement runs
 * when it is called: nothing is ever under way.
 *
 * What must hold: nothing runs outside of its transaction. SQLite undoes the
 * whole transaction on some errors (`on conflict rollback`, a full disk), and a
 * statement after that would be true at once, and alone.
 */
import type { Database } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Branch, BranchStart, Decision } from '../../contracts/participant.ts'
import { sqliteError } from './errors.ts'
import { givenUp } from './file-turn.ts'
import { writeHandle } from './handle.ts'
import type { RowSet } from './rows.ts'
import type { SharedFile, Writing } from './shared-file.ts'
import type { Verb } from './verbs.ts'

const savepointName = 'headrace'
/** SELECT writes nothing in SQLite; what begins otherwise may. */
const plainRead = /^\s*(select|values)\b/i

export class SqliteBranch implements Branch {
  readonly participant: string
  readonly gid: string
  readonly database: Database
  readonly #file: SharedFile
  readonly #writing: Writing
  readonly #signal: AbortSignal | undefined
  readonly #onEnd: (branch: SqliteBranch) => void
  #open = true
  #wrote = false
  #savepoint = false
  /** The first failure since the last savepoint that was rolled back. */
  #failed: HeadraceError | null = null
  /** A failure that no savepoint rescues. */
  #undone: HeadraceError | null = null

  constructor(file: SharedFile, writing: Writing, { gid, signal }: BranchStart, onEnd: (branch: SqliteBranch) => void) {
    this.participant = file.name
    this.gid = gid
    this.#file = file
    this.#writing = writing
    this.#signal = signal
    this.#onEnd = onEnd
    signal?.addEventListener('abort', this.#stop)
    this.database = writeHandle(async (verb) => {
      const result = this.#run(verb)
      await file.breathe()
      return result
    })
  }

  get client(): unknown {
    this.#mustBeOpen()
    this.#wrote = true
    return this.#writing.writer
  }

  get wrote(): boolean {
    return this.#wrote
  }

  async savepoint(): Promise<void> {
    this.#mustGoOn('a savepoint')
    // One level: the older one goes when a newer one is set.
    if (this.#savepoint) this.#control(`release ${savepointName}`)
    this.#control(`savepoint ${savepointName}`)
    this.#savepoint = true
  }

  async rollbackToSavepoint(): Promise<void> {
    this.#mustBeOpen()
    if (this.#undone !== null) throw this.#votedToAbort('a savepoint', this.#undone)
    if (!this.#savepoint) throw new HeadraceError('internal', 'There is no savepoint to go back to.')
    this.#control(`rollback to ${savepointName}`)
    this.#control(`release ${savepointName}`)
    this.#savepoint = false
    this.#failed = null
  }

  async releaseSavepoint(): Promise<void> {
    this.#mustGoOn('a savepoint')
    if (!this.#savepoint) return
    this.#control(`release ${savepointName}`)
    this.#savepoint = false
  }

  async prepare(): Promise<void> {
    this.#mustBeOpen()
    this.#undone = new HeadraceError(
      'prepare-unavailable',
      `SQLite '${this.participant}' cannot prepare: it must be home, and the only one of a transaction that is so.`,
      { details: { database: this.participant } },
    )
    throw this.#undone
  }

  async commit(decision?: Decision): Promise<void> {
    this.#mustBeOpen()
    this.#end()
    const { own } = this.#writing
    try {
      this.#mustBeWhole('commit')
      own.mark(this.gid, 'committed')
      if (decision !== undefined) own.decide(decision)
    } catch (error) {
      this.#writing.rollback()
      throw sqliteError(this.participant, error)
    }
    this.#writing.commit(this.gid)
    await this.#file.breathe()
  }

  async abort(): Promise<void> {
    if (!this.#open) return
    this.#end()
    this.#writing.rollback()
  }

  #end(): void {
    this.#open = false
    this.#signal?.removeEventListener('abort', this.#stop)
    this.#onEnd(this)
  }

  readonly #stop = (): void => {
    this.#undone ??= givenUp(this.participant, this.#signal)
  }

  #run(verb: Verb): RowSet | number {
    this.#mustGoOn('a statement')
    if (verb.verb !== 'selectIn' && !(verb.verb === 'sql' && plainRead.test(verb.text))) this.#wrote = true
    try {
      return this.#writing.writes.run(verb)
    } catch (error) {
      throw this.#fail(error)
    }
  }

  #control(text: string): void {
    try {
      this.#writing.writer.exec(text)
    } catch (error) {
      throw this.#fail(error)
    }
  }

  #fail(error: unknown): HeadraceError {
    const known = sqliteError(this.participant, error)
    this.#failed ??= known
    if (!this.#writing.writer.isTransaction) this.#undone ??= known
    return known
  }

  #mustGoOn(doing: string): void {
    this.#mustBeOpen()
    this.#mustBeWhole(doing)
  }

  #mustBeOpen(): void {
    if (this.#open) return
    throw new HeadraceError('transaction-closed', `The transaction '${this.gid}' on SQLite '${this.participant}' has ended.`)
  }

  #mustBeWhole(doing: string): void {
    const failure = this.#undone ?? this.#failed
    if (failure !== null) throw this.#votedToAbort(doing, failure)
    if (this.#writing.writer.isTransaction) return
    this.#undone = new HeadraceError('transaction-closed', `The transaction of SQLite '${this.participant}' was ended through its client.`)
    throw this.#undone
  }

  #votedToAbort(doing: string, { code, message, details }: HeadraceError): HeadraceError {
    return new HeadraceError(code, `${message} The transaction can only be undone, so ${doing} is refused.`, {
      ...(details === undefined ? {} : { details }),
    })
  }
}
