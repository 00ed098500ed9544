/**
 * What the sale shows of its stock comes from the cache, while orders take from
 * it: never more than was left when the last order was acknowledged.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { type App, defineApp } from '../../src/index.ts'
import { afterEach, describe, expect, it } from 'vitest'
import { createRandom } from '../../src/std/random.ts'
import { buy, putStock, putWallet, stockLeft } from '../../examples/flash-sale/app.ts'

const skus = ['hot', 'warm', 'cold']
const initial = 2_000
const buyers = 3
const orders = 600
const callers = 8
const readers = 8

const closers: (() => Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

/** The sale, with its stock set; `order` is what an order is made of. */
async function openSale(order: typeof buy): Promise<App> {
  const dataDir = mkdtempSync(path.join(tmpdir(), 'headrace-shown-'))
  const app = defineApp({ name: 'shown-stock', commands: [order, putStock, putWallet], queries: [stockLeft], dataDir })
  closers.push(async () => {
    await app.stop()
    rmSync(dataDir, { recursive: true, force: true })
  })
  await app.start()
  for (const sku of skus) await app.submit(putStock, { sku, price: 1, remaining: initial })
  for (let buyer = 0; buyer < buyers; buyer++) await app.submit(putWallet, { buyer: `b${buyer}`, balance: 1_000_000 })
  return app
}

interface Seen {
  readonly reads: number
  /** Reads that showed more than was left at the last order that had been acknowledged when they began. */
  readonly tooMuch: readonly string[]
  /** What each SKU shows at the end, and what is left of it by the orders. */
  readonly ends: readonly (readonly [shown: number, left: number])[]
}

/** Orders and reads side by side, until the orders are through. */
async function sell(app: App, order: typeof buy, seed: number): Promise<Seen> {
  const random = createRandom(seed)
  /** Units of orders that were answered, by SKU. */
  const acknowledged = new Map(skus.map((sku) => [sku, 0]))
  const tooMuch: string[] = []
  let reads = 0
  let issued = 0
  let over = false
  // Half of everything is about the first.
  const pick = (): string => (random.int(2) === 0 ? 'hot' : (skus[random.int(skus.length)] as string))
  const buying = async (): Promise<void> => {
    while (issued < orders) {
      issued += 1
      const [sku, quantity] = [pick(), 1 + random.int(3)]
      const outcome = await app.submit(order, { sku, buyer: `b${random.int(buyers)}`, quantity })
      if (outcome.status === 'committed') acknowledged.set(sku, (acknowledged.get(sku) ?? 0) + quantity)
      // Now and then a caller pauses, so that batches differ in size.
      if (random.int(4) === 0) await new Promise(setImmediate)
    }
  }
  const reading = async (): Promise<void> => {
    while (!over) {
      const sku = pick()
      const left = initial - (acknowledged.get(sku) ?? 0)
      const { remaining } = await app.query(stockLeft, { sku })
      reads += 1
      if (remaining > left) tooMuch.push(`${sku}: shown ${remaining}, left ${left}`)
      await new Promise(setImmediate)
    }
  }
  const watching = Array.from({ length: readers }, reading)
  await Promise.all(Array.from({ length: callers }, buying))
  over = true
  await Promise.all(watching)
  const ends = await Promise.all(
    skus.map(async (sku) => [(await app.query(stockLeft, { sku })).remaining, initial - (acknowledged.get(sku) ?? 0)] as const),
  )
  return { reads, tooMuch, ends }
}

describe('the stock that the sale shows', () => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 32)
  const again = `again: SEED=${seed} npx vitest run test/demo/shown-stock.test.ts`

  it('is never more than was left at the last acknowledged order', async () => {
    const { reads, tooMuch, ends } = await sell(await openSale(buy), buy, seed)
    expect(tooMuch, again).toEqual([])
    for (const [shown, left] of ends) expect(shown, again).toBe(left)
    expect(reads).toBeGreaterThan(orders)
  })

  it('would be more, were the cached answers not to fall with each order', async () => {
    const forgetful = Object.freeze({ ...buy, options: Object.freeze({ ...buy.options, invalidates: () => [] }) })
    const { tooMuch } = await sell(await openSale(forgetful), forgetful, seed)
    expect(tooMuch.length, again).toBeGreaterThan(0)
  })
})
