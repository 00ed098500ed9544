/** `headrace/sqlite`: SQLite files as the databases of an app; locks and message queues between the processes of one machine; the fence guard. */
import type { DatabaseHandle } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'

export { sqliteFence, sqliteFenced, type SqliteFenceDatabase, sqliteFenceSql } from './fence.ts'
export { type SqliteLocksOptions, sqliteLocks } from './lock.ts'
export { type SqliteSagaLogOptions, sqliteSagaLog, sqliteSagaSql } from './saga-log.ts'
export { type SqliteQueueOptions, sqliteQueue } from './queue.ts'
export { type SqliteTransactions, type SqliteTransactionsOptions, sqliteTransactions } from './queue-transact.ts'

export interface SqliteOptions {
  /** Path of the file. Default: `<name>.sqlite` in the data directory of the app. */
  readonly file?: string
  /**
   * SQL that makes the tables, run at every start: write it so that a second
   * run changes nothing (`create table if not exists …`). Every table needs a
   * primary key.
   */
  readonly schema?: string
}

const namePattern = /^[a-z][a-z0-9_-]{0,31}$/

/** Names a SQLite database for an app; the file is opened when the app starts. Throws 'option-invalid' and 'option-unknown'. */
export function sqlite<const Name extends string>(name: Name, options: SqliteOptions = {}): DatabaseHandle<Name> {
  if (!namePattern.test(name) || name === 'journal') {
    throw new HeadraceError(
      'option-invalid',
      `The database name ${JSON.stringify(name)} is not valid: use 1 to 32 lower-case letters, digits, dashes or underscores, and not 'journal'.`,
    )
  }
  for (const [option, value] of Object.entries(options)) {
    if (option !== 'file' && option !== 'schema')
      throw new HeadraceError('option-unknown', `SQLite '${name}' has no option '${option}'. Known: file, schema.`)
    if (value !== undefined && (typeof value !== 'string' || value === ''))
      throw new HeadraceError('option-invalid', `The option '${option}' of SQLite '${name}' must be a text.`)
  }
  return Object.freeze({ kind: 'database', name, engine: 'sqlite', options: Object.freeze({ ...options }) })
}
