/** What an app sees of the database inside a branch, and outside of one. */
import type { Database, ReadDatabase, Row, SqlValue } from '../../contracts/database.ts'
import type { Verb } from './verbs.ts'

type Run = (verb: Verb) => Promise<Row[] | number>

const names = (key: string | readonly string[]): readonly string[] => (typeof key === 'string' ? [key] : key)

/** A handler may leave a call unawaited: its failure must not end the process. The branch is held to it all the same. */
function kept<T>(running: Promise<T>): Promise<T> {
  running.catch(() => undefined)
  return running
}

export function readDatabase(run: Run, lockByDefault: boolean): ReadDatabase {
  return {
    sql: (text, ...values) => kept(run({ verb: 'sql', parts: text, values })) as Promise<never>,
    selectIn: (table, column, values, options = {}) =>
      values.length === 0
        ? Promise.resolve([])
        : (kept(run({ verb: 'selectIn', table, column, values, options: { lock: lockByDefault, ...options } })) as Promise<never>),
  }
}

export function writeDatabase(run: Run): Database {
  const write = (rows: readonly unknown[], verb: Verb): Promise<number> =>
    rows.length === 0 ? Promise.resolve(0) : kept(run(verb) as Promise<number>)
  return {
    ...readDatabase(run, true),
    insertMany: (table, rows, options = {}) => write(rows, { verb: 'insertMany', table, rows, options }),
    updateMany: (table, key, rows) => write(rows, { verb: 'updateMany', table, key: names(key), rows }),
    addMany: (table, key, rows) => write(rows, { verb: 'addMany', table, key: names(key), rows }),
    upsertMany: (table, key, rows, { add = [] } = {}) => write(rows, { verb: 'upsertMany', table, key: names(key), rows, add }),
    deleteIn: (table: string, column: string, values: readonly SqlValue[]) => write(values, { verb: 'deleteIn', table, column, values }),
  }
}
