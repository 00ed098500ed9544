/** Caches behind one face: ours, and three libraries as their documentation shows them. */
import { createRequire } from 'node:module'
import { createCache as createCacheManager } from 'cache-manager'
import { Cacheable } from 'cacheable'
import { BentoCache, bentostore } from 'bentocache'
import { memoryDriver } from 'bentocache/drivers/memory'
import { redisBusDriver, redisDriver } from 'bentocache/drivers/redis'
import { createCache } from 'headrace/cache'
import { redisCache, redisCacheBus } from 'headrace/redis'
import { Redis } from 'ioredis'

// Its client is CommonJS, which the loader of the benches cannot import on Node 20.
const { default: KeyvRedis } = createRequire(import.meta.url)('@keyv/redis') as typeof import('@keyv/redis')

export interface BenchCache {
  get(key: string, load: () => Promise<unknown>): Promise<unknown>
  close(): Promise<unknown>
}

const ttlMs = 3_600_000
export const entriesMax = 100_000

/** In process alone. */
export const inProcess = {
  headrace() {
    const cache = createCache({ ttlMs, entriesMax })
    return { get: (key, load) => cache.get(key, load), close: () => cache.close() }
  },
  bentocache() {
    const cache = new BentoCache({ default: 'memory', stores: { memory: bentostore().useL1Layer(memoryDriver({ maxItems: entriesMax })) } })
    return { get: (key, load) => cache.getOrSet({ key, factory: load, ttl: ttlMs }), close: () => cache.disconnectAll() }
  },
  cacheable() {
    const cache = new Cacheable({ ttl: ttlMs })
    return { get: (key, load) => cache.getOrSet(key, load), close: () => cache.disconnect() }
  },
  'cache-manager'() {
    const cache = createCacheManager({ ttl: ttlMs })
    return { get: (key, load) => cache.wrap(key, load), close: () => cache.disconnect() }
  },
} satisfies Record<string, () => BenchCache>

/** In process and on Redis. */
export const onRedis = {
  headrace(url: string) {
    const cache = createCache({ ttlMs, store: redisCache({ url }), bus: redisCacheBus({ url }) })
    return { get: (key, load) => cache.get(key, load), close: () => cache.close() }
  },
  bentocache(url: string) {
    const connection = new Redis(url)
    connection.on('error', () => {})
    // Its types are of the client before this one; what it calls of it is the same.
    const given = connection as never
    const cache = new BentoCache({
      default: 'both',
      stores: {
        both: bentostore()
          .useL1Layer(memoryDriver({ maxItems: entriesMax }))
          .useL2Layer(redisDriver({ connection: given }))
          .useBus(redisBusDriver({ connection: connection.options as never })),
      },
    })
    return { get: (key, load) => cache.getOrSet({ key, factory: load, ttl: ttlMs }), close: () => cache.disconnectAll() }
  },
  cacheable(url: string) {
    const cache = new Cacheable({ ttl: ttlMs, secondary: new KeyvRedis(url) })
    cache.on('error', () => {})
    return { get: (key, load) => cache.getOrSet(key, load), close: () => cache.disconnect() }
  },
} satisfies Record<string, (url: string) => BenchCache>

export type OnRedis = keyof typeof onRedis
