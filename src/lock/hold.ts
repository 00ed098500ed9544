/**
 * One key that is held: extends its lease, and knows when it may be over.
 *
 * States: held → released, or held → lost. Lost means: the engine said that the
 * lease is over, or an operator broke it, or the last extension that is known to
 * have worked is nearly `ttlMs` ago. That last moment is counted on the
 * monotonic clock from when the call was *sent*, less a margin for clocks that
 * run at different rates, so it comes before the engine can give the lock to
 * somebody else. (Gray and Cheriton, "Leases", 1989, section 3.)
 *
 * A process that was stopped for longer than that cannot know it until it runs
 * again: only the guard in the database stops its writes.
 */
import { checkWhole } from '../contracts/bounds.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { type LockEngine, ttlMsMax, ttlMsMin } from '../contracts/lock.ts'
import type { LockClock } from './clock.ts'
import { giveBack } from './give-back.ts'

/** An extension is sent when this part of the lease is over. */
const extendShare = 1 / 3
/** Clocks of two machines may differ in rate by this much. */
const driftShare = 0.01
/** What a timer may be late, in milliseconds. */
const marginMs = 4

export interface HoldOwner {
  readonly engine: LockEngine
  readonly clock: LockClock
  /** A call on this key was sent at `sentAt`, when its last token was `tokenBefore`. */
  seen(key: string, tokenBefore: number | null, sentAt: number): void
  lost(hold: Hold): void
  released(hold: Hold): void
}

export class Hold {
  readonly key: string
  readonly id: string
  readonly token: number
  readonly ttlMs: number
  readonly heldSince: number
  readonly #owner: HoldOwner
  readonly #extends: boolean
  #state: 'held' | 'lost' | 'released' = 'held'
  /** When the engine may end it, on our clock. */
  #endsAt: number
  #extendAt: number
  #extending = false
  #timer: unknown = null
  #timerAt = Number.POSITIVE_INFINITY
  onLost: ((reason: HeadraceError) => void) | null = null

  constructor(owner: HoldOwner, key: string, id: string, token: number, ttlMs: number, endsAt: number, extend: boolean) {
    this.key = key
    this.id = id
    this.token = token
    this.ttlMs = ttlMs
    this.#owner = owner
    this.#endsAt = endsAt
    this.#extends = extend
    this.#extendAt = extend ? endsAt - ttlMs * (1 - extendShare) : Number.POSITIVE_INFINITY
    this.heldSince = owner.clock.now()
    this.#arm()
  }

  /** False as soon as the lease may be over, even when no timer could run. */
  get held(): boolean {
    return this.#state === 'held' && this.#owner.clock.now() < this.#lostAt
  }

  /** What is left of the lease, in milliseconds, the margin taken off. */
  get remainingMs(): number {
    return this.#state === 'held' ? Math.max(0, this.#lostAt - this.#owner.clock.now()) : 0
  }

  get #lostAt(): number {
    return this.#endsAt - this.ttlMs * driftShare - marginMs
  }

  /** Extends now. Rejects with 'lease-lost', or with the error of the engine while the lease goes on. */
  async extend(ttlMs: number = this.ttlMs): Promise<void> {
    checkWhole('ttlMs', ttlMs, ttlMsMin, ttlMsMax)
    const { engine, clock } = this.#owner
    if (!this.held) throw this.#lose('it had run out')
    const sentAt = clock.now()
    const { held, tokenBefore } = await engine.extend(this.key, this.id, this.token, ttlMs)
    this.#owner.seen(this.key, tokenBefore, sentAt)
    if (this.#state !== 'held') return
    if (!held) throw this.#lose('the engine had ended it')
    this.#endsAt = sentAt + ttlMs
    if (this.#extends) this.#extendAt = sentAt + ttlMs * extendShare
    this.#arm()
  }

  /** Ends it. True when it was held until now. */
  async release(): Promise<boolean> {
    if (this.#state !== 'held') return false
    const { engine, clock } = this.#owner
    const inTime = this.held
    this.#state = 'released'
    this.#disarm()
    this.#owner.released(this)
    const sentAt = clock.now()
    const end = await giveBack(engine, clock, this.key, this.id, this.#endsAt)
    if (end === null) return inTime
    this.#owner.seen(this.key, end.tokenBefore, sentAt)
    return end.held && inTime
  }

  /** An operator took it away. */
  broken(): void {
    if (this.#state === 'held') this.#lose('an operator broke it')
  }

  #lose(why: string): HeadraceError {
    const reason = new HeadraceError(
      'lease-lost',
      `The lease of the lock ${JSON.stringify(this.key)} was lost: ${why}. Stop writing under it; take the lock again and start over.`,
      {
        details: { key: this.key, token: this.token },
      },
    )
    if (this.#state !== 'held') return reason
    this.#state = 'lost'
    this.#disarm()
    this.#owner.lost(this)
    this.onLost?.(reason)
    // Whatever the engine still has of it would only keep others waiting.
    void giveBack(this.#owner.engine, this.#owner.clock, this.key, this.id, this.#endsAt)
    return reason
  }

  #arm(): void {
    if (this.#state !== 'held') return
    const at = this.#extending ? this.#lostAt : Math.min(this.#extendAt, this.#lostAt)
    if (this.#timer !== null && at === this.#timerAt) return
    this.#disarm()
    this.#timerAt = at
    // Node rounds down: a lease must be given up before its end, an extension may be early.
    this.#timer = this.#owner.clock.set(this.#tick, Math.max(1, Math.floor(at - this.#owner.clock.now())), 'idle')
  }

  #disarm(): void {
    if (this.#timer !== null) this.#owner.clock.clear(this.#timer)
    this.#timer = null
  }

  #tick = (): void => {
    this.#timer = null
    const now = this.#owner.clock.now()
    if (this.#lostAt - now < 1) {
      this.#lose('it could not be extended in time')
    } else if (this.#extendAt - now < 1 && !this.#extending) {
      this.#extending = true
      void this.#extendSoon()
      this.#arm()
    } else {
      this.#arm()
    }
  }

  async #extendSoon(): Promise<void> {
    try {
      await this.extend()
    } catch {
      // Lost, or the engine did not answer: then again soon, as long as the lease lasts.
      this.#extendAt = this.#owner.clock.now() + Math.min(1_000, Math.max(10, this.ttlMs / 20))
    }
    this.#extending = false
    this.#arm()
  }
}
