/**
 * What the lock part asks of an engine: for each key who holds it, who waits,
 * and the last token.
 *
 * One model serves every kind of lock: a key has a *limit*, and each holder
 * takes some *permits* of it. A mutex takes all of them, a reader one, a writer
 * all, a semaphore as many as it asks for. What must hold on every engine:
 *
 * - The permits of the live holders never exceed the limit. A holder is live
 *   until it is released or its lease has run out on the engine's clock.
 * - Waiters are served first come, first served: nobody overtakes, not even
 *   a call that would fit, while an earlier live waiter waits. A waiter whose
 *   client does not listen, or whose deadline is past, is skipped at once.
 * - Whoever releases, extends, asks or gives up makes the engine serve
 *   the waiters that now fit; each one is woken by a push to its client alone.
 * - Tokens of a key strictly grow: max(last + 1, tokenFloor + 1, microseconds
 *   since 1970 on the engine's clock), so they grow over a loss of the data too.
 * - Every call is idempotent by `id`, which names one acquisition: a repeated
 *   call changes nothing and answers what is true now.
 * - No call waits without a bound, and no error carries a password.
 */
import { HeadraceError } from './errors.ts'

/** The limit of locks that are exclusive or shared: exclusive takes all of it, shared takes one. */
export const wholeLimit = 1_048_576
/** Highest limit of a semaphore. */
export const semaphoreLimitMax = 1_000_000
/** Highest token that a caller may set as the floor: 2^52, the microseconds of the year 2112. */
export const tokenFloorMax = 2 ** 52
/** Longest key, in bytes of UTF-8. */
export const lockKeyBytesMax = 512
export const ttlMsMin = 50
export const ttlMsMax = 86_400_000
export const waitMsMax = 86_400_000

export interface LockRequest {
  readonly key: string
  /** Names this acquisition: the client of the engine, a slash, and a number. */
  readonly id: string
  readonly permits: number
  readonly limit: number
  /** How long the lease lasts unless it is extended. */
  readonly ttlMs: number
  /** How long to queue; 0 never queues. */
  readonly waitMs: number
  /** The token given must be higher than this. */
  readonly tokenFloor: number
}

/**
 * `tokenBefore` is the last token of the key before the call did anything, so
 * a grant with a higher token was made after the call was sent.
 */
export type LockAnswer =
  | { readonly state: 'granted'; readonly token: number; readonly remainingMs: number }
  /** In the queue. `endsInMs` is when the earliest lease ends that stands in the way, unless it is extended. */
  | { readonly state: 'queued'; readonly endsInMs: number; readonly tokenBefore: number }
  /** Not free, and not queued. */
  | { readonly state: 'refused'; readonly endsInMs: number; readonly tokenBefore: number }
  /** The queue of the key has `waitersMax` waiters. */
  | { readonly state: 'full' }
  /** The key is in use with another limit. */
  | { readonly state: 'limit-differs'; readonly limit: number }

export interface LockEnd {
  /** True when the call changed something: the lease or the place in the queue was still there. */
  readonly held: boolean
  /** Null when nobody waits, so that nobody needs it. */
  readonly tokenBefore: number | null
}

/** What an engine pushes to its client. */
export interface LockEvents {
  granted(id: string, token: number): void
  /** The lease was broken by an operator. */
  broken(id: string): void
  /** Pushes may have been lost: whoever waits must ask again. */
  gap(): void
}

export interface LockHolder {
  readonly id: string
  readonly token: number
  readonly permits: number
  readonly remainingMs: number
}

export interface LockStatus {
  readonly key: string
  readonly limit: number
  readonly lastToken: number
  readonly holders: readonly LockHolder[]
  readonly waiting: number
}

export interface LockEngine {
  /** 'memory', 'sqlite', 'redis', 'postgres'. */
  readonly engine: string
  /** Names this client among all clients of the engine: host, process and a random part; no slash. */
  readonly client: string
  /**
   * True when `gap` is called whenever pushes may have been lost. When false,
   * every waiter asks again once per lease.
   */
  readonly tellsGaps: boolean
  /** Sets where pushes go; once, before the first call. */
  listen(events: LockEvents): void
  /** Grants, queues or refuses; with an `id` that holds or waits already, answers how it stands. */
  acquire(request: LockRequest): Promise<LockAnswer>
  /** Lets the lease last `ttlMs` from now; `held` is false when it is over. */
  extend(key: string, id: string, token: number, ttlMs: number): Promise<LockEnd>
  /** Ends a lease, or leaves the queue. */
  release(key: string, id: string): Promise<LockEnd>
  /** Keys that are held or waited for, at most `max`. */
  list(max: number): Promise<LockStatus[]>
  /** Takes the lock away from its holders (or from one of them), tells them, and serves the waiters. Returns how many. */
  break(key: string, id?: string): Promise<number>
  /** Closes the client. Its leases run out by themselves. */
  close(): Promise<void>
}

/** Something with fencing tokens: a lease, or `{ tokens: new Map([[key, token]]) }`. */
export interface Fenceable {
  readonly tokens: ReadonlyMap<string, number>
}

/** A write under a token that is older than the store has seen; nothing was written. */
export class FencedError extends HeadraceError {
  /** The key whose token is too old. */
  readonly key: string
  readonly token: number
  /** The highest token that the store has seen: pass it as `tokenFloor` when the engine of the locks lost its data and its clock. */
  readonly highest: number | undefined

  constructor(key: string, token: number, highest?: number) {
    const seen = highest === undefined ? 'a newer one' : String(highest)
    super(
      'fenced',
      `The token ${token} of the lock ${JSON.stringify(key)} is too old: the database has seen ${seen}. Another owner has taken over; stop writing, take the lock again and start over.`,
      {
        details: { key, token, ...(highest === undefined ? {} : { highest }) },
      },
    )
    this.key = key
    this.token = token
    this.highest = highest
  }
}
