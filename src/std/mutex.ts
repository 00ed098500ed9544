/** Mutual exclusion between the asynchronous turns of one process. */
import { type Deferred, deferred } from './deferred.ts'

/** One holder at a time, first come, first served. */
export class Mutex {
  #held = false
  readonly #waiting: Deferred<void>[] = []

  async acquire(): Promise<void> {
    if (!this.#held) {
      this.#held = true
      return
    }
    const turn = deferred<void>()
    this.#waiting.push(turn)
    await turn.promise
  }

  release(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#held = false
    else next.resolve()
  }
}
