/**
 * The bulk verbs on one connection of MySQL or MariaDB: one statement for a set
 * of rows, or a few when the rows are more than one statement should take.
 *
 * Rows that are to be changed come along as a derived table, joined to the table
 * by its key, in the collation of the key column: compared in another one, every
 * row of the table would be read and locked.
 *
 * Where a row is given twice, the result is as if the rows had come one after
 * the other: additions are summed by the server, of assignments the last counts.
 */
import type { InsertOptions, Row, SelectOptions, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { changedBy, matchedBy, rowsOf } from './rows.ts'
import type { RunOptions, Session } from './session.ts'
import { identifier, type Quote, refuseOwnTable, statementOf } from './statement.ts'
import { type Column, keyOf, type Table, type Tables } from './tables.ts'

export type Verb =
  | { readonly verb: 'sql'; readonly parts: readonly string[]; readonly values: readonly SqlValue[] }
  | {
      readonly verb: 'selectIn'
      readonly table: string
      readonly column: string
      readonly values: readonly SqlValue[]
      readonly options: SelectOptions
    }
  | { readonly verb: 'insertMany'; readonly table: string; readonly rows: readonly Row[]; readonly options: InsertOptions }
  | { readonly verb: 'updateMany' | 'addMany'; readonly table: string; readonly key: readonly string[]; readonly rows: readonly Row[] }
  | {
      readonly verb: 'upsertMany'
      readonly table: string
      readonly key: readonly string[]
      readonly rows: readonly Row[]
      readonly add: readonly string[]
    }
  | { readonly verb: 'deleteIn'; readonly table: string; readonly column: string; readonly values: readonly SqlValue[] }

/** Rows, and values of an IN list, that one statement takes. Above 1,000, MariaDB turns a list into a join of its own. */
const rowsPerStatementMax = 900
/** Characters of rows that one statement takes, unless the server takes less. */
const statementCharactersMax = 4 * 1024 ** 2
/** Kept free of the server's longest packet for the words of the statement; a character may take three bytes. */
const headBytesMax = 64 * 1024

export interface VerbsOptions {
  readonly name: string
  readonly quote: Quote
  readonly tables: Tables
  readonly mariadb: boolean
  readonly packetBytesMax: number
  /** Called before a statement that may change something is sent. */
  onWrite(): void
}

interface Shaped {
  readonly table: Table
  /** The name of the table, quoted. */
  readonly target: string
  readonly names: readonly string[]
  readonly columns: readonly Column[]
}

export class Verbs {
  readonly #options: VerbsOptions

  constructor(options: VerbsOptions) {
    this.#options = options
  }

  /** Rows for reads, the number of rows changed for writes. */
  async run(verb: Verb, session: Session, options: RunOptions): Promise<Row[] | number> {
    const running = new Running(this.#options, session, options)
    switch (verb.verb) {
      case 'sql':
        return running.sql(verb.parts, verb.values)
      case 'selectIn':
        return running.selectIn(verb.table, verb.column, verb.values, verb.options)
      case 'insertMany':
        return running.insertMany(verb.table, verb.rows, verb.options)
      case 'updateMany':
        return running.updateMany(verb.table, verb.key, verb.rows)
      case 'addMany':
        return running.addMany(verb.table, verb.key, verb.rows)
      case 'upsertMany':
        return running.upsertMany(verb.table, verb.key, verb.rows, verb.add)
      case 'deleteIn':
        return running.deleteIn(verb.table, verb.column, verb.values)
    }
  }
}

/** One call of a verb. */
class Running {
  readonly #its: VerbsOptions
  readonly #session: Session
  readonly #run: RunOptions

  constructor(its: VerbsOptions, session: Session, run: RunOptions) {
    this.#its = its
    this.#session = session
    this.#run = run
  }

  async sql(parts: readonly string[], values: readonly SqlValue[]): Promise<Row[]> {
    const statement = statementOf(parts, values, this.#its.name, this.#its.quote)
    if (statement.changes !== null) await this.#its.tables.writable(statement.changes, this.#session, this.#run)
    if (!statement.plainRead) this.#its.onWrite()
    const [result] = await this.#session.run(statement.text, { ...this.#run, shape: statement.shape })
    return rowsOf(result)
  }

  async selectIn(name: string, column: string, values: readonly SqlValue[], options: SelectOptions): Promise<Row[]> {
    const target = this.#target(name)
    const wanted = options.columns === undefined ? '*' : options.columns.map((each) => this.#column(each)).join(', ')
    const key = this.#column(column)
    const table = await this.#its.tables.get(name, this.#session, this.#run)
    const rows: Row[] = []
    for (const list of this.#lists(this.#its.tables.columnOf(table, column), column, values)) {
      const head = `select ${wanted} from ${target} where ${key} in`
      const [result] = await this.#send(`${head} (${list.join(', ')})${options.lock === true ? ' for update' : ''}`, head)
      rows.push(...rowsOf(result))
    }
    return rows
  }

  async deleteIn(name: string, column: string, values: readonly SqlValue[]): Promise<number> {
    const head = `delete from ${this.#target(name)} where ${this.#column(column)} in`
    const table = await this.#its.tables.writable(name, this.#session, this.#run)
    this.#its.onWrite()
    let changed = 0
    for (const list of this.#lists(this.#its.tables.columnOf(table, column), column, values)) {
      const [result] = await this.#send(`${head} (${list.join(', ')})`, head)
      changed += changedBy(result)
    }
    return changed
  }

  async insertMany(name: string, rows: readonly Row[], options: InsertOptions): Promise<number> {
    const shaped = await this.#shape(name, rows)
    return options.onConflict === 'ignore' ? this.#insertNew(shaped, rows) : this.#insert(shaped, rows, '')
  }

  async upsertMany(name: string, key: readonly string[], rows: readonly Row[], add: readonly string[]): Promise<number> {
    const others = this.#othersThan(key, rows)
    const shaped = await this.#shape(name, rows)
    if (!shaped.table.uniqueKeys.includes(keyOf(key)) && shaped.table.engine !== null) {
      throw new HeadraceError(
        'sql-failed',
        `The columns ${key.join(', ')} are no unique key of the table '${name}' of MySQL '${this.#its.name}': an upsert under them would insert every row again.`,
      )
    }
    if (others.length === 0) return this.#insertNew(shaped, rows)
    const changes = others.map((each) => {
      const column = this.#column(each)
      return add.includes(each) ? `${column} = ${shaped.target}.${column} + values(${column})` : `${column} = values(${column})`
    })
    await this.#insert(shaped, rows, ` on duplicate key update ${changes.join(', ')}`)
    // The server counts 1 for an insert, and 2, 1 or 0 for an update: what is asked for is one for each row.
    return rows.length
  }

  async updateMany(name: string, key: readonly string[], rows: readonly Row[]): Promise<number> {
    const others = this.#othersThan(key, rows)
    const shaped = await this.#shape(name, rows)
    if (others.length === 0) return 0
    let changed = 0
    for (const wave of this.#waves(shaped, key, rows)) {
      const last = new Map<string, Row>()
      for (const row of wave) last.set(this.#keyText(shaped, key, row), row)
      const matched = await this.#change(shaped, key, [...last.values()], 'set', null)
      changed += last.size === wave.length ? matched : await this.#countFound(shaped, key, wave)
    }
    return changed
  }

  async addMany(name: string, key: readonly string[], rows: readonly Row[]): Promise<number> {
    const others = this.#othersThan(key, rows)
    const shaped = await this.#shape(name, rows)
    if (others.length === 0) return 0
    const once = new Set(rows.map((row) => this.#keyText(shaped, key, row))).size === rows.length
    // Texts that differ may be one key to the server (`a` and `A`), and it would add only one of them: it sums them itself.
    const sums = once && !this.#foldsKeys(shaped, key, rows) ? null : others
    let changed = 0
    for (const chunk of this.#chunks(shaped, rows)) changed += await this.#change(shaped, key, chunk, 'add', sums)
    return once ? changed : this.#countFound(shaped, key, rows)
  }

  /** Leaves rows whose key is there as they are; any other error is one. */
  async #insertNew(shaped: Shaped, rows: readonly Row[]): Promise<number> {
    const first = this.#column(shaped.names[0] as string)
    // Where the client counts rows that are found, an update to the same value counts like an insert: then it is counted by hand.
    if (!this.#session.foundRows) return this.#insert(shaped, rows, ` on duplicate key update ${first} = ${shaped.target}.${first}`)
    await this.#send('set @headrace_kept = 0')
    const same = `${shaped.target}.${first}`
    await this.#insert(shaped, rows, ` on duplicate key update ${first} = if((@headrace_kept := @headrace_kept + 1) > 0, ${same}, ${same})`)
    const [kept] = await this.#send('select @headrace_kept as kept')
    return rows.length - Number(rowsOf(kept)[0]?.['kept'] ?? 0)
  }

  async #insert(shaped: Shaped, rows: readonly Row[], onConflict: string): Promise<number> {
    const head = `insert into ${shaped.target} (${shaped.names.map((name) => this.#column(name)).join(', ')}) values`
    this.#its.onWrite()
    let changed = 0
    for (const chunk of this.#chunks(shaped, rows)) {
      const [result] = await this.#send(
        `${head} ${chunk.map((row) => `(${this.#values(shaped, row).join(', ')})`).join(', ')}${onConflict}`,
        head,
      )
      changed += changedBy(result)
    }
    return changed
  }

  async #change(
    shaped: Shaped,
    key: readonly string[],
    rows: readonly Row[],
    how: 'set' | 'add',
    sums: readonly string[] | null,
  ): Promise<number> {
    this.#its.onWrite()
    const changes = (value: (name: string) => string): string =>
      shaped.names
        .flatMap((name) => {
          const column = `${shaped.target}.${this.#column(name)}`
          return key.includes(name) ? [] : [`${column} = ${how === 'add' ? `${column} + ` : ''}${value(name)}`]
        })
        .join(', ')
    let matched = 0
    for (const chunk of this.#chunks(shaped, rows)) {
      const alone = chunk.length === 1 && this.#comparesAsLiteral(shaped, key) ? chunk[0] : undefined
      let text: string
      if (alone === undefined) {
        const given = sums === null ? this.#given(shaped, chunk) : this.#summed(shaped, key, sums, chunk)
        const set = changes((name) => `given.${this.#column(name)}`)
        text = `update (${given}) as given straight_join ${shaped.target} on ${this.#joined(shaped, key)} set ${set}`
      } else {
        const value = (name: string): string => this.#literal(shaped, alone, name)
        const where = key.map((name) => `${shaped.target}.${this.#column(name)} = ${value(name)}`)
        text = `update ${shaped.target} set ${changes(value)} where ${where.join(' and ')}`
      }
      const [result] = await this.#send(text, `update ${shaped.target} set ${changes(() => '?')}`)
      matched += matchedBy(result)
    }
    return matched
  }

  /** Whether a key that stands as a literal in the statement is compared as one that comes along in a row. */
  #comparesAsLiteral(shaped: Shaped, key: readonly string[]): boolean {
    return key.every((name) => {
      const { kind, charset } = this.#its.tables.columnOf(shaped.table, name)
      return kind === 'number' || kind === 'bytes' || (kind === 'text' && charset === 'utf8mb4')
    })
  }

  /** For each row, how many rows of the table it finds, in all. */
  async #countFound(shaped: Shaped, key: readonly string[], rows: readonly Row[]): Promise<number> {
    let found = 0
    for (const chunk of this.#chunks(shaped, rows)) {
      const text = `select count(*) as found from (${this.#given(shaped, chunk)}) as given straight_join ${shaped.target} on ${this.#joined(shaped, key)}`
      const [result] = await this.#send(text, `select count(*) from ${shaped.target}`)
      found += Number(rowsOf(result)[0]?.['found'] ?? 0)
    }
    return found
  }

  /** Rows as a derived table. MySQL has no list of rows that both old and new versions take, so there it is a union. */
  #given(shaped: Shaped, rows: readonly Row[]): string {
    const [first, ...others] = rows.map((row) => this.#values(shaped, row)) as [string[], ...string[][]]
    const head = `select ${first.map((value, index) => `${value} as ${this.#column(shaped.names[index] as string)}`).join(', ')}`
    if (others.length === 0) return head
    if (!this.#its.mariadb) return [head, ...others.map((values) => `select ${values.join(', ')}`)].join(' union all ')
    return `${head} union all values ${others.map((values) => `(${values.join(', ')})`).join(', ')}`
  }

  #summed(shaped: Shaped, key: readonly string[], others: readonly string[], rows: readonly Row[]): string {
    const keys = key.map((name) => `${this.#inCollation(shaped, name, 'each_row')} as ${this.#column(name)}`)
    const sums = others.map((name) => `sum(each_row.${this.#column(name)}) as ${this.#column(name)}`)
    return `select ${[...keys, ...sums].join(', ')} from (${this.#given(shaped, rows)}) as each_row group by ${key.map((_, index) => index + 1).join(', ')}`
  }

  #joined(shaped: Shaped, key: readonly string[]): string {
    return key
      .map((name) => {
        const column = `${shaped.target}.${this.#column(name)}`
        const on = `${column} = ${this.#inCollation(shaped, name, 'given')}`
        const { kind, charset } = this.#its.tables.columnOf(shaped.table, name)
        // What the character set of the column cannot hold becomes a question mark, which may be somebody's key.
        return kind === 'text' && charset !== null && charset !== 'utf8mb4' ? `${on} and ${column} = given.${this.#column(name)}` : on
      })
      .join(' and ')
  }

  #inCollation(shaped: Shaped, name: string, from: string): string {
    const { kind, charset, collation } = this.#its.tables.columnOf(shaped.table, name)
    const column = `${from}.${this.#column(name)}`
    if (kind === 'moment') return `cast(${column} as datetime(6))`
    return kind === 'text' && charset !== null && collation !== null ? `convert(${column} using ${charset}) collate ${collation}` : column
  }

  /** Whether texts that differ may be the same key to the server. */
  #foldsKeys(shaped: Shaped, key: readonly string[], rows: readonly Row[]): boolean {
    return key.some((name) => {
      const { kind, collation } = this.#its.tables.columnOf(shaped.table, name)
      switch (kind) {
        case 'bytes':
          return false
        case 'number':
          return rows.some((row) => typeof row[name] === 'string')
        case 'text':
          // A binary collation may still take spaces at the end for none.
          return (
            collation?.endsWith('_bin') !== true || rows.some((row) => typeof row[name] === 'string' && (row[name] as string).endsWith(' '))
          )
        default:
          return true
      }
    })
  }

  /** Rows in groups in which no two may be one key to the server, in order: it would take either of them. */
  #waves(shaped: Shaped, key: readonly string[], rows: readonly Row[]): readonly (readonly Row[])[] {
    if (!this.#foldsKeys(shaped, key, rows)) return [rows]
    const waves: Row[][] = []
    const next = new Map<string, { text: string; wave: number }>()
    for (const row of rows) {
      const text = this.#keyText(shaped, key, row)
      const folded = text
        .normalize('NFKD')
        .replace(/[\p{M}\s]/gu, '')
        .toLowerCase()
      const before = next.get(folded)
      // The same text again may stay with the one before it: of those the last counts.
      const wave = before === undefined ? 0 : before.text === text ? before.wave : before.wave + 1
      next.set(folded, { text, wave })
      const rowsOfWave = waves[wave] ?? []
      waves[wave] = rowsOfWave
      rowsOfWave.push(row)
    }
    return waves
  }

  #keyText(shaped: Shaped, key: readonly string[], row: Row): string {
    return key.map((name) => this.#literal(shaped, row, name)).join(', ')
  }

  #literal(shaped: Shaped, row: Row, name: string): string {
    return this.#its.tables.literal(this.#its.tables.columnOf(shaped.table, name), row[name], name)
  }

  #values(shaped: Shaped, row: Row): string[] {
    return shaped.names.map((name, index) => this.#its.tables.literal(shaped.columns[index] as Column, row[name], name))
  }

  /** The table and the columns of the rows, which all have the same. */
  async #shape(name: string, rows: readonly Row[]): Promise<Shaped> {
    const target = this.#target(name)
    const names = Object.keys(rows[0] ?? {})
    if (names.length === 0) throw new HeadraceError('sql-failed', `A row for '${name}' on '${this.#its.name}' has no columns.`)
    for (const each of names) this.#column(each)
    for (const row of rows) {
      const found = Object.keys(row)
      if (found.length !== names.length || !names.every((each) => Object.hasOwn(row, each)))
        throw new HeadraceError('sql-failed', `The rows given for '${name}' on '${this.#its.name}' do not all have the same columns.`)
    }
    const table = await this.#its.tables.writable(name, this.#session, this.#run)
    return { table, target, names, columns: names.map((each) => this.#its.tables.columnOf(table, each)) }
  }

  #chunks(shaped: Shaped, rows: readonly Row[]): Row[][] {
    const charactersMax = Math.min(statementCharactersMax, Math.floor((this.#its.packetBytesMax - headBytesMax) / 3))
    const chunks: Row[][] = []
    let chunk: Row[] = []
    let characters = 0
    for (const row of rows) {
      const length = this.#values(shaped, row).reduce((sum, value) => sum + value.length + 2, 4)
      if (chunk.length > 0 && (chunk.length >= rowsPerStatementMax || characters + length > charactersMax)) {
        chunks.push(chunk)
        chunk = []
        characters = 0
      }
      chunk.push(row)
      characters += length
    }
    if (chunk.length > 0) chunks.push(chunk)
    return chunks
  }

  /** Each value once, but null, which is equal to nothing. */
  #lists(column: Column, name: string, values: readonly SqlValue[]): string[][] {
    const texts = new Set<string>()
    for (const value of values) {
      const text = this.#its.tables.literal(column, value, name)
      if (value !== null) texts.add(text)
    }
    const all = [...texts]
    const lists: string[][] = []
    for (let at = 0; at < all.length; at += rowsPerStatementMax) lists.push(all.slice(at, at + rowsPerStatementMax))
    return lists
  }

  async #send(text: string, shape = text) {
    if (Buffer.byteLength(text) >= this.#its.packetBytesMax)
      throw new HeadraceError(
        'sql-failed',
        `A row for MySQL '${this.#its.name}' is larger than its max_allowed_packet of ${this.#its.packetBytesMax} bytes: raise that, or keep large values elsewhere. In ${JSON.stringify(shape)}.`,
      )
    return this.#session.run(text, { ...this.#run, shape })
  }

  #othersThan(key: readonly string[], rows: readonly Row[]): string[] {
    const [first = {}] = rows
    for (const column of key) {
      this.#column(column)
      if (!Object.hasOwn(first, column))
        throw new HeadraceError('sql-failed', `A row has no value for its key column '${column}' on '${this.#its.name}'.`)
    }
    if (key.length === 0) throw new HeadraceError('sql-failed', `The rows for '${this.#its.name}' have no key column.`)
    return Object.keys(first).filter((column) => !key.includes(column))
  }

  #target(name: string): string {
    refuseOwnTable(name, this.#its.name)
    return identifier(name, 'table', this.#its.name)
  }

  #column(name: string): string {
    return identifier(name, 'column', this.#its.name)
  }
}
