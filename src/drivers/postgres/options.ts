/** The options of `postgres(name, …)`: checked when the handle is made. */
import type { Pool } from 'pg'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { nearest } from '../../contracts/nearest.ts'

export interface PostgresOptions {
  /** `postgres://user:password@host:port/database`. */
  readonly url?: string
  /** A pool of your own instead (`pg`). It is not ended here. */
  readonly pool?: Pool
  /**
   * SQL that makes the tables of the app, run by `headrace migrate`: write it so
   * that a second run changes nothing (`create table if not exists …`).
   */
  readonly schema?: string
  /** Connections for transactions. Default: 10. Not with a pool of your own. */
  readonly poolMax?: number
  /** Connections for reads outside of transactions, which are never kept waiting by transactions. Default: 4. Not with a pool of your own. */
  readonly readersMax?: number
  /** How long a connection may take to open, or to become free, in milliseconds. Default: 5000. */
  readonly connectTimeoutMs?: number
  /** How long a read, or a call about a transaction, may take, in milliseconds. Default: 10000. Statements of a transaction have the bound of the transaction. */
  readonly statementTimeoutMs?: number
  /** How long a call waits for a branch under way before it is 'sql-busy', in milliseconds. Default: 1000. */
  readonly lockTimeoutMs?: number
  /** How long a transaction may wait for its client before the server ends it, in milliseconds. Default: 60000. */
  readonly idleTimeoutMs?: number
  /** Default: 'read committed'. */
  readonly isolation?: 'read committed' | 'repeatable read' | 'serializable'
  /** Sends statements before the earlier ones are answered. Default: true. Turn it off for COPY and cursors through the raw client. Not with a pool of your own. */
  readonly pipeline?: boolean
  /** Statements that each connection for transactions keeps parsed; 0 turns it off. Default: 100. */
  readonly preparedStatementsMax?: number
}

export interface KnownOptions {
  readonly url: string | undefined
  readonly pool: Pool | undefined
  readonly schema: string | undefined
  readonly poolMax: number
  readonly readersMax: number
  readonly connectTimeoutMs: number
  readonly statementTimeoutMs: number
  readonly lockTimeoutMs: number
  readonly idleTimeoutMs: number
  readonly isolation: string
  readonly pipeline: boolean
  readonly preparedStatementsMax: number
}

const optionNames = [
  'url',
  'pool',
  'schema',
  'poolMax',
  'readersMax',
  'connectTimeoutMs',
  'statementTimeoutMs',
  'lockTimeoutMs',
  'idleTimeoutMs',
  'isolation',
  'pipeline',
  'preparedStatementsMax',
] as const
const onlyOwnPool = ['poolMax', 'readersMax', 'pipeline'] as const
const isolations = ['read committed', 'repeatable read', 'serializable']
const namePattern = /^[a-z][a-z0-9_-]{0,31}$/

export function knownOptions(name: string, options: PostgresOptions): KnownOptions {
  const invalid = (message: string): HeadraceError => new HeadraceError('option-invalid', message)
  if (typeof name !== 'string' || !namePattern.test(name) || name === 'journal')
    throw invalid(
      `The database name ${JSON.stringify(name)} is not valid: use 1 to 32 lower-case letters, digits, dashes or underscores, and not 'journal'.`,
    )
  const of = `of PostgreSQL '${name}'`
  if (typeof options !== 'object' || options === null) throw invalid(`The options ${of} must be an object, such as { url }.`)
  for (const option of Object.keys(options)) {
    if ((optionNames as readonly string[]).includes(option)) continue
    const near = nearest(option, optionNames)
    throw new HeadraceError(
      'option-unknown',
      `PostgreSQL '${name}' has no option '${option}'.${near === null ? '' : ` Did you mean '${near}'?`} Known: ${optionNames.join(', ')}.`,
    )
  }
  const { url, pool, schema, isolation = 'read committed', pipeline = true } = options
  if ((url === undefined) === (pool === undefined)) throw invalid(`Give the url ${of}, or a pool of your own: one of them.`)
  if (url !== undefined && !isUrl(url)) throw invalid(`The url ${of} is not valid: use postgres://user:password@host:port/database.`)
  if (pool !== undefined) {
    if (typeof pool !== 'object' || pool === null || typeof pool.connect !== 'function')
      throw invalid(`The pool ${of} must be a Pool of pg.`)
    for (const option of onlyOwnPool) {
      if (options[option] !== undefined) throw invalid(`The option '${option}' ${of} is set by your pool: leave it out.`)
    }
  }
  if (schema !== undefined && (typeof schema !== 'string' || schema.trim() === ''))
    throw invalid(`The option 'schema' ${of} must be a text.`)
  if (!isolations.includes(isolation)) throw invalid(`The option 'isolation' ${of} must be one of: ${isolations.join(', ')}.`)
  if (typeof pipeline !== 'boolean') throw invalid(`The option 'pipeline' ${of} must be true or false.`)
  const whole = (option: keyof PostgresOptions, standard: number, min: number, max: number): number => {
    const value = options[option] ?? standard
    checkWhole(`The option '${option}' ${of}`, value, min, max)
    return value
  }
  return {
    url,
    pool,
    schema,
    isolation,
    pipeline,
    poolMax: whole('poolMax', 10, 1, 1_000),
    readersMax: whole('readersMax', 4, 1, 1_000),
    connectTimeoutMs: whole('connectTimeoutMs', 5_000, 10, 600_000),
    statementTimeoutMs: whole('statementTimeoutMs', 10_000, 10, 3_600_000),
    lockTimeoutMs: whole('lockTimeoutMs', 1_000, 10, 600_000),
    idleTimeoutMs: whole('idleTimeoutMs', 60_000, 100, 86_400_000),
    preparedStatementsMax: whole('preparedStatementsMax', 100, 0, 10_000),
  }
}

function isUrl(url: unknown): boolean {
  if (typeof url !== 'string') return false
  try {
    return /^postgres(ql)?:$/.test(new URL(url).protocol)
  } catch {
    // The error would show the password.
    return false
  }
}

/** The options as others may see them: a password is not shown. */
export function shownOptions(options: PostgresOptions): Readonly<Record<string, unknown>> {
  const { url, ...others } = options
  if (url === undefined) return Object.freeze(others)
  const shown = new URL(url)
  if (shown.password !== '') shown.password = '***'
  if (shown.searchParams.has('password')) shown.searchParams.set('password', '***')
  return Object.freeze({ url: shown.href, ...others })
}
