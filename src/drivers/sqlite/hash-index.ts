/**
 * Where the rows of an append-only table are, by the hash of their id.
 *
 * Ids come in random order, and a b-tree over them touches one page per row:
 * with a unique index, a table of outcomes takes 20,000–30,000 rows/s here and
 * slows as it grows; appended by row number alone it takes 100,000–200,000
 * (`npm run bench -- embedded`). So ids are found through this table in memory:
 * open addressing with linear probing, 16 bytes a slot, at most two thirds
 * full. Two ids may share a hash: a lookup gives every row number whose hash is
 * the same, and the caller compares ids.
 */
import { hash53 } from '../../std/hash.ts'

const empty = -1
const removed = -2

export class HashIndex {
  #hashes: Float64Array
  #rows: Float64Array
  #live = 0
  /** Slots that are not empty: the live and the removed ones. */
  #used = 0

  constructor(expected = 1024) {
    const slots = 2 ** Math.ceil(Math.log2(Math.max(16, expected * 1.5)))
    this.#hashes = new Float64Array(slots)
    this.#rows = new Float64Array(slots).fill(empty)
  }

  get size(): number {
    return this.#live
  }

  add(id: string, row: number): void {
    this.addHash(hash53(id), row)
  }

  addHash(hash: number, row: number): void {
    if ((this.#used + 1) * 3 > this.#rows.length * 2) this.#rebuild()
    let slot = this.#slot(hash)
    while (this.#row(slot) >= 0) slot = (slot + 1) & (this.#rows.length - 1)
    if (this.#row(slot) === empty) this.#used += 1
    this.#hashes[slot] = hash
    this.#rows[slot] = row
    this.#live += 1
  }

  /** Row numbers of all ids with the hash of this one; usually none or one. */
  find(id: string): number[] {
    const hash = hash53(id)
    const found: number[] = []
    for (let slot = this.#slot(hash); this.#row(slot) !== empty; slot = (slot + 1) & (this.#rows.length - 1)) {
      if (this.#hashes[slot] === hash && this.#row(slot) >= 0) found.push(this.#row(slot))
    }
    return found
  }

  remove(hash: number, row: number): void {
    for (let slot = this.#slot(hash); this.#row(slot) !== empty; slot = (slot + 1) & (this.#rows.length - 1)) {
      if (this.#hashes[slot] === hash && this.#row(slot) === row) {
        this.#rows[slot] = removed
        this.#live -= 1
        return
      }
    }
  }

  #row(slot: number): number {
    return this.#rows[slot] as number
  }

  #slot(hash: number): number {
    return (hash ^ (hash / 4294967296)) & (this.#rows.length - 1)
  }

  #rebuild(): void {
    const [hashes, rows] = [this.#hashes, this.#rows]
    const slots = this.#live * 3 > rows.length ? rows.length * 2 : rows.length
    this.#hashes = new Float64Array(slots)
    this.#rows = new Float64Array(slots).fill(empty)
    this.#live = 0
    this.#used = 0
    for (let slot = 0; slot < rows.length; slot++) {
      const row = rows[slot] as number
      if (row >= 0) this.addHash(hashes[slot] as number, row)
    }
  }
}
