/**
 * Kills the coordinator with SIGKILL at every named point of a transaction over
 * real servers, and then the recoverer at every point of its own, and looks with
 * the eyes of another process: all or none, nothing prepared, money conserved.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { Participant } from '../../src/contracts/participant.ts'
import { mysql } from '../../src/drivers/mysql/index.ts'
import { postgres } from '../../src/drivers/postgres/index.ts'
import { sqlite } from '../../src/drivers/sqlite/index.ts'
import { type TransactionCrashPointName, transactionCrashPointNames } from '../../src/std/crash-point.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../../src/testing/servers/index.ts'
import { listDoubts, openSite, type Site } from '../../src/transaction/index.ts'

const missing = serverMissing('postgres') ?? serverMissing('mariadb')
const schema = `create table if not exists account (name varchar(40) primary key, balance bigint not null);
  create table if not exists entry (id varchar(40) primary key, amount bigint not null)`
const transfers = 3

interface DatabasePlace {
  readonly name: string
  readonly engine: 'postgres' | 'mysql' | 'sqlite'
  /** Of SQLite the path of the file. */
  readonly url: string
}

interface Said {
  readonly begun: string[]
  readonly done: string[]
  readonly killed: boolean
}

describe.skipIf(missing !== null)(`a coordinator that is killed${missing === null ? '' : ` (${missing})`}`, () => {
  let pg: Server
  let maria: Server
  const folder = mkdtempSync(join(tmpdir(), 'headrace-crash-'))
  const places: Record<string, DatabasePlace> = {}

  beforeAll(async () => {
    ;[pg, maria] = await Promise.all([startPostgres(), startMariadb()])
    const admin = await postgres('admin', { url: pg.url }).connect()
    const root = await mysql('admin', { url: maria.url }).connect()
    await Promise.all([admin.close(), root.close()])
    for (const [name, engine] of [
      ['p', 'postgres'],
      ['q', 'postgres'],
      ['m', 'mysql'],
      ['w', 'mysql'],
      ['s', 'sqlite'],
    ] as const) {
      const server = engine === 'postgres' ? pg : maria
      const database = `shop_${name}`
      if (engine !== 'sqlite') await createDatabase(server.url, engine, database)
      places[name] = {
        name,
        engine,
        url: engine === 'sqlite' ? join(folder, `${database}.sqlite`) : server.url.replace(/[^/]+$/, database),
      }
      const participant = await connect(places[name])
      await participant.migrate()
      const branch = await participant.begin({ gid: `setup_${name}`, statementTimeoutMs: 5_000 })
      await branch.database.insertMany('account', [{ name: 'x', balance: 1_000 }])
      await branch.commit()
      await participant.close()
    }
  })
  afterAll(async () => {
    await Promise.all([pg?.stop(), maria?.stop()])
    rmSync(folder, { recursive: true, force: true })
  })

  const sets: Record<string, { readonly names: readonly string[]; readonly home?: string; readonly visits?: readonly number[] }> = {
    'PostgreSQL and MariaDB': { names: ['p', 'm'] },
    'MariaDB and PostgreSQL': { names: ['m', 'p'] },
    'two of PostgreSQL': { names: ['p', 'q'] },
    'two of MariaDB': { names: ['m', 'w'] },
    'all four': { names: ['p', 'm', 'q', 'w'] },
    'two, and a third that is home': { names: ['m', 'q', 'p'], home: 'p' },
    'SQLite alone': { names: ['s'] },
    'PostgreSQL and SQLite': { names: ['p', 's'] },
    'PostgreSQL, MariaDB and SQLite': { names: ['p', 'm', 's'], visits: [2] },
  }
  /** Where one database alone never comes. */
  const ofSeveral: readonly TransactionCrashPointName[] = ['transaction.between-prepares', 'transaction.between-commits']
  const own = transactionCrashPointNames.filter((name) => name.startsWith('transaction.'))
  const ofRecovery = transactionCrashPointNames.filter((name) => name.startsWith('recovery.'))
  let from = 0
  const visited = new Set<TransactionCrashPointName>()

  for (const [title, { names, home, visits = [1, 2] }] of Object.entries(sets)) {
    test(`changes ${title} all or none, wherever it is killed, and its recoverer with it`, async () => {
      const databases = names.map((name) => places[name] as DatabasePlace)
      for (const [index, point] of own.entries()) {
        if (names.length === 1 && ofSeveral.includes(point)) continue
        // Commits of a file may be so quick that all are forgotten at once.
        for (const visit of names.length === 1 && point === 'transaction.before-forget' ? [1] : visits) {
          const where = `${title}, ${point}:${visit}`
          from += transfers
          const work = await run({ mode: 'work', databases, home, transfers, from }, `${point}:${visit}`)
          expect(work.killed, `${where} was not visited`).toBe(true)
          visited.add(point)
          // Every other time the first recoverer is killed, too.
          if (visit === 2) {
            const killer = ofRecovery[(index * 2 + visit) % ofRecovery.length] as TransactionCrashPointName
            if ((await run({ mode: 'recover', databases, home }, `${killer}:1`)).killed) visited.add(killer)
          }
          await run({ mode: 'recover', databases, home })
          await check(
            names.filter((name) => name !== home),
            databases,
            work,
            where,
          )
        }
      }
    })
  }

  test('visits every point', () => {
    expect([...visited].sort()).toEqual([...transactionCrashPointNames].sort())
  })

  async function check(names: readonly string[], databases: readonly DatabasePlace[], work: Said, where: string): Promise<void> {
    const site: Site = await openSite({ deployment: 'crash', databases: await Promise.all(databases.map(connect)) })
    try {
      for (const participant of site.participants.values()) expect(await participant.prepared('crash_'), `${where}: prepared`).toEqual([])
      expect(await listDoubts(site), where).toEqual([])
      for (const id of work.begun) {
        const found: string[] = []
        for (const name of names) if ((await site.participant(name).reader.selectIn('entry', 'id', [id])).length > 0) found.push(name)
        if (found.length > 0 || work.done.includes(id)) expect(found, `${where}: ${id} is not in all`).toEqual(names)
      }
      for (const name of names) {
        const [account] = await site.participant(name).reader.selectIn('account', 'name', ['x'])
        const entries = await site.participant(name).reader.sql<{ amount: bigint }>`select amount from entry`
        const sum = entries.reduce((total, { amount }) => total + BigInt(amount), 0n)
        expect(BigInt(account?.['balance'] as number), `${where}: balance of ${name}`).toBe(1_000n + sum)
      }
    } finally {
      await Promise.all([...site.participants.values()].map((each) => each.close()))
    }
  }
})

function connect(place: DatabasePlace | undefined): Promise<Participant> {
  const { name, engine, url } = place as DatabasePlace
  if (engine === 'sqlite') return sqlite(name, { file: url, schema }).connect()
  return engine === 'postgres' ? postgres(name, { url, schema }).connect() : mysql(name, { url, schema }).connect()
}

async function createDatabase(url: string, engine: 'postgres' | 'mysql', name: string): Promise<void> {
  if (engine === 'postgres') {
    const { default: pg } = await import('pg')
    const client = new pg.Client({ connectionString: url })
    await client.connect()
    await client.query(`create database ${name}`)
    await client.end()
  } else {
    const { createConnection } = await import('mysql2/promise')
    const client = await createConnection(url)
    await client.query(`create database ${name} character set utf8mb4`)
    await client.end()
  }
}

async function run(spec: Readonly<Record<string, unknown>>, crashAt?: string): Promise<Said> {
  const child = spawn(process.execPath, [fileURLToPath(new URL('./worker.mjs', import.meta.url)), JSON.stringify(spec)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...(crashAt === undefined ? {} : { HEADRACE_CRASH_POINT: crashAt }) },
  })
  const begun: string[] = []
  const done: string[] = []
  const lines = createInterface({ input: child.stdout })
  lines.on('line', (text) => {
    const line = JSON.parse(text) as { readonly begun?: string; readonly done?: string }
    if (line.begun !== undefined) begun.push(line.begun)
    if (line.done !== undefined) done.push(line.done)
  })
  const [[code, signal]] = (await Promise.all([once(child, 'exit'), once(lines, 'close')])) as [[number | null, string | null], unknown]
  if (signal === null && code !== 0) throw new Error(`the ${String(spec['mode'])} process ended with code ${code}`)
  return { begun, done, killed: signal === 'SIGKILL' }
}
