/**
 * Time for histories that are simulated: it goes to the next timer whenever
 * nothing else is left to do. Hours pass in milliseconds, and the same seed
 * gives the same history.
 */
import type { TransactionClock } from '../../src/transaction/clock.ts'

/** Turns of the event loop without a timer after which a history is taken to hang. */
const idleTurnsMax = 50

interface Timer {
  readonly at: number
  readonly fire: () => void
}

export class VirtualClock implements TransactionClock {
  readonly #msMax: number
  /** In the order in which they were set. */
  readonly #timers = new Set<Timer>()
  #now = 0

  /** A history that takes longer than `msMax` of its own time goes round in circles. */
  constructor(msMax: number) {
    this.#msMax = msMax
  }

  now(): number {
    return this.#now
  }

  pause(ms: number, signal?: AbortSignal): Promise<void> {
    if (signal?.aborted === true) return Promise.resolve()
    return new Promise((resolve) => {
      const over = (): void => {
        this.#timers.delete(timer)
        signal?.removeEventListener('abort', over)
        resolve()
      }
      const timer: Timer = { at: this.#now + ms, fire: over }
      signal?.addEventListener('abort', over, { once: true })
      this.#timers.add(timer)
    })
  }

  /** Goes on until `work` is done. Throws when it hangs, or does not end. */
  async run<T>(work: Promise<T>): Promise<T> {
    let done = false
    const over = (): void => {
      done = true
    }
    work.then(over, over)
    for (let idle = 0; !done; idle += 1) {
      await new Promise(setImmediate)
      const next = this.#next()
      if (next === null) {
        if (idle > idleTurnsMax) throw new Error('the history hangs')
        continue
      }
      idle = 0
      if (next.at > this.#msMax) throw new Error('the history does not end')
      this.#now = Math.max(this.#now, next.at)
      next.fire()
    }
    return work
  }

  #next(): Timer | null {
    let first: Timer | null = null
    for (const each of this.#timers) if (first === null || each.at < first.at) first = each
    return first
  }
}
