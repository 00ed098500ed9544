/**
 * What the parts tell of themselves, over `node:diagnostics_channel`: nothing
 * is built when nobody listens. Metrics, traces and logs are made outside,
 * in `observe/`.
 */
import { channel } from 'node:diagnostics_channel'
import type { GroupCounts } from './queue.ts'

export interface DiagnosticEvents {
  /** A command was taken or refused at the door. */
  'headrace:admission': { readonly app: string; readonly command: string; readonly answer: 'taken' | 'joined' | string }
  /** A batch was applied. `waitMs` is the queue wait of its oldest command. */
  'headrace:batch': {
    readonly app: string
    readonly commands: number
    readonly ms: number
    readonly loadMs: number
    readonly decideMs: number
    readonly saveMs: number
    readonly commitMs: number
    readonly waitMs: number
  }
  /** A command got its outcome. */
  'headrace:outcome': {
    readonly app: string
    readonly command: string
    readonly status: 'committed' | 'rejected' | 'failed'
    readonly code: string | null
    readonly ms: number
    readonly repeated: boolean
  }
  /** A batch failed and is repeated or split. */
  'headrace:retry': { readonly app: string; readonly commands: number; readonly way: 'whole' | 'split' | 'alone'; readonly error: unknown }
  'headrace:dead-letter': {
    readonly app: string
    readonly command: string
    readonly key: string
    readonly id: string
    readonly position: number
    readonly code: string
    readonly message: string
  }
  /** Commands were written to the queue. */
  'headrace:append': { readonly app: string; readonly commands: number; readonly ms: number }
  'headrace:query': { readonly app: string; readonly query: string; readonly ms: number; readonly ok: boolean }
  /** A cache has called the load of its user. `cache` is its name: that of the app, for the queries of an app. */
  'headrace:cache-load': { readonly cache: string; readonly ms: number; readonly ok: boolean }
  /** What recovery found at start. */
  'headrace:recovery': { readonly app: string; readonly queued: number; readonly redone: number; readonly ms: number }
  /** A global transaction ended, or an attempt of one. `branches` counts those that wrote. */
  'headrace:transaction': {
    readonly deployment: string
    readonly gid: string
    readonly protocol: string
    readonly end: 'committed' | 'aborted' | 'unknown'
    readonly branches: number
    readonly databases: readonly string[]
    readonly attempt: number
    /** The databases that ended it, and at what; none when its caller, a deadline or a signal did. */
    readonly failures: readonly { readonly database: string; readonly kind: 'statement' | 'prepare' | 'commit' }[]
    readonly prepareMs: number
    readonly decideMs: number
    readonly ms: number
    /** The code of what ended it, when it did not commit. */
    readonly code: string | null
  }
  /** Recovery ended a prepared branch that another process, or a crash, left behind. */
  'headrace:recovery-branch': {
    readonly deployment: string
    readonly gid: string
    readonly participant: string
    readonly end: 'committed' | 'aborted' | 'heuristic'
  }
  /** What one pass of recovery saw. `oldestMs` is how long the oldest branch in doubt has been seen. */
  'headrace:recovery-pass': {
    readonly deployment: string
    readonly inDoubt: number
    readonly oldestMs: number
    readonly resolved: number
    readonly heuristics: number
    readonly unfinished: number
    readonly away: readonly string[]
    readonly ms: number
  }
  /** A saga, TCC or three-phase commit went on. `kind` is 'saga', 'tcc' or 'three-phase'; `code` says why, when something failed. */
  'headrace:saga': {
    readonly kind: string
    readonly name: string
    readonly id: string
    readonly event:
      | 'started'
      | 'claimed'
      | 'call'
      | 'called'
      | 'retry'
      | 'failed'
      | 'turned'
      | 'completed'
      | 'undone'
      | 'parked'
      | 'redriven'
      | 'lost'
    /** The step or participant, and what is called of it; empty when the event is of the whole. */
    readonly branch: string
    readonly operation: string
    readonly attempt: number
    readonly code: string | null
    /** How long the call took that ended, or how long ago the run was started that ended; 0 where nothing ended. */
    readonly ms: number
  }
  /** How many runs of each definition of an orchestrator are in its log, going on and parked, whichever process works on them. */
  'headrace:saga-census': {
    readonly deployment: string
    readonly runs: readonly {
      readonly kind: string
      readonly name: string
      readonly status: 'running' | 'parked'
      readonly count: number
      /** How long ago the oldest of them was started; 0 when there is none. */
      readonly oldestMs: number
    }[]
  }
  /** An alarm: a run can go neither forward nor back by itself. It waits for redrive(). */
  'headrace:saga-parked': {
    readonly kind: string
    readonly name: string
    readonly id: string
    readonly branch: string
    readonly operation: string
    readonly code: string
    readonly message: string
  }
  /**
   * A lock was asked for, taken, refused, given back or lost. `held` and
   * `waiting` count the leases and the waiting callers of this process on the
   * engine; `waitMs` is set when the waiting ended, `heldMs` when the lease did.
   */
  'headrace:lock': {
    readonly engine: string
    readonly event: 'waiting' | 'granted' | 'refused' | 'released' | 'lost'
    readonly key: string
    readonly waitMs: number
    readonly heldMs: number
    readonly held: number
    readonly waiting: number
  }
  /**
   * A consumer got a partition, handled messages, tries one again, gave one up as a
   * dead letter, or lost the partition. `waitMs` is how long the oldest of the
   * messages took from published to done; null where there is none.
   */
  'headrace:queue': {
    readonly topic: string
    readonly group: string
    readonly partition: number
    readonly event: 'leased' | 'handled' | 'retried' | 'dead' | 'lost'
    readonly messages: number
    readonly waitMs: number | null
    /** Why, for 'retried' and 'dead'. */
    readonly code: string | null
  }
  /**
   * Messages became durable by one call to the engine, or a publisher was refused one.
   * `waitMs` is how long the oldest of them took from publish to durable.
   */
  'headrace:queue-publish': {
    readonly topic: string
    readonly event: 'kept' | 'refused'
    readonly messages: number
    /** Those of them whose id waited already. */
    readonly duplicates: number
    readonly waitMs: number | null
    /** Why, for 'refused'. */
    readonly code: string | null
  }
  /** Somebody asks the queues of this process how deep they are. Each that is open adds its answer before this returns. */
  'headrace:queue-look': { readonly add: (engine: string, answer: Promise<readonly GroupCounts[]>) => void }
  /** Something an operator should read. */
  'headrace:notice': {
    readonly app: string
    readonly level: 'info' | 'warn' | 'error'
    readonly message: string
    readonly details?: Readonly<Record<string, unknown>>
  }
}

export type DiagnosticName = keyof DiagnosticEvents

/** Publishes an event; `build` runs only when somebody listens. */
export function tell<Name extends DiagnosticName>(name: Name, build: () => DiagnosticEvents[Name]): void {
  const target = channel(name)
  if (target.hasSubscribers) target.publish(build())
}

/** Whether somebody listens, for what must be asked for before it can be told. */
export function heard(name: DiagnosticName): boolean {
  return channel(name).hasSubscribers
}

/** Listens to an event; returns the way to stop. */
export function listen<Name extends DiagnosticName>(name: Name, listener: (event: DiagnosticEvents[Name]) => void): () => void {
  const target = channel(name)
  const subscriber = (event: unknown): void => listener(event as DiagnosticEvents[Name])
  target.subscribe(subscriber)
  return () => target.unsubscribe(subscriber)
}
