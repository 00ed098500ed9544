/**
 * The cache against three libraries and what they are built on.
 * `npm run bench -- cache`.
 */
import type { ChildProcess } from 'node:child_process'
import { createCache } from 'headrace/cache'
import { redisCache, redisCacheBus } from 'headrace/redis'
import { type Server, shifting, startRedis, zipf, zipfWithScans } from 'headrace/testing'
import { Redis } from 'ioredis'
import { LRUCache } from 'lru-cache'
import { entriesMax, inProcess, type OnRedis, onRedis } from './cache/contenders.ts'
import { endChild, forkChild, nextMessage } from './embedded/child.ts'
import { bench, comparison, type Contender, type Opening, perSecond, recordLatencies } from './harness.ts'

const ttlMs = 3_600_000
const hotKeys = 10_000
const seed = 20_251_101

/** Keys as strings, in the order of a skewed stream, made before the clock runs. */
function hotStream(length: number): string[] {
  return Array.from(zipf(seed, hotKeys, 0.99, length), (key) => `product:${key}`)
}

const value = (key: string) => ({ key, name: 'a product', price: 1_299, tags: ['red', 'large'] })

/** Hits through the full API, one after the other. */
function hits(open: () => ReturnType<(typeof inProcess)[keyof typeof inProcess]>): Opening {
  return async ({ quick }) => {
    const cache = open()
    const stream = hotStream(quick ? 20_000 : 300_000)
    for (let key = 0; key < hotKeys; key++) await cache.get(`product:${key}`, async () => value(`product:${key}`))
    const notAsked = (): Promise<never> => Promise.reject(new Error('a hit was a miss'))
    return {
      run: () =>
        perSecond(stream.length, async () => {
          for (const key of stream) await cache.get(key, notAsked)
        }),
      close: async () => {
        await cache.close()
      },
    }
  }
}

/** Hits without a promise. */
function syncHits(open: () => Promise<(key: string) => unknown>): Opening {
  return async ({ quick }) => {
    const get = await open()
    const stream = hotStream(quick ? 100_000 : 2_000_000)
    return {
      run: () =>
        perSecond(stream.length, async () => {
          let missed = 0
          for (const key of stream) if (get(key) === undefined) missed++
          if (missed > 0) throw new Error(`${missed} hits were misses`)
        }),
    }
  }
}

const traces = { 'Zipf 0.99': zipf, 'Zipf 0.99 with scans': zipfWithScans, 'a shifting set': shifting }
const hitGoals: Record<keyof typeof traces, number> = { 'Zipf 0.99': 4, 'Zipf 0.99 with scans': 5, 'a shifting set': -0.5 }

/** Hit rates of both on the same stream: room for 10,000 of 100,000 keys. */
function hitRates(name: keyof typeof traces) {
  const keys = 100_000
  const capacity = 10_000
  return comparison({
    unit: '%',
    contenders: {
      headrace: ({ quick }) => ({
        run({ index }) {
          const trace = traces[name](seed + index, keys, 0.99, quick ? 100_000 : 1_000_000)
          const cache = createCache({ entriesMax: capacity, bytesMax: 2 ** 30, ttlMs, hotKeysMax: 0 })
          const lru = new LRUCache<string, number>({ max: capacity })
          let ours = 0
          let theirs = 0
          for (const number of trace) {
            const key = `k${number}`
            if (cache.getSync(key) !== undefined) ours++
            else void cache.set(key, number)
            if (lru.get(key) !== undefined) theirs++
            else lru.set(key, number)
          }
          const percent = (count: number): number => (100 * count) / trace.length
          return Promise.resolve({ value: percent(ours), lru: percent(theirs), points: percent(ours - theirs) })
        },
      }),
    },
    figures: [
      { name: `hit rate, ${name}`, of: 'headrace' },
      { name: `hit rate of lru-cache, ${name}`, of: 'headrace', take: 'lru' },
      {
        name: `hit rate over lru-cache, ${name}, points`,
        of: 'headrace',
        take: 'points',
        unit: 'points',
        goal: { atLeast: hitGoals[name] },
      },
    ],
  })
}

/** One Redis for the contenders of a comparison. */
function redis(): { enter(): Promise<Server>; leave(): Promise<void> } {
  let users = 0
  let running: Promise<Server> | null = null
  return {
    enter() {
      users++
      running ??= startRedis()
      return running
    },
    async leave() {
      if (--users > 0) return
      const server = await running
      running = null
      await server?.stop()
    },
  }
}

/** Hits in Redis: `lanes` readers side by side, each one after the other. */
function sharedHits(lanes: number) {
  const server = redis()
  const reads = (quick: boolean): number => (quick ? 500 : 20_000)
  const measured = async (
    open: (url: string) => Promise<{ get(key: string): Promise<unknown>; close(): Promise<unknown> }>,
  ): Promise<Contender> => {
    const { url } = await server.enter()
    const cache = await open(url)
    return {
      async run({ quick }) {
        const latencies = recordLatencies()
        const total = reads(quick)
        let next = 0
        const lane = async (): Promise<void> => {
          while (next < total) {
            const key = `product:${next++ % 1_000}`
            const began = performance.now()
            if ((await cache.get(key)) === undefined) throw new Error('a hit was a miss')
            latencies.record(performance.now() - began)
          }
        }
        const rate = await perSecond(total, () => Promise.all(Array.from({ length: lanes }, lane)))
        return { value: 1_000_000 / rate, ...latencies.percentiles() }
      },
      async close() {
        await cache.close()
        await server.leave()
      },
    }
  }
  return comparison({
    unit: 'µs per hit',
    contenders: {
      get: () =>
        measured(async (url) => {
          const client = new Redis(url)
          for (let key = 0; key < 1_000; key++) await client.set(`plain:product:${key}`, JSON.stringify(value(`product:${key}`)))
          return {
            get: async (key) => JSON.parse((await client.get(`plain:${key}`)) ?? 'null') as unknown,
            close: async () => client.disconnect(),
          }
        }),
      headrace: () =>
        measured(async (url) => {
          const cache = createCache({ store: redisCache({ url }), l1: false, ttlMs })
          for (let key = 0; key < 1_000; key++) await cache.get(`product:${key}`, () => value(`product:${key}`))
          return { get: (key) => cache.get(key, () => undefined), close: () => cache.close() }
        }),
    },
    figures: [
      { name: `hit in Redis, ${lanes} at once`, of: 'headrace' },
      { name: `hit in Redis over a plain GET, ${lanes} at once`, ratio: ['headrace', 'get'], goal: { atMost: 1.2 } },
    ],
  })
}

const nodes = 4
const getsPerNode = 250

/** Four processes ask for one cold key at once: how often is it loaded? */
function stampede() {
  const server = redis()
  const open = (name: OnRedis): Opening => {
    return async () => {
      const { url } = await server.enter()
      const children: ChildProcess[] = []
      for (let node = 0; node < nodes; node++) children.push((await forkChild('../cache/node.ts', [name, url])).child)
      return {
        async run({ index }) {
          const answers = children.map((child) => nextMessage<{ loads: number; ms: number }>(child))
          for (const child of children) child.send({ key: `cold:${name}:${index}`, gets: getsPerNode })
          const heard = await Promise.all(answers)
          return { value: heard.reduce((sum, { loads }) => sum + loads, 0), ms: Math.max(...heard.map(({ ms }) => ms)) }
        },
        async close() {
          for (const child of children) await endChild(child)
          await server.leave()
        },
      }
    }
  }
  return comparison({
    unit: 'loads',
    contenders: { headrace: open('headrace'), bentocache: open('bentocache'), cacheable: open('cacheable') },
    figures: [
      { name: `stampede of ${nodes} processes, ${getsPerNode} gets each`, of: 'headrace', goal: { atMost: 1 } },
      { name: 'stampede, slowest get', of: 'headrace', take: 'ms', unit: 'ms' },
      { name: 'stampede with bentocache', of: 'bentocache' },
      { name: 'stampede with cacheable', of: 'cacheable' },
    ],
  })
}

const patienceMs = 3_000

/** Redis is stopped (SIGSTOP): how long does the first miss take? At most so long; then it counts as that. */
function stopped() {
  const open = (name: OnRedis): Opening => {
    return async () => {
      const server = await startRedis()
      let cache = onRedis[name](server.url)
      return {
        async run({ index }) {
          await cache.get(`before:${index}`, async () => 1)
          server.pause()
          try {
            const began = performance.now()
            const load = cache.get(`during:${index}`, async () => 1).catch(() => null)
            await Promise.race([load, new Promise((resolve) => setTimeout(resolve, patienceMs))])
            return performance.now() - began
          } finally {
            server.resume()
            await cache.close()
            cache = onRedis[name](server.url)
          }
        },
        async close() {
          await cache.close()
          await server.stop()
        },
      }
    }
  }
  return comparison({
    unit: 'ms',
    contenders: { headrace: open('headrace'), bentocache: open('bentocache'), cacheable: open('cacheable') },
    figures: [
      // storeTimeoutMs is 250, and timers have some slack.
      { name: 'first miss with Redis stopped', of: 'headrace', goal: { atMost: 300 } },
      { name: `first miss with Redis stopped, bentocache (${patienceMs} is: gave up waiting)`, of: 'bentocache' },
      { name: `first miss with Redis stopped, cacheable (${patienceMs} is: gave up waiting)`, of: 'cacheable' },
    ],
  })
}

/** What a batch of the write path waits for: floors raised in Redis, and applied by all nodes. */
function raises(readers: number, keys: number) {
  const server = redis()
  const open: Opening = async () => {
    const { url } = await server.enter()
    const caches = Array.from({ length: readers + 1 }, () => createCache({ store: redisCache({ url }), bus: redisCacheBus({ url }) }))
    for (const cache of caches) await cache.ready()
    let version = 0
    return {
      async run({ quick }) {
        const latencies = recordLatencies()
        const total = quick ? 20 : 1_000
        const rate = await perSecond(total, async () => {
          for (let i = 0; i < total; i++) {
            version++
            const began = performance.now()
            await caches[0]?.change(Array.from({ length: keys }, (_, key) => ({ kind: 'key', name: `sku:${key}`, version })))
            latencies.record(performance.now() - began)
          }
        })
        return { value: rate, ...latencies.percentiles() }
      },
      async close() {
        for (const cache of caches) await cache.close()
        await server.leave()
      },
    }
  }
  return comparison({
    unit: 'batches/s',
    contenders: { headrace: open },
    figures: [{ name: `floors of ${keys} keys raised on ${readers} other nodes, one batch after the other`, of: 'headrace' }],
  })
}

export default bench('cache', {
  comparisons: [
    comparison({
      unit: 'hits/s',
      contenders: {
        headrace: hits(inProcess.headrace),
        bentocache: hits(inProcess.bentocache),
        cacheable: hits(inProcess.cacheable),
        'cache-manager': hits(inProcess['cache-manager']),
      },
      figures: [
        { name: 'hit in process through get()', of: 'headrace' },
        { name: 'hit in process over bentocache', ratio: ['headrace', 'bentocache'], goal: { atLeast: 3 } },
        { name: 'hit in process over cacheable', ratio: ['headrace', 'cacheable'], goal: { atLeast: 3 } },
        { name: 'hit in process over cache-manager', ratio: ['headrace', 'cache-manager'] },
      ],
    }),
    comparison({
      unit: 'hits/s',
      contenders: {
        headrace: syncHits(async () => {
          const cache = createCache({ ttlMs, entriesMax })
          for (let key = 0; key < hotKeys; key++) await cache.set(`product:${key}`, value(`product:${key}`))
          return (key) => cache.getSync(key)
        }),
        'lru-cache': syncHits(async () => {
          const cache = new LRUCache<string, object>({ max: entriesMax })
          for (let key = 0; key < hotKeys; key++) cache.set(`product:${key}`, value(`product:${key}`))
          return (key) => cache.get(key)
        }),
      },
      figures: [
        { name: 'hit through getSync()', of: 'headrace' },
        { name: 'getSync() over bare lru-cache', ratio: ['headrace', 'lru-cache'], goal: { atLeast: 0.5 } },
      ],
    }),
    hitRates('Zipf 0.99'),
    hitRates('Zipf 0.99 with scans'),
    hitRates('a shifting set'),
    sharedHits(1),
    sharedHits(32),
    stampede(),
    stopped(),
    raises(3, 1),
    raises(3, 100),
  ],
})
