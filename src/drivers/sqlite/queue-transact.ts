/**
 * Transactions on a SQLite file of the user's own, for handlers of a queue:
 * the verbs of contracts/database.ts, one transaction at a time.
 *
 * Not for a database of an app: there the journal decides (`engine.ts`).
 */
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import { checkWhole } from '../../contracts/bounds.ts'
import type { Database } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { Mutex } from '../../std/mutex.ts'
import { sqliteError } from './errors.ts'
import { writeHandle } from './handle.ts'
import { Verbs } from './verbs.ts'

export interface SqliteTransactionsOptions {
  /** Path of the file; it is made when it is missing, its folder is not. */
  readonly file: string
  /** SQL that makes the tables, run at the start: write it so that a second run changes nothing. */
  readonly schema?: string
  /** Longest wait for other processes that write, in milliseconds. Default: 5000. */
  readonly timeoutMs?: number
}

export interface SqliteTransactions {
  /** Runs one transaction and commits it with `synchronous=FULL`; rolls back when `run`, or a statement in it, fails. */
  transact<T>(run: (database: Database) => Promise<T>): Promise<T>
  close(): void
}

const busyMs = 5

/** Opens a file for transactions. Throws 'data-unreadable' and 'sql-failed'. */
export function sqliteTransactions({ file, schema, timeoutMs = 5_000 }: SqliteTransactionsOptions): SqliteTransactions {
  checkWhole('timeoutMs', timeoutMs, 10, 600_000)
  const turn = new Mutex()
  const database = open(file, schema)
  const verbs = new Verbs(file, database)

  const begin = async (): Promise<void> => {
    const deadline = performance.now() + timeoutMs
    for (let attempt = 0; ; attempt++) {
      try {
        database.exec('begin immediate')
        return
      } catch (error) {
        const ours = sqliteError(file, error)
        if (ours.code !== 'sql-busy' || performance.now() >= deadline) throw ours
        await pause(backoffMs(attempt, 1, 20))
      }
    }
  }

  return {
    async transact(run) {
      await turn.acquire()
      let over = false
      let failed: unknown = null
      try {
        await begin()
        const handle = writeHandle(async (verb) => {
          if (over) throw new HeadraceError('transaction-closed')
          try {
            return verbs.run(verb)
          } catch (error) {
            failed ??= error
            throw error
          }
        })
        const result = await run(handle)
        if (failed !== null) throw failed as Error
        database.exec('commit')
        return result
      } catch (error) {
        if (database.isOpen && database.isTransaction) database.exec('rollback')
        throw HeadraceError.is(error) || !isSqlite(error) ? error : sqliteError(file, error)
      } finally {
        over = true
        turn.release()
      }
    },
    close: () => database.close(),
  }
}

const isSqlite = (error: unknown): boolean => error instanceof Error && 'sqliteExtendedCode' in error

function open(file: string, schema: string | undefined): DatabaseSyncInstance {
  try {
    const database = new DatabaseSync(file)
    database.exec('pragma busy_timeout = 5000')
    database.exec('pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on')
    if (schema !== undefined) database.exec(schema)
    database.exec(`pragma busy_timeout = ${busyMs}`)
    return database
  } catch (error) {
    throw sqliteError(file, error)
  }
}
