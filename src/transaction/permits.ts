/** A bounded number of things at once; the rest wait in line, first come, first served. */
export class Permits {
  readonly #max: number
  readonly #line = new Set<() => void>()
  #taken = 0

  constructor(max: number) {
    this.#max = max
  }

  get taken(): number {
    return this.#taken
  }

  get waiting(): number {
    return this.#line.size
  }

  /** True when it is the caller's turn at once. */
  takeNow(): boolean {
    if (this.#taken >= this.#max) return false
    this.#taken += 1
    return true
  }

  /** Resolves with true when it is the caller's turn, false when the signal came first. */
  take(signal?: AbortSignal): Promise<boolean> {
    if (signal?.aborted === true) return Promise.resolve(false)
    if (this.takeNow()) return Promise.resolve(true)
    return new Promise((resolve) => {
      const go = (): void => {
        signal?.removeEventListener('abort', leave)
        resolve(true)
      }
      const leave = (): void => {
        this.#line.delete(go)
        resolve(false)
      }
      signal?.addEventListener('abort', leave, { once: true })
      this.#line.add(go)
    })
  }

  give(): void {
    const [next] = this.#line
    if (next === undefined) {
      this.#taken -= 1
      return
    }
    this.#line.delete(next)
    next()
  }

  async use<T>(run: () => Promise<T>): Promise<T> {
    if (!this.takeNow()) await this.take()
    try {
      return await run()
    } finally {
      this.give()
    }
  }
}
