/**
 * Which keys are asked for most, in bounded memory: Space-Saving ("Efficient
 * computation of frequent and top-k elements", Metwally, Agrawal and El Abbadi,
 * ICDT 2005) over a sample of the gets, halved from time to time so that what
 * was hot yesterday makes room.
 *
 * A key that is asked for in more than one of `max` sampled gets is in the list
 * for certain.
 */
export interface HotKey {
  readonly namespace: string
  readonly key: string
  /** Its share of the gets of late, from 0 to 1; never too low, too high by at most 1 in `max`. */
  readonly share: number
}

interface Counter {
  readonly namespace: string
  readonly key: string
  count: number
}

/** Every so many gets, one is counted. A power of two. */
export const sampleEvery = 32

/** After this many counted gets all counts are halved. */
const halveAfter = 65_536

export class HotKeys {
  readonly #max: number
  readonly #counters = new Map<string, Counter>()
  #total = 0

  constructor(max: number) {
    this.#max = max
  }

  note(namespace: string, key: string): void {
    const id = `${namespace}\0${key}`
    this.#total++
    const counter = this.#counters.get(id)
    if (counter !== undefined) counter.count++
    else this.#counters.set(id, { namespace, key, count: 1 + (this.#counters.size < this.#max ? 0 : this.#takePlace()) })
    if (this.#total >= halveAfter) this.#halve()
  }

  /** The hottest first. */
  top(count = this.#max): HotKey[] {
    return [...this.#counters.values()]
      .sort((a, b) => b.count - a.count)
      .slice(0, count)
      .map(({ namespace, key, count: own }) => ({ namespace, key, share: own / this.#total }))
  }

  /** Removes the least counter; the newcomer inherits its count. */
  #takePlace(): number {
    let least: string | null = null
    let leastCount = Number.POSITIVE_INFINITY
    for (const [id, { count }] of this.#counters) {
      if (count >= leastCount) continue
      least = id
      leastCount = count
    }
    if (least !== null) this.#counters.delete(least)
    return leastCount
  }

  #halve(): void {
    this.#total = Math.floor(this.#total / 2)
    for (const [id, counter] of this.#counters) {
      counter.count = Math.floor(counter.count / 2)
      if (counter.count === 0) this.#counters.delete(id)
    }
  }
}
