/**
 * Metrics of the cache of an app's queries: what it counts of itself, taken
 * over at each scrape, and the time of its loads, told when they end.
 */
import { Gauge, type Registry } from 'prom-client'
import { listen } from '../contracts/diagnostics.ts'
import { Counters, Histograms } from './series.ts'

/** What a cache counts of itself, as far as it is shown here. All but the last six only grow. */
export interface CacheFigures {
  readonly hits: number
  readonly misses: number
  readonly joined: number
  readonly sharedHits: number
  readonly repeats: number
  readonly refusedFills: number
  readonly stale: number
  readonly early: number
  readonly raises: number
  readonly cuts: number
  readonly flushes: number
  readonly evictions: number
  readonly tooLarge: number
  readonly storeErrors: number
  readonly storeSkipped: number
  readonly entries: number
  readonly bytes: number
  readonly entriesMax: number
  readonly bytesMax: number
  readonly loading: number
  readonly waiting: number
}

export interface CacheMetrics {
  /** Takes over what the cache has counted; without figures, the gauges of the cache are left out. */
  show(figures: CacheFigures | undefined): void
  close(): void
}

/** A counter, its label if it has one, and what it counts. */
type Counted = readonly [Counters, string | null, (figures: CacheFigures) => number]

export function listenToCache(registry: Registry, app: string, durations: readonly number[]): CacheMetrics {
  const counters = (name: string, help: string, labels: readonly string[] = []): Counters => new Counters(registry, name, help, labels)
  const gauge = (name: string, help: string): Gauge => new Gauge({ name, help, registers: [registry] })

  const hits = counters('headrace_cache_hits_total', 'Queries answered from the cache, by tier: l1 is this process, shared the store.', [
    'tier',
  ])
  const avoided = 'Queries answered without a load of their own: hits of both tiers, and those that joined a load under way.'
  const storeCalls = counters(
    'headrace_cache_store_failures_total',
    'Calls of the shared store that failed or were late, and those left out while it was away.',
    ['what'],
  )
  const counted: readonly Counted[] = [
    [hits, 'l1', (figures) => figures.hits],
    [hits, 'shared', (figures) => figures.sharedHits],
    [counters('headrace_cache_misses_total', 'Queries that found no fresh answer in this process.'), null, (figures) => figures.misses],
    [counters('headrace_cache_joined_loads_total', 'Misses that joined a load under way.'), null, (figures) => figures.joined],
    [counters('headrace_cache_loads_avoided_total', avoided), null, ({ hits: l1, sharedHits, joined }) => l1 + sharedHits + joined],
    [counters('headrace_cache_stale_served_total', 'Queries answered with a stale value.'), null, (figures) => figures.stale],
    [counters('headrace_cache_early_loads_total', 'Loads begun before the end of a value.'), null, (figures) => figures.early],
    [
      counters('headrace_cache_repeated_loads_total', 'Loads made again, since what they read was below the floor.'),
      null,
      (figures) => figures.repeats,
    ],
    [
      counters('headrace_cache_refused_fills_total', 'Results of loads not kept, since a write came meanwhile.'),
      null,
      (figures) => figures.refusedFills,
    ],
    [
      counters('headrace_cache_floors_raised_total', 'Floors raised, by commands that made answers old.'),
      null,
      (figures) => figures.raises,
    ],
    [counters('headrace_cache_dropped_total', 'Values dropped without a version.'), null, (figures) => figures.cuts],
    [
      counters('headrace_cache_flushes_total', 'How often all was dropped, since messages may have been missed.'),
      null,
      (figures) => figures.flushes,
    ],
    [counters('headrace_cache_evictions_total', 'Values pushed out to make room.'), null, (figures) => figures.evictions],
    [counters('headrace_cache_too_large_total', 'Values not kept for their size.'), null, (figures) => figures.tooLarge],
    [storeCalls, 'failed', (figures) => figures.storeErrors],
    [storeCalls, 'skipped', (figures) => figures.storeSkipped],
  ]
  const seen = counted.map(() => 0)
  const gauges: readonly (readonly [Gauge, (figures: CacheFigures) => number])[] = [
    [gauge('headrace_cache_entries', 'Values in this process.'), (figures) => figures.entries],
    [gauge('headrace_cache_bytes', 'Bytes that they take, about.'), (figures) => figures.bytes],
    [gauge('headrace_cache_entries_max', 'Most values that are kept in this process.'), (figures) => figures.entriesMax],
    [gauge('headrace_cache_bytes_max', 'Most bytes that they may take.'), (figures) => figures.bytesMax],
    [gauge('headrace_cache_loads_under_way', 'Loads under way.'), (figures) => figures.loading],
    [gauge('headrace_cache_waiters', 'Queries that wait for a load.'), (figures) => figures.waiting],
  ]
  const loads = counters('headrace_cache_loads_total', 'Loads that ended: what the cache leaves to the databases.', ['ok'])
  const time = new Histograms(registry, 'headrace_cache_load_duration_seconds', 'Time of a load.', ['ok'], durations)
  return {
    show(figures) {
      for (const [metric, read] of gauges) {
        if (figures === undefined) metric.remove()
        else metric.set(read(figures))
      }
      if (figures === undefined) return
      for (const [place, [metric, label, read]] of counted.entries()) {
        const value = read(figures)
        const before = seen[place] ?? 0
        // A cache that was made anew counts from 0.
        metric.add(value >= before ? value - before : value, ...(label === null ? [] : [label]))
        seen[place] = value
      }
    },
    close: listen('headrace:cache-load', ({ cache, ms, ok }) => {
      if (cache !== app) return
      loads.add(1, String(ok))
      time.observe(ms / 1_000, String(ok))
    }),
  }
}
