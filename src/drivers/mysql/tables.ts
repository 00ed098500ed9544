/**
 * What the verbs must know of a table, looked up once per table and kept.
 *
 * - Its engine: what a transaction does to a MyISAM, Aria or MEMORY table cannot
 *   be undone, so the first write to one is refused.
 * - The type of each column: MySQL compares a text with a number as numbers, and
 *   `'abc' = 0` is true there, so values are written in the type of their column.
 * - The collation of text columns: rows that a statement brings along must be
 *   compared in it, or the index is of no use, or the comparison an error.
 * - The unique keys: an upsert under a key that is not unique would only insert.
 */
import type { SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { rowsOf } from './rows.ts'
import type { RunOptions, Session } from './session.ts'
import { checkText, dateText, literal, type Quote } from './statement.ts'

type Kind = 'text' | 'number' | 'bytes' | 'moment' | 'other'

export interface Column {
  readonly kind: Kind
  readonly charset: string | null
  readonly collation: string | null
}

export interface Table {
  readonly name: string
  /** Null: a view, whose tables are not looked at. */
  readonly engine: string | null
  /** By name in lower case. */
  readonly columns: ReadonlyMap<string, Column>
  /** Each a list of column names in lower case, sorted. */
  readonly uniqueKeys: readonly string[]
}

/** Tables kept per participant; past it the first looked up goes. */
const tablesMax = 1_000

const kinds: Readonly<Record<string, Kind>> = {
  ...Object.fromEntries(
    ['char', 'varchar', 'tinytext', 'text', 'mediumtext', 'longtext', 'enum', 'set', 'json', 'uuid', 'inet4', 'inet6'].map((type) => [
      type,
      'text',
    ]),
  ),
  ...Object.fromEntries(
    ['tinyint', 'smallint', 'mediumint', 'int', 'bigint', 'decimal', 'float', 'double', 'year'].map((type) => [type, 'number']),
  ),
  ...Object.fromEntries(['binary', 'varbinary', 'tinyblob', 'blob', 'mediumblob', 'longblob'].map((type) => [type, 'bytes'])),
  ...Object.fromEntries(['date', 'datetime', 'timestamp'].map((type) => [type, 'moment'])),
}

export class Tables {
  readonly #database: string
  readonly #quote: Quote
  readonly #known = new Map<string, Table>()

  constructor(database: string, quote: Quote) {
    this.#database = database
    this.#quote = quote
  }

  async get(name: string, session: Session, options: RunOptions): Promise<Table> {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    const where = `table_schema = database() and table_name = ${this.#quote(name)}`
    const ask = async (text: string) => rowsOf((await session.run(text, { ...options, shape: `looking up the table ${name}` }))[0])
    const [table] = await ask(`select engine as engine from information_schema.tables where ${where}`)
    if (table === undefined) throw new HeadraceError('sql-failed', `MySQL '${this.#database}' has no table '${name}'.`)
    const columns = await ask(
      `select column_name as name, data_type as type, character_set_name as charset, collation_name as collation from information_schema.columns where ${where}`,
    )
    const keys = await ask(
      `select index_name as name, column_name as col, sub_part as part from information_schema.statistics where ${where} and non_unique = 0`,
    )
    const found: Table = {
      name,
      engine: table['engine'] === null ? null : String(table['engine']),
      columns: new Map(columns.map((column) => [String(column['name']).toLowerCase(), columnOf(column)])),
      uniqueKeys: uniqueKeys(keys as unknown as KeyPart[]),
    }
    this.#known.set(name, found)
    if (this.#known.size > tablesMax) this.#known.delete(this.#known.keys().next().value as string)
    return found
  }

  /** For writing: throws 'statement-refused' when no transaction could undo it. */
  async writable(name: string, session: Session, options: RunOptions): Promise<Table> {
    const table = await this.get(name, session, options)
    if (table.engine !== null && table.engine.toLowerCase() !== 'innodb') {
      throw new HeadraceError(
        'statement-refused',
        `The table '${name}' of MySQL '${this.#database}' has the engine ${table.engine}, whose changes no transaction can undo. Run: alter table ${name} engine=InnoDB.`,
        { details: { database: this.#database, table: name, engine: table.engine } },
      )
    }
    return table
  }

  /** Forgets what may have changed. */
  clear(): void {
    this.#known.clear()
  }

  columnOf(table: Table, name: string): Column {
    const column = table.columns.get(name.toLowerCase())
    if (column === undefined)
      throw new HeadraceError('sql-failed', `The table '${table.name}' of MySQL '${this.#database}' has no column '${name}'.`)
    return column
  }

  /** A value in the type of its column. */
  literal(column: Column, value: SqlValue | undefined, where: string): string {
    switch (column.kind) {
      case 'text':
        if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean')
          return `'${literal(value, where, this.#quote)}'`
        if (value instanceof Date) {
          dateText(value, where)
          return this.#quote(value.toISOString())
        }
        break
      case 'number':
        if (typeof value === 'string') {
          const text = checkText(value, where).trim()
          if (/^-?\d+(\.\d+)?$/.test(text)) return text
          throw new HeadraceError('sql-failed', `The text for '${where}' is no number, and its column takes numbers.`)
        }
        if (value instanceof Date || value instanceof Uint8Array)
          throw new HeadraceError(
            'sql-failed',
            `The value for '${where}' is ${value instanceof Date ? 'a date' : 'bytes'}, and its column takes numbers.`,
          )
        break
      case 'bytes':
        if (typeof value === 'string') return literal(Buffer.from(checkText(value, where)), where, this.#quote)
        break
      case 'moment':
        if (typeof value === 'number' || typeof value === 'bigint' || typeof value === 'boolean')
          throw new HeadraceError('sql-failed', `The value for '${where}' is a number, and its column takes dates: give a Date or a text.`)
        break
      default:
    }
    return literal(value, where, this.#quote)
  }
}

function columnOf(row: Readonly<Record<string, unknown>>): Column {
  return {
    kind: kinds[String(row['type']).toLowerCase()] ?? 'other',
    charset: row['charset'] === null ? null : String(row['charset']),
    collation: row['collation'] === null ? null : String(row['collation']),
  }
}

interface KeyPart {
  readonly name: string
  /** Null: an expression. */
  readonly col: string | null
  /** Not null: only the first characters count. */
  readonly part: number | null
}

function uniqueKeys(parts: readonly KeyPart[]): string[] {
  const byName = new Map<string, KeyPart[]>()
  for (const part of parts) byName.set(part.name, [...(byName.get(part.name) ?? []), part])
  return [...byName.values()].flatMap((key) =>
    key.every(({ col, part }) => col !== null && part === null) ? [keyOf(key.map(({ col }) => col as string))] : [],
  )
}

/** Columns as one text, whatever their order and case. */
export const keyOf = (columns: readonly string[]): string =>
  columns
    .map((column) => column.toLowerCase())
    .sort()
    .join(',')
