/** The queue on disk: accepted commands that wait, and those that are parked behind a blocked key. */
import { crc32 } from 'node:zlib'
import { HeadraceError } from '../../contracts/errors.ts'
import type { BlockedKey, Entry, QueuedId, ReadOptions } from '../../contracts/ledger.ts'
import { hash53 } from '../../std/hash.ts'
import { HashIndex } from './hash-index.ts'
import type { JournalStore, Memory } from './store.ts'

type EntryRow = {
  readonly position: number
  readonly partition: number
  readonly key: string
  readonly id: string
  readonly hash: number
  readonly command: string
  readonly tenant: string
  readonly input: string
  readonly digest: string
  readonly accepted_at: number
  readonly attempts: number
  readonly parked: number
  readonly crc: number
}

export class EntryTable implements Memory {
  readonly #store: JournalStore
  readonly #index = new HashIndex()
  queued = 0
  queuedBytes = 0
  parked = 0

  /** Counts what waits, and makes the index of ids, in one pass that checks every checksum. Throws 'data-corrupt'. */
  constructor(store: JournalStore) {
    this.#store = store
    store.follow(this)
    this.#parkGivenBack()
    const rows = store.run('select position, hash, parked, input, crc from entry').iterate() as Iterable<
      Pick<EntryRow, 'position' | 'hash' | 'parked' | 'input' | 'crc'>
    >
    for (const row of rows) {
      check(row)
      this.#index.addHash(row.hash, row.position)
      this.queued += 1
      this.queuedBytes += row.input.length
      this.parked += row.parked
    }
  }

  remember(): () => void {
    const { queued, queuedBytes, parked } = this
    return () => {
      this.queued = queued
      this.queuedBytes = queuedBytes
      this.parked = parked
    }
  }

  insert(entries: readonly Entry[], parked: boolean): void {
    const rows = entries.map(({ position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts }) => {
      const hash = hash53(id)
      this.#store.addTo(this.#index, hash, position)
      this.queuedBytes += input.length
      return [position, partition, key, id, hash, command, tenant, input, digest, acceptedAt, attempts, parked ? 1 : 0, crc32(input)]
    })
    this.#store.insertRows(
      'insert into entry (position, partition, key, id, hash, command, tenant, input, digest, accepted_at, attempts, parked, crc)',
      rows,
    )
    this.queued += entries.length
    if (parked) this.parked += entries.length
  }

  delete({ position, id, input }: Entry): void {
    const row = this.#store.run('delete from entry where position = ? returning parked').get(position) as { parked: number } | undefined
    if (row === undefined) return
    this.#store.removeFrom(this.#index, hash53(id), position)
    this.queued -= 1
    this.queuedBytes -= input.length
    this.parked -= row.parked
  }

  read({ after, limit, bytesMax, lane, lanes }: ReadOptions): Entry[] {
    const rows = this.#store
      .run('select * from entry where position > ? and parked = 0 and partition % ? = ? order by position limit ?')
      .iterate(after, lanes, lane, limit) as Iterable<EntryRow>
    const entries: Entry[] = []
    let bytes = 0
    for (const row of rows) {
      bytes += row.input.length
      if (entries.length > 0 && bytes > bytesMax) break
      entries.push(entryOf(row))
    }
    return entries
  }

  find(id: string): QueuedId | null {
    for (const position of this.#index.find(id)) {
      const row = this.#store.run('select id, digest, position from entry where position = ?').get(position) as QueuedId | undefined
      if (row?.id === id) return { id, digest: row.digest, position: row.position }
    }
    return null
  }

  oldestAcceptedAt(): number | null {
    const oldest = this.#store.run('select accepted_at from entry order by position limit 1').get() as { accepted_at: number } | undefined
    return oldest?.accepted_at ?? null
  }

  /** Gives the first parked commands of a key back to the queue. */
  wake(key: string, limit: number): { readonly entries: Entry[]; readonly more: boolean } {
    const rows = this.#store
      .run('select * from entry where parked = 1 and key = ? order by position limit ?')
      .all(key, limit + 1) as EntryRow[]
    const more = rows.length > limit
    const taken = more ? rows.slice(0, limit) : rows
    const wake = this.#store.run('update entry set parked = 0 where position = ?')
    for (const row of taken) wake.run(row.position)
    this.parked -= taken.length
    return { entries: taken.map(entryOf), more }
  }

  block(key: string, partition: number, retryAt: number | null): void {
    this.#store
      .run('insert into blocked (key, partition, retry_at) values (?, ?, ?) on conflict (key) do update set retry_at = excluded.retry_at')
      .run(key, partition, retryAt)
  }

  unblock(key: string): void {
    this.#store.run('delete from blocked where key = ?').run(key)
  }

  blockedKeys(): BlockedKey[] {
    // A key that was draining has parked commands and no row of its own: its time has come.
    const rows = this.#store
      .run(
        `select key, partition, retry_at, (select count(*) from entry where parked = 1 and entry.key = blocked.key) as parked from blocked
         union all
         select key, partition, 0, count(*) from entry where parked = 1 and key not in (select key from blocked) group by key, partition
         order by key`,
      )
      .all() as { key: string; partition: number; retry_at: number | null; parked: number }[]
    return rows.map(({ key, partition, retry_at, parked }) => ({ key, partition, retryAt: retry_at, parked }))
  }

  /** Commands that were given back to their key and not done go behind it again: the rest of the key would pass them, woken before the queue is read up to there. */
  #parkGivenBack(): void {
    if (this.#store.run('select 1 from entry where parked = 1 limit 1').get() === undefined) return
    this.#store
      .run(
        'update entry set parked = 1 where parked = 0 and exists (select 1 from entry as later where later.parked = 1 and later.key = entry.key and later.position > entry.position)',
      )
      .run()
  }
}

function check({ position, input, crc }: Pick<EntryRow, 'position' | 'input' | 'crc'>): void {
  if (crc32(input) === crc) return
  throw new HeadraceError(
    'data-corrupt',
    `The queued command at position ${position} of the journal is damaged (its checksum is wrong). Restore the data directory from a backup; nothing was changed.`,
  )
}

function entryOf(row: EntryRow): Entry {
  check(row)
  const { position, partition, key, id, command, tenant, input, digest, accepted_at: acceptedAt, attempts } = row
  return { position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts, queued: true }
}
