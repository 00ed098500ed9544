/** The handle of a MySQL or MariaDB database: its options, checked, and how it connects. */
import type { Pool, PoolOptions } from 'mysql2/promise'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { ConnectOptions, Participant, ParticipantHandle } from '../../contracts/participant.ts'
import { nearest } from '../../contracts/nearest.ts'
import { loadDriver } from './driver.ts'
import { MysqlParticipant } from './participant.ts'

export interface MysqlOptions {
  /** `mysql://user:password@host:port/database`; `mariadb://` is the same. Give this or `pool`. */
  readonly url?: string
  /**
   * A pool of your own (`mysql2/promise`), for Headrace alone: the settings of
   * its sessions are changed. It is never ended here. Needs two connections at
   * least, and must not reset them on release.
   */
  readonly pool?: Pool
  /** SQL that makes your tables, run by `headrace migrate` after Headrace's own: write it so that a second run changes nothing. */
  readonly schema?: string
  /** Connections for branches, at most; four more serve reads and recovery. Default: 10. */
  readonly poolMax?: number
  /** The longest that a statement outside of a branch may take, in milliseconds. Default: 10,000. */
  readonly statementTimeoutMs?: number
  /** The longest that connecting may take, in milliseconds. Default: 5,000. */
  readonly connectTimeoutMs?: number
}

const namePattern = /^[a-z][a-z0-9_-]{0,31}$/
const known = ['url', 'pool', 'schema', 'poolMax', 'statementTimeoutMs', 'connectTimeoutMs'] as const
const asideMax = 4
const preparedStatementsMax = 64
const idleMs = 60_000

/**
 * Names a MySQL or MariaDB database for an app or a coordinator; nothing connects
 * before `connect`. Throws 'option-invalid' and 'option-unknown'.
 */
export function mysql<const Name extends string>(name: Name, options: MysqlOptions): ParticipantHandle<Name> {
  if (!namePattern.test(name) || name === 'journal')
    throw new HeadraceError(
      'option-invalid',
      `The database name ${JSON.stringify(name)} is not valid: use 1 to 32 lower-case letters, digits, dashes or underscores, and not 'journal'.`,
    )
  for (const option of Object.keys(options)) {
    if ((known as readonly string[]).includes(option)) continue
    const near = nearest(option, known)
    throw new HeadraceError(
      'option-unknown',
      `MySQL '${name}' has no option '${option}'.${near === null ? '' : ` Did you mean '${near}'?`} Known: ${known.join(', ')}.`,
    )
  }
  const { url, pool, schema, poolMax = 10, statementTimeoutMs = 10_000, connectTimeoutMs = 5_000 } = options
  if ((url === undefined) === (pool === undefined))
    throw new HeadraceError('option-invalid', `MySQL '${name}' needs either a url or a pool of your own.`)
  if (schema !== undefined && (typeof schema !== 'string' || schema === ''))
    throw new HeadraceError('option-invalid', `The option 'schema' of MySQL '${name}' must be a text.`)
  checkWhole(`poolMax of MySQL '${name}'`, poolMax, 1, 1_000)
  checkWhole(`statementTimeoutMs of MySQL '${name}'`, statementTimeoutMs, 10, 3_600_000)
  checkWhole(`connectTimeoutMs of MySQL '${name}'`, connectTimeoutMs, 10, 600_000)
  const target = url === undefined ? null : parseUrl(name, url)
  if (pool !== undefined) checkPool(name, pool)
  const address = target?.address ?? addressOf(pool as Pool)
  const shown: Record<string, unknown> = {
    address,
    poolMax,
    statementTimeoutMs,
    connectTimeoutMs,
    ...(schema === undefined ? {} : { schema }),
  }

  return Object.freeze({
    kind: 'database' as const,
    name,
    engine: 'mysql',
    // Without the url and the pool, which hold the password.
    options: Object.freeze(shown),
    async connect({ branchesMax }: ConnectOptions = {}): Promise<Participant> {
      if (branchesMax !== undefined) checkWhole('branchesMax', branchesMax, 1, 10_000)
      const driver = await loadDriver()
      const common = { name, address, driver, schema: schema ?? null, connectTimeoutMs, statementTimeoutMs }
      if (pool !== undefined) {
        const limit = limitOf(pool)
        const aside = Math.min(asideMax, Math.max(1, Math.floor(limit / 4)))
        const max = Math.min(branchesMax ?? poolMax, limit - aside)
        return new MysqlParticipant({
          ...common,
          branches: { pool, max },
          aside: { pool, max: aside },
          several: configOf(pool).connectionConfig?.multipleStatements === true,
          owned: [],
        })
      }
      const max = branchesMax ?? poolMax
      const base = poolOptions(target?.url ?? '', connectTimeoutMs)
      const branches = driver.createPool({ ...base, connectionLimit: max, maxIdle: Math.max(1, max - 1) })
      const aside = driver.createPool({ ...base, connectionLimit: asideMax, maxIdle: asideMax - 1 })
      return new MysqlParticipant({
        ...common,
        branches: { pool: branches, max },
        aside: { pool: aside, max: asideMax },
        several: true,
        owned: [branches, aside],
      })
    },
  })
}

function poolOptions(uri: string, connectTimeout: number): PoolOptions {
  return {
    uri,
    connectTimeout,
    idleTimeout: idleMs,
    // The statements of Headrace's own at the ends of a branch go in one call; a statement of the app is looked at first.
    multipleStatements: true,
    // Counts rows that were changed, not rows that were found; and no file of this machine goes to a server that asks for it.
    flags: ['-FOUND_ROWS', '-LOCAL_FILES'],
    maxPreparedStatements: preparedStatementsMax,
    jsonStrings: true,
    trace: false,
    enableKeepAlive: true,
  } as PoolOptions
}

function parseUrl(name: string, url: string): { readonly url: string; readonly address: string } {
  const refuse = (why: string): HeadraceError =>
    new HeadraceError('option-invalid', `The url of MySQL '${name}' ${why}: write mysql://user:password@host:port/database.`)
  if (typeof url !== 'string') throw refuse('is not a text')
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    throw refuse('is not a URL')
  }
  if (parsed.protocol !== 'mysql:' && parsed.protocol !== 'mariadb:')
    throw refuse(`must start with mysql:// or mariadb://, not ${parsed.protocol}//`)
  if (parsed.hostname === '') throw refuse('names no host')
  if (parsed.pathname.length < 2) throw refuse('names no database')
  return {
    url: url.replace(/^mariadb:/, 'mysql:'),
    address: `${parsed.hostname}:${parsed.port === '' ? '3306' : parsed.port}${parsed.pathname}`,
  }
}

interface PoolConfig {
  readonly connectionLimit?: number
  readonly resetOnRelease?: boolean
  readonly connectionConfig?: {
    readonly host?: string
    readonly port?: number
    readonly database?: string
    readonly multipleStatements?: boolean
  }
}

const configOf = (pool: Pool): PoolConfig => (pool as unknown as { pool?: { config?: PoolConfig } }).pool?.config ?? {}

function limitOf(pool: Pool): number {
  const { connectionLimit = 10 } = configOf(pool)
  return connectionLimit === 0 ? 1_000 : connectionLimit
}

function checkPool(name: string, pool: Pool): void {
  if (typeof (pool as { getConnection?: unknown } | null)?.getConnection !== 'function' || configOf(pool).connectionConfig === undefined)
    throw new HeadraceError('option-invalid', `The pool of MySQL '${name}' must be one of mysql2/promise: createPool(…).`)
  if (limitOf(pool) < 2)
    throw new HeadraceError(
      'option-invalid',
      `The pool of MySQL '${name}' has a connectionLimit of 1: recovery needs a connection besides that of a branch.`,
    )
  if (configOf(pool).resetOnRelease === true)
    throw new HeadraceError(
      'option-invalid',
      `The pool of MySQL '${name}' resets its connections on release, which breaks them after XA PREPARE: leave resetOnRelease out.`,
    )
}

function addressOf(pool: Pool): string {
  const { host = '127.0.0.1', port = 3306, database = '' } = configOf(pool).connectionConfig ?? {}
  return `${host}:${port}/${database}`
}
