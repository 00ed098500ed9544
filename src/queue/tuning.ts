/**
 * How much to take at once, found from what the engine and the handler do.
 *
 * Prefetch follows Little's law: while one take is on its way, the handlers use
 * up (rate × time of a take) messages, so twice that many, beside those in
 * hand, keep them busy. A slow engine or a fast handler raises it, and nothing
 * else does: messages in memory are messages that no other consumer can have.
 */

/** Weight of the newest measurement in the running averages. */
const weight = 0.2
/** Rates are measured over at least this long, in milliseconds. */
const sampleMs = 20

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
  #since: number

  constructor(bounds: PrefetchBounds, fixed: number | undefined, now: number) {
    this.#bounds = bounds
    this.#fixed = fixed
    this.#since = now
  }

  /** Messages of the partition to have in memory. */
  get size(): number {
    if (this.#fixed !== undefined) return this.#fixed
    const needed = Math.ceil(2 * this.#perMs * this.#takeMs) + this.#bounds.min
    return Math.min(this.#bounds.max, Math.max(this.#bounds.min, needed))
  }

  /** A take that found messages took this long. */
  took(ms: number): void {
    this.#takeMs += (ms - this.#takeMs) * weight
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
}
