/**
 * What a command and a query see of a database: a tagged `sql` template and
 * bulk verbs that mean the same on every engine.
 *
 * Every verb takes sets of rows and costs a bounded number of round trips,
 * whatever the number of rows. Column and table names are identifiers, never
 * input of a user: they are quoted, and refused when they are not plain names.
 */
export type SqlValue = string | number | bigint | boolean | null | Uint8Array | Date

/** A row, by column. Integers beyond 2^53 arrive as bigint, blobs as Uint8Array. */
export type Row = Readonly<Record<string, SqlValue>>

export interface SelectOptions {
  /** The columns to read. Default: all. */
  readonly columns?: readonly string[]
  /** Lock the rows until the transaction ends. Default: true in a command, false in a query. */
  readonly lock?: boolean
}

export interface InsertOptions {
  /** What to do with a row whose key exists: fail the batch, or leave the old row. Default: 'fail'. */
  readonly onConflict?: 'fail' | 'ignore'
}

/** Reads, as a query may do them. */
export interface ReadDatabase {
  /** Runs one statement; values are bound, never pasted in. Returns its rows. */
  sql<R extends Row = Row>(text: TemplateStringsArray, ...values: readonly SqlValue[]): Promise<R[]>
  /** The rows whose `column` has one of `values`, in no particular order; repeated values count once. */
  selectIn<R extends Row = Row>(table: string, column: string, values: readonly SqlValue[], options?: SelectOptions): Promise<R[]>
}

/** Reads and writes inside the transaction of a batch. Write verbs return the number of rows changed. */
export interface Database extends ReadDatabase {
  /** Inserts rows that all have the same columns. */
  insertMany(table: string, rows: readonly Row[], options?: InsertOptions): Promise<number>
  /** Sets the other columns of the rows that `key` finds, to the values given. */
  updateMany(table: string, key: string | readonly string[], rows: readonly Row[]): Promise<number>
  /** Adds to the other columns of the rows that `key` finds: `{ sku: 'a', left: -3 }` takes three off. */
  addMany(table: string, key: string | readonly string[], rows: readonly Row[]): Promise<number>
  /** Inserts, or sets the other columns where `key` exists (adds to those that `add` names). */
  upsertMany(
    table: string,
    key: string | readonly string[],
    rows: readonly Row[],
    options?: { readonly add?: readonly string[] },
  ): Promise<number>
  /** Deletes the rows whose `column` has one of `values`. */
  deleteIn(table: string, column: string, values: readonly SqlValue[]): Promise<number>
}

/** A database as an app names it. Made by a driver: `sqlite('stock', …)`. It holds no connection. */
export interface DatabaseHandle<Name extends string = string> {
  readonly kind: 'database'
  readonly name: Name
  /** The engine, for messages and metrics: 'sqlite', 'postgres', 'mysql'. */
  readonly engine: string
  readonly options: Readonly<Record<string, unknown>>
}
