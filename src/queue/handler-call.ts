/**
 * One call of a handler, with a bound on its time. Its signal is made when
 * somebody looks at it.
 *
 * A handler that does not end in time is told by its signal, and its call
 * counts as failed. Code that goes on regardless runs beside the next try; what
 * it writes is refused where an inbox guards the database.
 */
import { HeadraceError } from '../contracts/errors.ts'

export class HandlerCall {
  readonly #timeoutMs: number
  readonly #lost: AbortSignal
  #controller: AbortController | null = null

  constructor(timeoutMs: number, lost: AbortSignal) {
    this.#timeoutMs = timeoutMs
    this.#lost = lost
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#lost.aborted) this.#abort(this.#lost.reason)
    }
    return this.#controller.signal
  }

  /** Runs it; rejects with what it throws, or with 'handler-timeout'. A lost partition is told by the signal alone: the handler ends by itself. */
  async run(handler: () => unknown): Promise<void> {
    const running = handler()
    if (!(running instanceof Promise)) return
    const lose = (): void => this.#abort(this.#lost.reason)
    this.#lost.addEventListener('abort', lose)
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const why = new HeadraceError(
          'handler-timeout',
          `The handler did not end within ${this.#timeoutMs} ms. Bound its waits, or raise handlerTimeoutMs.`,
        )
        this.#abort(why)
        reject(why)
      }, this.#timeoutMs)
    })
    // What it says after its time is over is of no interest.
    running.catch(() => {})
    try {
      await Promise.race([running, late])
    } finally {
      clearTimeout(timer)
      this.#lost.removeEventListener('abort', lose)
    }
  }

  #abort(why: unknown): void {
    this.#controller?.abort(why)
  }
}
