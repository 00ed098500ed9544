/**
 * The write path on databases on servers against what users write by hand.
 * All servers are private, on this machine, with their default durability:
 * every commit waits for the disk.
 */
import { randomUUID } from 'node:crypto'
import { mysql } from 'headrace/mysql'
import { postgres } from 'headrace/postgres'
import { comparison, type Opening, perSecond, recordLatencies } from '../harness.ts'
import { openByHand } from './by-hand.ts'
import { enter, leave, place } from './servers.ts'
import { buyerOf, defineShop, type Order } from './shop.ts'

const batchCommands = 512
const inFlight = 4 * batchCommands
const connections = 20

interface Keys {
  readonly skus: readonly string[]
  readonly lanes: number
}
const hot: Keys = { skus: ['hot'], lanes: 1 }
const uniform: Keys = { skus: Array.from({ length: 100_000 }, (_, index) => `sku-${index}`), lanes: 4 }

function orderOf({ skus }: Keys, number: number): Order {
  return { id: randomUUID(), sku: skus[(number * 7_919) % skus.length] as string, buyer: buyerOf(number), quantity: 1 }
}

function throughHeadrace(keys: Keys, across: boolean): Opening {
  return async ({ directory, quick }) => {
    await enter()
    const { shopUrl, bankUrl } = await place(keys.skus, across)
    const shop = postgres('shop', { url: shopUrl })
    const { app, buy } = defineShop(directory, shop, across ? mysql('bank', { url: bankUrl }) : shop, keys.lanes)
    await app.start()
    const orders = quick ? 1_000 : 40_000
    return {
      async run() {
        const latencies = recordLatencies()
        let next = 0
        const loop = async (): Promise<void> => {
          while (next < orders) {
            const { id, ...input } = orderOf(keys, next++)
            const started = performance.now()
            const { status } = await app.submit(buy, input, { id })
            if (status !== 'committed') throw new Error(`an order was ${status}`)
            latencies.record(performance.now() - started)
          }
        }
        const value = await perSecond(orders, () => Promise.all(Array.from({ length: inFlight }, loop)))
        return { value, ...latencies.percentiles() }
      },
      async close() {
        await app.stop()
        await leave()
      },
    }
  }
}

function byHand(keys: Keys, across: boolean, batchSize: number): Opening {
  return async ({ quick }) => {
    await enter()
    const hand = await openByHand(await place(keys.skus, across))
    const orders = batchSize > 1 ? (quick ? 1_024 : 40_960) : quick ? 100 : 3_000
    return {
      async run() {
        const latencies = recordLatencies()
        let next = 0
        const loop = async (): Promise<void> => {
          while (next < orders) {
            const from = next
            next += batchSize
            const started = performance.now()
            const batch = Array.from({ length: batchSize }, (_, index) => orderOf(keys, from + index))
            await (batchSize > 1 ? hand.batch(batch) : hand.single(batch[0] as Order))
            latencies.record(performance.now() - started)
          }
        }
        const value = await perSecond(orders, () => Promise.all(Array.from({ length: batchSize > 1 ? 1 : connections }, loop)))
        return { value, ...latencies.percentiles() }
      },
      async close() {
        await hand.close()
        await leave()
      },
    }
  }
}

function hotRow(where: string, across: boolean) {
  return comparison({
    unit: 'orders/s',
    contenders: {
      headrace: throughHeadrace(hot, across),
      single: byHand(hot, across, 1),
      batches: byHand(hot, across, batchCommands),
    },
    figures: [
      { name: `hot row, ${where}`, of: 'headrace' },
      { name: `… ${across ? 'two phases' : 'one transaction'} per order by hand, ${connections} connections`, of: 'single' },
      { name: `… batches of ${batchCommands} by hand`, of: 'batches' },
      { name: '… over single orders by hand', ratio: ['headrace', 'single'], goal: { atLeast: 40 } },
      { name: '… over batches by hand', ratio: ['headrace', 'batches'], goal: { atLeast: 0.7 } },
    ],
  })
}

function manyKeys(where: string, across: boolean) {
  return comparison({
    unit: 'orders/s',
    contenders: { headrace: throughHeadrace(uniform, across), single: byHand(uniform, across, 1) },
    figures: [
      { name: `100,000 keys, ${where}`, of: 'headrace' },
      { name: `… by hand, ${connections} connections`, of: 'single' },
      { name: '… over single orders by hand', ratio: ['headrace', 'single'], goal: { atLeast: 8 } },
    ],
  })
}

const across = 'PostgreSQL and MariaDB'

export const pathComparisons = [hotRow('PostgreSQL', false), hotRow(across, true), manyKeys('PostgreSQL', false), manyKeys(across, true)]
