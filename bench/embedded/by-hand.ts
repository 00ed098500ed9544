/**
 * What a user would write without Headrace, on the same driver and the same
 * files: one transaction per order, and a loop over batches.
 *
 * Both commit each file with synchronous=FULL. Neither is atomic over the files
 * after a crash, and neither looks for a repeated id: they are floors, and the
 * outcome table has no index, so that the floor is as low as it can be.
 */
import path from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { buyerOf, buyers, ordersSchema, plenty, price, stockSchema, walletSchema } from './shop.ts'

export interface Order {
  readonly id: string
  readonly sku: string
  readonly buyer: string
  readonly quantity: number
}

export function openByHand(directory: string) {
  const open = (name: string, schema: string): InstanceType<typeof DatabaseSync> => {
    const database = new DatabaseSync(path.join(directory, `${name}.sqlite`))
    database.exec('pragma journal_mode = wal; pragma synchronous = full; pragma cache_size = -65536')
    database.exec(schema)
    return database
  }
  const stock = open('stock', stockSchema)
  const orders = open('orders', ordersSchema)
  const wallet = open('wallet', walletSchema)
  const outcomes = open('outcomes', 'create table if not exists outcome (n integer primary key, id text not null, body text not null)')
  const all = [stock, orders, wallet, outcomes]
  stock.prepare('insert into stock (sku, remaining) values (?, ?)').run('hot', plenty)
  wallet.exec('begin')
  const fill = wallet.prepare('insert into wallet (buyer, balance) values (?, ?)')
  for (let index = 0; index < buyers; index++) fill.run(buyerOf(index), plenty)
  wallet.exec('commit')

  const readStock = stock.prepare('select sku, remaining from stock where sku = ?')
  const writeStock = stock.prepare('update stock set remaining = ? where sku = ?')
  const readWallet = wallet.prepare('select buyer, balance from wallet where buyer = ?')
  const writeWallet = wallet.prepare('update wallet set balance = ? where buyer = ?')
  const writeOrder = orders.prepare('insert into orders (id, sku, buyer, quantity) values (?, ?, ?, ?)')
  const writeOutcome = outcomes.prepare('insert into outcome (id, body) values (?, ?)')

  return {
    /** One batch, written the way a careful hand would write it. */
    apply(batch: readonly Order[]): string[] {
      for (const database of all) database.exec('begin immediate')
      const items = new Map<string, number>()
      const wallets = new Map<string, number>()
      for (const { sku, buyer } of batch) {
        if (!items.has(sku)) items.set(sku, (readStock.get(sku) as { remaining: number }).remaining)
        if (!wallets.has(buyer)) wallets.set(buyer, (readWallet.get(buyer) as { balance: number }).balance)
      }
      const bodies: string[] = []
      for (const { id, sku, buyer, quantity } of batch) {
        const remaining = items.get(sku) ?? 0
        const balance = wallets.get(buyer) ?? 0
        if (remaining < quantity || balance < quantity * price) throw new Error('the floor expects plenty')
        items.set(sku, remaining - quantity)
        wallets.set(buyer, balance - quantity * price)
        writeOrder.run(id, sku, buyer, quantity)
        const body = JSON.stringify({ id, command: 'order.buy', status: 'committed', result: { order: id } })
        writeOutcome.run(id, body)
        bodies.push(body)
      }
      for (const [sku, remaining] of items) writeStock.run(remaining, sku)
      for (const [buyer, balance] of wallets) writeWallet.run(balance, buyer)
      for (const database of all) database.exec('commit')
      return bodies
    },
    close(): void {
      for (const database of all) database.close()
    },
  }
}
