/**
 * What the client returns, as the rows of the contract: integers beyond 2^53 as
 * bigint, sums of integers as integers, decimals with places as text (they have
 * no exact number in JavaScript), bytes as Uint8Array, DATE as its text, and
 * DATETIME and TIMESTAMP as Date.
 */
import type { FieldPacket, QueryOptions, ResultSetHeader } from 'mysql2/promise'
import type { Row, SqlValue } from '../../contracts/database.ts'

/** How every statement is read, whatever the pool's own settings are. */
export const reading = Object.freeze({
  supportBigNumbers: true,
  bigNumberStrings: false,
  dateStrings: ['DATE'],
  timezone: 'Z',
  rowsAsArray: false,
  nestTables: false,
  typeCast: true,
}) as Omit<QueryOptions, 'sql'>

const decimal = 0
const longlong = 8
const newDecimal = 246
const json = 245

export type Result = Row[] | ResultSetHeader

type Convert = (value: unknown) => SqlValue

function whole(value: unknown): SqlValue {
  if (typeof value !== 'string') return value as SqlValue
  const number = Number(value)
  return Number.isSafeInteger(number) ? number : BigInt(value)
}

function bytes(value: unknown): SqlValue {
  return Buffer.isBuffer(value) ? new Uint8Array(value) : (value as SqlValue)
}

function converterOf(field: FieldPacket): Convert | null {
  switch (field.columnType) {
    case longlong:
      return whole
    case decimal:
    case newDecimal:
      return field.decimals === 0 ? whole : null
    case json:
      return (value) => (value === null || typeof value === 'string' ? (value as SqlValue) : JSON.stringify(value))
    default:
      return field.characterSet === 63 ? bytes : null
  }
}

/** The results of a call: one, or one per statement when several were sent. */
export function resultsOf(results: unknown, fields: unknown): Result[] {
  // Several statements: the fields are a list of lists, or undefined where a statement has no rows.
  const several = Array.isArray(fields) && fields.length > 0 && fields.every((each) => each === undefined || Array.isArray(each))
  if (!several) return [one(results, fields as FieldPacket[] | undefined)]
  return (results as unknown[]).map((each, index) => one(each, (fields as (FieldPacket[] | undefined)[])[index]))
}

function one(result: unknown, fields: FieldPacket[] | undefined): Result {
  if (!Array.isArray(result)) return result as ResultSetHeader
  const converted = (fields ?? []).flatMap((field) => {
    const convert = converterOf(field)
    return convert === null ? [] : [[field.name, convert] as const]
  })
  if (converted.length > 0) {
    for (const row of result as Record<string, unknown>[]) {
      for (const [name, convert] of converted) row[name] = convert(row[name])
    }
  }
  return result as Row[]
}

export const rowsOf = (result: Result | undefined): Row[] => (Array.isArray(result) ? result : [])
export const changedBy = (result: Result | undefined): number => (result === undefined || Array.isArray(result) ? 0 : result.affectedRows)

/** The rows that an UPDATE found, whether it changed them or not: `info` says so on every server. */
export function matchedBy(result: Result | undefined): number {
  if (result === undefined || Array.isArray(result)) return 0
  const match = /Rows matched: (\d+)/.exec(result.info)
  return match === null ? result.affectedRows : Number(match[1])
}
