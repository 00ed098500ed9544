import { describe, expect, it } from 'vitest'
import { createRandom } from '../std/random.ts'
import { createCache } from './index.ts'
import { predictCache } from './model.ts'
import { lruHits, s3FifoHits, zipf } from '../testing/cache-traces.ts'

const room = { ttlMs: 2 ** 53 - 1 }

describe('the model', () => {
  it.each([
    [20_000, 2_000, 0.99],
    [20_000, 500, 0.99],
    [20_000, 6_000, 0.8],
    [5_000, 500, 0.6],
    [20_000, 2_000, 1.2],
  ])(
    'predicts the hit ratio for %i keys, room for %i, exponent %d: LRU within 0.5 points, S3-FIFO within 1',
    (keys, capacity, exponent) => {
      const trace = zipf(7, keys, exponent, 600_000)
      const warm = trace.subarray(0, 200_000)
      const measured = (hits: (trace: Uint32Array, capacity: number) => number): number =>
        (hits(trace, capacity) - hits(warm, capacity)) / (trace.length - warm.length)
      const workload = { keys, exponent, requestsPerSecond: 1_000 }
      const lru = predictCache(workload, { ...room, capacity, policy: 'lru' })
      const s3 = predictCache(workload, { ...room, capacity })
      expect(Math.abs(lru.hitRatioOfRoom - measured(lruHits))).toBeLessThan(0.005)
      expect(Math.abs(s3.hitRatioOfRoom - measured(s3FifoHits))).toBeLessThan(0.01)
      expect(s3.hitRatioOfRoom).toBeGreaterThan(lru.hitRatioOfRoom)
    },
  )

  it('predicts what times to live and invalidations cost: within 2 points of a cache on a clock of its own', async () => {
    const keys = 2_000
    const exponent = 0.9
    const requestsPerSecond = 1_000
    for (const { ttlMs, invalidationsPerSecond } of [
      { ttlMs: 10_000, invalidationsPerSecond: 0 },
      { ttlMs: 60_000, invalidationsPerSecond: 0.05 },
    ]) {
      const random = createRandom(11)
      let clock = 0
      const cache = createCache({ now: () => clock, ttlMs, earlyRefresh: 0, hotKeysMax: 0 })
      const trace = zipf(11, keys, exponent, 200_000)
      let hits = 0
      for (const key of trace) {
        clock += 1_000 / requestsPerSecond
        // Each key falls on its own, at the same rate.
        const falls = keys * (invalidationsPerSecond / requestsPerSecond)
        for (let i = Math.floor(falls) + (random.chance(falls % 1) ? 1 : 0); i > 0; i--) void cache.invalidate(`k${random.int(keys)}`)
        if (cache.getSync(`k${key}`) !== undefined) hits++
        else void cache.set(`k${key}`, key)
      }
      await cache.close()
      const { hitRatio, loadsPerSecond } = predictCache(
        { keys, exponent, requestsPerSecond, invalidationsPerSecond },
        { capacity: keys, ttlMs },
      )
      expect(Math.abs(hitRatio - hits / trace.length)).toBeLessThan(0.02)
      expect(loadsPerSecond).toBeCloseTo(requestsPerSecond * (1 - hitRatio), 6)
    }
  })

  it('hits everything but the first when all keys have room, and refuses what is no number', () => {
    expect(predictCache({ keys: 100, exponent: 1, requestsPerSecond: 1e9 }, { ...room, capacity: 100 }).hitRatio).toBeCloseTo(1, 6)
    expect(predictCache({ keys: 100, exponent: 1, requestsPerSecond: 0 }, { ...room, capacity: 100 }).hitRatio).toBe(0)
    for (const keys of [0, Number.NaN, -1])
      expect(() => predictCache({ keys, exponent: 1, requestsPerSecond: 1 }, { ...room, capacity: 1 })).toThrow(
        expect.objectContaining({ code: 'option-invalid' }),
      )
  })
})
