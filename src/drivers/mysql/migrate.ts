/** Makes and upgrades the tables, on a connection of its own with an account that may. */
import type { Connection, ConnectionOptions, Pool } from 'mysql2/promise'
import { HeadraceError } from '../../contracts/errors.ts'
import type { MysqlDriver } from './driver.ts'
import { type ErrorContext, errno, type MysqlClientError, mysqlError } from './errors.ts'
import { schemaSql, tablesVersion } from './schema.ts'

/** How long a change of the schema waits for branches that use the table, in seconds. */
const schemaWaitS = 10
/** How long the whole migration may take, in milliseconds: a large table may be rebuilt. */
const migrationMs = 600_000

export function migrationText(schema: string | null): string {
  return schema === null ? `${schemaSql.trim()}\n` : `${schemaSql.trim()}\n\n${schema.trim()}\n`
}

export async function migrateDatabase(
  options: {
    readonly driver: MysqlDriver
    readonly branches: { readonly pool: Pool }
    readonly schema: string | null
    readonly connectTimeoutMs: number
  },
  context: ErrorContext,
): Promise<void> {
  let connection: Connection | null = null
  let timer: NodeJS.Timeout | undefined
  try {
    connection = await options.driver.createConnection(settingsOf(options.branches.pool, options.connectTimeoutMs))
    const opened = connection
    opened.on('error', () => undefined)
    timer = setTimeout(() => opened.destroy(), migrationMs)
    await opened.query(`set session lock_wait_timeout = ${schemaWaitS}`)
    const version = await versionOf(opened)
    if (version !== null && version > tablesVersion) {
      throw new HeadraceError(
        'tables-outdated',
        `The tables of MySQL '${context.name}' have version ${version}, and this Headrace knows ${tablesVersion}: use the newer Headrace. Nothing was changed.`,
      )
    }
    await opened.query(migrationText(options.schema))
  } catch (error) {
    throw mysqlError(error, context)
  } finally {
    clearTimeout(timer)
    connection?.destroy()
  }
}

async function versionOf(connection: Connection): Promise<number | null> {
  try {
    const [rows] = await connection.query("select value from headrace_meta where name = 'version'")
    const [row] = rows as { value: string }[]
    return row === undefined ? null : Number(row.value)
  } catch (error) {
    if ((error as MysqlClientError).errno === errno.noSuchTable) return null
    throw error
  }
}

/** The pool's own way to connect, and several statements in one call: a schema is a text of many. */
function settingsOf(pool: Pool, connectTimeout: number): ConnectionOptions {
  const { config } = pool.pool as unknown as { config: { connectionConfig: ConnectionOptions } }
  const { host, port, user, password, database, socketPath, ssl, localAddress } = config.connectionConfig
  const given = { host, port, user, password, database, socketPath, ssl, localAddress }
  return {
    ...(Object.fromEntries(Object.entries(given).filter(([, value]) => Boolean(value))) as ConnectionOptions),
    connectTimeout,
    multipleStatements: true,
  }
}
