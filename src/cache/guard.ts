/** One store behind its timeout and its breaker: a call answers in time, or says that the store is out. Never rejects. */
import type { CacheStore } from '../contracts/cache.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { Breaker } from './breaker.ts'
import type { Core } from './core.ts'
import type { Wait } from './deadlines.ts'

export class Guard {
  readonly store: CacheStore
  readonly #core: Core
  readonly #breaker: Breaker
  readonly #recovered: () => void
  readonly #timeoutMs: number
  /** Why the last call failed; null after one that went well. */
  lastError: unknown = null

  constructor(store: CacheStore, core: Core, recovered: () => void) {
    this.store = store
    this.#core = core
    this.#recovered = recovered
    this.#timeoutMs = core.limits.storeTimeoutMs
    this.#breaker = new Breaker(core.limits.breakerFailures, core.limits.breakerPauseMs, core.now)
  }

  /** What the call answered, or null when the store is out. */
  call<T>(run: (store: CacheStore) => Promise<T>): Promise<T | null> {
    if (!this.#breaker.allows()) {
      this.#core.stats.storeSkipped++
      return Promise.resolve(null)
    }
    return new Promise((resolve) => {
      const call: Wait = {
        over: false,
        late: () => {
          this.#failed(new HeadraceError('cache-unavailable', `${this.store.name} did not answer within ${this.#timeoutMs} ms.`))
          resolve(null)
        },
      }
      this.#core.deadlines.after(this.#timeoutMs, call)
      run(this.store).then(
        (answer) => {
          if (call.over) return
          call.over = true
          this.#succeeded()
          resolve(answer)
        },
        (error: unknown) => {
          if (call.over) return
          call.over = true
          this.#failed(error)
          resolve(null)
        },
      )
    })
  }

  /** The error for a caller who must know that the store was not reached. */
  unavailable(): HeadraceError {
    const { lastError } = this
    if (HeadraceError.is(lastError) && lastError.code === 'engine-refused') return lastError
    return new HeadraceError(
      'cache-unavailable',
      `The cache store ${this.store.name} does not answer${lastError instanceof Error ? `: ${lastError.message}` : ''}.`,
      { cause: lastError },
    )
  }

  #succeeded(): void {
    this.lastError = null
    if (!this.#breaker.succeeded()) return
    tell('headrace:notice', () => ({ app: this.#core.name, level: 'info', message: `The cache store ${this.store.name} answers again.` }))
    this.#recovered()
  }

  #failed(error: unknown): void {
    this.lastError = error
    this.#core.stats.storeErrors++
    if (!this.#breaker.failed()) return
    tell('headrace:notice', () => ({
      app: this.#core.name,
      level: 'warn',
      message: `The cache store ${this.store.name} does not answer; reads go to the database until it does: ${error instanceof Error ? error.message : String(error)}`,
    }))
  }
}
