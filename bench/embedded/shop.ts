/** The order of the bench: one stock row, one order row, one wallet row, one outcome, over three files. */
import { accept, command, defineApp, reject, type App } from 'headrace'
import { sqlite } from 'headrace/sqlite'
import { z } from 'zod'

export const stockSchema = 'create table if not exists stock (sku text primary key not null, remaining integer not null)'
export const ordersSchema =
  'create table if not exists orders (number integer primary key, id text not null, sku text not null, buyer text not null, quantity integer not null)'
export const walletSchema = 'create table if not exists wallet (buyer text primary key not null, balance integer not null)'
export const buyers = 10_000
export const plenty = 1_000_000_000
export const price = 5

const input = z.object({ sku: z.string(), buyer: z.string(), quantity: z.int().min(1).max(5) })

export function buyerOf(index: number): string {
  return `buyer-${(index * 7_919) % buyers}`
}

export function defineShop(dataDir: string, limits: { readonly queuedCommandsMax?: number; readonly queueWaitMsMax?: number } = {}) {
  const stock = sqlite('stock', { schema: stockSchema })
  const orders = sqlite('orders', { schema: ordersSchema })
  const wallet = sqlite('wallet', { schema: walletSchema })

  const buy = command('order.buy', {
    input,
    key: ({ sku }) => sku,
    databases: { stock, orders, wallet },
    async load(batch, databases) {
      const [items, wallets] = await Promise.all([
        databases.stock.selectIn<{ sku: string; remaining: number }>(
          'stock',
          'sku',
          batch.map((order) => order.input.sku),
        ),
        databases.wallet.selectIn<{ buyer: string; balance: number }>(
          'wallet',
          'buyer',
          batch.map((order) => order.input.buyer),
        ),
      ])
      return {
        items: new Map(items.map(({ sku, remaining }) => [sku, remaining])),
        wallets: new Map(wallets.map(({ buyer, balance }) => [buyer, balance])),
      }
    },
    decide({ items, wallets }, { sku, buyer, quantity }, { id }) {
      const remaining = items.get(sku) ?? 0
      const balance = wallets.get(buyer) ?? 0
      if (remaining < quantity) return reject('sold-out')
      if (balance < quantity * price) return reject('insufficient-funds')
      items.set(sku, remaining - quantity)
      wallets.set(buyer, balance - quantity * price)
      return accept({ order: id })
    },
    async save({ items, wallets }, accepted, databases) {
      await Promise.all([
        databases.stock.updateMany(
          'stock',
          'sku',
          [...items].map(([sku, remaining]) => ({ sku, remaining })),
        ),
        databases.orders.insertMany(
          'orders',
          accepted.map(({ id, input: order }) => ({ id, sku: order.sku, buyer: order.buyer, quantity: order.quantity })),
        ),
        databases.wallet.updateMany(
          'wallet',
          'buyer',
          [...wallets].map(([buyer, balance]) => ({ buyer, balance })),
        ),
      ])
    },
  })

  /** Holds the lane until `open()`, so that a backlog can gather behind it. */
  let open: () => void = () => undefined
  const opened = new Promise<void>((resolve) => {
    open = resolve
  })
  const gate = command('gate.wait', {
    input: z.object({}),
    key: () => 'gate',
    timeoutMs: 3_600_000,
    run: async () => opened.then(() => accept()),
  })

  const fill = command('shop.fill', {
    input: z.object({ skus: z.array(z.string()) }),
    key: () => 'fill',
    databases: { stock, wallet },
    async run({ input: { skus }, databases }) {
      await databases.stock.upsertMany(
        'stock',
        'sku',
        skus.map((sku) => ({ sku, remaining: plenty })),
      )
      await databases.wallet.upsertMany(
        'wallet',
        'buyer',
        Array.from({ length: buyers }, (_, index) => ({ buyer: buyerOf(index), balance: plenty })),
      )
      return accept()
    },
  })
  const app: App = defineApp({ name: 'bench', dataDir, commands: [buy, fill, gate], ...limits })
  return { app, buy, fill, gate, open: () => open() }
}
