/**
 * The little world of the crash tests on servers: new databases for each story,
 * and what must not be left in them when it is over. Read with the clients of
 * the engines; Headrace only makes its tables.
 */
import { createConnection } from 'mysql2/promise'
import pg from 'pg'
import type { ParticipantHandle } from '../../src/contracts/participant.ts'
import { mysql } from '../../src/drivers/mysql/index.ts'
import { postgres } from '../../src/drivers/postgres/index.ts'
import { deploymentOf } from '../../src/pipeline/take-over.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../../src/testing/servers/index.ts'
import { parseGid } from '../../src/transaction/index.ts'
import { type DatabaseName, databaseNames, type Places, world } from './world.ts'

export type Engine = 'postgres' | 'mariadb'

/** Where each database is; those that are not named are files. Those of one engine are one database when `shared`. */
export interface DatabaseSet {
  readonly of: Readonly<Partial<Record<DatabaseName, Engine>>>
  readonly shared?: boolean
}

export type Servers = Readonly<Record<Engine, Server>>

export const serversMissing = serverMissing('postgres') ?? serverMissing('mariadb')

/** Connections for many stories at once. */
const connectionsMax = 400
const preparedMax = 200

export async function startServers(): Promise<Servers> {
  const [one, other] = await Promise.all([
    startPostgres({ maxConnections: connectionsMax, maxPreparedTransactions: preparedMax }),
    startMariadb({ settings: { max_connections: connectionsMax } }),
  ])
  return { postgres: one, mariadb: other }
}

export async function stopServers(servers: Servers | undefined): Promise<void> {
  await Promise.all(Object.values(servers ?? {}).map((server: Server) => server.stop()))
}

/** How long a client of the tests waits for a connection, in milliseconds. */
const connectMsMax = 5_000

/** Runs one statement with the client of the engine. */
export async function readServer<Row>(url: string, sql: string): Promise<Row[]> {
  if (url.startsWith('postgres:')) {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: connectMsMax })
    // Its server may be killed under it.
    client.on('error', () => undefined)
    await client.connect()
    try {
      return (await client.query(sql)).rows as Row[]
    } finally {
      await client.end()
    }
  }
  const client = await createConnection({ uri: url, connectTimeout: connectMsMax })
  client.on('error', () => undefined)
  try {
    return (await client.query(sql))[0] as Row[]
  } finally {
    client.destroy()
  }
}

let number = 0

/** New databases with their tables and their first rows. */
export async function newPlaces(servers: Servers, { of, shared = false }: DatabaseSet): Promise<Places> {
  const story = `story_${process.pid}_${number++}`
  const places: Partial<Record<DatabaseName, string>> = {}
  const made = new Set<string>()
  for (const [name, engine] of Object.entries(of) as [DatabaseName, Engine][]) {
    const { url } = servers[engine]
    const database = shared ? story : `${story}_${name}`
    places[name] = url.replace(/[^/]+$/, database)
    if (!made.has(places[name])) await readServer(url, `create database ${database}${engine === 'mariadb' ? ' character set utf8mb4' : ''}`)
    made.add(places[name])
    const participant = await handleOf(name, places[name], true).connect()
    try {
      await participant.migrate()
    } finally {
      await participant.close()
    }
  }
  return places
}

/** A handle as the app of child.mjs has it; with the schema of its tables when it is to make them. */
function handleOf(name: DatabaseName, url: string, make: boolean): ParticipantHandle {
  const engine: Engine = url.startsWith('postgres:') ? 'postgres' : 'mariadb'
  const options = { url, ...(make ? { schema: schemas[name][engine] } : {}) }
  return engine === 'postgres' ? postgres(name, options) : mysql(name, options)
}

const text = 'varchar(60) collate utf8mb4_bin'
const rowsOf = (table: string, names: readonly string[], value: number): string =>
  `insert into ${table} values ${names.map((name) => `('${name}', ${value})`).join(', ')};`

/** As in child.mjs, in the words of each engine. */
const schemas: Readonly<Record<DatabaseName, Readonly<Record<Engine, string>>>> = {
  stock: {
    postgres: `
      create table stock (sku text primary key, units integer not null);
      create table movement (sku text primary key, units integer not null);
      ${rowsOf('stock', world.skus, world.unitsPerSku)} ${rowsOf('movement', world.skus, 0)}
      create function moved() returns trigger language plpgsql as $moved$
        begin
          update movement set units = units + old.units - new.units where sku = new.sku;
          return new;
        end $moved$;
      create trigger moved after update of units on stock for each row execute function moved();`,
    mariadb: `
      create table stock (sku ${text} primary key, units integer not null);
      create table movement (sku ${text} primary key, units integer not null);
      ${rowsOf('stock', world.skus, world.unitsPerSku)} ${rowsOf('movement', world.skus, 0)}
      create trigger moved after update on stock for each row
        update movement set units = units + old.units - new.units where sku = new.sku;`,
  },
  orders: {
    postgres: `create table effect (
      seq integer generated always as identity primary key, position integer not null, id text not null, command text not null, key text not null,
      sender text not null, number integer not null, sku text, buyer text not null, units integer not null, money integer not null);`,
    mariadb: `create table effect (
      seq integer auto_increment primary key, position integer not null, id ${text} not null, command ${text} not null, \`key\` ${text} not null,
      sender ${text} not null, number integer not null, sku ${text}, buyer ${text} not null, units integer not null, money integer not null);`,
  },
  wallet: {
    postgres: `create table wallet (buyer text primary key, balance integer not null); ${rowsOf('wallet', world.buyers, world.balancePerBuyer)}`,
    mariadb: `create table wallet (buyer ${text} primary key, balance integer not null); ${rowsOf('wallet', world.buyers, world.balancePerBuyer)}`,
  },
}

type ReadJournal = <Row>(sql: string) => Row[]

/** What Headrace calls itself in the gids of this journal. */
export function deploymentIn(readJournal: ReadJournal): string {
  const [row] = readJournal<{ value: string }>("select value from meta where name = 'deployment'")
  return deploymentOf(String(row?.value))
}

/** Gids that are prepared in one database, or, on MariaDB, on its whole server. */
export async function preparedIn(url: string, deployment: string): Promise<string[]> {
  const rows = url.startsWith('postgres:')
    ? await readServer<{ gid: string }>(url, 'select gid from pg_prepared_xacts where database = current_database()')
    : (await readServer<{ data: string; gtrid_length: number }>(url, 'xa recover')).map(({ data, gtrid_length }) => ({
        gid: String(data).slice(0, Number(gtrid_length)),
      }))
  return rows.map(({ gid }) => gid).filter((gid) => gid.startsWith(`${deployment}_`))
}

/** Markers that a process may leave which died while it dropped them: one call of it. */
const leftPerDeath = 500

/** After a gentle stop nothing is in doubt, and nothing is kept about what has ended. */
export async function leftOnServers(places: Places, readJournal: ReadJournal): Promise<string[]> {
  const urls = [...new Set(databaseNames.flatMap((name) => places[name] ?? []))]
  if (urls.length === 0) return []
  const found: string[] = []
  const broken = (what: string): void => void found.push(`8 in doubt ends by itself: ${what}`)
  const deployment = deploymentIn(readJournal)
  const epoch = Number(readJournal<{ value: number }>("select value from meta where name = 'epoch'")[0]?.value)
  for (const url of urls) {
    const where = new URL(url).pathname.slice(1)
    for (const gid of await preparedIn(url, deployment)) broken(`${gid} is still prepared in ${where}`)
    const markers = await readServer<{ gid: string }>(url, 'select gid from headrace_branch')
    const ofLast = markers.filter(({ gid }) => parseGid(gid)?.epoch === epoch)
    if (ofLast.length > 0) broken(`${where} keeps ${ofLast.length} markers of the process that stopped gently: ${ofLast[0]?.gid}`)
    if (markers.length > leftPerDeath * (epoch - 1)) broken(`${where} keeps ${markers.length} markers after ${epoch - 1} deaths`)
    for (const { gid } of await readServer<{ gid: string }>(url, 'select gid from headrace_decision'))
      if (!gid.startsWith('claim_')) broken(`${where} has a decision, though the journal decides: ${gid}`)
    const partitions = await readServer<{ epoch: number | string }>(
      url,
      // In MySQL each handle has rows of its own.
      `select epoch from headrace_partition where deployment = '${deployment}' or deployment like '${deployment}/%'`,
    )
    for (const each of partitions)
      if (Number(each.epoch) !== epoch)
        found.push(`4 only the owner commits: ${where} is under epoch ${each.epoch}, the journal under ${epoch}`)
    if (partitions.length === 0) found.push(`4 only the owner commits: ${where} knows no epoch`)
  }
  for (const { gid, verdict } of readJournal<{ gid: string; verdict: string }>('select gid, verdict from decision'))
    broken(`the journal still keeps the decision to ${verdict} ${gid}`)
  return found
}
