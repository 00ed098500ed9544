/** Private servers for the bench, their tables filled: PostgreSQL for the shop, MariaDB for the bank, each with an empty database for each contender. */
import { createConnection } from 'mysql2/promise'
import pg from 'pg'
import { mysql } from 'headrace/mysql'
import { postgres } from 'headrace/postgres'
import { type Server, startMariadb, startPostgres } from 'headrace/testing/servers'
import { bankSchema, buyerOf, buyers, plenty, shopSchema } from './shop.ts'

export interface Places {
  readonly shopUrl: string
  /** The same as `shopUrl` when the wallets are beside the stock. */
  readonly bankUrl: string
}

let users = 0
let running: Promise<{ readonly postgres: Server; readonly mariadb: Server }> | null = null
let databases = 0

/** Servers are shared by all contenders, and stopped with the last of them. */
export async function enter(): Promise<void> {
  users += 1
  running ??= (async () => {
    const [postgresServer, mariadbServer] = await Promise.all([
      startPostgres({ args: ['-c', 'shared_buffers=128MB'] }),
      startMariadb({ settings: { innodb_buffer_pool_size: 134_217_728 } }),
    ])
    return { postgres: postgresServer, mariadb: mariadbServer }
  })()
  await running
}

export async function leave(): Promise<void> {
  users -= 1
  if (users > 0 || running === null) return
  const servers = await running
  running = null
  await Promise.all([servers.postgres.stop(), servers.mariadb.stop()])
}

/** New databases with these SKUs and all wallets. `across`: the wallets are in MariaDB. */
export async function place(skus: readonly string[], across: boolean): Promise<Places> {
  const servers = await (running as NonNullable<typeof running>)
  const name = `bench_${databases++}`
  const admin = new pg.Client({ connectionString: servers.postgres.url })
  await admin.connect()
  await admin.query(`create database ${name}`)
  await admin.end()
  const shopUrl = servers.postgres.url.replace(/[^/]+$/, name)
  const shop = await postgres('shop', {
    url: shopUrl,
    schema: `${shopSchema('bigint generated always as identity primary key')}; ${bankSchema}`,
  }).connect()
  await shop.migrate()
  await shop.close()
  const client = new pg.Client({ connectionString: shopUrl })
  await client.connect()
  await client.query('insert into stock select sku, $2 from unnest($1::text[]) as sku', [skus, plenty])
  const owners = Array.from({ length: buyers }, (_, index) => buyerOf(index))
  await client.query('insert into wallet select buyer, $2 from unnest($1::text[]) as buyer', [owners, plenty])
  await client.query('vacuum analyze')
  await client.end()
  if (!across) return { shopUrl, bankUrl: shopUrl }
  const root = await createConnection(servers.mariadb.url)
  await root.query(`create database ${name} character set utf8mb4`)
  await root.end()
  const bankUrl = servers.mariadb.url.replace(/[^/]+$/, name)
  const bank = await mysql('bank', { url: bankUrl, schema: bankSchema }).connect()
  await bank.migrate()
  await bank.close()
  const filler = await createConnection(bankUrl)
  await filler.query('insert into wallet (buyer, balance) values ?', [owners.map((buyer) => [buyer, plenty])])
  await filler.end()
  return { shopUrl, bankUrl }
}
