/**
 * A flash sale: one order takes from the stock, writes the order, and takes
 * from the buyer's wallet, in three databases. All of it happens or none, also
 * when they are on servers: STOCK_URL, ORDERS_URL and WALLET_URL say where.
 *
 *   npx headrace start examples/flash-sale/app.ts
 *
 * Amounts are whole cents.
 */
import { accept, command, defineApp, query, reject } from 'headrace'
import { z } from 'zod'
import { databaseOf } from './databases.ts'

const stock = await databaseOf(
  'stock',
  ({ exactly }) => `create table if not exists stock (
    sku varchar(64) primary key not null,
    price bigint not null,
    remaining bigint not null
  )${exactly}`,
)

// `number` tells in what order the rows were written. `id` is not unique:
// Headrace applies an id once, and whoever doubts it can count.
const orders = await databaseOf(
  'orders',
  ({ counter, exactly }) => `create table if not exists orders (
    number ${counter},
    id varchar(128) not null,
    sku varchar(64) not null,
    buyer varchar(64) not null,
    quantity bigint not null,
    price bigint not null,
    position bigint not null
  )${exactly}`,
)

const wallet = await databaseOf(
  'wallet',
  ({ exactly }) => `create table if not exists wallet (
    buyer varchar(64) primary key not null,
    balance bigint not null
  )${exactly}`,
)

type Item = { sku: string; price: number; remaining: number }
type Wallet = { buyer: string; balance: number }

const sku = z.string().min(1).max(64)
const buyer = z.string().min(1).max(64)
const cents = z.int().min(0).max(1_000_000_000_000)

/** Buys up to five of one SKU. */
export const buy = command('order.buy', {
  summary: 'Buy up to five of one SKU, paid from the wallet of the buyer.',
  input: z.object({ sku, buyer, quantity: z.int().min(1).max(5) }),
  // Orders for one SKU are served strictly in the order they came.
  key: (order) => order.sku,
  databases: { stock, orders, wallet },
  // The cached answers that an order makes old; they fall before its outcome goes out.
  invalidates: (order) => [`stock:${order.sku}`, `wallet:${order.buyer}`],

  // Once per batch: the SKUs and wallets that the orders of the batch touch.
  async load(batch, databases) {
    const skus = batch.map(({ input }) => input.sku)
    const buyers = batch.map(({ input }) => input.buyer)
    const [items, wallets] = await Promise.all([
      databases.stock.selectIn<Item>('stock', 'sku', skus),
      databases.wallet.selectIn<Wallet>('wallet', 'buyer', buyers),
    ])
    return {
      items: new Map(items.map((item) => [item.sku, { ...item }])),
      wallets: new Map(wallets.map((row) => [row.buyer, { ...row }])),
    }
  },

  // Once per order, in order. The next order sees what this one took, also when
  // the same buyer orders two SKUs in one batch.
  decide({ items, wallets }, order, { id }) {
    const item = items.get(order.sku)
    if (item === undefined) return reject('unknown-sku', `There is no ${order.sku}.`)
    if (item.remaining < order.quantity) return reject('sold-out', `${item.remaining} left.`)
    const purse = wallets.get(order.buyer)
    if (purse === undefined) return reject('unknown-buyer', `${order.buyer} has no wallet.`)
    const total = item.price * order.quantity
    if (purse.balance < total) return reject('insufficient-funds', `${total} needed, ${purse.balance} there.`)
    item.remaining -= order.quantity
    purse.balance -= total
    return accept({ order: id, price: item.price, total })
  },

  // Once per batch: everything that changed, as sets of rows.
  async save({ items, wallets }, accepted, databases) {
    const skus = accepted.map(({ input }) => input.sku)
    const buyers = accepted.map(({ input }) => input.buyer)
    const rows = accepted.map(({ id, input, result, position }) => ({ id, ...input, price: result.price, position }))
    await Promise.all([
      databases.stock.updateMany('stock', 'sku', touched(items, skus)),
      databases.orders.insertMany('orders', rows),
      databases.wallet.updateMany('wallet', 'buyer', touched(wallets, buyers)),
    ])
  },
})

/** The rows of those keys, each once. */
function touched<Row>(rows: ReadonlyMap<string, Row>, keys: readonly string[]): Row[] {
  return [...new Set(keys)].flatMap((key) => rows.get(key) ?? [])
}

/** Sets price and stock of a SKU. Keyed like the orders, so it takes its place among them. */
export const putStock = command('stock.put', {
  summary: 'Set the price and the stock of a SKU.',
  input: z.object({ sku, price: cents, remaining: z.int().min(0).max(1_000_000_000) }),
  key: (item) => item.sku,
  databases: { stock },
  invalidates: (item) => [`stock:${item.sku}`],
  async run({ input, databases }) {
    await databases.stock.upsertMany('stock', 'sku', [input])
    return accept()
  },
})

/** Sets the balance of a buyer. */
export const putWallet = command('wallet.put', {
  summary: 'Set the balance of a buyer.',
  input: z.object({ buyer, balance: cents }),
  key: (row) => row.buyer,
  databases: { wallet },
  invalidates: (row) => [`wallet:${row.buyer}`],
  async run({ input, databases }) {
    await databases.wallet.upsertMany('wallet', 'buyer', [input])
    return accept()
  },
})

/** How many of a SKU are left. */
export const stockLeft = query('stock.left', {
  summary: 'How many of a SKU are left, and at what price.',
  input: z.object({ sku }),
  key: (input) => `stock:${input.sku}`,
  databases: { stock },
  async load(input, databases) {
    const [item] = await databases.stock.sql<Item>`select sku, price, remaining from stock where sku = ${input.sku}`
    return item ?? { sku: input.sku, price: null, remaining: 0 }
  },
})

/** What a buyer has left, and has ordered. */
export const walletShow = query('wallet.show', {
  summary: 'The balance of a buyer and the latest orders.',
  input: z.object({ buyer }),
  key: (input) => `wallet:${input.buyer}`,
  databases: { wallet, orders },
  async load(input, databases) {
    const [row] = await databases.wallet.sql<Wallet>`select balance from wallet where buyer = ${input.buyer}`
    const latest = await databases.orders
      .sql`select id, sku, quantity, price from orders where buyer = ${input.buyer} order by number desc limit 10`
    return { buyer: input.buyer, balance: row?.balance ?? 0, latest }
  },
})

export default defineApp({ name: 'flash-sale', commands: [buy, putStock, putWallet], queries: [stockLeft, walletShow] })
