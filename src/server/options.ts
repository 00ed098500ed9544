/**
 * The options of the HTTP edge: one definition that gives type, default,
 * bounds, environment variable and documentation.
 *
 * `edgeTable` holds what the routes need, wherever they live; `serverTable`
 * adds what only a server of our own can set.
 */
import { type NumberOption, numberOption as number } from '../contracts/bounds.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { checkOptions, environmentName } from '../pipeline/options.ts'

const KiB = 1024
const MiB = 1024 * KiB
const GiB = 1024 * MiB
/** Longest delay that a Node timer can hold. */
const timerMsMax = 2 ** 31 - 1

/** Limits of the routes. */
export const edgeTable = Object.freeze({
  bodyBytesMax: number(MiB, 64, GiB, 'Bytes of the body of a single command; past it 413 body-too-large.'),
  lineBytesMax: number(MiB, 64, GiB, 'Bytes of one line of a bulk request; past it that line fails with line-too-long.'),
  bulkBytesMax: number(GiB, KiB, 2 ** 53 - 1, 'Bytes of a whole bulk request; what lies past it is not read.'),
  bulkInFlightMax: number(1024, 1, 1_000_000, 'Lines of one bulk request that are taken and not yet answered; past it reading stops.'),
  bulkInFlightBytesMax: number(
    4 * MiB,
    KiB,
    GiB,
    'Bytes of those lines and of the answers that the client has not read; past it reading stops.',
  ),
  bulkRequestsMax: number(64, 1, 100_000, 'Bulk requests at once; past it 429 streams-full.'),
  bulkRetryMs: number(30_000, 0, timerMsMax, 'How long a line of a bulk request waits for room on an overloaded node before it fails.'),
  bulkIdleMs: number(30_000, 10, timerMsMax, 'Longest time in which the client of a bulk request neither sends nor reads a byte.'),
  bulkMsMax: number(3_600_000, 10, timerMsMax, 'Longest time that one bulk request is read.'),
  waitMsDefault: number(30_000, 0, timerMsMax, 'How long a command waits for its outcome when the client does not say; then 202.'),
  waitMsMax: number(60_000, 0, timerMsMax, 'Longest wait that a client may ask for; longer ones are cut to it.'),
  eventStreamsMax: number(1_000, 1, 1_000_000, 'Event streams open at once; past it 429 streams-full.'),
  eventStreamMsMax: number(600_000, 10, timerMsMax, 'Longest life of one event stream; the client may open it again.'),
  heartbeatMs: number(15_000, 10, timerMsMax, 'Pause between the comments that keep an event stream open.'),
  statusTimeoutMs: number(2_000, 10, timerMsMax, 'How long /readyz and /metrics wait for the state of the app.'),
})

/** Limits of a server of our own. */
export const serverTable = Object.freeze({
  port: number(8080, 0, 65_535, 'The TCP port; 0 takes a free one.'),
  headerBytesMax: number(16 * KiB, KiB, MiB, 'Bytes of the header fields of a request; past it 431 headers-too-large.'),
  connectionsMax: number(10_000, 1, 1_000_000, 'Connections at once; past it new ones are closed.'),
  headersTimeoutMs: number(10_000, 10, timerMsMax, 'Longest time for the header fields to arrive; past it 408 request-timeout.'),
  requestTimeoutMs: number(
    30_000,
    10,
    timerMsMax,
    'Longest time for a whole request to arrive, bulk requests excepted; past it 408 request-timeout.',
  ),
  idleTimeoutMs: number(
    75_000,
    10,
    timerMsMax,
    'How long a kept-alive connection may rest; longer than the timeout of a balancer before it.',
  ),
  drainDelayMs: number(
    0,
    0,
    timerMsMax,
    'How long a closing server still takes commands after /readyz said 503, so that a balancer sees it.',
  ),
  socketTimeoutMs: number(
    120_000,
    10,
    timerMsMax,
    'Longest time without a byte on a connection while a request is served, such as a client that does not read.',
  ),
})

export type EdgeLimits = { readonly [K in keyof typeof edgeTable]: number }
export type EdgeOptions = Partial<EdgeLimits>

type ServerLimits = EdgeLimits & { readonly [K in keyof typeof serverTable]: number }

const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

export interface ServerOptions extends Partial<ServerLimits> {
  /** The address to listen on. Default: '127.0.0.1', this machine only. */
  readonly host?: string
  /** What the log holds. Default: 'info'. */
  readonly logLevel?: LogLevel
}

export interface ResolvedServerOptions extends ServerLimits {
  readonly host: string
  readonly logLevel: LogLevel
}

type Environment = Readonly<Record<string, string | undefined>>

function resolveNumbers<Table extends Readonly<Record<string, NumberOption>>>(
  table: Table,
  given: object,
  environment: Environment,
): { [K in keyof Table]: number } {
  const values = {} as { [K in keyof Table]: number }
  for (const name of Object.keys(table) as (keyof Table & string)[]) {
    const { default: defaultValue, min, max } = table[name] as NumberOption
    const variable = environmentName(name)
    const fromCode = (given as Record<string, unknown>)[name]
    const fromEnvironment = environment[variable]
    const value = fromCode ?? (fromEnvironment === undefined || fromEnvironment === '' ? defaultValue : Number(fromEnvironment))
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
      throw new HeadraceError(
        'option-invalid',
        `${name} must be a whole number from ${min} to ${max}, not ${JSON.stringify(fromCode ?? fromEnvironment)}${fromCode === undefined ? ` (from ${variable})` : ''}.`,
        { details: { option: name } },
      )
    }
    values[name] = value
  }
  return values
}

function atMost(values: Readonly<Record<string, number>>, smaller: string, larger: string): void {
  if ((values[smaller] as number) > (values[larger] as number)) {
    throw new HeadraceError('option-invalid', `${smaller} (${values[smaller]}) must be at most ${larger} (${values[larger]}).`, {
      details: { option: smaller },
    })
  }
}

/** The limits of the routes: what the code gives, then the environment, then the default. Throws 'option-unknown' and 'option-invalid'. */
export function resolveEdgeOptions(given: EdgeOptions, environment: Environment): EdgeLimits {
  checkOptions('The plugin', given, Object.keys(edgeTable))
  const limits = resolveNumbers(edgeTable, given, environment)
  checkEdge(limits)
  return Object.freeze(limits)
}

function checkEdge(limits: EdgeLimits): void {
  atMost(limits, 'waitMsDefault', 'waitMsMax')
  atMost(limits, 'lineBytesMax', 'bulkBytesMax')
  atMost(limits, 'lineBytesMax', 'bulkInFlightBytesMax')
}

/** The options of a server of our own, in the same order of weight. Throws 'option-unknown' and 'option-invalid'. */
export function resolveServerOptions(given: ServerOptions, environment: Environment): ResolvedServerOptions {
  checkOptions('The server', given, [...Object.keys(edgeTable), ...Object.keys(serverTable), 'host', 'logLevel'])
  const limits = { ...resolveNumbers(edgeTable, given, environment), ...resolveNumbers(serverTable, given, environment) }
  checkEdge(limits)
  atMost(limits, 'headersTimeoutMs', 'requestTimeoutMs')
  // A connection that waits for an outcome, or between two heartbeats, is silent: it must not be taken for a dead one.
  atMost(limits, 'waitMsMax', 'socketTimeoutMs')
  atMost(limits, 'heartbeatMs', 'socketTimeoutMs')
  const host = given.host ?? (environment['HEADRACE_HOST'] || '127.0.0.1')
  if (typeof host !== 'string' || host === '')
    throw new HeadraceError('option-invalid', 'host must be an address or a name.', { details: { option: 'host' } })
  const logLevel = given.logLevel ?? (environment['HEADRACE_LOG_LEVEL'] || 'info')
  if (!(logLevels as readonly string[]).includes(logLevel)) {
    throw new HeadraceError('option-invalid', `logLevel must be one of ${logLevels.join(', ')}, not ${JSON.stringify(logLevel)}.`, {
      details: { option: 'logLevel' },
    })
  }
  return Object.freeze({ ...limits, host, logLevel: logLevel as LogLevel })
}
