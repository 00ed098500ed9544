/** The verbs of a database in memory, over the session of a branch or over what is committed. */
import type { Database, ReadDatabase, Row, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { keyOf, keyPart, type MemoryStore, type Session, type StoredTable } from './participant-store.ts'

/** Stands in for SQL: gets the text with `?` for the values. */
export type MemorySql = (text: string, values: readonly SqlValue[], database: MemoryTables) => readonly Row[]

/** What the stand-in for SQL may use. `put` and `remove` are refused in reads. */
export interface MemoryTables {
  rows(table: string): Row[]
  put(table: string, row: Row): void
  remove(table: string, row: Row): void
}

/** Runs a verb inside a branch: `lock` resolves when the row is the branch's. */
export interface VerbRunner {
  run<T>(verb: (session: Session, lock: (table: string, key: string) => Promise<void>) => Promise<T>): Promise<T>
}

export function committedReader(store: MemoryStore, sql: MemorySql | undefined, arrive: () => Promise<void>): ReadDatabase {
  return {
    async sql(text, ...values) {
      await arrive()
      return runSql(sql, text, values, {
        rows: (table) => store.rows(table),
        put: refuseWrite,
        remove: refuseWrite,
      }) as never
    },
    async selectIn(table, column, values, options = {}) {
      await arrive()
      const wanted = new Set(values.map(keyPart))
      return store
        .rows(table)
        .filter((row) => wanted.has(keyPart(row[column])))
        .map((row) => pick(row, options.columns)) as never
    },
  }
}

export function branchDatabase(store: MemoryStore, sql: MemorySql | undefined, given: VerbRunner): Database {
  const runner: VerbRunner = {
    run: (verb) => {
      const running = given.run(verb)
      // A call may be left unawaited: its failure must not end the process, and counts all the same.
      running.catch(() => undefined)
      return running
    },
  }
  const names = (key: string | readonly string[]): readonly string[] => (typeof key === 'string' ? [key] : key)
  /** Changes the rows that `key` finds; `change` gives the new row, or null for none. */
  const change = (
    table: string,
    key: string | readonly string[],
    rows: readonly Row[],
    change: (old: Row | null, row: Row) => Row | null,
  ): Promise<number> =>
    runner.run(async (session, lock) => {
      const stored = store.table(table)
      const columns = names(key)
      let changed = 0
      for (const row of rows) {
        for (const old of await found(stored, table, columns, row, session, lock)) {
          const next = change(old, row)
          if (next === null) continue
          store.write(session, table, keyOf(stored.key, next), next)
          changed += 1
        }
      }
      return changed
    })
  const found = async (
    stored: StoredTable,
    table: string,
    columns: readonly string[],
    row: Row,
    session: Session,
    lock: (table: string, key: string) => Promise<void>,
  ): Promise<(Row | null)[]> => {
    if (stored.key.length === columns.length && stored.key.every((column) => columns.includes(column))) {
      const key = keyOf(stored.key, row)
      await lock(table, key)
      return [store.read(session, table, key)]
    }
    const hits = seen(store, session, table).filter((each) => columns.every((column) => keyPart(each[column]) === keyPart(row[column])))
    for (const each of hits) await lock(table, keyOf(stored.key, each))
    return hits.map((each) => store.read(session, table, keyOf(stored.key, each)))
  }

  return {
    sql: (text, ...values) =>
      runner.run(async (session) => {
        const stored = (table: string): StoredTable => store.table(table)
        return runSql(sql, text, values, {
          rows: (table) => seen(store, session, table),
          put: (table, row) => store.write(session, table, keyOf(stored(table).key, row), row),
          remove: (table, row) => store.write(session, table, keyOf(stored(table).key, row), null),
        }) as never
      }),
    selectIn: (table, column, values, options = {}) =>
      runner.run(async (session, lock) => {
        const { key } = store.table(table)
        const wanted = new Set(values.map(keyPart))
        const hits = seen(store, session, table).filter((row) => wanted.has(keyPart(row[column])))
        if (options.lock === false) return hits.map((row) => pick(row, options.columns)) as never
        // The branch must stay until the end: a locked read counts as a write.
        session.wrote = true
        const locked: Row[] = []
        for (const row of hits) {
          await lock(table, keyOf(key, row))
          const now = store.read(session, table, keyOf(key, row))
          if (now !== null) locked.push(pick(now, options.columns))
        }
        return locked as never
      }),
    insertMany: (table, rows, options = {}) =>
      runner.run(async (session, lock) => {
        const { key } = store.table(table)
        let inserted = 0
        for (const row of rows) {
          await lock(table, keyOf(key, row))
          if (store.read(session, table, keyOf(key, row)) === null) {
            store.write(session, table, keyOf(key, row), row)
            inserted += 1
          } else if (options.onConflict !== 'ignore') {
            throw new HeadraceError('sql-failed', `Table '${table}' of memory '${store.name}' has a row with this key.`)
          }
        }
        return inserted
      }),
    updateMany: (table, key, rows) => change(table, key, rows, (old, row) => (old === null ? null : { ...old, ...row })),
    addMany: (table, key, rows) => change(table, key, rows, (old, row) => (old === null ? null : added(old, row, names(key), null))),
    upsertMany: (table, key, rows, { add = [] } = {}) =>
      change(table, key, rows, (old, row) => (old === null ? row : added({ ...old, ...row, ...only(old, add) }, row, names(key), add))),
    deleteIn: (table, column, values) =>
      runner.run(async (session, lock) => {
        const { key } = store.table(table)
        const wanted = new Set(values.map(keyPart))
        session.wrote = true
        const hits = seen(store, session, table).filter((row) => wanted.has(keyPart(row[column])))
        for (const row of hits) {
          await lock(table, keyOf(key, row))
          store.write(session, table, keyOf(key, row), null)
        }
        return hits.length
      }),
  }
}

/** The rows as the session sees them. */
function seen(store: MemoryStore, session: Session, table: string): Row[] {
  const merged = new Map<string, Row | null>(store.table(table).rows)
  for (const [key, row] of session.overlay.get(table) ?? []) merged.set(key, row)
  return [...merged.values()].filter((row) => row !== null)
}

/** Adds the columns of `row` (all but the key, or those named) to those of `old`. */
function added(old: Row, row: Row, key: readonly string[], columns: readonly string[] | null): Row {
  const sums = Object.entries(row)
    .filter(([column]) => (columns === null ? !key.includes(column) : columns.includes(column)))
    .map(([column, value]) => [column, sum(old[column], value)])
  return { ...old, ...Object.fromEntries(sums) }
}

function sum(left: SqlValue | undefined, right: SqlValue): SqlValue {
  if (typeof left === 'bigint' || typeof right === 'bigint') return BigInt(left as number) + BigInt(right as number)
  return (left as number) + (right as number)
}

function only(row: Row, columns: readonly string[]): Row {
  return Object.fromEntries(columns.map((column) => [column, row[column] ?? null]))
}

function pick(row: Row, columns: readonly string[] | undefined): Row {
  return columns === undefined ? { ...row } : only(row, columns)
}

function runSql(sql: MemorySql | undefined, text: TemplateStringsArray, values: readonly SqlValue[], tables: MemoryTables): readonly Row[] {
  if (sql !== undefined) return sql(text.join('?'), values, tables)
  throw new HeadraceError('statement-refused', 'A database in memory has no SQL: use the verbs, or give it an sql function.')
}

function refuseWrite(): never {
  throw new HeadraceError('statement-refused', 'A read outside of a transaction cannot write.')
}
