/**
 * The text of a statement, and the values in it.
 *
 * Statements go to the server as text. A value becomes a literal here: texts by
 * the escaping of the client, numbers exactly (an integer beyond 2^53 or a
 * decimal bound as a parameter would be computed as a double by the server).
 * A value only ever stands where a literal may: a place inside quotes or a
 * comment is refused, since a value could close them.
 */
import type { SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'

/** Escapes a text and puts it in quotes; of the client library. */
export type Quote = (text: string) => string

const plainName = /^[A-Za-z_][A-Za-z0-9_$]{0,63}$/
const refusedStatement =
  /^(begin|start|commit|end|rollback|savepoint|release|xa|lock|unlock|set|use|prepare|execute|deallocate|create|alter|drop|truncate|rename|analyze|optimize|repair|check|flush|reset|purge|grant|revoke|kill|shutdown|install|uninstall|load|handler|change|stop|backup|delimiter)\b/i
const ownTable = /headrace_/i

export function identifier(name: string, what: string, database: string): string {
  if (!plainName.test(name))
    throw new HeadraceError(
      'sql-failed',
      `${JSON.stringify(name)} is not a plain ${what} name on '${database}': use letters, digits and underscores.`,
    )
  return `\`${name}\``
}

export function refuseOwnTable(text: string, database: string): void {
  if (ownTable.test(text)) throw new HeadraceError('statement-refused', `The tables headrace_… of '${database}' belong to Headrace.`)
}

/** A value as a literal that stands anywhere an expression may. What would be stored as something else is refused. */
export function literal(value: SqlValue | undefined, where: string, quote: Quote): string {
  switch (typeof value) {
    case 'string':
      return quote(checkText(value, where))
    case 'number':
      return numberLiteral(value, where)
    case 'bigint':
      return String(value)
    case 'boolean':
      return value ? '1' : '0'
    case 'undefined':
      throw new HeadraceError('sql-failed', `The value for '${where}' is undefined: use null for no value.`)
    default:
      if (value === null) return 'null'
      if (value instanceof Uint8Array) return `x'${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')}'`
      if (value instanceof Date) return quote(dateText(value, where))
      throw new HeadraceError(
        'sql-failed',
        `The value for '${where}' is ${Array.isArray(value) ? 'a list' : `of type ${typeof value}`}: use a text, a number, a bigint, true, false, null, bytes or a date.`,
      )
  }
}

export function checkText(text: string, where: string): string {
  if (!(text as string & { isWellFormed(): boolean }).isWellFormed())
    throw new HeadraceError('sql-failed', `The text for '${where}' has half a surrogate pair, which MySQL cannot keep.`)
  return text
}

/** A moment as DATETIME takes it, in UTC like the session. */
export function dateText(date: Date, where: string): string {
  if (Number.isNaN(date.getTime())) throw new HeadraceError('sql-failed', `The date for '${where}' is not valid.`)
  return date.toISOString().slice(0, -1).replace('T', ' ')
}

/** Digits nearer to 0 than this are written with an exponent, which makes the literal a double. */
const fractionDigitsMax = 30

/** Written out without an exponent, so that it is an exact number to the server and not a double. */
function numberLiteral(value: number, where: string): string {
  if (!Number.isFinite(value)) throw new HeadraceError('sql-failed', `The value for '${where}' is ${value}: use null for no value.`)
  if (Number.isInteger(value)) return Math.abs(value) < 1e21 ? String(value) : String(BigInt(value))
  const text = String(value)
  const [, sign = '', whole = '', fraction = '', exponent] = /^(-?)(\d+)(?:\.(\d+))?(?:e(-\d+))?$/.exec(text) ?? []
  if (exponent === undefined) return text
  const zeros = -Number(exponent) - 1
  if (zeros + fraction.length + 1 > fractionDigitsMax) return text
  return `${sign}0.${'0'.repeat(zeros)}${whole}${fraction}`
}

export interface Statement {
  readonly text: string
  /** With question marks for values: for messages. */
  readonly shape: string
  /** Nothing but a read: no locks for others to wait on, no function that might write. */
  readonly plainRead: boolean
  /** The tables that it changes, as far as its first words tell. */
  readonly changes: string | null
}

/** The one statement of a tagged template, checked. */
export function statementOf(parts: readonly string[], values: readonly SqlValue[], database: string, quote: Quote): Statement {
  const shape = parts.join('?')
  const words = scan(parts, database)
  const first = /^[\s;(]*([a-z]+)/i.exec(words)?.[1] ?? ''
  if (refusedStatement.test(first))
    throw new HeadraceError(
      'statement-refused',
      `${first.toUpperCase()} is not allowed inside a command or a query of '${database}': Headrace begins and ends the transaction, and the schema is set by its migration.`,
    )
  if (first === '') throw new HeadraceError('sql-failed', `The statement for '${database}' is empty.`)
  refuseOwnTable(shape, database)
  let text = parts[0] ?? ''
  for (const [index, value] of values.entries()) {
    // With spaces around, so that it grows together with nothing: not with a quote, and not with a minus into a comment.
    text += ` ${literal(value, `parameter ${index + 1}`, quote)} ${parts[index + 1] ?? ''}`
  }
  return { text, shape, plainRead: isPlainRead(words), changes: changedTable(words) }
}

/**
 * The text without its comments and quoted texts, to be looked at. Throws when a
 * value would stand in one of them, when there is a second statement, and on
 * comments that the server runs.
 */
function scan(parts: readonly string[], database: string): string {
  let words = ''
  let ended = false
  for (const [index, part] of parts.entries()) {
    let at = 0
    while (at < part.length) {
      const rest = part.slice(at)
      const skipped = quotedOrComment(rest)
      if (skipped === null) {
        const char = part[at] as string
        if (ended && !/[\s;]/.test(char)) throw new HeadraceError('statement-refused', `Give sql one statement at a time on '${database}'.`)
        if (char === ';') ended = words.trim() !== ''
        words += char
        at += 1
        continue
      }
      if (/^\/\*M?!/.test(rest))
        throw new HeadraceError('statement-refused', `A comment that the server runs (/*! … */) is not allowed on '${database}'.`)
      const comment = /^(--|#|\/\*)/.test(rest)
      if (ended && !comment) throw new HeadraceError('statement-refused', `Give sql one statement at a time on '${database}'.`)
      const open = skipped.open && !(index === parts.length - 1 && /^(--|#)/.test(rest))
      if (open)
        throw new HeadraceError(
          'statement-refused',
          index < parts.length - 1
            ? `A value stands inside quotes or a comment in a statement for '${database}': leave the quotes out, values need none.`
            : `A quote or a comment is not closed in a statement for '${database}'.`,
        )
      words += rest.startsWith('`') ? rest.slice(0, skipped.length) : comment ? ' ' : "''"
      at += skipped.length
    }
    if (index < parts.length - 1) {
      if (ended) throw new HeadraceError('statement-refused', `Give sql one statement at a time on '${database}'.`)
      words += ' ? '
    }
  }
  return words
}

/** What starts here and is no word: its length, and whether it is still open at the end. */
function quotedOrComment(text: string): { readonly length: number; readonly open: boolean } | null {
  const quote = text[0]
  if (quote === "'" || quote === '"' || quote === '`') {
    for (let at = 1; at < text.length; at++) {
      if (text[at] === '\\' && quote !== '`') at += 1
      else if (text[at] === quote) {
        if (text[at + 1] !== quote) return { length: at + 1, open: false }
        at += 1
      }
    }
    return { length: text.length, open: true }
  }
  if (text.startsWith('/*')) {
    const end = text.indexOf('*/', 2)
    return end < 0 ? { length: text.length, open: true } : { length: end + 2, open: false }
  }
  if (quote === '#' || /^--(\s|$)/.test(text)) {
    const end = text.indexOf('\n')
    return end < 0 ? { length: text.length, open: true } : { length: end + 1, open: false }
  }
  return null
}

/** Words before a bracket that change nothing; any other may be a function of the user's that writes. */
const pureCalls = new Set(
  (
    'in values and or not exists any some all on using as when then else case where from join select having by limit offset union except intersect ' +
    'count sum min max avg coalesce ifnull nullif if least greatest abs round floor ceil ceiling mod truncate sign sqrt power pow ' +
    'concat concat_ws lower upper trim ltrim rtrim left right length char_length substring substr replace lpad rpad instr locate reverse repeat hex unhex md5 sha1 sha2 ' +
    'cast convert binary char date time year month day hour minute second now curdate current_timestamp utc_timestamp unix_timestamp from_unixtime date_format date_add date_sub datediff timestampdiff interval ' +
    'json_extract json_value json_object json_array json_arrayagg json_objectagg group_concat row_number rank dense_rank lag lead over partition bit_and bit_or bit_xor std variance stddev ' +
    'decimal signed unsigned double float int bigint varchar distinct version database schema connection_id like regexp between is'
  ).split(' '),
)

function isPlainRead(words: string): boolean {
  if (!/^[\s(]*(select|show|explain|describe|desc|values|table)\b/i.test(words)) return false
  if (/\b(into|for\s+update|lock\s+in|for\s+share|next\s+value|nextval|setval)\b|:=/i.test(words)) return false
  for (const [, call = ''] of words.matchAll(/([A-Za-z_$`][\w$`.]*)\s*\(/g)) {
    if (!pureCalls.has(call.toLowerCase())) return false
  }
  return true
}

function changedTable(words: string): string | null {
  const match =
    /^[\s(;]*(?:insert|replace)\s+(?:(?:low_priority|delayed|high_priority|ignore|into)\s+)*`?([\w$]+)`?/i.exec(words) ??
    /^[\s(;]*update\s+(?:(?:low_priority|ignore)\s+)*`?([\w$]+)`?/i.exec(words) ??
    /^[\s(;]*delete\s+(?:(?:low_priority|quick|ignore)\s+)*from\s+`?([\w$]+)`?/i.exec(words)
  return match?.[1] ?? null
}
