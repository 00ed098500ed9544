/** The order of the bench on databases on servers: one stock row, one order row, one wallet row; the wallets in a database of their own, or beside the stock. */
import { accept, type App, command, type DatabaseHandle, defineApp, reject } from 'headrace'
import { z } from 'zod'

export const buyers = 10_000
export const plenty = 1_000_000_000
export const price = 5

export interface Order {
  readonly id: string
  readonly sku: string
  readonly buyer: string
  readonly quantity: number
}

export const buyerOf = (index: number): string => `buyer-${(index * 7_919) % buyers}`

/** `counter`: a primary key that counts up, in the dialect of the engine. */
export const shopSchema = (counter: string): string =>
  `create table if not exists stock (sku varchar(64) primary key, remaining bigint not null);
   create table if not exists orders (number ${counter}, id varchar(64) not null, sku varchar(64) not null, buyer varchar(64) not null, quantity bigint not null)`
export const bankSchema = 'create table if not exists wallet (buyer varchar(64) primary key, balance bigint not null)'

const input = z.object({ sku: z.string(), buyer: z.string(), quantity: z.int().min(1).max(5) })

export function defineShop(dataDir: string, shop: DatabaseHandle, bank: DatabaseHandle, lanes: number) {
  const buy = command('order.buy', {
    input,
    key: ({ sku }) => sku,
    databases: { shop, bank },
    async load(batch, databases) {
      const [items, wallets] = await Promise.all([
        databases.shop.selectIn<{ sku: string; remaining: number }>(
          'stock',
          'sku',
          batch.map((order) => order.input.sku),
        ),
        databases.bank.selectIn<{ buyer: string; balance: number }>(
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
        databases.shop.updateMany(
          'stock',
          'sku',
          [...items].map(([sku, remaining]) => ({ sku, remaining })),
        ),
        databases.shop.insertMany(
          'orders',
          accepted.map(({ id, input: order }) => ({ id, sku: order.sku, buyer: order.buyer, quantity: order.quantity })),
        ),
        databases.bank.updateMany(
          'wallet',
          'buyer',
          [...wallets].map(([buyer, balance]) => ({ buyer, balance })),
        ),
      ])
    },
  })
  const app: App = defineApp({ name: 'bench', dataDir, commands: [buy], lanes })
  return { app, buy }
}
