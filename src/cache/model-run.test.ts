import { describe, expect, it } from 'vitest'
import { zipf } from '../testing/cache-traces.ts'
import { createCache } from './index.ts'
import { type DrawnKey, predictCacheRun } from './model-run.ts'

interface Story {
  readonly keys: number
  readonly exponent: number
  readonly reads: number
  readonly seconds: number
  /** Writes for each read, of keys drawn alike. */
  readonly writes: number
  readonly ttlMs: number
  readonly capacity?: number
  readonly warm?: boolean
}

/** A run on a clock of its own, with loads that take no time. */
async function run(story: Story): Promise<{ hitRatio: number; keys: DrawnKey[] }> {
  const { keys, exponent, reads, seconds, writes, ttlMs, capacity = keys, warm = false } = story
  let clock = 0
  const cache = createCache({ now: () => clock, ttlMs, earlyRefresh: 0, hotKeysMax: 0, entriesMax: capacity })
  if (warm) for (let key = 0; key < keys; key += 1) void cache.set(`k${key}`, key)
  const asked = zipf(5, keys, exponent, reads)
  const written = zipf(6, keys, exponent, Math.ceil(reads * writes))
  const drawn = new Map<number, { reads: number; falls: number }>()
  const of = (key: number): { reads: number; falls: number } => {
    const known = drawn.get(key) ?? { reads: 0, falls: 0 }
    drawn.set(key, known)
    return known
  }
  let hits = 0
  let wrote = 0
  for (const [index, key] of asked.entries()) {
    clock += (seconds * 1_000) / reads
    for (; wrote < Math.floor(index * writes); wrote += 1) {
      const other = written[wrote] as number
      void cache.invalidate(`k${other}`)
      of(other).falls += 1
    }
    of(key).reads += 1
    if (cache.getSync(`k${key}`) !== undefined) hits += 1
    else void cache.set(`k${key}`, key)
  }
  await cache.close()
  return { hitRatio: hits / reads, keys: [...drawn.values()] }
}

describe('the model of a run', () => {
  it.each<Story>([
    { keys: 2_000, exponent: 0.99, reads: 100_000, seconds: 10, writes: 0, ttlMs: 60_000 },
    { keys: 20_000, exponent: 0.99, reads: 40_000, seconds: 10, writes: 0, ttlMs: 60_000 },
    { keys: 500, exponent: 0.9, reads: 100_000, seconds: 10, writes: 0, ttlMs: 1_500 },
    { keys: 100, exponent: 1, reads: 100_000, seconds: 10, writes: 0.1, ttlMs: 60_000 },
    { keys: 1_000, exponent: 0.99, reads: 100_000, seconds: 10, writes: 1, ttlMs: 60_000 },
    { keys: 20_000, exponent: 0.99, reads: 200_000, seconds: 10, writes: 0, ttlMs: 60_000, capacity: 2_000 },
    { keys: 2_000, exponent: 0.99, reads: 20_000, seconds: 10, writes: 0, ttlMs: 60_000, warm: true },
  ])(
    'is within 2 points of a cache: $keys keys, $reads reads, $writes writes each, $ttlMs ms to live, room for $capacity',
    async (story) => {
      const { hitRatio, keys } = await run(story)
      const predicted = predictCacheRun(
        { keys, seconds: story.seconds, warmShare: story.warm === true ? 1 : 0 },
        { capacity: story.capacity ?? story.keys, ttlMs: story.ttlMs },
      )
      expect(Math.abs(predicted.hitRatio - hitRatio)).toBeLessThan(0.02)
      expect(predicted.loads + predicted.loadsAvoided).toBeCloseTo(story.reads, 6)
    },
  )

  it('counts who joins a load as a miss, and not as a load', () => {
    const keys = [{ reads: 10_000, falls: 100 }]
    const instant = predictCacheRun({ keys, seconds: 10 }, { capacity: 10, ttlMs: 60_000 })
    const slow = predictCacheRun({ keys, seconds: 10, loadMs: 20 }, { capacity: 10, ttlMs: 60_000 })
    // A thousand reads a second: 20 of them join each load.
    expect(slow.loads).toBeLessThan(instant.loads)
    expect((1 - slow.hitRatio) * 10_000).toBeCloseTo(slow.loads * 21, 6)
  })

  it('takes nothing for nothing, and refuses what is no number', () => {
    expect(predictCacheRun({ keys: [], seconds: 1 }, { capacity: 1, ttlMs: 1 })).toEqual({ hitRatio: 0, loads: 0, loadsAvoided: 0 })
    for (const seconds of [0, Number.NaN])
      expect(() => predictCacheRun({ keys: [], seconds }, { capacity: 1, ttlMs: 1 })).toThrow(
        expect.objectContaining({ code: 'option-invalid' }),
      )
  })
})
