/** What an app offers to its callers: the server, the command line, and the code of its user. */
import type { CacheStats } from '../cache/index.ts'
import type { BlockedKey, DeadLetter, LedgerCounts } from '../contracts/ledger.ts'
import type { QueueEngine } from '../contracts/queue.ts'
import type { AnyCommand, Command } from './command.ts'
import type { ResolvedOptions } from './options.ts'
import type { AnyQuery, Query } from './query.ts'

/** The outcome of a command, as a document. */
export type Outcome<Result = unknown, Code extends string = string> =
  | { readonly id: string; readonly command: string; readonly status: 'committed'; readonly position: number; readonly result: Result }
  | {
      readonly id: string
      readonly command: string
      readonly status: 'rejected'
      readonly position: number
      readonly code: Code
      readonly detail?: string
    }
  | {
      readonly id: string
      readonly command: string
      readonly status: 'failed'
      readonly position: number
      readonly code: string
      readonly detail: string
    }

/** What is known of an id: its outcome, or that it waits. `body` is the stored document, byte for byte. */
export type OutcomeState =
  | { readonly state: 'done'; readonly status: Outcome['status']; readonly body: string }
  | { readonly state: 'pending' }
  | { readonly state: 'unknown' }

export interface SubmitOptions {
  /** 1 to 128 visible ASCII characters, unique per tenant and command. Default: a new UUID. */
  readonly id?: string
  /** Default: 'default'. */
  readonly tenant?: string
  /** Stops the waiting, never the command. */
  readonly signal?: AbortSignal
}

/** A command that the node has taken. */
export interface Receipt {
  readonly id: string
  readonly key: string
  readonly partition: number
  /**
   * Resolves when the command would survive a crash: it is in the queue on
   * disk, or decided. Only then may a caller be told 202. Calling it asks for it.
   */
  durable(): Promise<void>
  /** Resolves with the stored outcome document. Never rejects because of the command; rejects with 'storage-failed' or 'stopping'. */
  readonly outcome: Promise<{ readonly status: Outcome['status']; readonly body: string }>
}

/** The form that the server uses: names and unchecked input in, stored documents out. */
export interface Gateway {
  readonly commands: ReadonlyMap<string, AnyCommand>
  readonly queries: ReadonlyMap<string, AnyQuery>
  /** Checks the input, admits the command and hands it to its lane. Rejects with a HeadraceError before anything is written. */
  take(command: string, input: unknown, options: SubmitOptions): Promise<Receipt>
  outcomeState(command: string, tenant: string, id: string): Promise<OutcomeState>
  /** Waits until the id has an outcome, or the signal aborts ('wait-aborted'). */
  waitForOutcome(command: string, tenant: string, id: string, signal: AbortSignal): Promise<OutcomeState>
  /** The answer as JSON text. */
  ask(query: string, input: unknown, signal?: AbortSignal): Promise<string>
}

export interface AppStatus {
  readonly state: 'new' | 'starting' | 'ready' | 'stopping' | 'stopped' | 'failed'
  /** Why the app is not ready, in words; null when it is. */
  readonly reason: string | null
  readonly inFlight: number
  /** The wait that a new command would meet, as far as the last seconds tell, in milliseconds. */
  readonly expectedWaitMs: number
  readonly counts: LedgerCounts
  /** What the cache of the queries counts of itself; absent while there is none. */
  readonly cache?: Readonly<CacheStats>
}

export interface DeadLetterBox {
  list(options?: { readonly after?: number; readonly limit?: number }): Promise<DeadLetter[]>
  /** Throws 'dead-letter-unknown'. */
  get(position: number): Promise<DeadLetter>
  /** Queues the command again, ahead of what waits behind it. Throws 'dead-letter-unknown'. */
  redrive(position: number): Promise<void>
  /** Gives it up and lets its key go on. Throws 'dead-letter-unknown'. */
  drop(position: number): Promise<void>
  blockedKeys(): Promise<BlockedKey[]>
}

export interface StartOptions {
  readonly dataDir?: string
  /** Instead of the queue of the definition; 'none' leaves the one that the data directory was used with, and what waits there. The app closes it. */
  readonly queue?: QueueEngine | 'none'
}

export interface App {
  readonly kind: 'headrace-app'
  readonly name: string
  readonly options: ResolvedOptions
  readonly gateway: Gateway
  readonly deadLetters: DeadLetterBox
  /** Opens the databases, recovers, and takes commands. Once. */
  start(options?: StartOptions): Promise<void>
  /** Stops taking, finishes what is in flight, and closes; within stopTimeoutMs. What is queued stays queued. */
  stop(): Promise<void>
  status(): Promise<AppStatus>
  /** Submits a command and waits for its outcome. */
  submit<Name extends string, Input, Output, Result, Code extends string>(
    command: Command<Name, Input, Output, Result, Code>,
    input: Input,
    options?: SubmitOptions,
  ): Promise<Outcome<Result, Code>>
  /** Submits a command and returns once it is safe on disk. */
  enqueue<Name extends string, Input, Output, Result, Code extends string>(
    command: Command<Name, Input, Output, Result, Code>,
    input: Input,
    options?: SubmitOptions,
  ): Promise<Receipt>
  /** Runs a query. */
  query<Name extends string, Input, Output, Result>(
    query: Query<Name, Input, Output, Result>,
    input: Input,
    options?: { readonly signal?: AbortSignal },
  ): Promise<Result>
}
