/**
 * One PostgreSQL and one MariaDB for all contenders, each of which gets databases
 * of its own on them.
 *
 * Both wait for the disk at every commit. Their files are in the temporary
 * folder: where that is kept in memory, set TMPDIR to a folder on a disk, or the
 * figures mean nothing.
 */
import { createConnection } from 'mysql2/promise'
import pg from 'pg'
import { type Server, startMariadb, startPostgres } from 'headrace/testing/servers'

export interface Urls {
  readonly stock: string
  readonly wallet: string
}

/** Rows of each table; every caller has rows of its own, so that no transaction waits for another. */
export const accounts = 10_000

export const schema = `create table if not exists account (id integer primary key, balance bigint not null);
create table if not exists entry (id varchar(60) primary key, account integer not null, amount bigint not null);`

export interface Servers {
  /** New databases, with the tables and their rows. */
  enter(name: string): Promise<Urls>
  leave(): Promise<void>
}

export function sharedServers(): Servers {
  let users = 0
  let running: Promise<readonly [Server, Server]> | null = null
  return {
    async enter(name) {
      users += 1
      running ??= Promise.all([startPostgres({ maxPreparedTransactions: 200, maxConnections: 300 }), startMariadb()])
      const [postgres, mariadb] = await running
      const urls = { stock: await newPostgres(postgres.url, name), wallet: await newMariadb(mariadb.url, name) }
      return urls
    },
    async leave() {
      users -= 1
      if (users > 0 || running === null) return
      const servers = await running
      running = null
      await Promise.all(servers.map((server) => server.stop()))
    },
  }
}

async function newPostgres(url: string, name: string): Promise<string> {
  const database = url.replace(/[^/]+$/, name)
  await withPostgres(url, `create database ${name}`)
  await withPostgres(database, `${schema} insert into account select number, 1000000 from generate_series(0, ${accounts - 1}) as number`)
  return database
}

async function withPostgres(url: string, text: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  await client.query(text)
  await client.end()
}

async function newMariadb(url: string, name: string): Promise<string> {
  const connection = await createConnection({ uri: url, multipleStatements: true })
  const rows = Array.from({ length: accounts }, (_, id) => `(${id}, 1000000)`).join(', ')
  await connection.query(`create database ${name}; use ${name}; ${schema} insert into account values ${rows}`)
  await connection.end()
  return url.replace(/[^/]+$/, name)
}
