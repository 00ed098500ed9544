/** What an app sees of a SQLite database inside a transaction or a query. */
import type { Database, ReadDatabase, SqlValue } from '../../contracts/database.ts'
import { type RowSet, rowSetOf, rowsIn } from './rows.ts'
import type { Verb } from './verbs.ts'

type Run = (verb: Verb) => Promise<RowSet | number>

const names = (key: string | readonly string[]): readonly string[] => (typeof key === 'string' ? [key] : key)

/**
 * A handler may leave a call unawaited: its failure must not end the process.
 * The engine holds the commit to it all the same.
 */
function kept<T>(running: Promise<T>): Promise<T> {
  running.catch(() => undefined)
  return running
}

export function readHandle(run: Run): ReadDatabase {
  const read = async (verb: Verb): Promise<never> => rowsIn((await run(verb)) as RowSet) as never
  return {
    sql: (text, ...values) => kept(read({ verb: 'sql', text: text.join('?'), values })),
    selectIn: (table, column, values, options = {}) =>
      values.length === 0 ? Promise.resolve([]) : kept(read({ verb: 'selectIn', table, column, values, options })),
  }
}

export function writeHandle(run: Run): Database {
  const write = (rows: readonly unknown[], verb: Verb): Promise<number> =>
    rows.length === 0 ? Promise.resolve(0) : kept(run(verb) as Promise<number>)
  return {
    ...readHandle(run),
    insertMany: (table, rows, options = {}) => write(rows, { verb: 'insertMany', table, rows: rowSetOf(rows), options }),
    updateMany: (table, key, rows) => write(rows, { verb: 'updateMany', table, key: names(key), rows: rowSetOf(rows) }),
    addMany: (table, key, rows) => write(rows, { verb: 'addMany', table, key: names(key), rows: rowSetOf(rows) }),
    upsertMany: (table, key, rows, { add = [] } = {}) =>
      write(rows, { verb: 'upsertMany', table, key: names(key), rows: rowSetOf(rows), add }),
    deleteIn: (table: string, column: string, values: readonly SqlValue[]) => write(values, { verb: 'deleteIn', table, column, values }),
  }
}
