import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { readFile, readSale } from './databases.ts'
import { orderId, orderInput, planSale, type SalePlan } from './plan.ts'
import { SaleRecord } from './record.ts'
import { judge, type Evidence, type Verdict } from './verdict.ts'

/** A sale that went well, written to real files and to the record of a client; every test breaks one thing. */
let folder: string
let plan: SalePlan
let record: SaleRecord

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'headrace-verdict-'))
  plan = planSale({ seed: 42, orders: 400, skus: 3, buyers: 20, stock: null })
  record = new SaleRecord(plan.orders)
  const stock = open('stock')
  const orders = open('orders')
  const wallet = open('wallet')
  stock.exec('create table stock (sku text primary key, price integer, remaining integer)')
  orders.exec(
    'create table orders (number integer primary key, id text, sku text, buyer text, quantity integer, price integer, position integer)',
  )
  wallet.exec('create table wallet (buyer text primary key, balance integer)')
  const left = plan.items.map((item) => item.stock)
  const balances = plan.wallets.map((row) => row.balance)
  for (const database of [stock, orders, wallet]) database.exec('pragma synchronous = off; begin')
  const insert = orders.prepare('insert into orders (id, sku, buyer, quantity, price, position) values (?, ?, ?, ?, ?, ?)')
  for (let index = 0; index < plan.orders; index++) {
    const sku = plan.skuOf[index] as number
    const buyer = plan.buyerOf[index] as number
    const input = orderInput(plan, index)
    const { price } = plan.items[sku] as { price: number }
    const position = index + 1
    record.sentAt[index] = index * 10
    record.answeredAt[index] = index * 10 + 15
    if ((left[sku] as number) < input.quantity) record.set(index, 'rejected', 'sold-out', position)
    else if ((balances[buyer] as number) < price * input.quantity) record.set(index, 'rejected', 'insufficient-funds', position)
    else {
      left[sku]! -= input.quantity
      balances[buyer]! -= price * input.quantity
      record.set(index, 'committed', null, position)
      insert.run(orderId(index), input.sku, input.buyer, input.quantity, price, position)
    }
  }
  for (const [sku, item] of plan.items.entries())
    stock.prepare('insert into stock values (?, ?, ?)').run(item.sku, item.price, left[sku] as number)
  for (const [buyer, row] of plan.wallets.entries())
    wallet.prepare('insert into wallet values (?, ?)').run(row.buyer, balances[buyer] as number)
  for (const database of [stock, orders, wallet]) {
    database.exec('commit')
    database.close()
  }
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

function open(name: string): DatabaseSyncInstance {
  return new DatabaseSync(join(folder, `${name}.sqlite`))
}

function change(name: string, text: string): void {
  const database = open(name)
  database.exec('pragma synchronous = off')
  database.exec(text)
  database.close()
}

async function verdict(more: Partial<Evidence> = {}): Promise<Verdict> {
  return judge({
    plan,
    record,
    state: await readSale(async (database, text) => readFile(folder, database, text)),
    outcomes: { asked: 400, missing: [], different: [] },
    inDoubt: null,
    repeats: { sent: 40, different: 0 },
    ...more,
  })
}

function broken(found: Verdict): string[] {
  return found.checks.filter((check) => !check.ok).map((check) => check.name)
}

function indexOf(kind: string, code: string | null = null): number {
  for (let index = plan.orders - 1; index >= 0; index--) if (record.kindOf(index) === kind && record.codeOf(index) === code) return index
  throw new Error(`the sale has no ${kind} order`)
}

describe('the verdict on a flash sale', () => {
  it('is clean for a sale that went well, with all kinds of answers in it', async () => {
    const found = await verdict()
    expect(broken(found)).toEqual([])
    expect(found.ok).toBe(true)
    expect(found.accepted).toBeGreaterThan(100)
    expect(indexOf('rejected', 'sold-out')).toBeGreaterThan(0)
    expect(indexOf('rejected', 'insufficient-funds')).toBeGreaterThan(0)
    expect(found.accepted + found.rejected).toBe(plan.orders)
  })

  it('sees an order row that nobody was told of', async () => {
    change('orders', `insert into orders (id, sku, buyer, quantity, price, position) values ('stray', 'sku-1', 'buyer-1', 1, 100, 9999)`)
    const found = await verdict()
    expect(found.unexpected).toBe(1)
    expect(broken(found)).toEqual(
      expect.arrayContaining([
        'sold = initial − left = orders',
        'money conserved',
        'nothing half-written',
        'no order that was not accepted',
      ]),
    )
  })

  it('sees an order that was rejected and written all the same', async () => {
    const index = indexOf('rejected', 'sold-out')
    change(
      'orders',
      `insert into orders (id, sku, buyer, quantity, price, position) values ('${orderId(index)}', 'sku-1', 'buyer-1', 1, 100, 9999)`,
    )
    expect((await verdict()).unexpected).toBe(1)
  })

  it('sees an accepted order that is not in the databases', async () => {
    const id = orderId(indexOf('committed'))
    change('orders', `delete from orders where id = '${id}'`)
    const found = await verdict()
    expect(found.lost).toBe(1)
    expect(found.checks.find((check) => check.name === 'each accepted order found')?.examples).toEqual([id])
  })

  it('sees an accepted order whose row holds something else', async () => {
    const id = orderId(indexOf('committed'))
    for (const set of ['quantity = quantity + 1', `buyer = 'buyer-x'`, 'price = price + 1', 'position = position + 10000']) {
      change('orders', `create table kept as select * from orders where id = '${id}'; update orders set ${set} where id = '${id}'`)
      expect((await verdict()).lost, set).toBe(1)
      change('orders', `delete from orders where id = '${id}'; insert into orders select * from kept; drop table kept`)
    }
    expect((await verdict()).ok).toBe(true)
  })

  it('sees an id that was applied twice, even when stock and wallet fit', async () => {
    const index = indexOf('committed')
    const { sku, buyer, quantity } = orderInput(plan, index)
    change(
      'orders',
      `insert into orders (id, sku, buyer, quantity, price, position) select id, sku, buyer, quantity, price, position + 10000 from orders where id = '${orderId(index)}'`,
    )
    change('stock', `update stock set remaining = remaining - ${quantity} where sku = '${sku}'`)
    change(
      'wallet',
      `update wallet set balance = balance - ${quantity} * ${plan.items[plan.skuOf[index] as number]?.price} where buyer = '${buyer}'`,
    )
    const found = await verdict()
    expect(found.duplicated).toBe(1)
    expect(found.halfWritten).toBe(0)
    expect(broken(found)).toContain('each id once')
  })

  it('sees an order whose wallet change is missing', async () => {
    const index = indexOf('committed')
    const { buyer, quantity } = orderInput(plan, index)
    change(
      'wallet',
      `update wallet set balance = balance + ${quantity} * ${plan.items[plan.skuOf[index] as number]?.price} where buyer = '${buyer}'`,
    )
    const found = await verdict()
    expect(found.halfWritten).toBe(1)
    expect(broken(found)).toEqual(expect.arrayContaining(['money conserved', 'nothing half-written']))
  })

  it('sees an order whose stock change is missing', async () => {
    change('stock', `update stock set remaining = remaining + 1 where sku = 'sku-2'`)
    const found = await verdict()
    expect(found.halfWritten).toBe(1)
    expect(broken(found)).toEqual(expect.arrayContaining(['sold = initial − left = orders', 'nothing half-written']))
  })

  it('sees two half-written orders that cancel out in the sums', async () => {
    change(
      'wallet',
      `update wallet set balance = balance + 1 where buyer = 'buyer-1'; update wallet set balance = balance - 1 where buyer = 'buyer-2'`,
    )
    const found = await verdict()
    expect(broken(found)).toEqual(['nothing half-written'])
    expect(found.halfWritten).toBe(2)
  })

  it('sees a SKU or a wallet that has vanished', async () => {
    change('wallet', `delete from wallet where buyer = 'buyer-3'`)
    expect((await verdict()).halfWritten).toBe(1)
  })

  it('sees a sale beyond the stock', async () => {
    change('orders', `update orders set quantity = quantity + 1000 where number = 1`)
    change('stock', `update stock set remaining = remaining - 1000 where sku = (select 'sku-' || ${(plan.skuOf[0] as number) + 1})`)
    const found = await verdict()
    expect(found.oversold).toBeGreaterThan(0)
    expect(broken(found)).toEqual(expect.arrayContaining(['nothing oversold', 'no negative stock or balance']))
  })

  it('sees a negative balance', async () => {
    change('wallet', `update wallet set balance = -1 where buyer = 'buyer-1'`)
    expect(broken(await verdict())).toContain('no negative stock or balance')
  })

  it('sees rows of a SKU that were written out of order', async () => {
    change(
      'orders',
      `create temporary table pair as select number, position from orders where sku = 'sku-1' order by number limit 2;
      update orders set position = (select sum(position) from pair) - position where number in (select number from pair)`,
    )
    const found = await verdict()
    expect(found.disordered).toBeGreaterThan(0)
    expect(broken(found)).toContain('order per key kept')
  })

  it('sees an order that overtook one which was answered before it was sent', async () => {
    const hot = [...plan.skuOf.keys()].filter((index) => plan.skuOf[index] === 0 && record.kindOf(index) === 'rejected')
    const [first, second] = [hot.at(-2) as number, hot.at(-1) as number]
    record.set(first, 'rejected', 'sold-out', (record.positionOf[second] as number) + 0.5)
    expect(record.answeredAt[first]).toBeLessThan(record.sentAt[second] as number)
    expect(broken(await verdict())).toEqual(['order per key kept'])
  })

  it('sees an order that was refused for lack of stock while there was stock', async () => {
    const index = indexOf('rejected', 'insufficient-funds')
    record.set(index, 'rejected', 'sold-out', record.positionOf[index] as number)
    expect((await verdict()).wronglyRejected).toBe(1)
  })

  it('sees an order that was refused for lack of money while there was money', async () => {
    const index = indexOf('rejected', 'insufficient-funds')
    const { buyer } = orderInput(plan, index)
    change('wallet', `update wallet set balance = 1000000000 where buyer = '${buyer}'`)
    expect((await verdict()).wronglyRejected).toBeGreaterThan(0)
  })

  it('takes no unknown reason for a rejection', async () => {
    const index = indexOf('rejected', 'sold-out')
    record.set(index, 'rejected', 'unknown-sku', record.positionOf[index] as number)
    expect((await verdict()).wronglyRejected).toBe(1)
  })

  it('sees an order that has no outcome, whatever the reason', async () => {
    const index = indexOf('rejected', 'sold-out')
    for (const kind of ['failed', 'pending', 'problem', 'transport'] as const) {
      record.set(index, kind, 'x', null)
      expect(broken(await verdict()), kind).toEqual(['every order got an outcome'])
    }
  })

  it('allows the row of an order whose answer never came', async () => {
    record.set(indexOf('committed'), 'transport', 'ECONNRESET', null)
    expect((await verdict()).unexpected).toBe(0)
  })

  it('sees outcomes that are gone or changed, and repeats that were answered otherwise', async () => {
    const missing = await verdict({ outcomes: { asked: 400, missing: ['order-1'], different: [] } })
    expect(missing.lost).toBe(1)
    expect(broken(missing)).toEqual(['each outcome kept'])
    expect(broken(await verdict({ outcomes: { asked: 400, missing: [], different: ['order-1'] } }))).toEqual(['each outcome kept'])
    expect(broken(await verdict({ repeats: { sent: 40, different: 1 } }))).toEqual(['repeats answered alike'])
    expect(broken(await verdict({ inDoubt: 1 }))).toEqual(['nothing left in doubt'])
    expect(broken(await verdict({ inDoubt: 0 }))).toEqual([])
  })
})
