/**
 * What a cache should hit in a run of some seconds, from what was asked for in
 * it: to put beside what was measured.
 *
 * `predictCache` is about a cache that has run for ever, on popularity by a law.
 * A run is short: the first request of each key loads it, and a time to live
 * that is longer than the run never ends. And it need not follow a law: how
 * often each key was read, and fell by a write, is taken as it was.
 *
 * Of one key, λ reads and r falls a second, each at independent moments, a load
 * of s seconds: after a load it is there until it falls, for 1/r seconds on
 * average, in which λ/r reads hit; the next one loads, and the λ·s that come
 * meanwhile join it. So of the reads after the first
 *
 *   loads  1 / (1 + λ·s + λ/r)      misses  (1 + λ·s) / (1 + λ·s + λ/r)
 *
 * and one load more for each time to live that ends within the run.
 */
import { type CachePlan, checkRange, presenceOf, type Rank } from './model.ts'

export interface DrawnKey {
  /** How often it was asked for. */
  readonly reads: number
  /** How often a write made it old; may be a fraction, where only the sum is known. */
  readonly falls: number
}

export interface CacheRun {
  readonly keys: readonly DrawnKey[]
  readonly seconds: number
  /** Mean time of a load, in milliseconds. Default: 0. */
  readonly loadMs?: number
  /** Share of the keys that are there when the run begins. Default: 0. */
  readonly warmShare?: number
}

export interface CacheRunPrediction {
  /** From 0 to 1. */
  readonly hitRatio: number
  /** What is left to the database, in the whole run. */
  readonly loads: number
  /** Reads that were answered without a load of their own. */
  readonly loadsAvoided: number
}

/** Groups of keys for the room that they have: by how often they were read, ever wider. */
const groupGrowth = 1.02

/** Predicts what a cache hits in a run. Throws 'option-invalid'. */
export function predictCacheRun(run: CacheRun, plan: CachePlan): CacheRunPrediction {
  const { seconds, loadMs = 0, warmShare = 0 } = run
  checkRange('seconds', seconds, 1e-6, 1e9)
  checkRange('loadMs', loadMs, 0, 1e9)
  checkRange('warmShare', warmShare, 0, 1)
  checkRange('capacity', plan.capacity, 1, 2 ** 40)
  checkRange('ttlMs', plan.ttlMs, 1, 2 ** 53)
  const asked = run.keys.filter(({ reads }) => reads > 0)
  const present = presenceByReads(asked, plan)
  let reads = 0
  let loads = 0
  let misses = 0
  for (const key of asked) {
    const of = predictKey(key, seconds, loadMs / 1_000, plan.ttlMs / 1_000, present(key.reads), warmShare)
    reads += key.reads
    loads += of.loads
    misses += of.misses
  }
  return { hitRatio: reads === 0 ? 0 : 1 - misses / reads, loads, loadsAvoided: reads - loads }
}

function predictKey(
  { reads, falls }: DrawnKey,
  seconds: number,
  loadSeconds: number,
  ttlSeconds: number,
  present: number,
  warmShare: number,
): { readonly loads: number; readonly misses: number } {
  const perSecond = reads / seconds
  const joining = perSecond * loadSeconds
  const hitsPerFall = falls === 0 ? Infinity : reads / falls
  const reloaded = present * (1 / (1 + joining + hitsPerFall)) + (1 - present) / (1 + joining)
  // What falls often does not live long enough to end by its time.
  const lasting = Math.exp(-(falls / seconds) * ttlSeconds)
  const ends = Math.max(0, Math.floor((seconds - 1 / perSecond) / (ttlSeconds + 1 / perSecond))) * lasting * present
  const first = 1 - warmShare * present
  const loads = Math.min(reads, first + (reads - 1) * reloaded + ends)
  return { loads, misses: Math.min(reads, loads * (1 + joining)) }
}

/** How much of the time a key has room, by how often it was read. */
function presenceByReads(keys: readonly DrawnKey[], plan: CachePlan): (reads: number) => number {
  if (plan.capacity >= keys.length) return () => 1
  const groupOf = (reads: number): number => Math.round(Math.log(reads) / Math.log(groupGrowth))
  const groups = new Map<number, { keys: number; reads: number }>()
  let total = 0
  for (const { reads } of keys) {
    const group = groups.get(groupOf(reads)) ?? { keys: 0, reads: 0 }
    groups.set(groupOf(reads), { keys: group.keys + 1, reads: group.reads + reads })
    total += reads
  }
  const ranks: Rank[] = [...groups.values()].map((group) => ({ probability: group.reads / group.keys / total, keys: group.keys }))
  const shares = presenceOf(ranks, keys.length, plan)
  const byGroup = new Map([...groups.keys()].map((group, place) => [group, shares[place] as number]))
  return (reads) => byGroup.get(groupOf(reads)) as number
}
