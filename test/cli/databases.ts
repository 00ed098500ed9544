/** An app on PostgreSQL and MariaDB, and SQL past Headrace, for the tests of commands that work on databases on servers. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createConnection } from 'mysql2/promise'
import { Client } from 'pg'
import type { Server } from '../../src/testing/servers/index.ts'

/** Two databases on servers, and one in a file. Their urls come from the environment. */
export const appText = `
  import { accept, command, defineApp } from 'headrace'
  import { mysql } from 'headrace/mysql'
  import { postgres } from 'headrace/postgres'
  import { sqlite } from 'headrace/sqlite'
  const any = { '~standard': { version: 1, vendor: 'test', validate: (value: unknown) => ({ value: value as any }) } } as const
  const schema = \`create table if not exists account (name varchar(40) primary key, balance bigint not null);
    create table if not exists entry (id varchar(40) primary key, amount bigint not null)\`
  const stock = postgres('stock', { url: process.env.STOCK_URL!, schema, connectTimeoutMs: 2_000 })
  const wallet = mysql('wallet', { url: process.env.WALLET_URL!, schema, connectTimeoutMs: 2_000 })
  const log = sqlite('log', { schema: 'create table if not exists log (id text primary key not null)' })
  const move = command('move', {
    input: any, key: () => 'k', databases: { stock, wallet, log },
    async run({ id, databases }) {
      await databases.stock.insertMany('entry', [{ id, amount: -1 }])
      await databases.wallet.insertMany('entry', [{ id, amount: 1 }])
      await databases.log.insertMany('log', [{ id }])
      return accept()
    },
  })
  export default defineApp({ name: 'moves', commands: [move] })`

export async function onPostgres(url: string, ...statements: readonly string[]): Promise<Record<string, unknown>[]> {
  const client = new Client({ connectionString: url })
  await client.connect()
  try {
    let rows: Record<string, unknown>[] = []
    for (const statement of statements) rows = (await client.query<Record<string, unknown>>(statement)).rows ?? []
    return rows
  } finally {
    await client.end()
  }
}

export async function onMysql(url: string, ...statements: readonly string[]): Promise<Record<string, unknown>[]> {
  const connection = await createConnection({ uri: url, multipleStatements: true })
  try {
    let rows: unknown = []
    for (const statement of statements) [rows] = await connection.query(statement)
    return Array.isArray(rows) ? (rows as Record<string, unknown>[]) : []
  } finally {
    await connection.end()
  }
}

/** The url with another account. */
export function as(url: string, user: string, password: string): string {
  const other = new URL(url)
  other.username = user
  other.password = password
  return other.href
}

/** Makes PostgreSQL, which trusts everybody in tests, ask this account for its password. */
export async function askPassword(server: Server, user: string): Promise<void> {
  const file = join(server.directory, 'pg_hba.conf')
  const rules = readFileSync(file, 'utf8')
  writeFileSync(file, `host all ${user} 127.0.0.1/32 scram-sha-256\n`)
  appendFileSync(file, rules)
  await onPostgres(server.url, 'select pg_reload_conf()')
}

/** Does one transfer between 'stock' and 'wallet' in a process that is killed at a point of its transaction. */
export async function killedAt(point: string, number: number, urls: { readonly stock: string; readonly wallet: string }): Promise<void> {
  const work = {
    mode: 'work',
    from: number,
    transfers: 1,
    databases: [
      { name: 'stock', engine: 'postgres', url: urls.stock },
      { name: 'wallet', engine: 'mysql', url: urls.wallet },
    ],
  }
  const worker = fileURLToPath(new URL('../transaction/worker.mjs', import.meta.url))
  const child = spawn(process.execPath, [worker, JSON.stringify(work)], {
    env: { ...process.env, HEADRACE_CRASH_POINT: `${point}:1` },
    stdio: ['ignore', 'ignore', 'inherit'],
  })
  const [, signal] = (await once(child, 'exit')) as [number | null, string | null]
  if (signal !== 'SIGKILL') throw new Error(`the worker was not killed at ${point}`)
}
