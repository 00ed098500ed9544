/**
 * The bulk verbs as one statement each, whatever the number of rows: the rows
 * travel as one array per column, of the type that the column has in the
 * catalog, and are unnested by the server. A row alone travels as its values: its
 * statement is planned and run faster.
 *
 * Rows count one by one, in their order, as if each were a statement of its own:
 * of two rows for one key the later one wins, amounts to add are summed up. A
 * statement that changes a row twice cannot do that, so rows that may share a
 * key are first brought together by the server, which knows what is equal.
 */
import type { InsertOptions, Row, SelectOptions, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { arrayOf, asText, bound } from './values.ts'

export interface ColumnType {
  /** As it is written in a cast. */
  readonly type: string
  /** A column of arrays: its values travel as text, for an array of arrays is another thing. */
  readonly isArray: boolean
  /** Two values are equal exactly when they are the same text. */
  readonly isExact: boolean
}

export type TableTypes = ReadonlyMap<string, ColumnType>

export interface Answer {
  readonly rows: Row[]
  readonly rowCount: number | null
}

export interface Statement<T> {
  readonly text: string
  readonly values: readonly (string | Buffer | null)[]
  /** Whether it may return rows. */
  readonly rows: boolean
  read(answer: Answer): T
}

/** The columns of one table, by name, with their types. `$1`: the quoted name. */
export const typesQuery = `
select a.attname as name, format_type(a.atttypid, -1) as type, t.typcategory = 'A' as is_array,
  coalesce(c.collisdeterministic, true)
    and a.atttypid in ('text'::regtype, 'varchar'::regtype, 'int2'::regtype, 'int4'::regtype, 'int8'::regtype) as is_exact
from pg_attribute a join pg_type t on t.oid = a.atttypid left join pg_collation c on c.oid = a.attcollation
where a.attrelid = to_regclass($1) and a.attnum > 0 and not a.attisdropped`

export function typesOf(rows: readonly Row[]): TableTypes {
  return new Map(
    rows.map(({ name, type, is_array, is_exact }) => [
      String(name),
      { type: String(type), isArray: is_array === true, isExact: is_exact === true },
    ]),
  )
}

const plainName = /^[A-Za-z_][A-Za-z0-9_$]{0,62}$/
const refusedWord =
  /^(begin|start|commit|end|rollback|abort|savepoint|release|prepare|deallocate|set|reset|discard|create|alter|drop|truncate|vacuum|analyze|reindex|cluster|refresh|listen|unlisten|notify|copy|grant|revoke|comment|reassign|security|declare|checkpoint|load|import)\b/i
const ownTable = /headrace_/i

/** What a select may call and still be a plain read; anything else may write. */
const pureCalls =
  /\b(count|sum|min|max|avg|coalesce|nullif|greatest|least|lower|upper|length|abs|round|floor|ceil|now|date_trunc|extract|in|any|all|exists|values|and|or|not|on|as|where|from|using|over|cast|by|when|then|else|having|filter|row_number|rank|array|row|substring|concat|string_agg|array_agg|distinct|union|select|to_char)\s*\(/gi

export class Verbs {
  readonly #name: string

  constructor(name: string) {
    this.#name = name
  }

  sql(texts: TemplateStringsArray, values: readonly SqlValue[]): Statement<Row[]> {
    const text = texts.reduce((whole, part, index) => (index === 0 ? part : `${whole}$${index}${part}`), '')
    const refused = refusedWord.exec(text.slice(leadingBlank(text)))
    if (refused !== null) {
      throw new HeadraceError(
        'statement-refused',
        `${(refused[1] ?? '').toUpperCase()} is not allowed inside a command or a query of '${this.#name}': Headrace begins and ends the transaction, and the schema is set up by headrace migrate.`,
      )
    }
    if (ownTable.test(text)) throw this.#ownTableRefused()
    return {
      text,
      values: values.map((value, index) => bound(value, `parameter ${index + 1}`)),
      rows: true,
      read: ({ rows }) => rows,
    }
  }

  selectIn(
    types: TableTypes,
    table: string,
    column: string,
    values: readonly SqlValue[],
    options: SelectOptions,
    lock: boolean,
  ): Statement<Row[]> {
    const columns = options.columns === undefined ? '*' : options.columns.map((name) => quoted(name, this.#name)).join(', ')
    const by = quoted(column, this.#name)
    // In order of the key, so that two that lock the same rows do not wait for each other.
    const locking = (options.lock ?? lock) ? ` order by ${by} for update` : ''
    return {
      text: `select ${columns} from ${this.table(table)} where ${by} ${this.#isOneOf(types, table, column, values)}${locking}`,
      values: [valuesOf(values, column)],
      rows: true,
      read: ({ rows }) => rows,
    }
  }

  insertMany(types: TableTypes, table: string, rows: readonly Row[], options: InsertOptions): Statement<number> {
    const set = this.#rows(types, table, rows)
    const conflict = options.onConflict === 'ignore' ? ' on conflict do nothing' : ''
    return {
      text: `insert into ${this.table(table)} (${set.list}) ${set.select(set.source)}${conflict}`,
      values: set.values,
      rows: false,
      read: ({ rowCount }) => rowCount ?? 0,
    }
  }

  updateMany(types: TableTypes, table: string, key: readonly string[], rows: readonly Row[]): Statement<number> {
    return this.#changeMany(types, table, key, rows, 'set')
  }

  addMany(types: TableTypes, table: string, key: readonly string[], rows: readonly Row[]): Statement<number> {
    return this.#changeMany(types, table, key, rows, 'add')
  }

  #changeMany(types: TableTypes, table: string, key: readonly string[], rows: readonly Row[], how: 'set' | 'add'): Statement<number> {
    const set = this.#rows(types, table, rows)
    const others = this.#othersThan(key, set.columns)
    if (others.length === 0) return { text: 'select 1 where false', values: [], rows: false, read: () => 0 }
    const target = this.table(table)
    const match = key.map((column) => `t.${quoted(column, this.#name)} = ${set.value(column)}`).join(' and ')
    const assignments = others.map((column) => {
      const name = quoted(column, this.#name)
      return how === 'add' ? `${name} = t.${name} + ${set.value(column)}` : `${name} = ${set.value(column)}`
    })
    const update = `update ${target} as t set ${assignments.join(', ')}`
    if (!set.mayRepeat(key)) {
      const from = set.source === null ? '' : ` from ${set.source}`
      return { text: `${update}${from} where ${match}`, values: set.values, rows: false, read: ({ rowCount }) => rowCount ?? 0 }
    }
    const together = this.#together(set, key, (column) => (others.includes(column) && how === 'add' ? 'sum' : 'last'))
    return {
      text: `with s as (${together}), changed as (${update} from s where ${match} returning s.times) select coalesce(sum(times), 0)::bigint as changed from changed`,
      values: set.values,
      rows: true,
      read: ({ rows: [row] }) => Number(row?.['changed'] ?? 0),
    }
  }

  upsertMany(types: TableTypes, table: string, key: readonly string[], rows: readonly Row[], add: readonly string[]): Statement<number> {
    const set = this.#rows(types, table, rows)
    const target = this.table(table)
    const others = this.#othersThan(key, set.columns)
    const changes = others.map((column) => {
      const name = quoted(column, this.#name)
      return add.includes(column) ? `${name} = t.${name} + excluded.${name}` : `${name} = excluded.${name}`
    })
    const repeats = changes.length > 0 && set.mayRepeat(key)
    const source = repeats ? `(${this.#together(set, key, (column) => (add.includes(column) ? 'sum' : 'last'))}) as s` : set.source
    const action = changes.length === 0 ? 'nothing' : `update set ${changes.join(', ')}`
    return {
      text: `insert into ${target} as t (${set.list}) ${set.select(source)} on conflict (${key.map((column) => quoted(column, this.#name)).join(', ')}) do ${action}`,
      values: set.values,
      rows: false,
      read: ({ rowCount }) => (repeats && (rowCount ?? 0) > 0 ? rows.length : (rowCount ?? 0)),
    }
  }

  deleteIn(types: TableTypes, table: string, column: string, values: readonly SqlValue[]): Statement<number> {
    return {
      text: `delete from ${this.table(table)} where ${quoted(column, this.#name)} ${this.#isOneOf(types, table, column, values)}`,
      values: [valuesOf(values, column)],
      rows: false,
      read: ({ rowCount }) => rowCount ?? 0,
    }
  }

  /** The quoted name of a table that is not ours. */
  table(name: string): string {
    if (ownTable.test(name)) throw this.#ownTableRefused()
    return quoted(name, this.#name)
  }

  /** One row per key: the last value of each column, or the sum of what is added. */
  #together(set: RowSet, key: readonly string[], how: (column: string) => 'last' | 'sum'): string {
    const chosen = set.columns.map((column) => {
      const place = set.place(column)
      if (key.includes(column)) return place
      // What is added to nothing is nothing, as when the rows come one by one.
      if (how(column) === 'sum') return `case when bool_or(${place} is null) then null else sum(${place}) end as ${place}`
      return `(array_agg(${place} order by nth desc))[1] as ${place}`
    })
    const by = key.map((column) => set.place(column)).join(', ')
    return `select ${chosen.join(', ')}, count(*) as times from ${set.numbered} group by ${by}`
  }

  #rows(types: TableTypes, table: string, rows: readonly Row[]): RowSet {
    const [first] = rows
    const columns = Object.keys(first ?? {})
    for (const row of rows) {
      if (Object.keys(row).length !== columns.length)
        throw new HeadraceError('sql-failed', `The rows given for '${table}' of '${this.#name}' do not all have the same columns.`)
    }
    const known = columns.map((column) => this.#type(types, table, column))
    const places = new Map(columns.map((column, index) => [column, index]))
    const placeOf = (column: string): number => places.get(column) ?? -1
    const place = (column: string): string => `c${placeOf(column)}`
    const alone = rows.length === 1
    const value = (column: string): string => {
      const type = known[placeOf(column)]
      if (alone) return `$${placeOf(column) + 1}::${type?.type}`
      return type?.isArray === true ? `s.${place(column)}::${type.type}` : `s.${place(column)}`
    }
    const arrays = columns.map((column, index) => this.#parameter(types, table, column, index + 1)).join(', ')
    const names = columns.map(place).join(', ')
    return {
      columns,
      list: columns.map((column) => quoted(column, this.#name)).join(', '),
      source: alone ? null : `unnest(${arrays}) as s (${names})`,
      numbered: `unnest(${arrays}) with ordinality as u (${names}, nth)`,
      values: columns.map((column) =>
        valuesOf(
          rows.map((row) => row[column]),
          column,
        ),
      ),
      place,
      value,
      select: (source) => `select ${columns.map(value).join(', ')}${source === null ? '' : ` from ${source}`}`,
      mayRepeat(key) {
        if (rows.length < 2) return false
        if (key.some((column) => known[columns.indexOf(column)]?.isExact !== true)) return true
        const seen = new Set<string>()
        for (const row of rows) {
          for (const column of key) {
            // The text '01' and the number 1 are one key of a column of integers.
            if (typeof row[column] === 'string' && /int|serial/.test(known[columns.indexOf(column)]?.type ?? '')) return true
          }
          seen.add(key.map((column) => String(row[column])).join('\0'))
        }
        return seen.size < rows.length
      },
    }
  }

  /** Compares a column with the values of parameter 1: a list, or one. */
  #isOneOf(types: TableTypes, table: string, column: string, values: readonly SqlValue[]): string {
    if (values.length === 1) return `= $1::${this.#type(types, table, column).type}`
    return `= any(${this.#parameter(types, table, column, 1)})`
  }

  /** The cast of a parameter that holds one column of many rows. */
  #parameter(types: TableTypes, table: string, column: string, number: number): string {
    const { type, isArray } = this.#type(types, table, column)
    return `$${number}::${isArray ? 'text' : type}[]`
  }

  #type(types: TableTypes, table: string, column: string): ColumnType {
    quoted(column, this.#name)
    const type = types.get(column)
    if (type !== undefined) return type
    throw new HeadraceError(
      'sql-failed',
      types.size === 0
        ? `PostgreSQL '${this.#name}' has no table '${table}' in its search_path.`
        : `The table '${table}' of PostgreSQL '${this.#name}' has no column '${column}'.`,
      { details: { database: this.#name, table, ...(types.size === 0 ? {} : { column }) } },
    )
  }

  #othersThan(key: readonly string[], columns: readonly string[]): string[] {
    if (key.length === 0) throw new HeadraceError('sql-failed', `No key column is named for '${this.#name}'.`)
    for (const column of key) {
      if (!columns.includes(column))
        throw new HeadraceError('sql-failed', `A row has no value for its key column '${column}' on '${this.#name}'.`)
    }
    return columns.filter((column) => !key.includes(column))
  }

  #ownTableRefused(): HeadraceError {
    return new HeadraceError('statement-refused', `The tables headrace_… of '${this.#name}' belong to Headrace.`)
  }
}

interface RowSet {
  readonly columns: readonly string[]
  /** The quoted columns. */
  readonly list: string
  /** Null: one row, whose values are the parameters. */
  readonly source: string | null
  readonly numbered: string
  readonly values: readonly (string | null)[]
  place(column: string): string
  /** A column of `source`, of the type of the table. */
  value(column: string): string
  /** All columns of it. */
  select(source: string | null): string
  mayRepeat(key: readonly string[]): boolean
}

/** One column of many rows as an array, of one row as itself. */
function valuesOf(values: readonly (SqlValue | undefined)[], column: string): string | null {
  return values.length === 1 ? asText(values[0], column) : arrayOf(values, column)
}

function quoted(name: string, database: string): string {
  if (!plainName.test(name))
    throw new HeadraceError(
      'sql-failed',
      `${JSON.stringify(name)} is not a plain name on '${database}': use letters, digits and underscores.`,
    )
  return `"${name}"`
}

/** Where the first word begins: after blanks, semicolons and comments, which PostgreSQL nests. */
function leadingBlank(text: string): number {
  let at = 0
  for (;;) {
    const blank = /^[\s;]+|^--[^\n]*/.exec(text.slice(at))
    if (blank !== null) {
      at += blank[0].length
      continue
    }
    if (!text.startsWith('/*', at)) return at
    let depth = 0
    do {
      if (text.startsWith('/*', at)) [depth, at] = [depth + 1, at + 2]
      else if (text.startsWith('*/', at)) [depth, at] = [depth - 1, at + 2]
      else at += 1
    } while (depth > 0 && at < text.length)
  }
}

/** Whether a statement reads and nothing else, as far as its text tells; a doubt counts as a write. */
export function isPlainRead(text: string): boolean {
  const statement = text.slice(leadingBlank(text))
  if (!/^(select|values|table)\b/i.test(statement)) return false
  if (/\b(into|for)\b|\bwith\b[\s\S]*\b(insert|update|delete|merge)\b/i.test(statement)) return false
  return !/[\w"]\s*\(/.test(statement.replace(pureCalls, ''))
}
