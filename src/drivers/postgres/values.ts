/**
 * Values on their way to PostgreSQL and back, in its text format.
 *
 * Integers beyond 2^53 come as bigint, bytes as Uint8Array, points in time as
 * Date (`timestamp` without a zone is read as UTC, as it is written). Numbers of
 * any precision (numeric), dates without a time, JSON and all else come as the
 * text that PostgreSQL prints: nothing is lost on the way.
 */
import type { SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { isStorable } from '../../std/text.ts'

const oid = { bool: 16, bytea: 17, int8: 20, int2: 21, int4: 23, oid: 26, float4: 700, float8: 701, timestamp: 1114, timestamptz: 1184 }

const text = (value: string): string => value
const parsers: Readonly<Record<number, (value: string) => SqlValue>> = {
  [oid.bool]: (value) => value === 't',
  [oid.bytea]: bytes,
  [oid.int2]: Number,
  [oid.int4]: Number,
  [oid.oid]: Number,
  [oid.int8]: whole,
  [oid.float4]: Number,
  [oid.float8]: Number,
  [oid.timestamp]: (value) => time(`${value}Z`, value),
  [oid.timestamptz]: (value) => time(value, value),
}

/** For the `types` of a query: independent of what the app has set for its own queries. */
export const columnTypes = { getTypeParser: (type: number) => parsers[type] ?? text } as never

function whole(value: string): number | bigint {
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : BigInt(value)
}

function bytes(value: string): Uint8Array {
  return Uint8Array.from(Buffer.from(value.slice(2), 'hex'))
}

/** `2026-01-31 12:00:00.123456+00` is ISO 8601 but for the blank and the short zone. Before Christ and infinity stay text. */
function time(value: string, raw: string): SqlValue {
  const date = new Date(value.replace(' ', 'T').replace(/([+-]\d\d)$/, '$1:00'))
  return Number.isNaN(date.getTime()) ? raw : date
}

/** A value as the client takes it. What it would bind as something else is refused. */
export function bound(value: SqlValue | undefined, column: string): string | Buffer | null {
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  return asText(value, column)
}

/** A value in PostgreSQL's text format. */
export function asText(value: SqlValue | undefined, column: string): string | null {
  switch (typeof value) {
    case 'string':
      if (!isStorable(value))
        throw new HeadraceError(
          'sql-failed',
          `The text for '${column}' has a zero character or half a surrogate pair, which PostgreSQL cannot keep.`,
        )
      return value
    case 'number':
      if (Number.isNaN(value)) throw new HeadraceError('sql-failed', `The value for '${column}' is NaN: use null for no value.`)
      return String(value)
    case 'bigint':
      return value.toString()
    case 'boolean':
      return value ? 'true' : 'false'
    case 'undefined':
      throw new HeadraceError('sql-failed', `The value for '${column}' is undefined: use null for no value.`)
    default:
      if (value === null) return null
      if (value instanceof Date) {
        if (Number.isNaN(value.getTime())) throw new HeadraceError('sql-failed', `The date for '${column}' is not valid.`)
        return value.toISOString()
      }
      if (value instanceof Uint8Array) return `\\x${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')}`
      throw new HeadraceError(
        'sql-failed',
        `The value for '${column}' is ${Array.isArray(value) ? 'a list' : `of type ${typeof value}`}: use a text, a number, a bigint, true, false, null, bytes or a date.`,
      )
  }
}

const special = /["\\]/g

/** Values as one array in PostgreSQL's own notation. https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO */
export function arrayOf(values: Iterable<SqlValue | undefined>, column: string): string {
  let list = ''
  for (const value of values) {
    const as = asText(value, column)
    const item = as === null ? 'NULL' : typeof value === 'number' || typeof value === 'bigint' ? as : `"${as.replace(special, '\\$&')}"`
    list += list === '' ? item : `,${item}`
  }
  return `{${list}}`
}

const plainLiteral = /^[A-Za-z0-9_.:/@ -]*$/

/** A text inside a statement that takes no parameters. */
export function literal(value: string): string {
  return plainLiteral.test(value) ? `'${value}'` : `convert_from('\\x${Buffer.from(value, 'utf8').toString('hex')}'::bytea, 'UTF8')`
}
