/**
 * Where the three databases of the flash sale are: SQLite files of the data
 * directory, or servers, given by url or started for the sale alone.
 *
 *   --databases postgres,mariadb    stock and orders in the first, wallets in the last
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { pause } from '../../std/backoff.ts'
import type { Server } from '../../testing/servers/index.ts'
import { CliError, exitCodes } from '../exit.ts'
import { mainFile } from '../package.ts'
import { type ReadRows, readFile, readServer, type SaleDatabase } from './databases.ts'
import type { Mortal } from './killer.ts'

export interface Places {
  /** For the node: where its databases are. */
  readonly environment: Readonly<Record<string, string>>
  /** For people. */
  readonly about: string
  /** Servers that belong to the sale, and may be killed. */
  readonly servers: readonly Mortal[]
  readonly read: ReadRows
  /** Transactions that are prepared and not ended, once they had time to; null when none of the databases is on a server. */
  inDoubt(): Promise<number | null>
  close(): Promise<void>
}

/** How long transactions may be in doubt after the sale, in milliseconds. */
const doubtMsMax = 5_000
const doubtPauseMs = 100
const rolesMax = 3

/** One database: a kind of server, or null for a file. */
interface Place {
  readonly name: string
  readonly url: string | null
  readonly server: Server | null
}

const namesIn = (given: string | undefined): string[] => (given ?? 'sqlite').split(',').map((name) => name.trim())

const isKind = (name: string): name is 'postgres' | 'mariadb' => name === 'postgres' || name === 'mariadb'

/** Whether servers are started for the sale alone, which may be killed. */
export function startsServers(given: string | undefined): boolean {
  return namesIn(given).some(isKind)
}

/** Opens what `given` names: 'sqlite', 'postgres', 'mariadb', or urls, with commas between. Throws 'usage', 'data-not-empty', 'server-missing'. */
export async function openPlaces(given: string | undefined, app: string, dataDir: string): Promise<Places> {
  const names = namesIn(given)
  if (names.length > rolesMax)
    throw new CliError(exitCodes.usage, 'usage', `The sale has three databases; ${names.length} places are too many.`)
  const opened: Place[] = []
  const close = async (): Promise<void> => {
    await Promise.all(opened.map(async ({ server }) => server?.stop()))
  }
  try {
    for (const name of names) opened.push(await open(name))
    const first = opened[0] as Place
    const last = opened.at(-1) as Place
    const of: Record<SaleDatabase, Place> = {
      stock: first,
      orders: opened.length === rolesMax ? (opened[1] as Place) : first,
      wallet: last,
    }
    const read: ReadRows = async (database, text) => {
      const { url } = of[database]
      return url === null ? readFile(dataDir, database, text) : readServer(url, text)
    }
    const roles = Object.entries(of) as [SaleDatabase, Place][]
    const environment = Object.fromEntries(roles.map(([role, { url }]) => [`${role.toUpperCase()}_URL`, url ?? '']))
    const remote = roles.filter(([, { url }]) => url !== null)
    for (const [role, { url, server }] of remote) if (server === null) await mustBeNew(role, url as string)
    if (remote.length > 0) await migrate(app, environment)
    return {
      environment,
      about: remote.length === 0 ? `${dataDir}: stock, orders and wallet, each a SQLite database of its own` : describe(roles),
      servers: opened.flatMap(({ server }) => (server === null ? [] : [mortal(server)])),
      read,
      inDoubt: async () => (remote.length === 0 ? null : inDoubtIn([...new Set(remote.map(([, { url }]) => url as string))])),
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

async function open(name: string): Promise<Place> {
  if (name === 'sqlite') return { name, url: null, server: null }
  if (/^(postgres|postgresql|mysql|mariadb):\/\//.test(name)) {
    const url = name.replace(/^mariadb:/, 'mysql:')
    return { name: new URL(url).host, url, server: null }
  }
  if (!isKind(name))
    throw new CliError(
      exitCodes.usage,
      'usage',
      // It may be a url with a password.
      'One of --databases is not known.',
      'Name sqlite, postgres or mariadb, or give urls: postgres://… or mysql://…',
    )
  const { serverMissing, startMariadb, startPostgres } = await import('../../testing/servers/index.ts')
  const missing = serverMissing(name)
  if (missing !== null)
    throw new CliError(exitCodes.unavailable, 'server-missing', missing, 'Or give the url of a server: --databases postgres://…')
  const server = await (name === 'postgres' ? startPostgres() : startMariadb())
  return { name, url: server.url, server }
}

function describe(roles: readonly (readonly [SaleDatabase, Place])[]): string {
  const byPlace = new Map<Place, SaleDatabase[]>()
  for (const [role, place] of roles) byPlace.set(place, [...(byPlace.get(place) ?? []), role])
  return [...byPlace]
    .map(([{ name, server }, its]) => `${its.join(' and ')} in ${name}${server === null ? '' : ` (port ${server.port})`}`)
    .join(', ')
}

/** The sale counts from nothing. */
async function mustBeNew(role: SaleDatabase, url: string): Promise<void> {
  const [row] = await readServer<{ n: number }>(
    url,
    `select count(*) as n from information_schema.tables where table_name = '${role}' and table_schema = ${url.startsWith('postgres') ? 'current_schema()' : 'database()'}`,
  )
  if ((row?.n ?? 0) > 0)
    throw new CliError(
      exitCodes.usage,
      'data-not-empty',
      `There is a table '${role}' already: the sale counts from nothing.`,
      'Give an empty database.',
    )
}

/** As its user would. */
async function migrate(app: string, environment: Readonly<Record<string, string>>): Promise<void> {
  const child = spawn(process.execPath, [mainFile, 'migrate', app], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text: Buffer) => {
      said += text.toString()
    })
  }
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new CliError(exitCodes.unavailable, 'migrate-failed', `headrace migrate ended with ${code}:\n${said}`)
}

/** What kills and starts a server of the sale. */
export function mortal(server: Server): Mortal {
  return {
    kill: () => server.kill(),
    async start() {
      const startedAt = performance.now()
      await server.restart()
      return performance.now() - startedAt
    },
  }
}

async function inDoubtIn(urls: readonly string[]): Promise<number> {
  const until = performance.now() + doubtMsMax
  for (;;) {
    const counts = await Promise.all(
      urls.map(async (url) =>
        url.startsWith('postgres')
          ? (await readServer<{ n: number }>(url, 'select count(*) as n from pg_prepared_xacts where database = current_database()'))[0]?.n
          : (await readServer<object>(url, 'xa recover')).length,
      ),
    )
    const sum = counts.reduce<number>((total, each) => total + (each ?? 0), 0)
    if (sum === 0 || performance.now() >= until) return sum
    await pause(doubtPauseMs)
  }
}
