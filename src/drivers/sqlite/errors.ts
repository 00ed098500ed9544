/** SQLite's result codes, as errors of the table. https://www.sqlite.org/rescode.html */
import { type ErrorCode, HeadraceError } from '../../contracts/errors.ts'

interface SqliteError extends Error {
  readonly errcode?: number
  readonly sqliteExtendedCode?: number
}

const primary = { busy: 5, locked: 6, readonly: 8, ioerr: 10, corrupt: 11, full: 13, cantopen: 14, auth: 23, notadb: 26 }

/** What SQLite says for each code (sqlite3_errstr): the driver gives no code with the errors of `all` and `iterate`. */
const messages: Readonly<Record<string, number>> = {
  'database is locked': primary.busy,
  'database table is locked': primary.locked,
  'attempt to write a readonly database': primary.readonly,
  'disk I/O error': primary.ioerr,
  'database disk image is malformed': primary.corrupt,
  'database or disk is full': primary.full,
  'unable to open database file': primary.cantopen,
  'authorization denied': primary.auth,
  'file is not a database': primary.notadb,
}

function codeOf(primaryCode: number): ErrorCode {
  switch (primaryCode) {
    case primary.busy:
    case primary.locked:
      return 'sql-busy'
    case primary.full:
      return 'disk-full'
    case primary.ioerr:
      return 'storage-failed'
    case primary.corrupt:
    case primary.notadb:
      return 'data-corrupt'
    case primary.readonly:
    case primary.cantopen:
    case primary.auth:
      return 'data-unreadable'
    default:
      return 'sql-failed'
  }
}

/** An error of SQLite about the file `name`, in the words of Headrace. Errors that are ours already pass through. */
export function sqliteError(name: string, error: unknown, statement?: string): HeadraceError {
  if (HeadraceError.is(error)) return error
  const { errcode, sqliteExtendedCode, message } = error as SqliteError
  const extended = sqliteExtendedCode ?? errcode ?? messages[message] ?? 0
  const code = codeOf(extended & 0xff)
  const what = statement === undefined ? '' : ` in ${JSON.stringify(statement.length > 200 ? `${statement.slice(0, 200)}…` : statement)}`
  return new HeadraceError(code, `SQLite '${name}': ${message}${what}`, { details: { database: name, sqliteCode: extended }, cause: error })
}
