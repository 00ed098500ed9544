/**
 * The end that is put to a transaction from outside: by its deadline, its
 * caller, or the coordinator that closes.
 *
 * Nearly every transaction ends before, so nothing is made for that case before
 * it is asked for: an AbortSignal and a timer for each transaction cost more
 * than its own bookkeeping.
 */
import type { TransactionClock } from './clock.ts'

export class Cutoff {
  #cut = false
  #reason: unknown
  #controller: AbortController | null = null
  readonly #listeners = new Set<() => void>()

  get cut(): boolean {
    return this.#cut
  }

  get reason(): unknown {
    return this.#reason
  }

  /** The same as a signal. */
  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#cut) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  /** Once; later reasons are not heard. */
  now(reason: unknown): void {
    if (this.#cut) return
    this.#cut = true
    this.#reason = reason
    for (const listener of [...this.#listeners]) listener()
    this.#controller?.abort(reason)
  }

  /** `listener` is called when it is cut, and not when it was cut before. */
  on(listener: () => void): void {
    this.#listeners.add(listener)
  }

  off(listener: () => void): void {
    this.#listeners.delete(listener)
  }
}

interface Entry {
  readonly until: number
  readonly late: () => void
}

/** Many deadlines with one timer, which runs only while there are some. */
export class Deadlines {
  readonly #clock: TransactionClock
  readonly #entries = new Set<Entry>()
  #wake: AbortController | null = null
  /** When the timer ends. */
  #next = Number.POSITIVE_INFINITY

  constructor(clock: TransactionClock) {
    this.#clock = clock
  }

  /** Calls `late` after `timeoutMs`, unless the function that it returns is called before. */
  add(timeoutMs: number, late: () => void): () => void {
    const entry: Entry = { until: this.#clock.now() + timeoutMs, late }
    this.#entries.add(entry)
    if (this.#wake === null) void this.#run()
    else if (entry.until < this.#next) this.#wake.abort(null)
    return () => {
      this.#entries.delete(entry)
      if (this.#entries.size === 0) this.#wake?.abort(null)
    }
  }

  async #run(): Promise<void> {
    while (this.#entries.size > 0) {
      this.#next = Number.POSITIVE_INFINITY
      for (const { until } of this.#entries) this.#next = Math.min(this.#next, until)
      this.#wake = new AbortController()
      await this.#clock.pause(Math.max(0, this.#next - this.#clock.now()), this.#wake.signal)
      const now = this.#clock.now()
      for (const entry of this.#entries) {
        if (entry.until > now) continue
        this.#entries.delete(entry)
        entry.late()
      }
    }
    this.#wake = null
  }
}
