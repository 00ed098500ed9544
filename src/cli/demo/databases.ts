/** Reads the three databases of the flash sale with SQL of its own: read-only, straight from the files, past Headrace. */
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

/** How long a read waits for a lock, in milliseconds. */
const busyTimeoutMs = 5_000

export function readSale(dataDir: string): SaleState {
  const items = read<{ sku: string; price: number; remaining: number }>(dataDir, 'stock', 'select sku, price, remaining from stock')
  const wallets = read<{ buyer: string; balance: number }>(dataDir, 'wallet', 'select buyer, balance from wallet')
  const orders = read<OrderRow>(dataDir, 'orders', 'select number, id, sku, buyer, quantity, price, position from orders order by number')
  return {
    items: new Map(items.map((item) => [item.sku, item])),
    wallets: new Map(wallets.map((wallet) => [wallet.buyer, wallet])),
    orders,
  }
}

function read<Row>(dataDir: string, name: 'stock' | 'orders' | 'wallet', text: string): Row[] {
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
