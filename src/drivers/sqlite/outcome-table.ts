/** Outcomes in the order they were decided; found by id through a table in memory. */
import { crc32 } from 'node:zlib'
import { HeadraceError } from '../../contracts/errors.ts'
import type { StoredOutcome } from '../../contracts/ledger.ts'
import { hash53 } from '../../std/hash.ts'
import { HashIndex } from './hash-index.ts'
import type { JournalStore, Memory } from './store.ts'

/** Rows that one pruning deletes, so that it never holds up a batch for long. */
const pruneRowsMax = 5_000

export class OutcomeTable implements Memory {
  readonly #store: JournalStore
  readonly #index: HashIndex
  /** The lowest number there may be, and the next one to give. */
  #first: number
  #next: number

  constructor(store: JournalStore) {
    this.#store = store
    store.follow(this)
    const { first, last } = store.run('select coalesce(min(n), 1) as first, coalesce(max(n), 0) as last from outcome').get() as {
      first: number
      last: number
    }
    this.#first = first
    this.#next = last + 1
    this.#index = new HashIndex(Math.max(1024, last - first + 1))
    for (const { n, hash } of store.run('select n, hash from outcome').iterate() as Iterable<{ n: number; hash: number }>)
      this.#index.addHash(hash, n)
  }

  get size(): number {
    return this.#index.size
  }

  remember(): () => void {
    const next = this.#next
    return () => {
      this.#next = next
    }
  }

  insert(outcomes: readonly StoredOutcome[]): void {
    const rows = outcomes.map(({ id, status, digest, body, position, partition, at }) => {
      const hash = hash53(id)
      const n = this.#next++
      this.#store.addTo(this.#index, hash, n)
      return [n, hash, id, status, digest, body, position, partition, at, crc32(body)]
    })
    this.#store.insertRows('insert into outcome (n, hash, id, status, digest, body, position, partition, at, crc)', rows)
  }

  /** Throws 'data-corrupt' when its checksum is wrong. */
  find(id: string): StoredOutcome | null {
    for (const n of this.#index.find(id)) {
      const row = this.#store.run('select id, status, digest, body, position, partition, at, crc from outcome where n = ?').get(n) as
        | (StoredOutcome & { crc: number })
        | undefined
      if (row?.id !== id) continue
      const { crc, ...outcome } = row
      if (crc32(outcome.body) !== crc)
        throw new HeadraceError(
          'data-corrupt',
          `The outcome of ${id} in the journal is damaged (its checksum is wrong). Restore the data directory from a backup.`,
        )
      return outcome
    }
    return null
  }

  forget(id: string): void {
    for (const n of this.#index.find(id)) {
      const row = this.#store.run('select id, hash from outcome where n = ?').get(n) as { id: string; hash: number } | undefined
      if (row?.id !== id) continue
      this.#store.run('delete from outcome where n = ?').run(n)
      this.#store.removeFrom(this.#index, row.hash, n)
    }
  }

  /** Drops the oldest that are older than `olderThan`, or more than `keepMax`. */
  prune(olderThan: number, keepMax: number): number {
    const last = this.#next - keepMax
    const first = this.#store.run('select at from outcome where n >= ? order by n limit 1').get(this.#first) as { at: number } | undefined
    if (first === undefined || (first.at >= olderThan && this.#first >= last)) return 0
    const rows = this.#store.run('select n, hash, at from outcome where n >= ? order by n limit ?').all(this.#first, pruneRowsMax) as {
      n: number
      hash: number
      at: number
    }[]
    const kept = rows.findIndex((row) => row.at >= olderThan && row.n >= last)
    const old = kept === -1 ? rows : rows.slice(0, kept)
    const end = old.at(-1)?.n
    if (end === undefined) return 0
    this.#store.transaction(() => {
      this.#store.run('delete from outcome where n <= ?').run(end)
      for (const { n, hash } of old) this.#store.removeFrom(this.#index, hash, n)
    })
    this.#first = end + 1
    return old.length
  }
}
