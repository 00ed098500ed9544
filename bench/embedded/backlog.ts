/**
 * A process that takes a backlog of commands, all of them on disk, and then
 * drains it. Tells its rate and the most memory it had.
 */
import { setTimeout as pause } from 'node:timers/promises'
import { buyerOf, defineShop } from './shop.ts'

const [dataDir = '', wanted = '0'] = process.argv.slice(2)
const commands = Number(wanted)
const { app, buy, fill, gate, open } = defineShop(dataDir, { queuedCommandsMax: commands + 1_000, queueWaitMsMax: 3_600_000 })
await app.start()
await app.submit(fill, { skus: ['hot'] })
const gateDone = app.submit(gate, {})
await pause(50)

let memoryMax = 0
const watch = setInterval(() => {
  memoryMax = Math.max(memoryMax, process.memoryUsage.rss())
}, 20)

const inFlight = 1_000
let next = 0
const acceptedAt = performance.now()
await Promise.all(
  Array.from({ length: inFlight }, async () => {
    while (next < commands) {
      const index = next++
      await app.enqueue(buy, { sku: 'hot', buyer: buyerOf(index), quantity: 1 }, { id: `order-${index}` })
    }
  }),
)
const acceptMs = performance.now() - acceptedAt
const drainedAt = performance.now()
open()
await gateDone
for (let left = commands; left > 0; left = (await app.status()).counts.queued) await pause(20)
const drainMs = performance.now() - drainedAt
clearInterval(watch)
await app.stop()
process.send?.({
  acceptPerSecond: (commands * 1_000) / acceptMs,
  drainPerSecond: (commands * 1_000) / drainMs,
  memoryMiB: memoryMax / 2 ** 20,
})
