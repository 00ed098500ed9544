/**
 * What the write path asks of the store that decides: the queue of accepted
 * commands, their outcomes, and the one commit that makes a batch true.
 *
 * An implementation keeps these promises (DESIGN, section 4):
 * - `append` and `commit` resolve only when what they wrote is on disk.
 * - `commit` makes everything in its record and everything done on the
 *   databases of the transaction true at once, or nothing of it.
 * - a commit under an older epoch than the store has seen is refused ('fenced').
 */
import type { Database, DatabaseHandle, ReadDatabase } from './database.ts'
import type { Decision, DecisionLog } from './participant.ts'

/** A command that was accepted and has no outcome yet. */
export interface Entry {
  /** Its place in the order of its partition; grows, never reused. Also the version of what it writes. */
  readonly position: number
  readonly partition: number
  /** What orders it: commands with the same key are applied in order of position. */
  readonly key: string
  /** Unique per command of the user: tenant, command name and idempotency key (see `scopedId`). */
  readonly id: string
  readonly command: string
  readonly tenant: string
  /** The validated input, as JSON text. */
  readonly input: string
  /** Digest of the input, to tell a retry from another command under the same id. */
  readonly digest: string
  /** When it was accepted, in milliseconds since 1970. */
  readonly acceptedAt: number
  /** How often it was tried alone and failed. */
  readonly attempts: number
  /** True once the queue was told to hold it on disk; false while only this process knows it. */
  readonly queued: boolean
}

/** An entry that `append` did not keep, because its id is known already. */
export interface AppendConflict {
  readonly id: string
  /** 'queued' when the same id waits on disk, 'decided' when it has an outcome. */
  readonly known: 'queued' | 'decided'
  readonly digest: string
}

export type OutcomeStatus = 'committed' | 'rejected' | 'failed'

/** What became of a command, as it is stored and answered, byte for byte. */
export interface StoredOutcome {
  readonly id: string
  readonly status: OutcomeStatus
  readonly digest: string
  /** The outcome document as JSON text. */
  readonly body: string
  readonly position: number
  readonly partition: number
  /** When it was decided, in milliseconds since 1970. */
  readonly at: number
}

export interface DeadLetter {
  readonly position: number
  readonly partition: number
  readonly key: string
  readonly id: string
  readonly command: string
  readonly tenant: string
  readonly input: string
  readonly acceptedAt: number
  readonly attempts: number
  readonly code: string
  readonly message: string
  readonly diedAt: number
  /** True when later commands of the same key wait for this one. */
  readonly blocks: boolean
}

/** An event that a command emitted, to be published once its command has committed. */
export interface StoredEvent {
  readonly topic: string
  /** What orders it. */
  readonly key: string
  /** The same whenever it is published. */
  readonly id: string
  /** As JSON text. */
  readonly headers: string
  /** The message, as JSON text. */
  readonly body: string
  /** When it was emitted, in milliseconds since 1970. */
  readonly at: number
}

export interface QueuedEvent extends StoredEvent {
  /** Grows in the order of the commits. */
  readonly n: number
}

/** Why a key is not applied for now. */
export interface BlockedKey {
  readonly key: string
  readonly partition: number
  /** Milliseconds since 1970 after which it is tried again; null waits for a redrive or a drop. */
  readonly retryAt: number | null
  /** Commands of the key that wait behind it. */
  readonly parked: number
}

/** Everything about a batch that becomes true together with the changes on its databases. */
export interface CommitRecord {
  /** The highest position given out so far: a later run starts above it. */
  readonly position: number
  readonly outcomes: readonly StoredOutcome[]
  /** Queued entries that are done, and leave the queue. */
  readonly done: readonly Entry[]
  /** Entries that wait for their key; kept on disk under their own position. */
  readonly parked: readonly Entry[]
  readonly blocked: readonly { readonly key: string; readonly partition: number; readonly retryAt: number | null }[]
  readonly dead: readonly (DeadLetter & { readonly digest: string })[]
  /** Events of the commands that committed, in their order. */
  readonly events?: readonly StoredEvent[]
  /** That databases outside of the ledger commit too; for a `DecidingLedger`. Throws 'transaction-aborted' when its gid is decided already. */
  readonly decision?: Decision
}

/** The ids of a batch. */
export interface BatchIds {
  /** Of commands that the queue holds. */
  readonly queued: readonly string[]
  /** Of commands that only this process knows. */
  readonly arriving: readonly string[]
}

/** A command in the queue, by its id. */
export interface QueuedId {
  readonly id: string
  readonly digest: string
  readonly position: number
}

/** The databases of one batch, changed together. Its handles refuse calls after the end. */
export interface Transaction {
  /** Those of the ids given to `begin` that have an outcome already. */
  readonly known: ReadonlyMap<string, StoredOutcome>
  /** Those of the arriving ids that the queue holds: commands that were accepted before, and come first. */
  readonly queued: ReadonlyMap<string, QueuedId>
  /** By the name of the handle. */
  database(name: string): Database
  /** Everything after `savepoint` can be undone alone, on all databases of the transaction. */
  savepoint(): Promise<void>
  rollbackToSavepoint(): Promise<void>
  releaseSavepoint(): Promise<void>
  /**
   * Resolves when the batch is decided and every database shows it, or refuses
   * to be read ('disk-full') until it does, to a number that grows with every
   * commit that changed a database. After an
   * error nothing of it is true, but for 'storage-failed', where only the next
   * start knows, and an error with `details.decided`, where the same batch must
   * be tried again and is then found decided. A statement that failed before,
   * outside of a savepoint that was rolled back, makes it fail.
   */
  commit(record: CommitRecord): Promise<number>
  abort(): Promise<void>
}

export interface LedgerCounts {
  /** Commands on disk that wait, the parked ones included. */
  readonly queued: number
  readonly queuedBytes: number
  readonly parked: number
  readonly outcomes: number
  readonly dead: number
  readonly blockedKeys: number
  /** Events that wait to be published. */
  readonly events: number
  /** When the oldest waiting command was accepted; null when none waits. */
  readonly oldestAcceptedAt: number | null
}

export interface ReadOptions {
  readonly after: number
  readonly limit: number
  readonly bytesMax: number
  /** Only partitions with `partition % lanes === lane`. */
  readonly lane: number
  readonly lanes: number
}

export interface Ledger {
  /** The next position; positions of this process go up from here. */
  readonly firstPosition: number
  readonly partitions: number

  /** Keeps entries on disk, in the order given, but for those whose id is known. */
  append(entries: readonly Entry[]): Promise<AppendConflict[]>
  /** Queued entries past `after` that are not parked, in order of position. */
  read(options: ReadOptions): Promise<Entry[]>

  /**
   * Begins a transaction over these databases, and looks up which of the ids
   * are decided, and which of the arriving ones are queued. An empty list of
   * databases is a transaction of outcomes alone.
   */
  begin(databases: readonly string[], ids: BatchIds): Promise<Transaction>
  /** A handle that reads committed data, outside of any transaction. */
  reader(database: string): ReadDatabase

  outcomes(ids: readonly string[]): Promise<Map<string, StoredOutcome>>
  /** The command that the queue holds under this id. */
  pending(id: string): Promise<QueuedId | null>
  counts(): Promise<LedgerCounts>

  blockedKeys(): Promise<BlockedKey[]>
  /**
   * Takes the first `limit` parked entries of a key back into the queue, under
   * their own positions, and returns them in order. `more` says that others
   * stay parked; without more, the key is no longer blocked.
   */
  unblock(key: string, limit: number): Promise<{ readonly entries: Entry[]; readonly more: boolean }>

  deadLetters(options: { readonly after?: number; readonly limit: number }): Promise<DeadLetter[]>
  deadLetter(position: number): Promise<DeadLetter | null>
  /** Parks a dead letter under its own position, blocks its key until `unblock`, and forgets its outcome. Null when there is none. */
  redrive(position: number): Promise<{ readonly key: string; readonly partition: number } | null>
  /** Gives a dead letter up: its outcome stays 'failed', and its key waits for `unblock` if it was blocked. */
  drop(position: number): Promise<{ readonly key: string; readonly partition: number; readonly blocked: boolean } | null>

  /** The first events that wait to be published, in order. */
  events(limit: number): Promise<QueuedEvent[]>
  /** Drops the events up to this one: their queue has them. */
  forgetEvents(upTo: number): Promise<void>

  /** Drops outcomes past their retention; called now and then. Returns how many. */
  prune(): Promise<number>
  close(): Promise<void>
}

/** A ledger whose commits can carry the decision of a global transaction, over databases that it does not keep. */
export interface DecidingLedger extends Ledger {
  /** Of what is kept here: made with it, and never again. */
  readonly identity: string
  /** Of this start; higher than that of every start before it. */
  readonly epoch: number
  readonly decisions: DecisionLog
}

/** Opens a ledger and the databases of an app on it. */
export interface LedgerOptions {
  readonly app: string
  readonly dataDir: string
  readonly partitions: number
  readonly databases: readonly DatabaseHandle[]
  /** For databases on servers: the longest wait for them at the start. */
  readonly databaseWaitMs: number
  /** For databases on servers. */
  readonly statementTimeoutMs: number
  /** Batches that are applied at once. */
  readonly lanes: number
  readonly outcomeRetentionMs: number
  readonly outcomesMax: number
  /**
   * The queue on a server that commands come from; null for none. The ledger
   * remembers it, and refuses another one ('queue-differs'), since accepted
   * commands may wait in the first, unless `name` is null and `leave` says that
   * they may stay there. Absent, nothing is checked.
   */
  readonly queue?: { readonly name: string | null; readonly leave: boolean }
}
