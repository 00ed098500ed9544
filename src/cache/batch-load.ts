/**
 * Turns the loads of many keys into one call: it waits until every key has said
 * whether it needs a load (or found its value on the way), then loads those
 * that do.
 */
import { type Deferred, deferred } from '../std/deferred.ts'
import type { LoadMany } from './load.ts'
import type { Loader } from './refill.ts'

export class BatchLoad {
  readonly #load: LoadMany<unknown>
  #undecided = 0
  #wanted = new Map<string, { readonly floor: number; readonly signal: AbortSignal; readonly answer: Deferred<unknown> }>()

  constructor(load: LoadMany<unknown>) {
    this.#load = load
  }

  loaderOf(key: string): Loader {
    this.#undecided++
    let decided = false
    const decide = (): void => {
      if (!decided) this.#undecided--
      decided = true
      if (this.#undecided === 0 && this.#wanted.size > 0) void this.#run()
    }
    return {
      batched: true,
      passes: decide,
      load: ({ floor, signal }) => {
        const answer = deferred<unknown>()
        this.#wanted.set(key, { floor, signal, answer })
        decide()
        return answer.promise
      },
    }
  }

  async #run(): Promise<void> {
    const wanted = this.#wanted
    this.#wanted = new Map()
    const floors = new Map<string, number>()
    for (const [key, { floor }] of wanted) floors.set(key, floor)
    const signal = AbortSignal.any([...wanted.values()].map((one) => one.signal))
    try {
      const values = await this.#load([...wanted.keys()], { floors, signal })
      for (const [key, { answer }] of wanted) answer.resolve(values.get(key))
    } catch (error) {
      for (const { answer } of wanted.values()) answer.reject(error)
    }
  }
}
