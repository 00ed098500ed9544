/**
 * How much to take at once, found from what the engine and the handler do.
 *
 * Prefetch follows Little's law: while one take is on its way, the handlers use
 * up (rate × time of a take) messages, so twice that many, beside those in
 * hand, keep them busy. Where the engine is what is waited for, that is not
 * enough: a take that comes when nothing is left to do was too small for what
 * it costs, so the next one is twice as large, until the handlers are kept busy
 * or the bound is reached; after that the size falls back slowly. A slow engine
 * or a fast handler raises it, and nothing else does: messages in memory are
 * messages that no other consumer can have.
 */

/** Weight of the newest measurement in the running averages. */
const weight = 0.2
/** Rates are measured over at least this long, in milliseconds. */
const sampleMs = 20
/** What is kept of the size by a take that came in time. */
const ease = 0.95

export interface PrefetchBounds {
  readonly min: number
  readonly max: number
}

export class PrefetchTuner {
  readonly #bounds: PrefetchBounds
  readonly #fixed: number | undefined
  #takeMs = 1
  #perMs = 0
  #done = 0
  #raised = 0
  #since: number

  constructor(bounds: PrefetchBounds, fixed: number | undefined, now: number) {
    this.#bounds = bounds
    this.#fixed = fixed
    this.#since = now
  }

  /** Messages of the partition to have in memory. */
  get size(): number {
    if (this.#fixed !== undefined) return this.#fixed
    return Math.min(this.#bounds.max, Math.max(this.#littles, Math.ceil(this.#raised)))
  }

  /** A take that found messages took this long; `late` when the handlers had nothing left to do. */
  took(ms: number, late: boolean): void {
    this.#takeMs += (ms - this.#takeMs) * weight
    this.#raised = late ? this.size * 2 : this.#raised * ease
  }

  /** Messages were handled. */
  handled(count: number, now: number): void {
    this.#done += count
    const ms = now - this.#since
    if (ms < sampleMs) return
    this.#perMs += (this.#done / ms - this.#perMs) * weight
    this.#done = 0
    this.#since = now
  }

  get #littles(): number {
    return Math.ceil(2 * this.#perMs * this.#takeMs) + this.#bounds.min
  }
}
