/**
 * What the parts tell of themselves, over `node:diagnostics_channel`: nothing
 * is built when nobody listens. Metrics, traces and logs are made outside,
 * in `observe/`.
 */
import { channel } from 'node:diagnostics_channel'

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

/** Listens to an event; returns the way to stop. */
export function listen<Name extends DiagnosticName>(name: Name, listener: (event: DiagnosticEvents[Name]) => void): () => void {
  const target = channel(name)
  const subscriber = (event: unknown): void => listener(event as DiagnosticEvents[Name])
  target.subscribe(subscriber)
  return () => target.unsubscribe(subscriber)
}
