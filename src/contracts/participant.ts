/**
 * What the coordinator asks of a database that takes part in a global
 * transaction.
 *
 * A *branch* is the transaction of one participant. Its *marker* is a row that
 * the branch itself writes, under its gid, before it is prepared or committed:
 * it exists if and only if the branch is committed, or was refused for good.
 * What became of a branch is told by its marker alone, never by an error code
 * and never by a clock (DESIGN 7.1).
 *
 * Promises of an implementation:
 * - `prepare` resolves only when the branch survives a crash of the client and
 *   of the server; `commit` and `commitPrepared` only when the commit does.
 * - an error of a statement is a vote to abort: the branch can be neither
 *   prepared nor committed any more, but for a savepoint from before it that is
 *   rolled back.
 * - every call ends within a bound, with an error of the table when it cannot
 *   do its work; nothing is retried in silence.
 */
import type { Database, DatabaseHandle, ReadDatabase } from './database.ts'

/** Letters, digits and underscores, at most 60: a gid is pasted into statements that take no parameters. */
export const gidPattern = /^[a-z0-9_]{1,60}$/

/** The right to write for a partition: refused by a participant that has seen a higher epoch. */
export interface Fence {
  /** Who the partitions belong to; deployments that share a database do not meet. */
  readonly deployment: string
  readonly partition: number
  readonly epoch: number
}

export interface BranchStart {
  /** Unique for ever; the same for all branches of one global transaction. */
  readonly gid: string
  /** Checked first, and held until the branch ends. Throws 'fenced'. Default: none. */
  readonly fences?: readonly Fence[]
  /** The longest that a single statement may take. Past it: 'engine-timeout', and a vote to abort. */
  readonly statementTimeoutMs: number
  /** Ends the statement under way, where the engine can; a vote to abort. */
  readonly signal?: AbortSignal
}

/** What home keeps about a global transaction until every branch is known to have ended. */
export interface Decision {
  readonly gid: string
  readonly verdict: 'commit' | 'abort'
  /** Names of the participants whose prepared branches follow it. */
  readonly participants: readonly string[]
  /** Milliseconds since 1970, for people; no protocol looks at it. */
  readonly decidedAt: number
}

/** The transaction of one participant. After `prepare`, `commit` or `abort`, the database of it refuses calls with 'transaction-closed'. */
export interface Branch {
  readonly participant: string
  readonly gid: string
  readonly database: Database
  /** The client of the engine's driver library, inside the transaction: for what the verbs do not offer. Using it counts as a write. */
  readonly client: unknown
  /** False only when nothing but plain reads were sent: then the branch may be dropped from the protocol. */
  readonly wrote: boolean
  /** One level: everything after it can be undone alone. */
  savepoint(): Promise<void>
  rollbackToSavepoint(): Promise<void>
  releaseSavepoint(): Promise<void>
  /** Writes the marker and votes yes, for good. Any error is a vote to abort; the branch is then rolled back by `abort`. */
  prepare(): Promise<void>
  /**
   * Writes the marker, and the decision when this is home, and commits at once.
   * 'transaction-unknown' when the connection was lost on the way: then
   * `Participant.settle` tells. After any other error nothing of it is true.
   */
  commit(decision?: Decision): Promise<void>
  /** Undoes a branch that is not prepared. Never throws: a connection that cannot say so is closed, which ends it. */
  abort(): Promise<void>
}

export interface PreparedBranch {
  readonly gid: string
  /** Milliseconds since 1970 by the clock of the engine, where it tells; for people. */
  readonly preparedAt: number | null
}

export type BranchEnd = 'committed' | 'aborted'

export type FindingLevel = 'ok' | 'warning' | 'error'

/** One thing that `check` looked at. */
export interface Finding {
  readonly name: string
  readonly level: FindingLevel
  readonly message: string
  /** What to do about it. */
  readonly remedy?: string
}

export interface Participant {
  readonly name: string
  readonly engine: string
  /** Whether a branch can be prepared. A participant that cannot is home, or alone. */
  readonly canPrepare: boolean
  /** Whether it can hold decisions in the transaction of a branch. */
  readonly canDecide: boolean
  /** Reads committed data, outside of any transaction. */
  readonly reader: ReadDatabase

  begin(start: BranchStart): Promise<Branch>

  /**
   * Ends prepared branches. Safe to call by several at once, and again: it
   * resolves when the marker proves that the branch has ended as asked.
   * Retryable errors (`retryable` of the table) ask for another call later.
   * 'transaction-heuristic': the branch has ended the other way, or is gone
   * without a marker: a person ended it by hand.
   */
  commitPrepared(gid: string): Promise<void>
  /** Puts the marker 'aborted' first, so that a prepare that arrives late finds it taken. */
  rollbackPrepared(gid: string): Promise<void>
  /** Branches that are prepared here under a gid that starts with `prefix`. */
  prepared(prefix: string): Promise<PreparedBranch[]>

  /** What the marker says; null when there is none. */
  marker(gid: string): Promise<BranchEnd | null>
  /**
   * Makes the end of a branch that is not prepared known for good: takes its
   * marker as 'aborted' unless the branch has it. A session that still holds it
   * makes this 'sql-busy' after a bound: call again.
   */
  settle(gid: string): Promise<BranchEnd>

  /** Home: the decision under this gid; null when there is none. */
  decision(gid: string): Promise<Decision | null>
  /** Home: decides 'abort' unless there is a decision, by its primary key; answers what holds. */
  decideAbort(gid: string, participants: readonly string[]): Promise<Decision>
  /** Home: decisions under gids that start with `prefix`, oldest first. */
  decisions(prefix: string, limit: number): Promise<Decision[]>
  /** Drops decisions and markers of these gids: every branch has ended, and nobody asks any more. */
  forget(gids: readonly string[]): Promise<void>

  /** Raises the epochs of partitions, after which older owners are refused. Waits for branches that hold them. Throws 'fenced' when one is higher. */
  raise(fences: readonly Fence[]): Promise<void>

  /** The SQL that makes or upgrades Headrace's tables here, and then those of the user's `schema`; safe to run again. */
  migration(): string
  migrate(): Promise<void>
  /** Reachable, rights, settings, tables: what would fail later, said now. Errors come first. */
  check(): Promise<Finding[]>
  close(): Promise<void>
}

/** Where decisions are kept: every participant that can decide is one, and so may be a log outside of the databases. */
export type DecisionLog = Pick<Participant, 'name' | 'decision' | 'decideAbort' | 'decisions' | 'forget'>

export interface ConnectOptions {
  /** Branches at the same time, at most. Default: the pool of the handle. */
  readonly branchesMax?: number
}

/** The handle of a database that can take part: it knows how to connect. */
export interface ParticipantHandle<Name extends string = string> extends DatabaseHandle<Name> {
  /** True: in an app the journal decides for it, and only a coordinator connects. Default: false. */
  readonly embedded?: boolean
  /** Connects lazily: it resolves although the server is away. Throws when the driver library is missing or an option is wrong. */
  connect(options?: ConnectOptions): Promise<Participant>
}
