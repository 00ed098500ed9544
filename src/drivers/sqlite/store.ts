/**
 * The file of the journal: its statements, its settings and its transactions.
 *
 * The tables of the journal keep counts and indexes in memory. These follow
 * the file: a transaction that fails puts them back as they were (`Memory`).
 */
import type { DatabaseSyncInstance, StatementSyncInstance } from '@photostructure/sqlite'
import { HeadraceError } from '../../contracts/errors.ts'
import { sqliteError } from './errors.ts'
import type { HashIndex } from './hash-index.ts'
import { openDatabase } from './open.ts'

/** What a table keeps in memory beside its rows. */
export interface Memory {
  /** Returns the way back to what is in memory now. */
  remember(): () => void
}

const cacheKiB = 64 * 1024
/** Rows of one insert; what is left goes by the next smaller size. */
const insertSizes = [32, 8, 1]
/** Pages of the write-ahead log after which SQLite moves it into the file; 16 MiB, so that commits seldom pay for it. */
const checkpointPages = 4096

export class JournalStore {
  readonly database: DatabaseSyncInstance
  readonly #statements = new Map<string, StatementSyncInstance>()
  readonly #memories: Memory[] = []
  #epoch: number | null = null
  /** What the open transaction did to the indexes. */
  #indexed: { readonly index: HashIndex; readonly hash: number; readonly row: number; readonly added: boolean }[] = []

  /** Throws 'data-corrupt' when the pages of the file do not hold together. */
  constructor(path: string) {
    this.database = openDatabase('journal', path, { synchronous: 'full', cacheKiB })
    try {
      this.database.exec(`pragma wal_autocheckpoint = ${checkpointPages}`)
      const rows = this.database.prepare('pragma quick_check(1)').all() as { quick_check: string }[]
      const finding = rows[0]?.quick_check
      if (finding !== 'ok')
        throw new HeadraceError(
          'data-corrupt',
          `The journal ${path} is damaged: ${finding}. Restore the data directory from a backup; nothing was changed.`,
        )
    } catch (error) {
      this.database.close()
      throw sqliteError('journal', error)
    }
  }

  /** From now on every transaction is refused when the journal is under another epoch. */
  fence(epoch: number): void {
    this.#epoch = epoch
  }

  follow(memory: Memory): void {
    this.#memories.push(memory)
  }

  /** Prepared once per text; the texts of the journal are few. */
  run(text: string): StatementSyncInstance {
    const known = this.#statements.get(text)
    if (known !== undefined) return known
    const statement = this.database.prepare(text)
    this.#statements.set(text, statement)
    return statement
  }

  /**
   * Inserts rows, 32 in a statement: the run of a statement costs as much as a
   * row. `head` is the statement up to `values`; each row gives its parameters.
   */
  insertRows(head: string, rows: readonly (readonly (string | number)[])[]): void {
    let next = 0
    for (const count of insertSizes) {
      if (rows.length - next < count) continue
      const width = rows[0]?.length ?? 0
      const insert = this.run(
        `${head} values ${Array(count)
          .fill(`(${Array(width).fill('?').join(', ')})`)
          .join(', ')}`,
      )
      for (; rows.length - next >= count; next += count) insert.run(...rows.slice(next, next + count).flat())
    }
  }

  meta(name: string): unknown {
    return (this.run('select value from meta where name = ?').get(name) as { value: unknown } | undefined)?.value
  }

  setMeta(name: string, value: string | number): void {
    this.run('insert into meta (name, value) values (?, ?) on conflict (name) do update set value = excluded.value').run(name, value)
  }

  addTo(index: HashIndex, hash: number, row: number): void {
    index.addHash(hash, row)
    this.#indexed.push({ index, hash, row, added: true })
  }

  removeFrom(index: HashIndex, hash: number, row: number): void {
    index.remove(hash, row)
    this.#indexed.push({ index, hash, row, added: false })
  }

  /**
   * Runs `action` in one commit, which is on disk when this returns; or nothing
   * of it is true, in the file and in memory. Throws 'fenced' under an older epoch.
   */
  transaction<T>(action: () => T): T {
    const backs = this.#memories.map((memory) => memory.remember())
    this.#indexed = []
    try {
      this.run('begin immediate').run()
      this.#refuseOlder()
      const result = action()
      this.run('commit').run()
      return result
    } catch (error) {
      if (this.database.isTransaction) this.database.exec('rollback')
      for (const back of backs) back()
      for (const { index, hash, row, added } of this.#indexed.reverse()) {
        if (added) index.remove(hash, row)
        else index.addHash(hash, row)
      }
      const known = sqliteError('journal', error)
      // The statements of the journal are its own: one that fails is never a caller's fault.
      throw known.code === 'sql-failed' ? new HeadraceError('storage-failed', known.message, { cause: error }) : known
    }
  }

  #refuseOlder(): void {
    if (this.#epoch === null) return
    const now = Number(this.meta('epoch'))
    if (now !== this.#epoch) {
      throw new HeadraceError(
        'fenced',
        `Another owner has taken the journal under epoch ${now}; this node has epoch ${this.#epoch}, and must stop.`,
      )
    }
  }
}
