/**
 * Leaves a store alone that does not answer.
 *
 * closed: calls go through. After `failuresMax` failures in a row: open, no call
 * goes through for `pauseMs`. Then half open: one call is let through; its
 * success closes the breaker, its failure opens it again.
 */
export class Breaker {
  readonly #failuresMax: number
  readonly #pauseMs: number
  readonly #now: () => number
  #failures = 0
  #openUntil = 0
  #probing = false

  constructor(failuresMax: number, pauseMs: number, now: () => number) {
    this.#failuresMax = failuresMax
    this.#pauseMs = pauseMs
    this.#now = now
  }

  get open(): boolean {
    return this.#failures >= this.#failuresMax
  }

  /** Whether a call may be made. Each true is answered by one `succeeded` or `failed`. */
  allows(): boolean {
    if (!this.open) return true
    if (this.#probing || this.#now() < this.#openUntil) return false
    this.#probing = true
    return true
  }

  /** Returns true when this closed the breaker. */
  succeeded(): boolean {
    const wasOpen = this.open
    this.#failures = 0
    this.#probing = false
    return wasOpen
  }

  /** Returns true when this opened the breaker. */
  failed(): boolean {
    const wasOpen = this.open
    this.#failures++
    this.#probing = false
    if (this.open) this.#openUntil = this.#now() + this.#pauseMs
    return this.open && !wasOpen
  }
}
