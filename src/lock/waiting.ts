/**
 * The callers of this process that wait for locks.
 *
 * A waiter: asking → queued → (pushed → confirming) → done. It asks the engine
 * once, is queued there, and is woken by a push. It asks again only when
 *
 * - the lease in its way should be over, or two thirds of its own would be if
 *   its push was lost: one call per key and lease, by the oldest waiter of the
 *   key here. It also makes the engine serve the queue when the holder died;
 * - pushes may have been lost (a gap), or its own call failed in a way that
 *   passes.
 *
 * Asking again is harmless: the engine knows the waiter by its id.
 *
 * When does a pushed lease end? The push says nothing about how long it was on
 * its way, or how long this process stood still before it read it. But tokens
 * grow: a token above the last one that the engine named in an answer was given
 * after that call was sent. So the lease is counted from the latest such moment,
 * on our own monotonic clock; when that is too long ago, the lease is extended
 * once before it is handed out.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { LockAnswer, LockEngine, LockRequest } from '../contracts/lock.ts'
import { backoffMs } from '../std/backoff.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import type { LockClock } from './clock.ts'
import { giveBack, worthRepeating } from './give-back.ts'

/** A lease of which more than this part may be over is extended before it is handed out. */
const confirmShare = 1 / 3
/** How long after the end of the lease in the way the oldest waiter asks, in milliseconds; the rest is spread at random over processes. */
const watchSlackMs = 2
const watchSpreadMs = 20
/** The part of its own lease after which a waiter asks: a lease that it has unknowingly is found before it is over. */
const watchShare = 2 / 3
/** Longest time without asking, in milliseconds. */
const watchMsMax = 30_000
const retryBaseMs = 20
const retryMaxMs = 500
/** Calls at once after a gap. */
const askAtOnceMax = 64

export interface Grant {
  readonly token: number
  /** When the engine may end the lease, on our clock. */
  readonly endsAt: number
}

interface Waiter {
  readonly request: LockRequest
  readonly done: Deferred<Grant>
  readonly deadline: number
  settled: boolean
  asking: boolean
  confirming: boolean
  /** Not granted yet at this moment, for sure. */
  askedAt: number
  /** A push with a token up to this one is an old one. */
  tokenBefore: number
  queued: boolean
  deadlineTimer: unknown
  retryTimer: unknown
  retries: number
  lastError: HeadraceError | null
}

interface KeyQueue {
  readonly waiters: Set<Waiter>
  watchTimer: unknown
  /** Tokens above `token` were given after `at`. */
  mark: { readonly token: number; readonly at: number }
}

export interface WaitingOptions {
  readonly engine: LockEngine
  readonly clock: LockClock
  readonly random: () => number
  readonly waitersMax: number
  /** Called when the first answer was not a grant. */
  readonly onQueued: (key: string) => void
}

export class WaitingRoom {
  readonly #engine: LockEngine
  readonly #clock: LockClock
  readonly #random: () => number
  readonly #waitersMax: number
  readonly #onQueued: (key: string) => void
  readonly #waiters = new Map<string, Waiter>()
  readonly #keys = new Map<string, KeyQueue>()
  #waiting = 0

  constructor(options: WaitingOptions) {
    this.#engine = options.engine
    this.#clock = options.clock
    this.#random = options.random
    this.#waitersMax = options.waitersMax
    this.#onQueued = options.onQueued
  }

  /** Callers that are in a queue of the engine. */
  get waiting(): number {
    return this.#waiting
  }

  /** Takes the lock without waiting; null when it is not free. */
  async tryTake(request: LockRequest): Promise<Grant | null> {
    const sentAt = this.#clock.now()
    let answer: LockAnswer
    try {
      answer = await this.#engine.acquire(request)
    } catch (error) {
      // It may have been granted all the same.
      void giveBack(this.#engine, this.#clock, request.key, request.id, sentAt + request.ttlMs)
      throw error
    }
    if (answer.state === 'granted') return { token: answer.token, endsAt: sentAt + answer.remainingMs }
    if (answer.state === 'limit-differs') throw limitDiffers(request, answer.limit)
    return null
  }

  /** Waits for the lock. Rejects with 'lock-timeout', the reason of the signal, or the error of the engine. */
  take(request: LockRequest, signal: AbortSignal | undefined): Promise<Grant> {
    if (signal?.aborted === true) return Promise.reject(signal.reason as Error)
    if (this.#waiters.size >= this.#waitersMax) {
      return Promise.reject(
        new HeadraceError('lock-queue-full', `${this.#waitersMax} callers of this process wait for locks already (waitersMax).`),
      )
    }
    const now = this.#clock.now()
    const waiter: Waiter = {
      request,
      done: deferred<Grant>(),
      deadline: now + request.waitMs,
      settled: false,
      asking: false,
      confirming: false,
      askedAt: now,
      tokenBefore: -1,
      queued: false,
      deadlineTimer: null,
      retryTimer: null,
      retries: 0,
      lastError: null,
    }
    // Before the call: the push may overtake the answer.
    this.#waiters.set(request.id, waiter)
    void this.#ask(waiter)
    if (signal === undefined) return waiter.done.promise
    const abort = (): void => this.#giveUp(waiter, signal.reason)
    signal.addEventListener('abort', abort, { once: true })
    return waiter.done.promise.finally(() => signal.removeEventListener('abort', abort))
  }

  /** A push: this acquisition got the lock. */
  granted(id: string, token: number): void {
    const waiter = this.#waiters.get(id)
    // Whoever gave up has told the engine so, or is about to.
    if (waiter === undefined || waiter.confirming || token <= waiter.tokenBefore) return
    const mark = this.#keys.get(waiter.request.key)?.mark
    const since = mark !== undefined && token > mark.token ? Math.max(waiter.askedAt, mark.at) : waiter.askedAt
    const { ttlMs } = waiter.request
    if (this.#clock.now() - since <= ttlMs * confirmShare) this.#settle(waiter, { token, endsAt: since + ttlMs })
    else void this.#confirm(waiter, token)
  }

  /** Pushes may have been lost: everybody asks again, oldest first, not all at once. */
  async gap(): Promise<void> {
    const open = [...this.#waiters.values()]
    for (let start = 0; start < open.length; start += askAtOnceMax) {
      await Promise.all(open.slice(start, start + askAtOnceMax).map((waiter) => this.#ask(waiter)))
    }
  }

  /** A call on the key was sent at `at`, when its last token was `token`. */
  mark(key: string, token: number, at: number): void {
    const queue = this.#keys.get(key)
    if (queue !== undefined && at > queue.mark.at) queue.mark = { token, at }
  }

  close(reason: HeadraceError): void {
    for (const waiter of this.#waiters.values()) this.#giveUp(waiter, reason)
  }

  async #ask(waiter: Waiter): Promise<void> {
    if (waiter.settled || waiter.asking) return
    waiter.asking = true
    const sentAt = this.#clock.now()
    let answer: LockAnswer | HeadraceError
    try {
      answer = await this.#engine.acquire(
        waiter.queued || waiter.retries > 0
          ? { ...waiter.request, waitMs: Math.max(1, Math.ceil(waiter.deadline - sentAt)) }
          : waiter.request,
      )
    } catch (error) {
      answer = HeadraceError.is(error) ? error : new HeadraceError('internal', undefined, { cause: error })
    }
    waiter.asking = false
    // Done by a push that overtook this answer, or given up: then the engine may still have the acquisition.
    if (waiter.settled) {
      if (this.#gaveUp.delete(waiter)) this.#leave(waiter)
      return
    }
    if (answer instanceof Error) {
      this.#askFailed(waiter, answer)
      return
    }
    waiter.lastError = null
    switch (answer.state) {
      case 'granted':
        this.#settle(waiter, { token: answer.token, endsAt: sentAt + answer.remainingMs })
        // It was in the queue and no push came: others may have missed theirs too.
        if (waiter.queued) this.#askAll(waiter.request.key)
        return
      case 'queued':
        waiter.askedAt = sentAt
        waiter.tokenBefore = answer.tokenBefore
        this.#queue(waiter, answer.endsInMs)
        this.mark(waiter.request.key, answer.tokenBefore, sentAt)
        return
      case 'limit-differs':
        this.#reject(waiter, limitDiffers(waiter.request, answer.limit))
        return
      case 'full':
        this.#reject(waiter, new HeadraceError('lock-queue-full', `The queue of the lock ${JSON.stringify(waiter.request.key)} is full.`))
        return
      case 'refused':
        this.#reject(waiter, timedOut(waiter.request))
    }
  }

  #askFailed(waiter: Waiter, error: HeadraceError): void {
    if (!worthRepeating(error) || this.#clock.now() >= waiter.deadline) {
      this.#giveUp(waiter, error)
      return
    }
    waiter.lastError = error
    this.#startDeadline(waiter)
    waiter.retryTimer = this.#clock.set(
      () => void this.#ask(waiter),
      backoffMs(waiter.retries++, retryBaseMs, retryMaxMs, this.#random),
      'busy',
    )
  }

  #queue(waiter: Waiter, endsInMs: number): void {
    const { key } = waiter.request
    let queue = this.#keys.get(key)
    if (queue === undefined) {
      queue = { waiters: new Set(), watchTimer: null, mark: { token: -1, at: Number.NEGATIVE_INFINITY } }
      this.#keys.set(key, queue)
    }
    if (!waiter.queued) {
      waiter.queued = true
      this.#waiting += 1
      queue.waiters.add(waiter)
      this.#startDeadline(waiter)
      this.#onQueued(key)
    }
    this.#watch(key, queue, Math.min(endsInMs, waiter.request.ttlMs * watchShare))
  }

  #watch(key: string, queue: KeyQueue, inMs: number): void {
    if (queue.watchTimer !== null) return
    const ms = Math.min(watchMsMax, inMs + watchSlackMs + watchSpreadMs * this.#random())
    const look = (): void => {
      queue.watchTimer = null
      if (this.#keys.get(key) !== queue) return
      if (!this.#engine.tellsGaps) return this.#askAll(key)
      const [oldest] = queue.waiters
      if (oldest === undefined) return
      // Its own answer sets the next watch; when it is being asked already, that answer does.
      void this.#ask(oldest)
    }
    queue.watchTimer = this.#clock.set(look, ms, 'busy')
  }

  #askAll(key: string): void {
    for (const waiter of this.#keys.get(key)?.waiters ?? []) void this.#ask(waiter)
  }

  async #confirm(waiter: Waiter, token: number): Promise<void> {
    waiter.confirming = true
    const { key, id, ttlMs } = waiter.request
    const sentAt = this.#clock.now()
    const held = await this.#engine.extend(key, id, token, ttlMs).then(
      (end) => end.held,
      () => false,
    )
    waiter.confirming = false
    if (waiter.settled) return
    if (held) this.#settle(waiter, { token, endsAt: sentAt + ttlMs })
    // The lease was over before we read the push, or the engine is away: asking tells.
    else void this.#ask(waiter)
  }

  #startDeadline(waiter: Waiter): void {
    waiter.deadlineTimer ??= this.#clock.set(
      () => this.#giveUp(waiter, waiter.lastError ?? timedOut(waiter.request)),
      Math.max(1, waiter.deadline - this.#clock.now()),
      'busy',
    )
  }

  #settle(waiter: Waiter, grant: Grant): void {
    this.#forget(waiter)
    waiter.done.resolve(grant)
  }

  /** The engine has nothing of it. */
  #reject(waiter: Waiter, reason: unknown): void {
    this.#forget(waiter)
    waiter.done.reject(reason)
  }

  /** Waiters that gave up while their call was on its way: its answer is followed by a release. */
  readonly #gaveUp = new Set<Waiter>()

  #giveUp(waiter: Waiter, reason: unknown): void {
    if (waiter.settled) return
    this.#reject(waiter, reason)
    if (waiter.asking) this.#gaveUp.add(waiter)
    else this.#leave(waiter)
  }

  #leave(waiter: Waiter): void {
    const { key, id, ttlMs } = waiter.request
    void giveBack(this.#engine, this.#clock, key, id, this.#clock.now() + ttlMs)
  }

  #forget(waiter: Waiter): void {
    waiter.settled = true
    const { key, id } = waiter.request
    this.#waiters.delete(id)
    if (waiter.deadlineTimer !== null) this.#clock.clear(waiter.deadlineTimer)
    if (waiter.retryTimer !== null) this.#clock.clear(waiter.retryTimer)
    if (!waiter.queued) return
    this.#waiting -= 1
    const queue = this.#keys.get(key)
    queue?.waiters.delete(waiter)
    if (queue !== undefined && queue.waiters.size === 0) {
      if (queue.watchTimer !== null) this.#clock.clear(queue.watchTimer)
      this.#keys.delete(key)
    }
  }
}

function timedOut(request: LockRequest): HeadraceError {
  return new HeadraceError('lock-timeout', `The lock ${JSON.stringify(request.key)} was not free within ${request.waitMs} ms (waitMs).`, {
    details: { key: request.key, waitMs: request.waitMs },
  })
}

function limitDiffers(request: LockRequest, limit: number): HeadraceError {
  return new HeadraceError(
    'lock-limit-differs',
    `The lock ${JSON.stringify(request.key)} is in use with the limit ${limit}, not ${request.limit}. Use one limit for a semaphore everywhere, and another key for another lock.`,
    {
      details: { key: request.key, limit },
    },
  )
}
