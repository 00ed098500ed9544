/**
 * The guard in MySQL and MariaDB: a write under an old token is refused in the
 * same transaction, whatever its writer believes about its lock.
 *
 * The guard is the first statement of the transaction: it keeps the row of the
 * key until the end. It inserts first, since reading a row that is missing would
 * lock the gap, and two first writers would block each other. Then it reads
 * back: the count of changed rows says different things on different settings.
 *
 * The key is stored as bytes. A text column would take `a` and `A`, or `e` and
 * `é`, for one key under most collations.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import { FencedError, type Fenceable } from '../../contracts/lock.ts'

/** The part of a `mysql2/promise` connection that is used here. */
export interface MysqlFenceConnection {
  query(text: string, values?: unknown): Promise<[unknown, ...unknown[]]>
}

export interface MysqlFencePool<Connection extends MysqlFenceConnection> {
  getConnection(): Promise<Connection & { release(): void; destroy(): void }>
}

/** The table of the guard; run it once, in a migration. */
export const mysqlFenceSql =
  'CREATE TABLE IF NOT EXISTS headrace_fence (resource VARBINARY(512) NOT NULL PRIMARY KEY, token BIGINT NOT NULL) ENGINE=InnoDB'

const raise = 'INSERT INTO headrace_fence (resource, token) VALUES (?, ?) ON DUPLICATE KEY UPDATE token = GREATEST(token, VALUES(token))'
const read = 'SELECT token FROM headrace_fence WHERE resource = ? FOR UPDATE'
const tableMissing = 1146

/**
 * Refuses the transaction that `connection` is in when a token of the lease is
 * older than one that this database has seen. Call it first, before anything is
 * read, and after BEGIN: outside of a transaction it guards nothing.
 *
 * Throws `FencedError`: roll back, nothing may be written.
 */
export async function mysqlFence(connection: MysqlFenceConnection, lease: Fenceable): Promise<void> {
  try {
    for (const key of [...lease.tokens.keys()].sort()) {
      const token = lease.tokens.get(key) as number
      const resource = Buffer.from(key)
      await connection.query(raise, [resource, token])
      const [rows] = await connection.query(read, [resource])
      const highest = Number((rows as { token: number | string }[])[0]?.token)
      if (highest !== token) throw new FencedError(key, token, highest)
    }
  } catch (error) {
    if ((error as { errno?: number }).errno !== tableMissing) throw error
    throw new HeadraceError('sql-failed', 'The table headrace_fence is missing: run mysqlFenceSql once, in a migration.')
  }
}

/**
 * Runs `run` in a transaction that begins with the guard, and commits it.
 * Rolls back, and rejects with the error, when the guard or `run` throws.
 */
export async function mysqlFenced<T, Connection extends MysqlFenceConnection>(
  pool: MysqlFencePool<Connection>,
  lease: Fenceable,
  run: (connection: Connection) => Promise<T>,
): Promise<T> {
  const connection = await pool.getConnection()
  let broken = false
  try {
    await connection.query('START TRANSACTION')
    await mysqlFence(connection, lease)
    const result = await run(connection)
    await connection.query('COMMIT')
    return result
  } catch (error) {
    await connection.query('ROLLBACK').catch(() => {
      broken = true
    })
    throw error
  } finally {
    if (broken) connection.destroy()
    else connection.release()
  }
}
