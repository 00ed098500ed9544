/** The cache of a node in a run of queries: what was measured at the node, and beside it what the model says. */
import { type DrawnKey, predictCacheRun } from '../../cache/index.ts'
import type { CacheSample, Observation } from './node-watch.ts'

export interface CacheRunGiven {
  /** Queries that were answered by the node. */
  readonly reads: number
  /** How often each key was read, and written by the commands of the run; null when there were too many keys to count. */
  readonly drawn: readonly DrawnCounts[] | null
  /** How long an answer may stand; null when the query is not cached. */
  readonly ttlMs: number | null
}

export interface DrawnCounts {
  readonly reads: number
  /** Commands whose input has this key; 0 everywhere when that cannot be told. */
  readonly writes: number
}

export interface CacheFigures {
  readonly measured: {
    readonly readsPerSecond: number
    readonly hitRatio: number
    readonly loadsPerSecond: number
    readonly loadsAvoidedPerSecond: number
    readonly loadMs: number
    readonly floorsRaisedPerSecond: number
    readonly evictions: number
  } | null
  /** Null when the model does not fit; `why` then says why. */
  readonly predicted: { readonly hitRatio: number; readonly loadsPerSecond: number; readonly loadsAvoidedPerSecond: number } | null
  readonly why: string | null
  /** Different keys that were asked for; null when they were too many to count. */
  readonly keys: number | null
  readonly ttlMs: number | null
  /** Answers that had room; null when nothing tells. */
  readonly room: number | null
}

/** When so many more or fewer were asked than this run asked for, somebody else asked too. */
const othersMax = 0.02

/** `observation` is null when the node tells nothing of itself. */
export function cacheFigures(observation: Observation | null, run: CacheRunGiven): CacheFigures {
  const { drawn, ttlMs, reads } = run
  const known = { keys: drawn === null ? null : drawn.filter((key) => key.reads > 0).length, ttlMs }
  const nothing = (why: string): CacheFigures => ({ ...known, measured: null, predicted: null, room: null, why })
  if (observation === null) return nothing('The node tells nothing at /metrics: its cache is not measured.')
  const { first, last } = observation
  if (first.process !== last.process)
    return nothing('The node was started again during the run, or several nodes answer there: its cache is not measured.')
  if (ttlMs === null) return nothing('The query has no key, so its answers are not cached: every read is a load.')
  const seconds = (last.at - first.at) / 1_000
  const by = (read: (cache: CacheSample) => number): number => read(last.cache) - read(first.cache)
  const gets = by((cache) => cache.hits + cache.misses)
  const loads = by((cache) => cache.loads)
  if (gets <= 0 || seconds <= 0) return nothing('The cache of the node was not asked in this run.')
  const loadMs = loads === 0 ? 0 : by((cache) => cache.loadMs) / loads
  const measured = {
    readsPerSecond: gets / seconds,
    hitRatio: by((cache) => cache.hits + cache.sharedHits) / gets,
    loadsPerSecond: loads / seconds,
    loadsAvoidedPerSecond: by((cache) => cache.hits + cache.sharedHits + cache.joined) / seconds,
    loadMs,
    floorsRaisedPerSecond: by((cache) => cache.floorsRaised) / seconds,
    evictions: by((cache) => cache.evictions),
  }
  const room = roomOf(last.cache)
  const without = (why: string): CacheFigures => ({ ...known, measured, predicted: null, room, why })
  if (Math.abs(gets - reads) > Math.max(10, reads * othersMax))
    return without(`The node was asked ${gets} times, this run asked ${reads} times: others asked too, or some answers were lost.`)
  if (drawn === null) return without('Too many different keys were asked for to keep count of them.')
  const batches = last.batches - first.batches
  const falls = fallsOf(
    drawn,
    by((cache) => cache.floorsRaised),
    batches,
    last.batchCommands - first.batchCommands,
  )
  const keys: DrawnKey[] = drawn.map(({ reads: own }, place) => ({ reads: own, falls: falls[place] as number }))
  const prediction = predictCacheRun(
    // The same keys are taken to be there from an earlier run, as far as there are entries.
    { keys, seconds, loadMs, warmShare: Math.min(1, first.cache.entries / Math.max(1, keys.length)) },
    { capacity: Math.max(1, room), ttlMs },
  )
  return {
    ...known,
    measured,
    room,
    why: null,
    predicted: {
      hitRatio: prediction.hitRatio,
      loadsPerSecond: prediction.loads / seconds,
      loadsAvoidedPerSecond: prediction.loadsAvoided / seconds,
    },
  }
}

/**
 * How often each key fell. A batch raises the floor of a key once, however many
 * of its commands write it: of B batches of b commands, those that have a key
 * with the share q of all writes are B·(1 - (1 - q)^b). Commands that were
 * rejected raise nothing: all together it is what was measured, at most.
 */
export function fallsOf(drawn: readonly DrawnCounts[], raised: number, batches: number, commands: number): number[] {
  const writes = drawn.reduce((sum, key) => sum + key.writes, 0)
  const reads = drawn.reduce((sum, key) => sum + key.reads, 0)
  if (raised <= 0) return drawn.map(() => 0)
  // What the commands of others raise is not known by key: it is taken to follow the reads.
  if (writes === 0 || batches <= 0) return drawn.map((key) => (raised * key.reads) / reads)
  const each = commands / batches
  const possible = drawn.map((key) => -batches * Math.expm1(each * Math.log1p(-Math.min(key.writes / writes, 1 - 1e-12))))
  const sum = possible.reduce((total, value) => total + value, 0)
  return possible.map((value) => value * Math.min(1, raised / sum))
}

/** How many answers have room: by their number, and by their bytes at the size that they have now. */
function roomOf({ entries, bytes, entriesMax, bytesMax }: CacheSample): number {
  return entries === 0 || bytes === 0 ? entriesMax : Math.min(entriesMax, Math.floor(bytesMax / (bytes / entries)))
}
