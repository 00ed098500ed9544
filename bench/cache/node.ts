/** One node of the stampede: a process with a cache on Redis. It asks for a key when told, and says how often it loaded. */
import { type OnRedis, onRedis } from './contenders.ts'

const [name, url] = process.argv.slice(2) as [OnRedis, string]
const cache = onRedis[name](url)
const loadMs = 20

process.on('message', ({ key, gets }: { key: string; gets: number }) => {
  let loads = 0
  const load = async (): Promise<unknown> => {
    loads++
    await new Promise((resolve) => setTimeout(resolve, loadMs))
    return { key }
  }
  const began = performance.now()
  void Promise.all(Array.from({ length: gets }, () => cache.get(key, load))).then(() =>
    process.send?.({ loads, ms: performance.now() - began }),
  )
})
process.on('SIGTERM', () => process.exit())

// Its connections are up once it has asked for something.
await cache.get(`start:${process.pid}`, async () => 1)
process.send?.({ loads: 0, ms: 0 })
