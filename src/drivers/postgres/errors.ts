/**
 * SQLSTATE and the errors of `pg`, as errors of the table.
 * https://www.postgresql.org/docs/current/errcodes-appendix.html
 *
 * A message names the database, what was being done and the remedy. It never
 * holds a password: the client is never asked for its configuration.
 */
import { type ErrorCode, HeadraceError } from '../../contracts/errors.ts'

/** What was under way: some codes mean another thing at `prepare`, and a lost connection another thing at `commit`. */
export type Doing = 'connect' | 'statement' | 'prepare' | 'commit' | 'read' | 'call'

interface PostgresError extends Error {
  readonly code?: string
  /** Where in the server it was raised. */
  readonly routine?: string
  readonly table?: string
  readonly constraint?: string
  readonly errors?: readonly Error[]
}

const what: Readonly<Record<Doing, string>> = {
  connect: 'connecting',
  statement: 'a statement',
  prepare: 'PREPARE TRANSACTION',
  commit: 'COMMIT',
  read: 'a read',
  call: 'a call about a transaction',
}

const statementCharactersMax = 200
const messageCharactersMax = 300

export const sqlState = (error: unknown): string => (error as PostgresError | null)?.code ?? ''

/** Whether the connection is gone, or about to be: what was under way may have happened or not. */
export function connectionLost(error: unknown): boolean {
  const code = sqlState(error)
  // Without a SQLSTATE it is the client's own: a socket error, or a connection that was ended.
  return !/^[0-9A-Z]{5}$/.test(code) || /^(08|57P|25P03)/.test(code) || /^E[A-Z]{4}$/.test(code)
}

/** A statement that was planned before cannot be used any more: its table has changed (0A000, of which there are others), or it was closed (26000). */
export function isPlanTrouble(error: unknown): boolean {
  const code = sqlState(error)
  return code === '26000' || (code === '0A000' && (error as PostgresError).routine === 'RevalidateCachedQuery')
}

/** An error of PostgreSQL `name` in the words of Headrace. Errors that are ours already pass through. */
export function postgresError(name: string, error: unknown, doing: Doing, statement?: string): HeadraceError {
  if (HeadraceError.is(error)) return error
  const { constraint } = error as PostgresError
  const code = sqlState(error)
  const said = messageOf(error as PostgresError)
  const at = statement === undefined ? '' : ` in ${JSON.stringify(shortened(statement, statementCharactersMax))}`
  const make = (entry: ErrorCode, message: string): HeadraceError =>
    new HeadraceError(entry, `PostgreSQL '${name}' ${message}`, {
      details: { database: name, ...(code === '' ? {} : { sqlState: code }), ...(constraint === undefined ? {} : { constraint }) },
      cause: error,
    })

  if (connectionLost(error)) {
    if (doing === 'commit')
      return make('transaction-unknown', `was lost during COMMIT: ${said}. Whether it is committed, its marker tells.`)
    if (said === 'timeout exceeded when trying to connect')
      return make('engine-timeout', 'has no free connection in its pool in time: raise poolMax, or connectTimeoutMs.')
    return make('engine-unavailable', `cannot be reached for ${what[doing]}: ${said}.`)
  }
  if (isPlanTrouble(error)) return make('sql-conflict', `has changed under a statement that it had planned: ${said}${at}.`)
  switch (code) {
    case '40001':
    case '40P01':
      return make('sql-conflict', `ended the transaction for another: ${said}${at}.`)
    case '55P03':
      return make('sql-busy', `kept ${what[doing]} waiting for a lock: ${said}${at}.`)
    case '57014':
      return make('engine-timeout', `did not finish ${what[doing]} in time${at}.`)
    case '28P01':
    case '28000':
      return make('engine-refused', 'refuses the user or the password. Correct them in its url, or in pg_hba.conf.')
    case '3D000':
      return make('engine-refused', `has no such database: ${said}. Correct the database in its url.`)
    case '25006':
      return make('engine-refused', `is read-only: ${said}. Use the url of the primary.`)
    case '42501':
      return make(
        'engine-refused',
        `does not allow ${what[doing]}: ${said}. Grant the right to the user of its url (docs/postgres.md)${at}.`,
      )
    case '53100':
      return make('disk-full', `has no disk space left: ${said}.`)
    case '53300':
      return make('engine-unavailable', `has too many connections: ${said}. Raise max_connections, or lower poolMax.`)
    case '53200':
      return doing === 'prepare'
        ? make('prepare-full', 'holds as many prepared transactions as it may. Wait, or raise max_prepared_transactions and restart it.')
        : make('engine-unavailable', `is out of memory: ${said}.`)
    case '55000':
      if (doing === 'prepare')
        return make(
          'prepare-unavailable',
          'has max_prepared_transactions = 0. Set it to at least the number of lanes times 4, and restart it.',
        )
      break
    case '42710':
      if (doing === 'prepare') return make('gid-taken', `holds a prepared transaction of this name: ${said}.`)
      break
    case '42P01':
      if (ownTable(said)) return make('tables-missing', `lacks a table of Headrace: ${said}. Run headrace migrate.`)
      break
    case '42703':
      if (ownTable(said)) return make('tables-outdated', `has tables of Headrace of another version: ${said}. Run headrace migrate.`)
      break
    case '23505':
      if (/^headrace_(branch|decision)_/.test(constraint ?? ''))
        return make(
          'gid-taken',
          constraint?.startsWith('headrace_branch') === true
            ? 'has a marker under this gid: the branch was refused for good, or the gid is not new.'
            : 'has a decision under this gid: somebody decided first.',
        )
      break
  }
  if (/^(53|58|XX|F0|57)/.test(code)) return make('engine-failed', `answered ${what[doing]} with an error: ${said}${at}.`)
  return make('sql-failed', `${said}${at}.`)
}

const ownTable = (message: string): boolean => message.includes('headrace_')

function messageOf(error: PostgresError): string {
  // A name with several addresses fails with one error for each, and none of its own.
  const message = error.message !== '' ? error.message : (error.errors?.[0]?.message ?? 'no connection')
  return shortened(message.split('\n')[0] ?? '', messageCharactersMax)
}

function shortened(text: string, charactersMax: number): string {
  return text.length > charactersMax ? `${text.slice(0, charactersMax)}…` : text
}
