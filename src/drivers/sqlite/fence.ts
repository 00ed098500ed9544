/**
 * The guard in SQLite: a write under an old token is refused in the same
 * transaction, whatever its writer believes about its lock.
 *
 * Works with any synchronous client of the usual form: `node:sqlite`,
 * `@photostructure/sqlite`, `better-sqlite3`.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import { FencedError, type Fenceable } from '../../contracts/lock.ts'

/** The part of a synchronous SQLite client that is used here. */
export interface SqliteFenceDatabase {
  exec(text: string): unknown
  prepare(text: string): {
    run(...values: (string | number)[]): { readonly changes: number | bigint }
    get(...values: (string | number)[]): unknown
  }
  /** `node:sqlite` and `@photostructure/sqlite`. */
  readonly isTransaction?: boolean
  /** `better-sqlite3`. */
  readonly inTransaction?: boolean
}

/** The table of the guard; run it once. */
export const sqliteFenceSql =
  'create table if not exists headrace_fence (resource text primary key, token integer not null) strict, without rowid'

const raise =
  'insert into headrace_fence (resource, token) values (?, ?) on conflict (resource) do update set token = excluded.token where headrace_fence.token <= excluded.token'
const read = 'select token from headrace_fence where resource = ?'

/**
 * Refuses the transaction that is open when a token of the lease is older than
 * one that this file has seen. Call it first, before anything is read.
 *
 * Throws `FencedError`: roll back, nothing may be written.
 */
export function sqliteFence(database: SqliteFenceDatabase, lease: Fenceable): void {
  if (database.isTransaction === false || database.inTransaction === false)
    throw new HeadraceError('sql-failed', 'The guard must run inside a transaction: begin one first.')
  try {
    for (const [key, token] of lease.tokens) {
      if (Number(database.prepare(raise).run(key, token).changes) === 1) continue
      const seen = database.prepare(read).get(key) as { token: number } | undefined
      throw new FencedError(key, token, seen?.token)
    }
  } catch (error) {
    if (!/no such table: (main\.)?headrace_fence/.test((error as Error).message)) throw error
    throw new HeadraceError('sql-failed', 'The table headrace_fence is missing: run sqliteFenceSql once.')
  }
}

/**
 * Runs `run` in a transaction that begins with the guard, and commits it.
 * Rolls back, and throws the error, when the guard or `run` throws.
 */
export function sqliteFenced<T, Database extends SqliteFenceDatabase>(
  database: Database,
  lease: Fenceable,
  run: (database: Database) => T,
): T {
  database.exec('begin immediate')
  try {
    sqliteFence(database, lease)
    const result = run(database)
    if (result instanceof Promise)
      throw new HeadraceError(
        'sql-failed',
        'What runs under the guard of SQLite must not be asynchronous: the transaction would end before it.',
      )
    database.exec('commit')
    return result
  } catch (error) {
    database.exec('rollback')
    throw error
  }
}
