/** What a coordinator offers: options, transactions, recovery, doubts. */
import type { Database, DatabaseHandle } from '../contracts/database.ts'
import type { BranchEnd, Fence } from '../contracts/participant.ts'
import type { TransactionClock } from './clock.ts'
import type { Doubt, DoubtVerdict } from './doubts.ts'
import type { GidParts } from './gid.ts'
import type { GlobalTransaction } from './global-transaction-contract.ts'
import type { CoordinatorLimits } from './options.ts'
import type { Plan } from './planner.ts'
import type { RecoveryReport } from './recovery.ts'
import type { Site, SiteOptions } from './site.ts'
import type { TransactionStats } from './stats.ts'

export interface CoordinatorOptions extends SiteOptions, Partial<CoordinatorLimits> {
  /** 1 to 10 lower-case letters and digits: who made a transaction, for people. Default: 'n'. */
  readonly node?: string
  /** Part of each gid: the epoch of what this coordinator owns. Default: none. */
  readonly epoch?: number
  /**
   * The database or log that keeps all decisions. Default: for each transaction
   * one of its own databases, which saves a wait for the disk.
   */
  readonly home?: string
  /** Runs recovery all the time. Default: true. Without it, call recover(). */
  readonly recovery?: boolean
  /**
   * Whether a coordinator, told by a gid of it, can never commit again, because
   * a higher epoch was raised at all databases. Then what recovery decided for
   * it is dropped as well. Default: never known.
   */
  readonly isRetired?: (coordinator: GidParts) => boolean
  /** Default: the monotonic clock of the process. */
  readonly clock?: TransactionClock
  /** Spreads retries. Default: Math.random. */
  readonly random?: () => number
  /** Makes gids unique. Default: that of node:crypto. */
  readonly randomInt?: (bound: number) => number
}

export type DatabasesGiven = readonly string[] | Readonly<Record<string, string | Pick<DatabaseHandle, 'name'>>>

export type OpenedDatabases<Given extends DatabasesGiven> = Given extends readonly (infer Name extends string)[]
  ? { readonly [K in Name]: Database }
  : { readonly [K in keyof Given]: Database }

export interface BeginOptions {
  /** Names of the databases it may use. Default: all. */
  readonly databases?: readonly string[]
  /** Checked by each branch with its first statement, and held to its end. */
  readonly fences?: readonly Fence[]
  /** Default: timeoutMs of the coordinator. */
  readonly timeoutMs?: number
  readonly statementTimeoutMs?: number
  /** Undoes the transaction until it is decided; its reason is thrown. */
  readonly signal?: AbortSignal
  /** The database or log that keeps the decision. Default: that of the coordinator, or one of the databases. */
  readonly home?: string
}

export interface TransactionOptions<Given extends DatabasesGiven> extends Omit<BeginOptions, 'databases'> {
  /** Names, or a record of handles, which gives `tx.databases` its names. Default: all. */
  readonly databases?: Given
  /** Default: retriesMax of the coordinator. */
  readonly retriesMax?: number
}

/** What the callback of a transaction sees. */
export interface Transaction<Given extends DatabasesGiven = readonly string[]> {
  readonly gid: string
  readonly databases: OpenedDatabases<Given>
  /** Aborted when the transaction is out of time, or its caller gives up. */
  readonly signal: AbortSignal
  /** From 0; counts repeats. */
  readonly attempt: number
  database(name: string): Database
  /** The client of the driver's library, inside the branch: counts as a write. */
  client(name: string): Promise<unknown>
  /** Runs `run` so that its failure undoes only what it did, in all databases. One level. */
  savepoint<T>(run: () => Promise<T>): Promise<T>
  /** What commit would do now, and why. */
  explain(): Plan
}

export interface Coordinator extends AsyncDisposable {
  readonly site: Site
  /**
   * Runs `run` in one global transaction, commits it in all databases, and
   * returns what `run` returned. What `run` throws undoes everything, and is
   * thrown on unchanged. Failures that pass (deadlock, lost connection) repeat
   * the whole, so `run` must have no effects of its own.
   * 'transaction-unknown': the commit may have happened; `ended(details.gid)` tells when it is known.
   */
  transaction<T, const Given extends DatabasesGiven = readonly string[]>(
    options: TransactionOptions<Given>,
    run: (tx: Transaction<Given>) => Promise<T>,
  ): Promise<T>
  /** A transaction by hand: no retries, no callback. Waits its turn: 'overloaded', 'transaction-timeout'. */
  begin(options?: BeginOptions): Promise<GlobalTransaction>
  /** One pass of recovery. */
  recover(): Promise<RecoveryReport>
  /** How a transaction ended that was 'transaction-unknown'; waits until it is known. */
  ended(gid: string): Promise<BranchEnd | 'unknown'>
  /** What is in doubt now, with the evidence from all databases. */
  doubts(): Promise<Doubt[]>
  resolveDoubt(gid: string, verdict: DoubtVerdict): Promise<void>
  stats(): TransactionStats
  /** Transactions that run, that wait for their turn, and whose phase 2 goes on; what waits to be dropped. */
  readonly counts: { readonly running: number; readonly waiting: number; readonly unfinished: number; readonly forgettable: number }
  /** Waits for what runs, up to closeTimeoutMs; then undoes it. What is decided and not finished is left to recovery. */
  close(): Promise<void>
}
