/** What an orchestrator offers: runs are started, waited for, looked at, redriven. */
import type { RunStatus, SagaLog } from '../../contracts/saga.ts'
import type { TransactionClock } from '../clock.ts'
import type { RunDefinition } from './definition.ts'
import type { OrchestratorLimits } from './options.ts'
import type { RunError } from './records.ts'

export interface OrchestratorOptions extends Partial<OrchestratorLimits> {
  /** 1 to 12 lower-case letters and digits, the same for all processes on one log: part of the gids. */
  readonly deployment: string
  readonly log: SagaLog
  /** Sagas, TCCs and three-phase commits. Runs of others are left alone. */
  // biome-ignore lint/suspicious/noExplicitAny: each has its own input and results.
  readonly runs: readonly RunDefinition<string, any, any>[]
  /**
   * A name that this process keeps over restarts, and no other process has: 1 to
   * 40 letters, digits, dots and dashes. The runs of its last life are then taken
   * up at once. Default: a new name, so that others wait for leaseMs.
   */
  readonly node?: string
  /** Works on runs by itself. Default: true. Without it, it only starts, tells and redrives them. */
  readonly work?: boolean
  /** Default: the monotonic clock of the process. */
  readonly clock?: TransactionClock
  /** Spreads retries. Default: Math.random. */
  readonly random?: () => number
}

/** How a run ended. A parked one may go on after redrive(). */
export type RunEnd<Results> =
  | { readonly status: 'completed'; readonly results: Results }
  | { readonly status: 'undone'; readonly error: RunError }
  | { readonly status: 'parked'; readonly error: RunError }

/** A run, as it is looked at. */
export interface RunView {
  readonly id: string
  readonly kind: string
  readonly name: string
  readonly gid: string
  readonly status: RunStatus
  readonly input: unknown
  readonly error: RunError | null
  /** Who works on it; empty when nobody does. */
  readonly owner: string
  /** Milliseconds since 1970. */
  readonly startedAt: number
  readonly changedAt: number
}

export interface WaitOptions {
  /** Ends the waiting, not the run; its reason is thrown. */
  readonly signal?: AbortSignal
}

export interface StartedRun<Results> {
  readonly id: string
  /** False when the id was known: the run goes on, or has ended. */
  readonly created: boolean
  wait(options?: WaitOptions): Promise<RunEnd<Results>>
}

export interface Orchestrator extends AsyncDisposable {
  /**
   * Starts a run; resolves when it is durable. Idempotent by id: the same id with
   * the same input is the same run, with another input 'id-reused'. Throws
   * 'input-invalid', 'saga-id-invalid', 'overloaded', 'stopping', and what the log throws.
   */
  start<Input, Results>(definition: RunDefinition<string, Input, Results>, id: string, input: unknown): Promise<StartedRun<Results>>
  /** Waits for the end of a run, whichever process works on it. Throws 'saga-unknown'. */
  wait<Input, Results>(definition: RunDefinition<string, Input, Results>, id: string, options?: WaitOptions): Promise<RunEnd<Results>>
  /** Null when there is no such run. */
  get(id: string): Promise<RunView | null>
  /** Runs by status, in the order of their ids; `after` goes on from an id. Default: 100 of any status. */
  list(request?: { readonly status?: RunStatus; readonly after?: string; readonly limit?: number }): Promise<RunView[]>
  /** Runs that wait for a person. */
  parked(request?: { readonly after?: string; readonly limit?: number }): Promise<RunView[]>
  /** The journal of a run, for people. */
  history(id: string): Promise<unknown[]>
  /** Lets a parked run try again what it was parked for. False when it is not parked. */
  redrive(id: string): Promise<boolean>
  /** Looks for runs that nobody owns now, as after a commit with enqueueSaga. */
  wake(): void
  /** Drops runs that ended longer ago than retentionMs; also done every pruneEveryMs. Returns how many. */
  prune(): Promise<number>
  readonly counts: { readonly working: number; readonly waiting: number; readonly waiters: number }
  /** Begins no call any more, waits for those under way up to closeTimeoutMs, and leaves the rest to others. */
  close(): Promise<void>
}
