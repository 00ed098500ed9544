/** Reads the three databases of the flash sale with SQL of its own: straight from the files, or with the client of the engine, past Headrace. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'

export interface OrderRow {
  /** In what order the rows were written. */
  readonly number: number
  readonly id: string
  readonly sku: string
  readonly buyer: string
  readonly quantity: number
  readonly price: number
  readonly position: number
}

export interface SaleState {
  readonly items: ReadonlyMap<string, { readonly price: number; readonly remaining: number }>
  readonly wallets: ReadonlyMap<string, { readonly balance: number }>
  /** In the order they were written. */
  readonly orders: readonly OrderRow[]
}

/** The databases of the sale, in the order of its app. */
export type SaleDatabase = 'stock' | 'orders' | 'wallet'

/** How one of the databases is read, past Headrace. */
export type ReadRows = <Row>(database: SaleDatabase, text: string) => Promise<Row[]>

/** How long a read waits for a lock, in milliseconds. */
const busyTimeoutMs = 5_000

export async function readSale(read: ReadRows): Promise<SaleState> {
  const items = await read<{ sku: string; price: number; remaining: number }>('stock', 'select sku, price, remaining from stock')
  const wallets = await read<{ buyer: string; balance: number }>('wallet', 'select buyer, balance from wallet')
  const orders = await read<OrderRow>('orders', 'select number, id, sku, buyer, quantity, price, position from orders order by number')
  return {
    items: new Map(items.map((item) => [item.sku, item])),
    wallets: new Map(wallets.map((wallet) => [wallet.buyer, wallet])),
    orders,
  }
}

/** From a SQLite file of the data directory, read-only. */
export function readFile<Row>(dataDir: string, name: SaleDatabase, text: string): Row[] {
  const file = join(dataDir, `${name}.sqlite`)
  if (!existsSync(file)) throw new Error(`there is no database ${file}`)
  const database = new DatabaseSync(file, { readOnly: true })
  try {
    database.exec(`pragma busy_timeout = ${busyTimeoutMs}`)
    return database.prepare(text).all() as Row[]
  } finally {
    database.close()
  }
}

/** From a database on a server, with its own client. */
export async function readServer<Row>(url: string, text: string): Promise<Row[]> {
  if (url.startsWith('postgres')) {
    const { default: pg } = await import('pg')
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: busyTimeoutMs })
    await client.connect()
    try {
      return numbersIn((await client.query(text)).rows as Record<string, unknown>[]) as Row[]
    } finally {
      await client.end()
    }
  }
  const { createConnection } = await import('mysql2/promise')
  const client = await createConnection({ uri: url, connectTimeout: busyTimeoutMs })
  try {
    return numbersIn((await client.query(text))[0] as Record<string, unknown>[]) as Row[]
  } finally {
    await client.end()
  }
}

/** Whole numbers of 64 bits arrive as texts; those of the sale fit in a number. */
function numbersIn(rows: readonly Record<string, unknown>[]): Record<string, unknown>[] {
  const whole = new Set(['number', 'quantity', 'price', 'position', 'remaining', 'balance', 'n'])
  return rows.map((row) =>
    Object.fromEntries(Object.entries(row).map(([column, value]) => [column, whole.has(column) ? Number(value) : value])),
  )
}
