import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { redisCache } from '../drivers/redis/cache.ts'
import { type Server, serverMissing, startRedis } from '../testing/servers/index.ts'
import { Breaker } from './breaker.ts'
import { createCache } from './index.ts'
import { Ring } from './ring.ts'

const missing = serverMissing('redis')

describe('the ring', () => {
  const members = (count: number): string[] => Array.from({ length: count }, (_, place) => `redis-${place}:6379`)

  it('gives every process the same member for a key, in whatever order the members are listed', () => {
    fc.assert(
      fc.property(fc.string(), fc.integer({ min: 1, max: 8 }), (key, count) => {
        const names = members(count)
        expect(new Ring([...names].reverse(), String).of(key)).toBe(new Ring(names, String).of(key))
      }),
    )
  })

  it('moves only the keys of the member that goes', () => {
    fc.assert(
      fc.property(fc.string(), fc.integer({ min: 2, max: 8 }), fc.nat(), (key, count, which) => {
        const names = members(count)
        const before = new Ring(names, String).of(key)
        const gone = names[which % count] as string
        const after = new Ring(
          names.filter((name) => name !== gone),
          String,
        ).of(key)
        if (before !== gone) expect(after).toBe(before)
      }),
    )
  })

  it('spreads keys evenly: no member has a tenth more than its share', () => {
    for (const count of [2, 3, 5, 8]) {
      const ring = new Ring(members(count), String)
      const counts = new Map<string, number>()
      const keys = 40_000
      for (let i = 0; i < keys; i++) counts.set(ring.of(`key-${i}`), (counts.get(ring.of(`key-${i}`)) ?? 0) + 1)
      for (const [, number] of counts) expect(number / (keys / count)).toBeLessThan(1.1)
    }
  })
})

describe('the breaker', () => {
  it('opens after failures in a row, lets one call through after its pause, and closes when that succeeds', () => {
    let now = 0
    const breaker = new Breaker(3, 100, () => now)
    for (let i = 0; i < 2; i++) {
      expect(breaker.allows()).toBe(true)
      expect(breaker.failed()).toBe(false)
    }
    expect(breaker.succeeded()).toBe(false)
    for (let i = 0; i < 3; i++) expect([breaker.allows(), breaker.failed()]).toEqual([true, i === 2])
    expect(breaker.allows()).toBe(false)
    now = 99
    expect(breaker.allows()).toBe(false)
    now = 100
    expect(breaker.allows()).toBe(true)
    expect(breaker.allows()).toBe(false)
    expect(breaker.failed()).toBe(false)
    expect(breaker.allows()).toBe(false)
    now = 200
    expect(breaker.allows()).toBe(true)
    expect(breaker.succeeded()).toBe(true)
    expect(breaker.allows()).toBe(true)
  })
})

describe.skipIf(missing !== null)(`a cache over several servers${missing === null ? '' : ` (${missing})`}`, () => {
  const servers: Server[] = []
  beforeAll(async () => {
    servers.push(...(await Promise.all([startRedis(), startRedis(), startRedis()])))
  })
  afterAll(async () => {
    await Promise.all(servers.map((server) => server.stop()))
  })

  const keys = Array.from({ length: 60 }, (_, place) => `key-${place}`)

  it('goes on with the servers that live when one dies, in bounded time, and takes it back', async () => {
    const open = () =>
      createCache({
        store: servers.map(({ url }) => redisCache({ url, timeoutMs: 300 })),
        l1: false,
        storeTimeoutMs: 150,
        breakerFailures: 2,
        breakerPauseMs: 100,
        earlyRefresh: 0,
      })
    const [cache, other] = [open(), open()]
    for (const key of keys) await cache.get(key, () => `${key} one`)
    const dead = servers[1] as Server
    dead.pause()
    let loads = 0
    const slowest: number[] = []
    for (const key of keys) {
      const began = performance.now()
      const value = await cache.get(key, () => {
        loads++
        return `${key} two`
      })
      slowest.push(performance.now() - began)
      expect(value).toMatch(new RegExp(`^${key} (one|two)$`))
    }
    // About a third of the keys are loaded, the others are still hits.
    expect(loads).toBeGreaterThan(8)
    expect(loads).toBeLessThan(35)
    expect(Math.max(...slowest)).toBeLessThan(1_500)
    expect(slowest.filter((ms) => ms > 100).length).toBeLessThan(loads)

    // An invalidation of a key on a living server is not held up; one of the dead server is kept until it is back.
    const answers = await Promise.allSettled(keys.map((key) => cache.invalidate(key, 2)))
    const refused = answers.filter(({ status }) => status === 'rejected').length
    expect(refused).toBe(loads)
    dead.resume()
    await vi.waitFor(
      async () => {
        for (const key of keys) expect(await other.get(key, ({ floor }) => `loaded at ${floor}`)).toBe('loaded at 2')
      },
      { timeout: 5_000 },
    )
    await Promise.all([cache.close(), other.close()])
  })

  it('starts while one of its servers is down', async () => {
    const dead = servers[2] as Server
    dead.pause()
    const cache = createCache({
      store: servers.map(({ url }) => redisCache({ url, prefix: 'start:', timeoutMs: 300 })),
      l1: false,
      storeTimeoutMs: 100,
      breakerPauseMs: 10_000,
      earlyRefresh: 0,
    })
    let loads = 0
    for (let round = 0; round < 2; round++) for (const key of keys) await cache.get(key, () => ++loads)
    expect(loads).toBeGreaterThan(keys.length)
    expect(loads).toBeLessThan(2 * keys.length - 20)
    dead.resume()
    await cache.close()
  })

  it('refuses one server named twice', () => {
    const [server] = servers as [Server]
    expect(() => createCache({ store: [redisCache({ url: server.url }), redisCache({ url: server.url })] })).toThrow(
      expect.objectContaining({ code: 'option-invalid' }),
    )
  })

  it('keeps its hot keys for the next start, which warms up with them', async () => {
    const { url } = servers[0] as Server
    const yesterday = createCache({ store: redisCache({ url }) })
    for (let i = 0; i < 3_000; i++) await yesterday.get(i % 2 === 0 ? 'hot' : `cold-${i % 200}`, () => i)
    await yesterday.saveHotKeys()
    await yesterday.close()
    const today = createCache({ store: redisCache({ url }) })
    const saved = await today.savedHotKeys()
    expect(saved[0]).toMatchObject({ namespace: 'main', key: 'hot' })
    const report = await today.warm(
      saved.map(({ key }) => key),
      ({ key }) => key,
    )
    expect(report).toMatchObject({ done: saved.length, failed: 0 })
    expect(today.getSync('hot')).toBeDefined()
    await today.close()
  })
})
