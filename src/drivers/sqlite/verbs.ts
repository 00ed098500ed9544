/**
 * The bulk verbs on one SQLite connection: statements are built once per shape
 * and kept prepared.
 *
 * SQLite has no round trip to save, but each run of a statement costs as much as
 * the row itself. Measured per row, in microseconds: inserts one by one 1.9, 32
 * in one statement 0.9, over json_each 1.4; updates one by one 2.2, over
 * json_each 2.3; reads one by one 2.6, by `in (?, …)` 2.0, over json_each 1.7.
 * So inserts go by 32, reads by json_each where JSON says the same as the
 * values, and updates one by one.
 */
import type { DatabaseSyncInstance, StatementSyncInstance } from '@photostructure/sqlite'
import type { InsertOptions, Row, SelectOptions, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { isStorable } from '../../std/text.ts'
import { sqliteError } from './errors.ts'
import { type RowSet, rowSetOf } from './rows.ts'

/** A verb with its arguments, as it crosses from one thread to the other. */
export type Verb =
  | { readonly verb: 'sql'; readonly text: string; readonly values: readonly SqlValue[] }
  | {
      readonly verb: 'selectIn'
      readonly table: string
      readonly column: string
      readonly values: readonly SqlValue[]
      readonly options: SelectOptions
    }
  | { readonly verb: 'insertMany'; readonly table: string; readonly rows: RowSet; readonly options: InsertOptions }
  | { readonly verb: 'updateMany' | 'addMany'; readonly table: string; readonly key: readonly string[]; readonly rows: RowSet }
  | {
      readonly verb: 'upsertMany'
      readonly table: string
      readonly key: readonly string[]
      readonly rows: RowSet
      readonly add: readonly string[]
    }
  | { readonly verb: 'deleteIn'; readonly table: string; readonly column: string; readonly values: readonly SqlValue[] }

/** Prepared statements kept per connection; the one unused for longest goes first. */
const statementsMax = 256
/** Rows of one insert; what is left goes by the next smaller size. */
const insertSizes = [32, 8, 1]
/** SQLite takes 32,766 parameters in a statement; a wide table has fewer rows in one. */
const parametersMax = 4_096

const plainName = /^[A-Za-z_][A-Za-z0-9_$]{0,127}$/
const refusedStatement =
  /^(?:\s|--[^\n]*\n|\/\*[\s\S]*?\*\/|;)*(begin|commit|end|rollback|savepoint|release|attach|detach|pragma|vacuum|create|alter|drop|reindex|analyze)\b/i
const ownTable = /headrace_/i
/** What may hold a semicolon that ends nothing, and the semicolon that ends a statement. */
const semicolons = /'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|\/\*[\s\S]*?\*\/|;/g
const onlyComments = /^(?:\s|;|--[^\n]*|\/\*[\s\S]*?\*\/)*$/

type Bound = string | number | bigint | null | Uint8Array

export class Verbs {
  readonly #name: string
  readonly #database: DatabaseSyncInstance
  readonly #statements = new Map<string, StatementSyncInstance>()

  readonly #readOnly: boolean

  constructor(name: string, database: DatabaseSyncInstance, { readOnly = false } = {}) {
    this.#name = name
    this.#database = database
    this.#readOnly = readOnly
  }

  /** Rows for reads, the number of rows changed for writes. */
  run(verb: Verb): RowSet | number {
    switch (verb.verb) {
      case 'sql':
        return this.#sql(verb.text, verb.values)
      case 'selectIn':
        return this.#selectIn(verb.table, verb.column, verb.values, verb.options)
      case 'insertMany':
        return this.#insertMany(verb.table, verb.rows, verb.options)
      case 'updateMany':
        return this.#changeMany(verb.table, verb.key, verb.rows, (column) => `${column} = ?`)
      case 'addMany':
        return this.#changeMany(verb.table, verb.key, verb.rows, (column) => `${column} = ${column} + ?`)
      case 'upsertMany':
        return this.#upsertMany(verb.table, verb.key, verb.rows, verb.add)
      case 'deleteIn':
        return this.#eachValue(`delete from ${this.#table(verb.table)} where ${this.#column(verb.column)} = ?`, verb.values)
    }
  }

  #sql(text: string, values: readonly SqlValue[]): RowSet {
    const refused = refusedStatement.exec(text)
    if (refused !== null) {
      throw new HeadraceError(
        'statement-refused',
        `${(refused[1] ?? '').toUpperCase()} is not allowed inside a command or a query of '${this.#name}': Headrace begins and ends the transaction, and the schema is set at start.`,
      )
    }
    if (ownTable.test(text)) throw this.#ownTableRefused()
    if (!isOneStatement(text))
      throw new HeadraceError(
        'statement-refused',
        `Only the first of several statements would run on '${this.#name}': give sql one at a time.`,
      )
    return this.#attempt(text, (statement) =>
      rowsOf(
        statement,
        values.map((value, index) => bound(value, `parameter ${index + 1}`)),
      ),
    )
  }

  #selectIn(table: string, column: string, values: readonly SqlValue[], options: SelectOptions): RowSet {
    const from = this.#table(table)
    const wanted = options.columns === undefined ? `${from}.*` : options.columns.map((name) => `${from}.${this.#column(name)}`).join(', ')
    const found = [...distinct(values)]
    const json = asJson(found)
    if (json !== null) {
      const text = `select ${wanted} from json_each(?) as wanted join ${from} on ${from}.${this.#column(column)} = wanted.value`
      return this.#attempt(text, (statement) => rowsOf(statement, [json]))
    }
    const text = `select ${wanted} from ${from} where ${this.#column(column)} = ?`
    return this.#attempt(text, (statement) => {
      const sets = found.map((value) => rowsOf(statement, [value]))
      return {
        columns: sets.find((set) => set.columns.length > 0)?.columns ?? [],
        values: sets.flatMap((set) => set.values),
        even: true,
      }
    })
  }

  #insertMany(table: string, rows: RowSet, options: InsertOptions): number {
    const head = `insert into ${this.#table(table)} (${this.#list(rows.columns)}) values `
    return this.#insertByMany(head, rows, options.onConflict === 'ignore' ? ' on conflict do nothing' : '')
  }

  #changeMany(table: string, key: readonly string[], rows: RowSet, assignment: (column: string) => string): number {
    const others = this.#othersThan(key, rows)
    if (others.length === 0) return 0
    const text = `update ${this.#table(table)} set ${others.map((column) => assignment(this.#column(column))).join(', ')} where ${key.map((column) => `${this.#column(column)} = ?`).join(' and ')}`
    return this.#eachRow(text, [...others, ...key], rows)
  }

  /** Rows in the order given; one that meets an earlier one of the same statement sees it. */
  #upsertMany(table: string, key: readonly string[], rows: RowSet, add: readonly string[]): number {
    const target = this.#table(table)
    const changes = this.#othersThan(key, rows).map((name) => {
      const column = this.#column(name)
      return add.includes(name) ? `${column} = ${target}.${column} + excluded.${column}` : `${column} = excluded.${column}`
    })
    return this.#insertByMany(
      `insert into ${target} (${this.#list(rows.columns)}) values `,
      rows,
      ` on conflict (${this.#list(key)}) do ${changes.length === 0 ? 'nothing' : `update set ${changes.join(', ')}`}`,
    )
  }

  #insertByMany(head: string, rows: RowSet, tail: string): number {
    const { columns, values } = rows
    const one = `(${columns.map(() => '?').join(', ')})`
    const textOf = (count: number): string => `${head}${Array(count).fill(one).join(', ')}${tail}`
    if (!rows.even) throw this.#unevenRows(textOf(1))
    let changed = 0
    let next = 0
    for (const count of insertSizes) {
      const size = count * columns.length
      if (values.length - next < size || (count > 1 && size > parametersMax)) continue
      this.#attempt(textOf(count), (statement) => {
        for (; values.length - next >= size; next += size) {
          const parameters: Bound[] = []
          for (let index = 0; index < size; index++) parameters.push(bound(values[next + index], columns[index % columns.length] as string))
          changed += Number(statement.run(...parameters).changes)
        }
      })
    }
    return changed
  }

  /** Runs the statement for each row, with the values of `columns` in their order. */
  #eachRow(text: string, columns: readonly string[], { columns: given, values, even }: RowSet): number {
    if (!even) throw this.#unevenRows(text)
    const places = columns.map((column) => given.indexOf(column))
    return this.#attempt(text, (statement) => {
      let changed = 0
      const parameters: Bound[] = []
      for (let start = 0; start < values.length; start += given.length) {
        for (let index = 0; index < places.length; index++)
          parameters[index] = bound(values[start + (places[index] as number)], columns[index] as string)
        changed += Number(statement.run(...parameters).changes)
      }
      return changed
    })
  }

  #eachValue(text: string, values: readonly SqlValue[]): number {
    return this.#attempt(text, (statement) => {
      let changed = 0
      for (const value of distinct(values)) changed += Number(statement.run(value).changes)
      return changed
    })
  }

  #attempt<T>(text: string, use: (statement: StatementSyncInstance) => T): T {
    try {
      return use(this.#prepared(text))
    } catch (error) {
      const known = sqliteError(this.#name, error, text)
      if (this.#readOnly && known.code === 'data-unreadable')
        throw new HeadraceError('statement-refused', `A query only reads, but this statement writes to '${this.#name}': ${text}`, {
          cause: error,
        })
      throw known
    }
  }

  #prepared(text: string): StatementSyncInstance {
    const known = this.#statements.get(text)
    if (known !== undefined) {
      this.#statements.delete(text)
      this.#statements.set(text, known)
      return known
    }
    const statement = this.#database.prepare(text)
    this.#statements.set(text, statement)
    if (this.#statements.size > statementsMax) {
      const [oldest] = this.#statements.keys()
      if (oldest !== undefined) this.#statements.delete(oldest)
    }
    return statement
  }

  #othersThan(key: readonly string[], { columns }: RowSet): string[] {
    for (const column of key) {
      if (!columns.includes(column))
        throw new HeadraceError('sql-failed', `A row has no value for its key column '${column}' on '${this.#name}'.`)
    }
    return columns.filter((column) => !key.includes(column))
  }

  #table(name: string): string {
    if (ownTable.test(name)) throw this.#ownTableRefused()
    return this.#identifier('table', name)
  }

  #column(name: string): string {
    return this.#identifier('column', name)
  }

  #list(columns: readonly string[]): string {
    return columns.map((column) => this.#column(column)).join(', ')
  }

  #identifier(what: string, name: string): string {
    if (!plainName.test(name))
      throw new HeadraceError(
        'sql-failed',
        `${JSON.stringify(name)} is not a plain ${what} name on '${this.#name}': use letters, digits and underscores.`,
      )
    return `"${name}"`
  }

  #ownTableRefused(): HeadraceError {
    return new HeadraceError('statement-refused', `The tables headrace_… of '${this.#name}' belong to Headrace.`)
  }

  #unevenRows(text: string): HeadraceError {
    return new HeadraceError('sql-failed', `The rows given to '${this.#name}' do not all have the same columns: ${text}`)
  }
}

/** SQLite runs the first statement of a text and says nothing of the rest. */
function isOneStatement(text: string): boolean {
  if (!text.includes(';')) return true
  for (const match of text.matchAll(semicolons)) {
    if (match[0] === ';') return onlyComments.test(text.slice(match.index))
  }
  return true
}

/** A value as the driver takes it. What it would bind as something else is refused: the driver cuts texts at a zero character, and makes null of NaN. */
function bound(value: SqlValue | undefined, column: string): Bound {
  switch (typeof value) {
    case 'string':
      if (!isStorable(value))
        throw new HeadraceError(
          'sql-failed',
          `The text for '${column}' has a zero character or half a surrogate pair, which SQLite cannot keep.`,
        )
      return value
    case 'number':
      if (Number.isNaN(value)) throw new HeadraceError('sql-failed', `The value for '${column}' is NaN: use null for no value.`)
      return value
    case 'bigint':
      return value
    case 'boolean':
      return value ? 1 : 0
    case 'undefined':
      throw new HeadraceError('sql-failed', `The value for '${column}' is undefined: use null for no value.`)
    default:
      if (value === null || value instanceof Uint8Array) return value
      if (value instanceof Date && !Number.isNaN(value.getTime())) return value.toISOString()
      throw new HeadraceError(
        'sql-failed',
        `The value for '${column}' is ${Array.isArray(value) ? 'a list' : value instanceof Date ? 'a date that is none' : `of type ${typeof value}`}: use a text, a number, a bigint, true, false, null, bytes or a date.`,
      )
  }
}

/** Each value once, as SQLite compares them. */
function distinct(values: readonly SqlValue[]): Iterable<Bound> {
  const found = new Map<Bound, Bound>()
  for (const each of values) {
    const value = bound(each, 'value')
    // No text has a zero character, so none is taken for these bytes.
    if (value instanceof Uint8Array) found.set(`\0${Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')}`, value)
    else found.set(typeof value === 'bigint' && isSafe(value) ? Number(value) : value, value)
  }
  return found.values()
}

function isSafe(value: bigint): boolean {
  return value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= BigInt(Number.MIN_SAFE_INTEGER)
}

/** The values as a JSON list, or null when it would not say the same: bytes, big integers, infinities. */
function asJson(values: readonly Bound[]): string | null {
  const plain = values.every((value) => typeof value === 'string' || (typeof value === 'number' && Number.isFinite(value)))
  return plain ? JSON.stringify(values) : null
}

/**
 * The rows of a statement. Integers beyond 2^53 come as bigint. The driver
 * refuses them unless asked, so a read that meets one is repeated; a statement
 * that changes rows must not be, and reads them as bigint from the start.
 */
function rowsOf(statement: StatementSyncInstance, parameters: readonly Bound[]): RowSet {
  const readsOnly = /^\s*(select|values)\b/i.test(statement.sourceSQL)
  if (readsOnly) {
    try {
      return rowSetOf(statement.all(...parameters) as Row[])
    } catch (error) {
      if (!(error instanceof Error && error.message.includes('too large to be represented'))) throw error
    }
  }
  statement.setReadBigInts(true)
  try {
    const { columns, values } = rowSetOf(statement.all(...parameters) as Row[])
    return { columns, values: values.map((value) => (typeof value === 'bigint' && isSafe(value) ? Number(value) : value)), even: true }
  } finally {
    statement.setReadBigInts(false)
  }
}
