/**
 * The ghost queue of S3-FIFO: remembers which keys were evicted lately, by
 * their hash and nothing else.
 *
 * A table of fixed slots: each holds a hash and the number of the eviction that
 * put it there. A slot counts only while its number is among the last
 * `span` evictions, so nothing ever has to be taken out. Two hashes that meet in
 * one slot cost the older its place, which the hit rate does not notice at two
 * slots per remembered key.
 */
export class Ghost {
  #hashes: Uint32Array
  #numbers: Uint32Array
  #mask: number
  #evictions = 0

  constructor(slots = 1024) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(slots, 16)))
    this.#hashes = new Uint32Array(size)
    this.#numbers = new Uint32Array(size)
    this.#mask = size - 1
  }

  /** Remembers a key as evicted now. `span` is how many evictions it should be remembered for. */
  add(hash: number, span: number): void {
    if (span * 2 > this.#hashes.length && this.#hashes.length < slotsMax) this.#grow(span * 2)
    this.#evictions++
    if (this.#evictions === 0xffff_ffff) this.clear()
    const slot = hash & this.#mask
    this.#hashes[slot] = hash
    this.#numbers[slot] = this.#evictions
  }

  /** Whether the key is among the last `span` evicted; it is forgotten by the question. */
  take(hash: number, span: number): boolean {
    const slot = hash & this.#mask
    const number = this.#numbers[slot] ?? 0
    if (number === 0 || this.#hashes[slot] !== hash || this.#evictions - number >= span) return false
    this.#numbers[slot] = 0
    return true
  }

  clear(): void {
    this.#numbers.fill(0)
    this.#evictions = 1
  }

  #grow(slots: number): void {
    const hashes = this.#hashes
    const numbers = this.#numbers
    const size = Math.min(slotsMax, 2 ** Math.ceil(Math.log2(slots)))
    this.#hashes = new Uint32Array(size)
    this.#numbers = new Uint32Array(size)
    this.#mask = size - 1
    for (let old = 0; old < hashes.length; old++) {
      const number = numbers[old] ?? 0
      if (number === 0) continue
      const hash = hashes[old] ?? 0
      this.#hashes[hash & this.#mask] = hash
      this.#numbers[hash & this.#mask] = number
    }
  }
}

/** 32 MiB of slots: enough to remember two million keys. */
const slotsMax = 2 ** 22
