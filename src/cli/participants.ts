/**
 * The databases on servers that a command works on: those of an app file, those
 * that the command line names, or both.
 *
 * A url may hold a password, so it is read here and not by the parser of the
 * command line, whose messages repeat what was given.
 */
import { Option } from 'commander'
import type { DatabaseHandle } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { ParticipantHandle } from '../contracts/participant.ts'
import type { App } from '../pipeline/app-contract.ts'
import { appOf, importFile } from './app-file.ts'
import { CliError, exitCodes } from './exit.ts'

export interface DatabaseFlags {
  /** The file of an app. */
  readonly app?: string
  readonly url?: readonly string[]
  /** The data directory of the app, when it is not the one that the app names. */
  readonly data?: string
}

export interface GivenDatabases {
  /** Null when the file exports only databases, or none was given. */
  readonly app: App | null
  /** Those that take part in transactions over several databases. */
  readonly participants: readonly ParticipantHandle[]
  /** Those that do not: SQLite files of an app, which belong to the node that opens them. */
  readonly others: readonly DatabaseHandle[]
}

/** The flag for urls. Its value is only gathered here, and read by `givenDatabases`. */
export function urlOption(): Option {
  return new Option(
    '--url <name=url>',
    "a database by its name, such as stock=postgres://…; goes before the app's own of that name",
  ).argParser(gathered)
}

/** For a flag that may be given several times. */
export function gathered(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value]
}

const engines: Readonly<Record<string, 'postgres' | 'mysql'>> = {
  'postgres:': 'postgres',
  'postgresql:': 'postgres',
  'mysql:': 'mysql',
  'mariadb:': 'mysql',
}

/** Throws 'usage' when neither names a database, and what is wrong with a file or a url; never with the url in it. */
export async function givenDatabases(file: string | undefined, urls: readonly string[] = []): Promise<GivenDatabases> {
  if (file === undefined && urls.length === 0)
    throw new CliError(exitCodes.usage, 'usage', 'Which databases?', 'Name the file of an app, or give --url NAME=postgres://… for each.')
  if (file !== undefined && URL.canParse(file) && file.includes('://'))
    throw new CliError(
      exitCodes.usage,
      'usage',
      'A url stands where the file of an app is expected.',
      'Give it with its name: --url stock=postgres://…',
    )
  const { app, handles } = file === undefined ? { app: null, handles: [] } : await handlesOf(file)
  const byName = new Map(handles.map((handle) => [handle.name, handle]))
  for (const given of urls) {
    const { name, url } = splitUrl(given)
    const schema = byName.get(name)?.options['schema']
    byName.set(name, await handleOf(name, url, typeof schema === 'string' ? schema : undefined))
  }
  const all = [...byName.values()]
  const takesPart = (handle: DatabaseHandle): handle is ParticipantHandle => isParticipant(handle, app !== null)
  return { app, participants: all.filter(takesPart), others: all.filter((handle) => !takesPart(handle)) }
}

/** Those that `only` names, or all. */
export function chosenOf(participants: readonly ParticipantHandle[], only: readonly string[] | undefined): readonly ParticipantHandle[] {
  if (only === undefined) return participants
  const known = participants.map(({ name }) => name)
  const unknown = only.find((name) => !known.includes(name))
  if (unknown !== undefined)
    throw new CliError(
      exitCodes.usage,
      'usage',
      `There is no database '${unknown}' on a server here.`,
      known.length === 0 ? 'There are none at all.' : `There are ${known.join(', ')}.`,
    )
  return participants.filter(({ name }) => only.includes(name))
}

/** Where a database is, without credentials; null when only its pool knows. */
export function addressOf({ options: { url, address } }: DatabaseHandle): string | null {
  if (typeof address === 'string') return address
  if (typeof url !== 'string' || !URL.canParse(url)) return null
  const { host, pathname } = new URL(url)
  return `${host}${pathname}`
}

/** The databases of the app that a file exports, or those that it exports itself. */
async function handlesOf(file: string): Promise<{ readonly app: App | null; readonly handles: readonly DatabaseHandle[] }> {
  const exported = await importFile(file)
  const app = appOf(exported)
  const handles = app === null ? Object.values(exported).filter(isHandle) : databasesOf(app)
  if (app !== null || handles.length > 0) return { app, handles }
  throw new CliError(
    exitCodes.usage,
    'app-missing',
    `${file} exports no app and no database.`,
    'End it with: export default defineApp({ … }), or export what postgres(…) and mysql(…) gave.',
  )
}

function databasesOf({ gateway: { commands, queries } }: App): DatabaseHandle[] {
  const sets = [
    ...[...commands.values()].map(({ options }) => options.databases),
    ...[...queries.values()].map(({ definition }) => definition.databases),
  ]
  return sets.flatMap((set) => Object.values(set ?? {}))
}

function splitUrl(given: string): { readonly name: string; readonly url: string } {
  const place = given.indexOf('=')
  const name = given.slice(0, place)
  if (place < 1 || name.includes(':'))
    throw new CliError(
      exitCodes.usage,
      'usage',
      '--url needs the name of the database in front.',
      'Give it as the app does: --url stock=postgres://user:password@host:port/database',
    )
  return { name, url: given.slice(place + 1) }
}

async function handleOf(name: string, url: string, schema: string | undefined): Promise<ParticipantHandle> {
  const engine = URL.canParse(url) ? engines[new URL(url).protocol] : undefined
  if (engine === undefined)
    throw new CliError(
      exitCodes.usage,
      'usage',
      `The url of '${name}' is none of a database on a server.`,
      'It begins with postgres:// or mysql:// (mariadb:// is the same).',
    )
  const options = { url, ...(schema === undefined ? {} : { schema }) }
  if (engine === 'mysql') return (await loaded('mysql2', () => import('../drivers/mysql/index.ts'))).mysql(name, options)
  return (await loaded('pg', () => import('../drivers/postgres/index.ts'))).postgres(name, options)
}

/** A driver, whose client library is the user's to install. */
export async function loaded<Driver>(library: string, load: () => Promise<Driver>): Promise<Driver> {
  try {
    return await load()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_MODULE_NOT_FOUND') throw error
    throw new HeadraceError('engine-refused', `The package ${library} is missing: npm install ${library}`)
  }
}

function isHandle(value: unknown): value is DatabaseHandle {
  return typeof value === 'object' && value !== null && (value as { kind?: unknown }).kind === 'database'
}

/** Files of an app belong to its journal; those that are exported without one, to a coordinator. */
function isParticipant(handle: DatabaseHandle & Partial<ParticipantHandle>, ofApp: boolean): boolean {
  if (typeof handle.connect !== 'function') return false
  return handle.embedded !== true || (!ofApp && typeof handle.options['file'] === 'string')
}
