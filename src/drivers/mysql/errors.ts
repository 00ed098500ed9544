/**
 * The errors of MySQL, MariaDB and their client, as errors of the table.
 * https://mariadb.com/kb/en/mariadb-error-code-reference/
 *
 * The client's own errors carry the text of the statement with its values, so
 * none of them leaves this folder, not even as a cause. Passwords are in none.
 */
import { type ErrorCode, HeadraceError } from '../../contracts/errors.ts'

/** What the client throws. */
export interface MysqlClientError extends Error {
  readonly errno?: number
  readonly code?: string
  readonly sqlState?: string
  readonly sqlMessage?: string
  readonly fatal?: boolean
}

export const errno = Object.freeze({
  duplicateKey: 1062,
  unknownColumn: 1054,
  noSuchTable: 1146,
  lockWaitTimeout: 1205,
  deadlock: 1213,
  interrupted: 1317,
  packetTooLarge: 1153,
  unknownXid: 1397,
  xidTaken: 1440,
  xaRolledBack: 1402,
  xaTimedOut: 1613,
  xaDeadlock: 1614,
  readOnlyTransaction: 1792,
})

/** The server is up, and will take calls later: connections are used up, or it is starting or stopping. */
const passing = new Set([1040, 1203, 1226, 1053, 1077, 1079, 1080, 1152, 1158, 1159, 1160, 1161, 1184, 1927, 2006, 2013, 4031])
const codes: ReadonlyMap<number, ErrorCode> = new Map([
  [errno.deadlock, 'sql-conflict'],
  [errno.xaDeadlock, 'sql-conflict'],
  [errno.xaTimedOut, 'sql-conflict'],
  [errno.xaRolledBack, 'sql-conflict'],
  [1020, 'sql-conflict'],
  [errno.lockWaitTimeout, 'sql-busy'],
  [errno.interrupted, 'engine-timeout'],
  [1969, 'engine-timeout'],
  [3024, 'engine-timeout'],
  [errno.xidTaken, 'gid-taken'],
  [1399, 'statement-refused'],
  [errno.readOnlyTransaction, 'statement-refused'],
  [1021, 'disk-full'],
  [1114, 'disk-full'],
  ...[1044, 1045, 1049, 1129, 1130, 1142, 1143, 1227, 1251, 1290, 1370, 1698, 1820, 1836, 1837, 1862].map(
    (number) => [number, 'engine-refused'] as const,
  ),
])

const refusals: ReadonlyMap<number, string> = new Map([
  [1044, 'Grant the account SELECT, INSERT, UPDATE and DELETE on the database, or correct the name of the database in the url.'],
  [1045, 'Correct the user or the password in the url.'],
  [1049, 'Correct the name of the database in the url, or create it.'],
  [1142, 'Grant the account the right that the message names.'],
  [1143, 'Grant the account the right that the message names.'],
  [1227, 'Grant the account the right that the message names.'],
  [1290, 'Connect to the primary, or end its read-only mode.'],
  [1836, 'Connect to the primary, or end its read-only mode.'],
])

/** Whether the connection is gone, so that nothing is known of what was under way on it. */
export function isLost(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  const { fatal, errno: number, code } = error as MysqlClientError
  if (number !== undefined && number > 0 && number < 2000 && number !== 1053 && number !== 1927 && number !== 1077) return false
  return fatal === true || passing.has(number ?? 0) || /^(PROTOCOL_|E[A-Z]+$)/.test(code ?? '')
}

export interface ErrorContext {
  /** Name of the participant. */
  readonly name: string
  /** Host, port and database, without credentials. */
  readonly address: string
  /** The statement without its values. */
  readonly statement?: string
  /** It reads or writes Headrace's own tables. */
  readonly own?: boolean
}

/** An error about the database `name` in the words of Headrace. Errors that are ours already pass through. */
export function mysqlError(error: unknown, context: ErrorContext): HeadraceError {
  if (HeadraceError.is(error)) return error
  const { name, address } = context
  const client = error as MysqlClientError
  const number = client.errno !== undefined && client.errno > 0 ? client.errno : 0
  const said = firstLine(client.sqlMessage ?? client.message ?? String(error))
  const details = {
    database: name,
    ...(number === 0 ? {} : { errno: number }),
    ...(client.sqlState === undefined ? {} : { sqlState: client.sqlState }),
  }
  if (context.own === true && number === errno.noSuchTable)
    return new HeadraceError('tables-missing', `MySQL '${name}': ${said} Run headrace migrate with an account that may create tables.`, {
      details,
    })
  if (context.own === true && number === errno.unknownColumn)
    return new HeadraceError('tables-outdated', `MySQL '${name}': ${said} Run headrace migrate; it upgrades the tables in place.`, {
      details,
    })
  if (passing.has(number))
    return new HeadraceError('engine-unavailable', `MySQL '${name}' at ${address} takes no calls now: ${said}`, { details })
  const code = codes.get(number) ?? (number > 0 && number < 2000 ? 'sql-failed' : number >= 3000 ? 'sql-failed' : null)
  if (code === 'engine-refused')
    return new HeadraceError(
      code,
      `MySQL '${name}' at ${address} refuses: ${said} ${refusals.get(number) ?? 'Correct the account or the setting that the message names.'}`,
      { details },
    )
  if (code !== null) return new HeadraceError(code, `MySQL '${name}': ${said}${inStatement(context.statement)}`, { details })
  if (isLost(error))
    return new HeadraceError(
      'engine-unavailable',
      `MySQL '${name}' at ${address} cannot be reached: ${said} Start it, or correct its address.`,
      { details },
    )
  return new HeadraceError('engine-failed', `MySQL '${name}' at ${address}: ${said}${inStatement(context.statement)}`, { details })
}

function inStatement(statement: string | undefined): string {
  if (statement === undefined) return ''
  return ` In ${JSON.stringify(statement.length > 200 ? `${statement.slice(0, 200)}…` : statement)}.`
}

function firstLine(message: string): string {
  const line = (message.split('\n')[0] ?? '').trim().slice(0, 300)
  return /[.!?]$/.test(line) ? line : `${line}.`
}
