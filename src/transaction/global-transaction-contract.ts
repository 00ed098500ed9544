/** What a transaction by hand offers: `coordinator.begin()`. */
import type { Database } from '../contracts/database.ts'
import type { Plan } from './planner.ts'

export interface PreparedTransaction {
  readonly gid: string
  /** The participants that are prepared, and follow the decision. Empty: nothing needs one. */
  readonly participants: readonly string[]
}

export interface CommitOptions<T> {
  /**
   * Makes the decision durable outside of the databases: a row of the gid in a
   * commit of its own. Called once all branches are prepared. When it throws,
   * everything is undone, but for 'transaction-unknown': then the log that is
   * home tells. Needed when home is such a log, refused when not.
   */
  readonly decide?: (prepared: PreparedTransaction) => Promise<T>
}

export interface CommitReceipt<T> {
  readonly gid: string
  readonly plan: Plan
  /** What `decide` returned. */
  readonly decided: T | undefined
  /** Whether every branch has confirmed; else phase 2 goes on behind this answer. */
  readonly finished: boolean
  /** Resolves when phase 2 is over, to whether every branch has ended as decided; never rejects. */
  readonly finishing: Promise<boolean>
}

export interface GlobalTransaction extends AsyncDisposable {
  readonly gid: string
  /** Where the decision is kept, if one is needed. */
  readonly home: string | null
  /** The databases it may use. */
  readonly names: readonly string[]
  database(name: string): Database
  /** The client of the driver's library, inside the branch: counts as a write. */
  client(name: string): Promise<unknown>
  savepoint(): Promise<void>
  rollbackToSavepoint(): Promise<void>
  /** Throws the error of a statement that failed since the savepoint, which then is open still. */
  releaseSavepoint(): Promise<void>
  /** Waits for the statements under way, and throws what `releaseSavepoint` would. */
  check(): Promise<void>
  /** What commit would do now, and why. */
  explain(): Plan
  /** Throws the error of the statement, branch or decision that ended it; 'transaction-unknown' carries `details.gid`. */
  commit<T = undefined>(options?: CommitOptions<T>): Promise<CommitReceipt<T>>
  /** Undoes everything. Never throws; does nothing when it has ended. `cause` is told to those who listen. */
  abort(cause?: unknown): Promise<void>
}
