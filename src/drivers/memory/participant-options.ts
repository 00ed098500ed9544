/** What a database in memory can be told: its tables, what it can, and what happens to the calls of its clients. */
import type { MemorySql } from './participant-database.ts'
import type { MemoryStore, MemoryTable } from './participant-store.ts'

export type MemoryCall =
  | 'begin'
  | 'statement'
  | 'prepare'
  | 'commit'
  | 'abort'
  | 'commitPrepared'
  | 'rollbackPrepared'
  | 'prepared'
  | 'marker'
  | 'settle'
  | 'decision'
  | 'decideAbort'
  | 'decisions'
  | 'forget'

/**
 * - `refused`: the server says no, and stays connected ('sql-conflict').
 * - `lost-before`: the connection is lost, and nothing happened.
 * - `lost-after`: it happened, and the connection is lost before the answer.
 * - `late`: the client is told of a lost connection; it happens afterwards.
 */
export type MemoryFault = 'refused' | 'lost-before' | 'lost-after' | 'late'

export interface MemoryOptions {
  readonly tables: Readonly<Record<string, MemoryTable>>
  /** Default: true. */
  readonly canPrepare?: boolean
  /** Default: true. */
  readonly canDecide?: boolean
  /** Several clients of one store: give them the same. Default: one of its own. */
  readonly store?: MemoryStore
  /** What happens to a call. Default: nothing. */
  readonly fault?: (call: MemoryCall, gid: string) => MemoryFault | null
  /** How long a call is on its way, there and back, in milliseconds. Default: 0. */
  readonly delayMs?: (call: MemoryCall) => number
  /** How long a late call is late, in milliseconds. Default: 50. */
  readonly lateMs?: () => number
  /** The longest wait for the lock of a row, in milliseconds; past it 'sql-busy'. Default: 1000. */
  readonly lockWaitMs?: number
  readonly pause?: (ms: number, signal?: AbortSignal) => Promise<void>
  /** Stands in for the `sql` template. Default: it is refused. */
  readonly sql?: MemorySql
}
