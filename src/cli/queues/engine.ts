/** The engine of a message queue that a url names, and what a command of the command line opens there. */
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { HeadraceError } from '../../contracts/errors.ts'
import type { QueueEngine, QueueTopic } from '../../contracts/queue.ts'
import { CliError, exitCodes } from '../exit.ts'
import { loaded } from '../participants.ts'

export interface QueueFlags {
  readonly url?: string
  readonly schema?: string
}

export interface QueueUrlOptions {
  /** PostgreSQL: the schema of its tables. Default: 'public'. */
  readonly schema?: string
  /** Makes the tables or the file where they are missing. Default: true. */
  readonly make?: boolean
  /** Longest time for one call, in milliseconds. Default: that of the engine. */
  readonly timeoutMs?: number
  /** RabbitMQ: messages of a partition in memory. Default: that of the engine. */
  readonly prefetch?: number
}

/** Longest time for one call of a command, in milliseconds: what a person does may move many messages at once. */
const callTimeoutMs = 10_000

/**
 * An engine by its url: `postgres://…`, `amqp://…` or `amqps://…`, and
 * `sqlite:` with the path of a file, or the path alone. Its driver is loaded
 * when it is asked for. Throws 'usage' for another scheme, 'engine-refused' when
 * the package of a client is missing, and 'option-invalid' for a url that is
 * none; never with a password.
 */
export async function queueEngineFromUrl(
  url: string,
  { schema, make = true, timeoutMs, prefetch }: QueueUrlOptions = {},
): Promise<QueueEngine> {
  const bounds = timeoutMs === undefined ? {} : { timeoutMs }
  const scheme = /^([a-z][a-z0-9+.-]+):/i.exec(url)?.[1]?.toLowerCase()
  switch (scheme) {
    case 'postgres':
    case 'postgresql': {
      const { postgresQueue } = await loaded('pg', () => import('../../drivers/postgres/index.ts'))
      return postgresQueue({ url, setUp: make, ...bounds, ...(schema === undefined ? {} : { schema }) })
    }
    case 'amqp':
    case 'amqps': {
      const { rabbitmqQueue } = await loaded('amqplib', () => import('../../drivers/rabbitmq/index.ts'))
      return rabbitmqQueue({ url, ...(prefetch === undefined ? {} : { prefetch }), ...bounds })
    }
    case undefined:
    case 'sqlite':
    case 'file':
      return sqliteEngine({ file: fileOf(url, scheme), ...bounds }, make)
    default:
      throw new CliError(
        exitCodes.usage,
        'usage',
        `There are no queues on ${scheme}:.`,
        'Queues are in PostgreSQL (postgres://…), in RabbitMQ (amqp://…), or in a SQLite file (sqlite:./queue.sqlite).',
      )
  }
}

/** Opens the engine that the flags name, where it is there already, and closes it afterwards. */
export async function withQueues(flags: QueueFlags, run: (engine: QueueEngine) => Promise<number>): Promise<number> {
  const { url, schema } = flags
  if (url === undefined)
    throw new CliError(
      exitCodes.usage,
      'usage',
      'Where are the queues?',
      'Give --url postgres://…, --url amqp://…, or --url sqlite:./queue.sqlite.',
    )
  const engine = await queueEngineFromUrl(url, { make: false, timeoutMs: callTimeoutMs, ...(schema === undefined ? {} : { schema }) })
  try {
    return await run(engine)
  } catch (error) {
    throw asCliError(error, schema ?? 'public')
  } finally {
    await engine.close()
  }
}

/** Answers that are a no and not a failure: exit code 1. */
function asCliError(error: unknown, schema: string): unknown {
  if (!HeadraceError.is(error)) return error
  switch (error.code) {
    case 'tables-missing':
      return new CliError(
        exitCodes.failed,
        'queues-missing',
        `There are no queues in the schema ${schema} of this database: no topic was ever declared there.`,
        'Another database, or another schema: --schema.',
      )
    case 'topic-invalid':
      return new CliError(exitCodes.usage, error.code, error.message)
    case 'topic-unknown':
      return new CliError(
        exitCodes.failed,
        error.code,
        error.message,
        'headrace queue ls shows the topics and groups of PostgreSQL and SQLite.',
      )
    case 'queue-unsupported':
      return new CliError(exitCodes.failed, error.code, error.message)
    default:
      return error
  }
}

/** A topic and one of its groups: the one named, the only one, or 'default'. */
export async function openGroup(
  engine: QueueEngine,
  name: string,
  given: string | undefined,
): Promise<{ readonly topic: QueueTopic; readonly group: string }> {
  const [topic] = await openTopics(engine, name, given === undefined ? [] : [given])
  const groups = await (topic as QueueTopic).groups()
  const group = given ?? (groups.length === 1 ? (groups[0] as string) : 'default')
  if (groups.includes(group)) return { topic: topic as QueueTopic, group }
  throw new CliError(
    exitCodes.failed,
    'topic-unknown',
    `The topic '${name}' has no group '${group}'.`,
    groups.length === 0
      ? 'It has none at all: nobody has consumed it yet.'
      : `Its groups are ${groups.join(', ')}. Name one: --group ${groups[0]}`,
  )
}

/** The topic of that name, or all. Nothing is made. */
export async function openTopics(engine: QueueEngine, name: string | undefined, groups: readonly string[]): Promise<QueueTopic[]> {
  if (engine.find !== undefined) {
    if (name === undefined)
      throw new CliError(
        exitCodes.usage,
        'usage',
        'RabbitMQ does not list topics.',
        "Name one, and its groups unless they are 'default': headrace queue ls orders --group billing --group mail",
      )
    return [await engine.find(name, groups.length === 0 ? ['default'] : groups)]
  }
  const names = name === undefined ? await engine.topics() : [name]
  const topics: QueueTopic[] = []
  for (const each of names) topics.push(await engine.open(each))
  return topics
}

function fileOf(url: string, scheme: string | undefined): string {
  if (scheme === undefined) return url
  if (scheme === 'sqlite') return url.slice('sqlite:'.length).replace(/^\/\//, '')
  try {
    return fileURLToPath(url)
  } catch (error) {
    throw new CliError(
      exitCodes.usage,
      'usage',
      `'${url}' names no file: ${(error as Error).message}.`,
      'Give its path: sqlite:./queue.sqlite',
    )
  }
}

async function sqliteEngine(options: { readonly file: string; readonly timeoutMs?: number }, make: boolean): Promise<QueueEngine> {
  if (!make) await mustHoldQueues(options.file)
  const { sqliteQueue } = await import('../../drivers/sqlite/queue.ts')
  return sqliteQueue(options)
}

/** The engine makes its file and tables; here they must be there. */
async function mustHoldQueues(file: string): Promise<void> {
  const missing = new CliError(
    exitCodes.usage,
    'file-missing',
    `There is no file of queues ${file === '' ? "''" : file}.`,
    'Give the file that sqliteQueue({ file }) was given.',
  )
  if (!existsSync(file)) throw missing
  const { DatabaseSync } = await import('@photostructure/sqlite')
  try {
    const database = new DatabaseSync(file, { readOnly: true })
    try {
      const { found } = database.prepare("select count(*) as found from sqlite_master where name in ('topic', 'part', 'place')").get() as {
        found: number
      }
      if (found !== 3) throw missing
    } finally {
      database.close()
    }
  } catch (error) {
    if (error === missing) throw error
    throw new CliError(exitCodes.usage, 'file-failed', `${file} cannot be read: ${(error as Error).message}.`)
  }
}
