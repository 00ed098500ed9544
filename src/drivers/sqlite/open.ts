/**
 * Opens a SQLite file with the settings that the protocol rests on.
 *
 * The journal commits with synchronous=FULL: its commit is the decision. The
 * databases of the app commit with NORMAL: the journal's redo makes good what
 * a power cut takes from them (see `recovery.ts`). A file that a coordinator
 * uses has no journal beside it, and commits with FULL.
 */
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import { sqliteError } from './errors.ts'

export interface OpenOptions {
  readonly synchronous: 'full' | 'normal'
  readonly readOnly?: boolean
  readonly cacheKiB: number
  /** How long a statement waits for a lock that another process holds, in milliseconds. The thread waits with it. Default: 250. */
  readonly busyTimeoutMs?: number
}

export function openDatabase(name: string, path: string, options: OpenOptions): DatabaseSyncInstance {
  const { busyTimeoutMs = 250 } = options
  let database: DatabaseSyncInstance | null = null
  try {
    database = new DatabaseSync(path, { readOnly: options.readOnly === true })
    database.exec(`pragma busy_timeout = ${busyTimeoutMs}`)
    if (options.readOnly !== true) {
      database.exec('pragma journal_mode = wal')
      database.exec(`pragma synchronous = ${options.synchronous}`)
      database.exec('pragma foreign_keys = on')
    }
    database.exec(`pragma cache_size = -${options.cacheKiB}`)
    return database
  } catch (error) {
    database?.close()
    throw sqliteError(name, error)
  }
}
