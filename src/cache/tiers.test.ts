import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { redisCache } from '../drivers/redis/cache.ts'
import { redisCacheBus } from '../drivers/redis/cache-bus.ts'
import { deferred } from '../std/deferred.ts'
import { createRandom } from '../std/random.ts'
import { type Server, serverMissing, startRedis } from '../testing/servers/index.ts'
import { type Cache, type CacheOptions, createCache, type Serializer, versioned } from './index.ts'

const missing = serverMissing('redis')
const trustMs = 800

describe.skipIf(missing !== null)(`a cache of several nodes${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let admin: Redis
  let prefix = 0
  const open: Cache[] = []
  beforeAll(async () => {
    server = await startRedis()
    admin = new Redis(server.url)
  })
  afterEach(async () => {
    for (const cache of open.splice(0)) await cache.close()
    prefix++
  })
  afterAll(async () => {
    admin.disconnect()
    await server.stop()
  })

  const store = () => redisCache({ url: server.url, prefix: `c${prefix}:`, timeoutMs: 5_000 })
  /** Patient, so that a busy machine is not taken for a broken one; `quick` for tests that break something. */
  const bus = (quick = false) =>
    redisCacheBus({ url: server.url, prefix: `b${prefix}:`, trustMs: quick ? trustMs : 10_000, timeoutMs: quick ? 500 : 5_000 })

  async function node(options: CacheOptions = {}): Promise<Cache> {
    const cache = createCache({ store: store(), bus: bus(), storeTimeoutMs: 5_000, ...options })
    open.push(cache)
    await cache.ready()
    return cache
  }

  describe('values', () => {
    it('are loaded by one node and read by the others', async () => {
      const [one, other] = [await node(), await node()]
      await one.get('a', () => versioned({ left: 3 }, 7))
      await vi.waitFor(async () => expect(await admin.exists(`c${prefix}:{main:a}`)).toBe(1))
      expect(await other.get('a', () => Promise.reject(new Error('not asked')))).toEqual({ left: 3 })
      expect(other.stats()).toMatchObject({ loads: 0, sharedHits: 1 })
      expect(other.getSync('a')).toEqual({ left: 3 })
    })

    it('are loaded once for all nodes that ask at the same time', async () => {
      const nodes = await Promise.all(Array.from({ length: 4 }, () => node()))
      let loads = 0
      const load = async (): Promise<number> => {
        loads++
        await new Promise((resolve) => setTimeout(resolve, 30))
        return 7
      }
      const answers = await Promise.all(nodes.flatMap((cache) => Array.from({ length: 100 }, () => cache.get('a', load))))
      expect(new Set(answers)).toEqual(new Set([7]))
      expect(loads).toBe(1)
    })

    it('are loaded once although the load takes longer than a lease', async () => {
      const [one, other] = [await node({ leaseMs: 500 }), await node({ leaseMs: 500 })]
      let loads = 0
      const load = async (): Promise<number> => {
        loads++
        await new Promise((resolve) => setTimeout(resolve, 1_300))
        return 7
      }
      const first = one.get('a', load)
      await vi.waitFor(() => expect(loads).toBe(1))
      expect(await Promise.all([first, other.get('a', load)])).toEqual([7, 7])
      expect(loads).toBe(1)
    })

    it('look the same whoever loaded them: what the serializer changes is changed for all', async () => {
      const [one, other] = [await node(), await node()]
      const at = new Date(0)
      const loaded = await one.get<unknown>('a', () => ({ at, skip: undefined }))
      expect(loaded).toEqual({ at: at.toISOString() })
      expect(one.getSync('a')).toEqual(loaded)
      await vi.waitFor(async () => expect(await other.get<unknown>('a', () => null)).toEqual(loaded))
    })

    it('that do not exist are known to all nodes', async () => {
      const [one, other] = [await node({ negativeTtlMs: 10_000 }), await node({ negativeTtlMs: 10_000 })]
      for (const [key, nothing] of [
        ['null', null],
        ['undefined', undefined],
      ] as const) {
        await one.get(key, () => nothing)
        await vi.waitFor(async () => expect(await admin.exists(`c${prefix}:{main:${key}}`)).toBe(1))
        expect(await other.get(key, () => Promise.reject(new Error('not asked')))).toBe(nothing)
      }
    })

    it('are compressed over a size, and read back', async () => {
      const [one, other] = [await node({ compressOverBytes: 1_000 }), await node()]
      const text = 'headrace '.repeat(5_000)
      await one.get('a', () => ({ text }))
      await vi.waitFor(async () => expect(await admin.strlen(`c${prefix}:{main:a}`)).toBeGreaterThan(70))
      expect(await admin.strlen(`c${prefix}:{main:a}`)).toBeLessThan(2_000)
      expect(await other.get('a', () => null)).toEqual({ text })
    })

    it('that cannot be written are refused with a code, and the next asker loads', async () => {
      const one = await node()
      const circle: { self?: unknown } = {}
      circle.self = circle
      for (const value of [circle, 1n, { deep: 1n }])
        await expect(one.get<unknown>('a', () => value)).rejects.toMatchObject({ code: 'cache-value-invalid' })
      expect(await one.get('a', () => 1)).toBe(1)
    })

    it('are served stale from the store while one node loads them anew', async () => {
      const options = { ttlMs: 50, staleMs: 10_000, earlyRefresh: 0 }
      const one = await node(options)
      await one.get('a', () => 'old')
      await new Promise((resolve) => setTimeout(resolve, 80))
      const other = await node(options)
      const go = deferred<string>()
      const load = vi.fn(() => go.promise)
      expect(await other.get('a', load)).toBe('old')
      expect(await one.get('a', load)).toBe('old')
      await vi.waitFor(() => expect(load).toHaveBeenCalledTimes(1))
      go.resolve('new')
      await vi.waitFor(async () => expect(await one.get('a', load)).toBe('new'))
      await vi.waitFor(async () => expect(await other.get('a', load)).toBe('new'))
      expect(load.mock.calls.length).toBeLessThan(4)
    })
  })

  describe('invalidations', () => {
    it('keep what another node loaded before them out of every tier: 200 of 200, with and without versions', async () => {
      const [reader, writer, third] = [await node(), await node(), await node()]
      for (let round = 0; round < 200; round++) {
        const key = `key-${round}`
        let truth = 'old'
        const read = deferred<void>()
        const go = deferred<void>()
        const before = reader.get(key, async () => {
          const value = truth
          read.resolve()
          await go.promise
          return value
        })
        await read.promise
        truth = 'new'
        await writer.invalidate(key, round % 2 === 0 ? round + 1 : undefined)
        go.resolve()
        await before
        for (const cache of [third, reader, writer]) expect(await cache.get(key, () => truth)).toBe('new')
      }
    })

    it('are in force on every node when they resolve', async () => {
      const [writer, ...readers] = [await node(), await node(), await node()]
      for (let version = 1; version <= 100; version++) {
        for (const reader of readers) await reader.get('a', () => versioned(version - 1, version - 1))
        await writer.invalidate('a', version)
        for (const reader of readers) expect(reader.getSync('a')).toBeUndefined()
        for (const reader of readers) expect(await reader.get('a', () => versioned(version, version))).toBe(version)
      }
    })

    it('without a version reach the store before the other nodes, so that none finds the old value there', async () => {
      const reader = await node()
      await reader.get('a', () => 'old')
      const go = deferred<void>()
      const slow = store()
      const change = slow.change.bind(slow)
      slow.change = async (changes, keepMs) => {
        await go.promise
        return change(changes, keepMs)
      }
      const writer = await node({ store: slow, storeTimeoutMs: 10_000 })
      const cut = writer.invalidate('a')
      // Long enough for a message of the bus.
      await reader.invalidate('other', 1)
      await writer.get('b', () => 1)
      expect(reader.getSync('a')).toBe('old')
      go.resolve()
      await cut
      expect(reader.getSync('a')).toBeUndefined()
      expect(await reader.get('a', () => 'new')).toBe('new')
    })

    it('of a tag reach the keys that carry it on all nodes and in the store', async () => {
      const [one, other] = [await node(), await node()]
      await one.get('a', () => 'A', { tags: ['red'] })
      await one.get('b', () => 'B', { tags: ['blue'] })
      await vi.waitFor(async () => expect(await other.get('a', () => 'unasked', { tags: ['red'] })).toBe('A'))
      await other.invalidateTag('red')
      expect([one.getSync('a'), other.getSync('a')]).toEqual([undefined, undefined])
      expect(one.getSync('b')).toBe('B')
      const late = await node()
      expect(await late.get('a', () => 'A2', { tags: ['red'] })).toBe('A2')
      expect(await one.get('a', () => 'unasked', { tags: ['red'] })).toBe('A2')
      await one.invalidateTag('red', 9)
      expect(await other.get('a', ({ floor }) => versioned(`floor ${floor}`, floor), { tags: ['red'] })).toBe('floor 9')
    })

    it('hold without a bus as soon as L1 lets go', async () => {
      const options = { l1TtlMsWithoutBus: 30 }
      const [one, other] = [
        createCache({ store: store(), storeTimeoutMs: 5_000, ...options }),
        createCache({ store: store(), storeTimeoutMs: 5_000, ...options }),
      ]
      open.push(one, other)
      await one.get('a', () => 'old', { tags: ['red'] })
      await other.get('a', () => 'unasked', { tags: ['red'] })
      await other.invalidateTag('red')
      await new Promise((resolve) => setTimeout(resolve, 40))
      expect(await one.get('a', () => 'new', { tags: ['red'] })).toBe('new')
      await other.invalidate('a', 5)
      await new Promise((resolve) => setTimeout(resolve, 40))
      expect(await one.get('a', ({ floor }) => `at ${floor}`, { tags: ['red'] })).toBe('at 5')
    })

    it('without a bus still keep a load that began before them from being given to later askers', async () => {
      const [reader, writer] = [
        createCache({ store: store(), storeTimeoutMs: 5_000 }),
        createCache({ store: store(), storeTimeoutMs: 5_000 }),
      ]
      open.push(reader, writer)
      for (let round = 0; round < 50; round++) {
        const key = `key-${round}`
        let truth = 'old'
        const read = deferred<void>()
        const go = deferred<void>()
        const load = async (): Promise<string> => {
          const value = truth
          read.resolve()
          await go.promise
          return value
        }
        const before = reader.get(key, load)
        await read.promise
        truth = 'new'
        await writer.invalidate(key, round % 2 === 0 ? 3 : undefined)
        const after = reader.get(key, load)
        go.resolve()
        expect(await after).toBe('new')
        await before
      }
    })

    it('by set bring the value to all', async () => {
      const [one, other] = [await node(), await node()]
      await other.get('a', () => versioned('old', 1))
      await one.set('a', 'five', { version: 5 })
      expect(other.getSync('a')).toBeUndefined()
      expect(await other.get('a', () => 'unasked')).toBe('five')
      expect(one.getSync('a')).toBe('five')
      await other.set('a', 'four', { version: 4 })
      expect(await one.get('a', () => 'unasked')).toBe('five')
      await other.set('a', 'plain')
      expect(await one.get('a', () => 'unasked')).toBe('plain')
    })
  })

  describe('namespaces', () => {
    it('are refused to an app with another serializer, which goes on without the store', async () => {
      const msgpack: Serializer = {
        id: 'other-1',
        write: (value) => Buffer.from(`!${JSON.stringify(value)}`),
        read: (bytes) => JSON.parse(Buffer.from(bytes).toString().slice(1)),
      }
      const one = await node()
      await one.namespace('prices').get('a', () => 1)
      const other = createCache({ store: store(), bus: bus(), storeTimeoutMs: 5_000 })
      open.push(other)
      const prices = other.namespace('prices', { serializer: msgpack })
      await expect(other.ready()).rejects.toMatchObject({ code: 'cache-namespace-taken', message: expect.stringContaining("'json'") })
      expect(await prices.get('a', () => 2)).toBe(2)
      const third = await node()
      expect(await third.namespace('prices').get('a', () => 3)).toBe(1)
    })
  })

  describe('when Redis is stopped', () => {
    it('L1 hits go on, a miss waits for the timeout and then for nothing, and all is back by itself', async () => {
      const cache = await node({ bus: bus(true), storeTimeoutMs: 100, breakerFailures: 3, breakerPauseMs: 100 })
      await cache.get('hot', () => 'value')
      server.pause()
      try {
        const times: number[] = []
        for (let i = 0; i < 12; i++) {
          const began = performance.now()
          expect(await cache.get(`cold-${i}`, () => i)).toBe(i)
          times.push(performance.now() - began)
          expect(cache.getSync('hot')).toBe('value')
        }
        expect(Math.max(...times)).toBeLessThan(100 + 150)
        expect(times.filter((ms) => ms < 50).length).toBeGreaterThan(4)
        expect(cache.stats().storeSkipped).toBeGreaterThan(0)
      } finally {
        server.resume()
      }
      await vi.waitFor(
        async () => {
          await cache.get(`back-${Math.random()}`, () => 1)
          const before = cache.stats().storeErrors + cache.stats().storeSkipped
          await cache.get(`back-${Math.random()}`, () => 1)
          expect(cache.stats().storeErrors + cache.stats().storeSkipped).toBe(before)
        },
        { timeout: 5_000 },
      )
    })

    it('an invalidation says so in time, is in force here, and reaches the others when it can', async () => {
      const [writer, reader] = [await node({ bus: bus(true), storeTimeoutMs: 100 }), await node({ bus: bus(true), storeTimeoutMs: 100 })]
      for (const cache of [writer, reader]) for (const key of ['a', 'b']) await cache.get(key, () => 'old')
      await vi.waitFor(async () => expect(await admin.exists(`c${prefix}:{main:a}`, `c${prefix}:{main:b}`)).toBe(2))
      server.pause()
      const began = performance.now()
      const answers = await Promise.allSettled([writer.invalidate('a', 3), writer.invalidate('b')])
      expect(performance.now() - began).toBeLessThan(1_000)
      for (const answer of answers) expect(answer).toMatchObject({ status: 'rejected', reason: { retryable: true } })
      expect([writer.getSync('a'), writer.getSync('b')]).toEqual([undefined, undefined])
      server.resume()
      await vi.waitFor(() => expect([reader.getSync('a'), reader.getSync('b')]).toEqual([undefined, undefined]), { timeout: 5_000 })
      for (const cache of [reader, writer]) for (const key of ['a', 'b']) expect(await cache.get(key, () => 'new')).toBe('new')
    })

    it('a node that bypasses L1 while out of touch serves nothing old, and one that serves says what it has', async () => {
      const strict = await node({ whenBusLost: 'bypass', bus: bus(true), storeTimeoutMs: 100 })
      const lax = await node({ bus: bus(true), storeTimeoutMs: 100 })
      for (const cache of [strict, lax]) await cache.get('a', () => 'old')
      expect(strict.getSync('a')).toBe('old')
      server.pause()
      try {
        await vi.waitFor(() => expect(strict.getSync('a')).toBeUndefined(), { timeout: 3 * trustMs })
        expect(lax.getSync('a')).toBe('old')
        expect(await strict.get('a', () => 'new')).toBe('new')
      } finally {
        server.resume()
      }
      await vi.waitFor(() => expect(strict.getSync('a')).toBeDefined(), { timeout: 5_000 })
    })
  })

  describe('when Redis loses its data', () => {
    it('emptied: nothing that was loaded before is stored after, and L1 starts empty', async () => {
      const [one, other] = [await node({ bus: bus(true) }), await node({ bus: bus(true) })]
      await one.get('a', () => 'kept in L1')
      const read = deferred<void>()
      const go = deferred<void>()
      const before = one.get('b', async () => {
        read.resolve()
        await go.promise
        return 'read before'
      })
      await read.promise
      await admin.flushall()
      await other.invalidate('b', 4)
      go.resolve()
      await before
      expect(await other.get('b', () => 'new')).toBe('new')
      expect(await one.get('b', () => 'new')).toBe('new')
      expect(one.getSync('a')).toBeUndefined()
    })

    it('killed and started empty: all nodes find together again, floors are kept by the nodes', async () => {
      const [one, other] = [await node({ bus: bus(true) }), await node({ bus: bus(true) })]
      await one.invalidate('a', 7)
      await server.restart({ hard: true })
      let replica = 5
      await vi.waitFor(
        async () => {
          await other.ready()
          expect(await admin.ping()).toBe('PONG')
        },
        { timeout: 5_000 },
      )
      const load = ({ floor }: { floor: number }) => versioned(`read ${replica}, floor ${floor}`, replica++)
      expect(await other.get('a', load)).toBe('read 7, floor 7')
      await vi.waitFor(async () => expect(await one.get('a', () => 'not stored')).toBe('read 7, floor 7'), { timeout: 5_000 })
    })
  })

  describe('under everything at once', () => {
    it('two writers and 32 readers with a replica that lags up to 100 ms: no read older than an acknowledged write', {
      timeout: 30_000,
    }, async () => {
      const random = createRandom(Number(process.env['HEADRACE_SEED'] ?? Date.now() % 2 ** 32))
      const context = `HEADRACE_SEED=${random.seed} npx vitest run src/cache/tiers.test.ts`
      const keys = ['a', 'b', 'c', 'd']
      const primary = new Map(keys.map((key) => [key, 0]))
      const replica = new Map(keys.map((key) => [key, 0]))
      const acknowledged = new Map(keys.map((key) => [key, 0]))
      const nodes = await Promise.all(Array.from({ length: 4 }, () => node({ whenBusLost: 'bypass', ttlMs: 500 })))
      const endsAt = performance.now() + 4_000
      let reads = 0
      const loads =
        (key: string) =>
        async ({ floor }: { floor: number }) => {
          await new Promise((resolve) => setTimeout(resolve, random.int(4)))
          // Half of the loads read the replica and go to the primary only when it is behind.
          const value = replica.get(key) ?? 0
          const version = value >= floor && random.chance(0.8) ? value : (primary.get(key) ?? 0)
          return versioned(version, version)
        }
      const writer = async (own: readonly string[], place: number): Promise<void> => {
        while (performance.now() < endsAt) {
          const key = random.pick(own)
          const version = (primary.get(key) ?? 0) + 1
          primary.set(key, version)
          setTimeout(() => replica.set(key, Math.max(replica.get(key) ?? 0, version)), random.int(100))
          await (nodes[place] as Cache).invalidate(key, version)
          acknowledged.set(key, version)
          await new Promise((resolve) => setTimeout(resolve, random.int(20)))
        }
      }
      const reader = async (place: number): Promise<void> => {
        const cache = nodes[place % nodes.length] as Cache
        while (performance.now() < endsAt) {
          const key = random.pick(keys)
          const least = acknowledged.get(key) ?? 0
          const value = await cache.get(key, loads(key))
          expect(value, `${context}: key ${key}`).toBeGreaterThanOrEqual(least)
          const nearby = cache.getSync<number>(key)
          if (nearby !== undefined) expect(nearby, context).toBeGreaterThanOrEqual(least)
          reads++
          if (random.chance(0.3)) await new Promise((resolve) => setTimeout(resolve, random.int(5)))
        }
      }
      await Promise.all([writer(['a', 'b'], 0), writer(['c', 'd'], 1), ...Array.from({ length: 32 }, (_, place) => reader(place))])
      const hits = nodes.reduce((sum, cache) => sum + cache.stats().hits, 0)
      expect(reads).toBeGreaterThan(2_000)
      expect(hits).toBeGreaterThan(reads / 4)
    })
  })
})
