/** One store behind its timeout and its breaker: a call answers in time, or says that the store is out. Never rejects. */
import type { CacheStore } from '../contracts/cache.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { Breaker } from './breaker.ts'
import type { Core } from './core.ts'

export class Guard {
  readonly store: CacheStore
  readonly #core: Core
  readonly #breaker: Breaker
  readonly #recovered: () => void
  /** Why the last call failed; null after one that went well. */
  lastError: unknown = null

  constructor(store: CacheStore, core: Core, recovered: () => void) {
    this.store = store
    this.#core = core
    this.#recovered = recovered
    this.#breaker = new Breaker(core.limits.breakerFailures, core.limits.breakerPauseMs, core.now)
  }

  /** What the call answered, or null when the store is out. `timeoutMs` is for calls that may take longer than others. */
  async call<T>(run: (store: CacheStore) => Promise<T>, timeoutMs = this.#core.limits.storeTimeoutMs): Promise<T | null> {
    if (!this.#breaker.allows()) {
      this.#core.stats.storeSkipped++
      return null
    }
    try {
      const answer = await inTime(run(this.store), timeoutMs, this.store.name)
      this.lastError = null
      if (this.#breaker.succeeded()) {
        tell('headrace:notice', () => ({ app: this.#core.name, level: 'info', message: `The cache store ${this.store.name} answers again.` }))
        this.#recovered()
      }
      return answer
    } catch (error) {
      this.lastError = error
      this.#core.stats.storeErrors++
      if (this.#breaker.failed()) {
        tell('headrace:notice', () => ({ app: this.#core.name, level: 'warn', message: `The cache store ${this.store.name} does not answer; reads go to the database until it does: ${error instanceof Error ? error.message : String(error)}` }))
      }
      return null
    }
  }

  /** The error for a caller who must know that the store was not reached. */
  unavailable(): HeadraceError {
    const { lastError } = this
    if (HeadraceError.is(lastError) && lastError.code === 'engine-refused') return lastError
    return new HeadraceError('cache-unavailable', `The cache store ${this.store.name} does not answer${lastError instanceof Error ? `: ${lastError.message}` : ''}.`, { cause: lastError })
  }
}

/** The answer, or a rejection when the time is over; the call itself is left to its driver. */
export function inTime<T>(answer: Promise<T>, timeoutMs: number, name: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new HeadraceError('cache-unavailable', `${name} did not answer within ${timeoutMs} ms.`)), timeoutMs)
    answer.then(
      (value) => {
        clearTimeout(timer)
        resolve(value)
      },
      (error: unknown) => {
        clearTimeout(timer)
        reject(error)
      },
    )
  })
}
