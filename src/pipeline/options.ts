/**
 * The options of an app: one definition that gives type, default, bounds,
 * environment variable, flag and documentation.
 */
import { numberOption as number } from '../contracts/bounds.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { nearest } from '../contracts/nearest.ts'

/** Every limit of the write path, with its unit in its name. */
export const limitTable = Object.freeze({
  partitions: number(64, 1, 4096, 'How many partitions keys are hashed to. Fixed when the data directory is created.'),
  inFlightMax: number(20_000, 1, 10_000_000, 'Commands that callers wait for at once; past it 429 overloaded.'),
  queuedCommandsMax: number(2_000_000, 1, 1_000_000_000, 'Commands on disk that wait; past it 503 queue-full.'),
  queuedBytesMax: number(4 * 1024 ** 3, 1024, 2 ** 53 - 1, 'Bytes of input on disk that wait; past it 503 queue-full.'),
  queueWaitMsMax: number(60_000, 1, 86_400_000, 'Longest expected wait in the queue; past it 503 queue-slow.'),
  lanes: number(1, 1, 64, 'Loops that apply batches. Batches of lanes that share a SQLite file take turns.'),
  windowCommandsMax: number(8192, 16, 1_000_000, 'Waiting commands kept in memory; the rest wait on disk.'),
  windowBytesMax: number(32 * 1024 ** 2, 1024, 2 ** 40, 'Bytes of waiting commands kept in memory.'),
  batchCommandsMax: number(512, 1, 10_000, 'Commands in one batch.'),
  batchBytesMax: number(4 * 1024 ** 2, 1024, 2 ** 30, 'Bytes of input in one batch.'),
  batchRetriesMax: number(8, 0, 100, 'How often a batch is repeated whole after a transient failure, before it is split.'),
  retryBaseMs: number(50, 1, 60_000, 'First pause before a retry; doubles, with jitter.'),
  retryMaxMs: number(5_000, 1, 3_600_000, 'Longest pause before a retry.'),
  handlerTimeoutMs: number(10_000, 1, 3_600_000, 'Longest time for load, save or run of one batch or command.'),
  queryTimeoutMs: number(5_000, 1, 3_600_000, 'Longest time for one query.'),
  cacheBytesMax: number(64 * 1024 ** 2, 64 * 1024, 2 ** 40, 'Bytes of cached answers of queries, kept in process.'),
  queriesMax: number(1_000, 1, 1_000_000, 'Queries that run at once; past it 429 overloaded.'),
  inputBytesMax: number(256 * 1024, 64, 64 * 1024 ** 2, 'Bytes of one input, as JSON.'),
  resultBytesMax: number(64 * 1024, 64, 16 * 1024 ** 2, 'Bytes of one result, as JSON.'),
  jsonDepthMax: number(32, 2, 1_000, 'Levels of nesting in one input.'),
  keyParkedMax: number(10_000, 1, 10_000_000, 'Commands that wait behind one blocked key; past it 503 key-blocked.'),
  outcomeRetentionMs: number(86_400_000, 1_000, 2 ** 53 - 1, 'How long an outcome is kept, and a repeated id recognised.'),
  outcomesMax: number(2_000_000, 1_000, 100_000_000, 'How many outcomes are kept; the oldest go first.'),
  databaseWaitMs: number(30_000, 0, 3_600_000, 'Longest wait at the start for databases on servers that are away.'),
  statementTimeoutMs: number(5_000, 1, 3_600_000, 'Longest time of one statement in a database on a server.'),
  eventsMax: number(1_000_000, 1, 1_000_000_000, 'Events that wait to be published; past it 503 queue-full.'),
  queueTimeoutMs: number(10_000, 100, 600_000, 'Longest wait until a queue on a server has a command; then 503 engine-timeout.'),
  queueLeaseTtlMs: number(3_000, 500, 600_000, 'How long the partitions of a node that died stay taken in a queue on a server.'),
  stopTimeoutMs: number(10_000, 1, 3_600_000, 'Longest time for a graceful stop.'),
})

export type LimitName = keyof typeof limitTable
export type Limits = { readonly [K in LimitName]: number }

export interface AppOptions extends Partial<Limits> {
  /** Where the journal and the databases live. Default: ./data */
  readonly dataDir?: string
}

export interface ResolvedOptions extends Limits {
  readonly dataDir: string
}

/** Refuses a name that is not known, with the nearest one that is. */
export function checkOptions(owner: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue
    const proposal = nearest(name, known)
    throw new HeadraceError(
      'option-unknown',
      `${owner} has no option '${name}'${proposal === null ? '' : `; did you mean '${proposal}'?`} Known: ${known.join(', ')}.`,
      { details: { option: name, known } },
    )
  }
}

const appOptionNames = [...Object.keys(limitTable), 'dataDir']

/** The name of the environment variable of a limit: batchCommandsMax → HEADRACE_BATCH_COMMANDS_MAX. */
export function environmentName(name: string): string {
  return `HEADRACE_${name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase()}`
}

/**
 * Options in order of weight: what the code gives, then the environment, then
 * the default. Throws 'option-unknown' and 'option-invalid'.
 */
export function resolveOptions(given: AppOptions, environment: Readonly<Record<string, string | undefined>>): ResolvedOptions {
  checkOptions('The app', given, appOptionNames)
  const limits = {} as Record<LimitName, number>
  for (const name of Object.keys(limitTable) as LimitName[]) {
    const { default: defaultValue, min, max } = limitTable[name]
    const variable = environmentName(name)
    const fromEnvironment = environment[variable]
    const value = given[name] ?? (fromEnvironment === undefined || fromEnvironment === '' ? defaultValue : Number(fromEnvironment))
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
      throw new HeadraceError(
        'option-invalid',
        `${name} must be a whole number from ${min} to ${max}, not ${JSON.stringify(given[name] ?? fromEnvironment)}${given[name] === undefined ? ` (from ${variable})` : ''}.`,
        { details: { option: name } },
      )
    }
    limits[name] = value
  }
  if (limits.windowCommandsMax < limits.batchCommandsMax) {
    throw new HeadraceError(
      'option-invalid',
      `windowCommandsMax (${limits.windowCommandsMax}) must be at least batchCommandsMax (${limits.batchCommandsMax}).`,
    )
  }
  if (limits.retryMaxMs < limits.retryBaseMs) {
    throw new HeadraceError('option-invalid', `retryMaxMs (${limits.retryMaxMs}) must be at least retryBaseMs (${limits.retryBaseMs}).`)
  }
  const dataDir = given.dataDir ?? environment['HEADRACE_DATA_DIR'] ?? 'data'
  if (typeof dataDir !== 'string' || dataDir === '' || dataDir.includes('\0')) {
    throw new HeadraceError('option-invalid', 'dataDir must be the path of a directory.')
  }
  return Object.freeze({ ...limits, dataDir })
}
