/**
 * Phase 2: ends prepared branches as it was decided, side by side, again and
 * again until each confirms. It goes on behind the answer to the caller; what it
 * has not done when the process dies is done by recovery.
 */
import { setMaxListeners } from 'node:events'
import { HeadraceError } from '../contracts/errors.ts'
import { backoffMs } from '../std/backoff.ts'
import { crashPoint } from '../std/crash-point.ts'
import type { TransactionClock } from './clock.ts'
import type { Forgetter } from './forgetter.ts'
import type { CoordinatorLimits } from './options.ts'
import { Permits } from './permits.ts'
import type { Site } from './site.ts'

export interface Ending {
  readonly gid: string
  readonly verdict: 'commit' | 'abort'
  readonly participants: readonly string[]
  readonly home: string | null
  /** Whether the decision at home is dropped afterwards. False when a commit may still be on its way there. */
  readonly forgetHome: boolean
}

export interface FinisherParts {
  readonly site: Site
  readonly limits: CoordinatorLimits
  readonly clock: TransactionClock
  readonly random: () => number
  readonly forgetter: Forgetter
  /** A participant answered after it had not. */
  readonly onBack: () => void
}

export class Finisher {
  readonly #parts: FinisherParts
  readonly #calls: Permits
  readonly #stop = new AbortController()
  readonly #running = new Set<Promise<unknown>>()

  constructor(parts: FinisherParts) {
    this.#parts = parts
    this.#calls = new Permits(parts.limits.finishCallsMax)
    // Every branch that waits for its database listens for the end: bounded by unfinishedMax, and no leak.
    setMaxListeners(0, this.#stop.signal)
  }

  /** Decided transactions whose branches have not all confirmed, and commits whose end is not known. */
  get unfinished(): number {
    return this.#running.size
  }

  /** Resolves when every branch has ended, true when all did as decided; never rejects. */
  finish(ending: Ending): Promise<boolean> {
    return this.keep(this.#finish(ending))
  }

  /** Counts work as unfinished until it is done. */
  keep<T>(work: Promise<T>): Promise<T> {
    this.#running.add(work)
    const over = (): void => void this.#running.delete(work)
    work.then(over, over)
    return work
  }

  /** Resolves with what `call` gives, repeated through errors until it does; null when the coordinator stops before. */
  async insist<T>(call: () => Promise<T>): Promise<T | null> {
    const { clock, limits, random } = this.#parts
    let failed = false
    for (let attempt = 0; !this.#stop.signal.aborted; attempt += 1) {
      try {
        const answer = await this.#calls.use(call)
        if (failed) this.#parts.onBack()
        return answer
      } catch {
        failed = true
        await clock.pause(backoffMs(attempt, limits.finishBaseMs, limits.finishMaxMs, random), this.#stop.signal)
      }
    }
    return null
  }

  /** Ends one branch; what recovery calls, too. Throws only what another call may mend. */
  async endBranch(ending: Ending, name: string): Promise<'ended' | 'heuristic'> {
    const { site } = this.#parts
    const { gid, verdict, home } = ending
    try {
      const participant = site.participant(name)
      await (verdict === 'commit' ? participant.commitPrepared(gid) : participant.rollbackPrepared(gid))
      return 'ended'
    } catch (error) {
      if (!HeadraceError.is(error) || error.code !== 'transaction-heuristic') throw error
      const log = home === null ? undefined : site.logs.get(home)
      if (verdict === 'commit') {
        // Decisions go before markers: without its decision, the missing marker only says that all is over.
        return log !== undefined && (await log.decision(gid)) === null ? 'ended' : 'heuristic'
      }
      // The decision is the evidence that outlives this process.
      await log?.decideAbort(gid, ending.participants)
      return 'heuristic'
    }
  }

  async stop(): Promise<void> {
    this.#stop.abort()
    await Promise.allSettled(this.#running)
  }

  /** Resolves when nothing is unfinished. */
  async idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running)
  }

  async #finish(ending: Ending): Promise<boolean> {
    const ends = await Promise.all(
      ending.participants.map(async (name) => {
        const end = await this.insist(() => this.endBranch(ending, name))
        crashPoint('transaction.between-commits')
        return end
      }),
    )
    if (!ends.every((end) => end === 'ended')) return false
    const { gid, home, forgetHome, participants } = ending
    this.#parts.forgetter.add({ gid, home: forgetHome ? home : null, participants })
    return true
  }
}
