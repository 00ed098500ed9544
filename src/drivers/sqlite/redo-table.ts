/** What decided batches changed in each file, until that file has it on disk. */
import { crc32 } from 'node:zlib'
import { HeadraceError } from '../../contracts/errors.ts'
import type { JournalStore, Memory } from './store.ts'

export interface Redo {
  readonly batch: number
  readonly file: string
  readonly changes: Uint8Array
}

export interface FileRecord {
  readonly path: string
  /** The last batch of this file whose redo is gone: the file must have it. */
  readonly dropped: number
}

export class RedoTable implements Memory {
  readonly #store: JournalStore
  bytes: number

  constructor(store: JournalStore) {
    this.#store = store
    store.follow(this)
    this.bytes = this.#bytesKept()
  }

  remember(): () => void {
    const { bytes } = this
    return () => {
      this.bytes = bytes
    }
  }

  insert({ batch, file, changes }: Redo): void {
    this.#store.run('insert into redo (batch, file, changes, crc) values (?, ?, ?, ?)').run(batch, file, changes, crc32(changes))
    this.bytes += changes.length
  }

  /** The redo that a file with this marker lacks, in order of batch. Throws 'data-corrupt'. */
  after(file: string, marker: number): Redo[] {
    const rows = this.#store
      .run('select batch, file, changes, crc from redo where file = ? and batch > ? order by batch')
      .all(file, marker) as unknown as (Redo & { crc: number })[]
    for (const { batch, changes, crc } of rows) {
      if (crc32(changes) !== crc)
        throw new HeadraceError(
          'data-corrupt',
          `The redo of batch ${batch} for SQLite '${file}' in the journal is damaged (its checksum is wrong). Restore the data directory from a backup; nothing was changed.`,
        )
    }
    return rows
  }

  /** Forgets redo up to `batch`: every file has it on disk. */
  drop(batch: number): void {
    this.#store.transaction(() => {
      this.#store
        .run(
          'update file set dropped = max(dropped, coalesce((select max(batch) from redo where redo.file = file.name and redo.batch <= ?), 0))',
        )
        .run(batch)
      this.#store.run('delete from redo where batch <= ?').run(batch)
    })
    this.bytes = this.#bytesKept()
  }

  file(name: string): FileRecord | null {
    return (this.#store.run('select path, dropped from file where name = ?').get(name) as unknown as FileRecord | undefined) ?? null
  }

  registerFile(name: string, path: string, dropped: number): void {
    this.#store
      .run('insert into file (name, path, dropped) values (?, ?, ?) on conflict (name) do update set path = excluded.path')
      .run(name, path, dropped)
  }

  #bytesKept(): number {
    return (this.#store.run('select coalesce(sum(length(changes)), 0) as bytes from redo').get() as { bytes: number }).bytes
  }
}
