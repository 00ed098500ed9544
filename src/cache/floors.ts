/**
 * The floors of a namespace that this process knows of. A floor only grows.
 *
 * Bounded: past `max` the floor that was raised longest ago goes. That is
 * safe for loads under way, which keep the floors raised in their time
 * themselves, and leaves only a load that begins afterwards and reads from a
 * replica that lags by more than `max` raises.
 */
export class Floors {
  readonly #floors = new Map<string, number>()
  readonly #max: number

  constructor(max: number) {
    this.#max = max
  }

  get(key: string): number {
    return this.#floors.get(key) ?? 0
  }

  /** Raises a floor; false when it is there already. */
  raise(key: string, version: number): boolean {
    const floor = this.#floors.get(key)
    if (floor !== undefined) {
      if (floor >= version) return false
      // Taken out and put in again, it is the last to go.
      this.#floors.delete(key)
    } else if (this.#floors.size >= this.#max) {
      const oldest = this.#floors.keys().next()
      if (oldest.done !== true) this.#floors.delete(oldest.value)
    }
    this.#floors.set(key, version)
    return true
  }

  get size(): number {
    return this.#floors.size
  }
}
