/** What an app sees of a SQLite database inside a transaction or a query. */
import type { Database, ReadDatabase, Row, SqlValue } from '../../contracts/database.ts'
import type { Verb } from './verbs.ts'

type Run = (verb: Verb) => Promise<Row[] | number>

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
  return {
    sql: (text, ...values) => kept(run({ verb: 'sql', text: text.join('?'), values })) as Promise<never>,
    selectIn: (table, column, values, options = {}) =>
      values.length === 0 ? Promise.resolve([]) : (kept(run({ verb: 'selectIn', table, column, values, options })) as Promise<never>),
  }
}

export function writeHandle(run: Run): Database {
  const write = (rows: readonly unknown[], verb: Verb): Promise<number> =>
    rows.length === 0 ? Promise.resolve(0) : kept(run(verb) as Promise<number>)
  return {
    ...readHandle(run),
    insertMany: (table, rows, options = {}) => write(rows, { verb: 'insertMany', table, rows, options }),
    updateMany: (table, key, rows) => write(rows, { verb: 'updateMany', table, key: names(key), rows }),
    addMany: (table, key, rows) => write(rows, { verb: 'addMany', table, key: names(key), rows }),
    upsertMany: (table, key, rows, { add = [] } = {}) => write(rows, { verb: 'upsertMany', table, key: names(key), rows, add }),
    deleteIn: (table: string, column: string, values: readonly SqlValue[]) => write(values, { verb: 'deleteIn', table, column, values }),
  }
}
