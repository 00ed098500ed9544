/**
 * Where the databases of the sale are: SQLite files, unless an environment
 * variable names a server. STOCK_URL=postgres://… moves the stock there, and
 * nothing in the commands changes.
 */
import type { DatabaseHandle } from 'headrace'
import { sqlite } from 'headrace/sqlite'

/** What differs between the engines in this app: a column that counts up, and how texts compare. */
interface Dialect {
  /** A primary key that counts the rows up as they are written. */
  readonly counter: string
  /** Behind the last column: MySQL would take 'Ann' and 'ann' for one key otherwise. */
  readonly exactly: string
}

const dialects = {
  sqlite: { counter: 'integer primary key', exactly: '' },
  postgres: { counter: 'bigint generated always as identity primary key', exactly: '' },
  mysql: { counter: 'bigint auto_increment primary key', exactly: ' collate utf8mb4_bin' },
} satisfies Record<string, Dialect>

export async function databaseOf<const Name extends string>(
  name: Name,
  schema: (dialect: Dialect) => string,
): Promise<DatabaseHandle<Name>> {
  const url = process.env[`${name.toUpperCase()}_URL`]
  if (url === undefined || url === '') return sqlite(name, { schema: schema(dialects.sqlite) })
  // Loaded only when it is used: the client library of an engine is the app's own dependency.
  if (url.startsWith('postgres')) return (await import('headrace/postgres')).postgres(name, { url, schema: schema(dialects.postgres) })
  return (await import('headrace/mysql')).mysql(name, { url, schema: schema(dialects.mysql) })
}
