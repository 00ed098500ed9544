/**
 * Opens a SQLite file with the settings that the protocol rests on.
 *
 * The journal commits with synchronous=FULL: its commit is the decision. The
 * databases of the app commit with NORMAL: the journal's redo makes good what
 * a power cut takes from them (see `recovery.ts`).
 */
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import { sqliteError } from './errors.ts'

export interface OpenOptions {
  readonly synchronous: 'full' | 'normal'
  readonly readOnly?: boolean
  readonly cacheKiB: number
}

/** How long a statement waits for a lock that another process holds, in milliseconds. The thread waits with it. */
const busyTimeoutMs = 250

export function openDatabase(name: string, path: string, options: OpenOptions): DatabaseSyncInstance {
  try {
    const database = new DatabaseSync(path, { readOnly: options.readOnly === true })
    database.exec(`pragma busy_timeout = ${busyTimeoutMs}`)
    if (options.readOnly !== true) {
      database.exec('pragma journal_mode = wal')
      database.exec(`pragma synchronous = ${options.synchronous}`)
      database.exec('pragma foreign_keys = on')
    }
    database.exec(`pragma cache_size = -${options.cacheKiB}`)
    return database
  } catch (error) {
    throw sqliteError(name, error)
  }
}
