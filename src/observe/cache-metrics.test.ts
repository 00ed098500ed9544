import { Registry } from 'prom-client'
import { afterEach, describe, expect, test } from 'vitest'
import { createCache } from '../cache/index.ts'
import { type CacheMetrics, listenToCache } from './cache-metrics.ts'

const closers: (() => unknown)[] = []
afterEach(async () => {
  for (const close of closers.splice(0)) await close()
})

function listening(app: string): { metrics: CacheMetrics; lines: () => Promise<string[]> } {
  const registry = new Registry()
  const metrics = listenToCache(registry, app, [0.1, 1])
  closers.push(() => metrics.close())
  return { metrics, lines: async () => (await registry.metrics()).split('\n') }
}

describe('the cache of an app', () => {
  test('shows hits by tier, misses, joined and avoided loads, raised floors, and its room, from the cache itself', async () => {
    const cache = createCache({ name: 'shop', entriesMax: 50, hotKeysMax: 0 })
    closers.push(() => cache.close())
    const { metrics, lines } = listening('shop')
    await Promise.all([cache.get('a', () => 1), cache.get('a', () => 1), cache.get('b', () => 2)])
    for (let time = 0; time < 5; time += 1) await cache.get('a', () => 1)
    await cache.invalidate('a', 7)
    await cache.get('a', () => 3)
    await expect(
      cache.get('c', () => {
        throw new Error('away')
      }),
    ).rejects.toThrow('away')
    metrics.show(cache.stats())
    expect(await lines()).toEqual(
      expect.arrayContaining([
        'headrace_cache_hits_total{tier="l1"} 5',
        'headrace_cache_hits_total{tier="shared"} 0',
        'headrace_cache_misses_total 5',
        'headrace_cache_joined_loads_total 1',
        'headrace_cache_loads_avoided_total 6',
        'headrace_cache_loads_total{ok="true"} 3',
        'headrace_cache_loads_total{ok="false"} 1',
        'headrace_cache_load_duration_seconds_count{ok="true"} 3',
        'headrace_cache_floors_raised_total 1',
        'headrace_cache_entries 2',
        'headrace_cache_entries_max 50',
      ]),
    )
  })

  test('counts what came since the scrape before, once, and goes on when the cache is made anew', async () => {
    const { metrics, lines } = listening('shop')
    const cache = createCache({ name: 'shop' })
    await cache.get('a', () => 1)
    metrics.show(cache.stats())
    metrics.show(cache.stats())
    expect(await lines()).toContain('headrace_cache_misses_total 1')
    await cache.close()
    const next = createCache({ name: 'shop' })
    closers.push(() => next.close())
    // One whose counts are below those of the old one, and so are all new.
    metrics.show(next.stats())
    await next.get('a', () => 1)
    metrics.show(next.stats())
    expect(await lines()).toContain('headrace_cache_misses_total 2')
  })

  test('leaves the gauges out while the app does not run, and the loads of other caches to them', async () => {
    const { metrics, lines } = listening('shop')
    const other = createCache({ name: 'other' })
    closers.push(() => other.close())
    await other.get('a', () => 1)
    metrics.show(other.stats())
    metrics.show(undefined)
    const text = await lines()
    expect(text.filter((line) => line.startsWith('headrace_cache_loads_total') || line.startsWith('headrace_cache_entries '))).toEqual([])
  })
})
