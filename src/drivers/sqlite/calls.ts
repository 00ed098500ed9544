/** The calls that cross from the ledger to the engine, whichever thread it runs on. Plain data both ways. */
import type {
  AppendConflict,
  BatchIds,
  BlockedKey,
  DeadLetter,
  Entry,
  LedgerCounts,
  QueuedEvent,
  QueuedId,
  ReadOptions,
  StoredOutcome,
} from '../../contracts/ledger.ts'
import type { Decision } from '../../contracts/participant.ts'
import type { RowSet } from './rows.ts'
import type { Verb } from './verbs.ts'
import type { Flat, WireRecord } from './wire.ts'

export interface Calls {
  begin(
    databases: readonly string[],
    ids: BatchIds,
  ): { readonly transaction: number; readonly known: StoredOutcome[]; readonly queued: QueuedId[] }
  write(transaction: number, database: string, verb: Verb): RowSet | number
  read(database: string, verb: Verb): RowSet | number
  savepoint(transaction: number, action: 'savepoint' | 'rollback to' | 'release'): void
  commit(transaction: number, record: WireRecord): number
  abort(transaction: number): void
  append(entries: Flat): AppendConflict[]
  queued(options: ReadOptions): Flat
  outcomes(ids: readonly string[]): StoredOutcome[]
  pending(id: string): QueuedId | null
  counts(): LedgerCounts
  blockedKeys(): BlockedKey[]
  unblock(key: string, limit: number): { entries: Entry[]; more: boolean }
  deadLetters(after: number, limit: number): DeadLetter[]
  deadLetter(position: number): DeadLetter | null
  redrive(position: number): { key: string; partition: number } | null
  drop(position: number): { key: string; partition: number; blocked: boolean } | null
  decision(gid: string): Decision | null
  decideAbort(gid: string, participants: readonly string[]): Decision
  decisions(prefix: string, limit: number): Decision[]
  forgetDecisions(gids: readonly string[]): void
  events(limit: number): QueuedEvent[]
  forgetEvents(upTo: number): void
  prune(olderThan: number, keepMax: number): number
  close(): void
}

export type CallName = keyof Calls
export type Reply = { [Name in CallName]: ReturnType<Calls[Name]> }
export interface Call {
  readonly name: CallName
  readonly parameters: readonly unknown[]
}

/** What the engine tells once it is open. */
export interface Opened {
  readonly firstPosition: number
  readonly partitions: number
  readonly epoch: number
  /** Made with the journal. */
  readonly identity: string
  readonly queued: number
  /** Batches that recovery applied to a file. */
  readonly redone: number
}

export interface EngineOptions {
  readonly dataDir: string
  readonly partitions: number
  readonly databases: readonly { readonly name: string; readonly path: string; readonly schema: string | null }[]
  /** As in `LedgerOptions`. */
  readonly queue?: { readonly name: string | null; readonly leave: boolean } | undefined
}
