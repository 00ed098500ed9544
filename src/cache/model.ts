/**
 * What a cache should hit, by formula: to plan with, and to put beside what is
 * measured.
 *
 * Requests are taken as independent draws, key i with probability p(i). Time is
 * counted in requests.
 *
 * LRU (Che, Tung and Wang, 2002): a key stays for one characteristic time T
 * after its last request, so it is there with probability 1 - e^(-pT), and T is
 * where these sum up to the capacity.
 *
 * S3-FIFO, in the same manner: each key goes round a chain of states, and stays
 *
 *   outside  1/p requests on average, or
 *   small    T_s; asked for again it moves to main, else it is a ghost
 *   ghost    at most T_g; asked for, it goes to main at once, else outside
 *   main     laps of T_m; a lap takes off one of its (at most 3) hits, or ends it
 *
 * with T_s and T_m where the shares of time in small and main sum up to their
 * parts of the capacity, and T_g the time in which as many entries pass through
 * the ghosts as there are in main.
 *
 * With a time to live, or floors that rise, a key is also lost at a rate: it is
 * then there for the share p / (p + r) of the time that it would be there.
 */
import { HeadraceError } from '../contracts/errors.ts'

export interface Workload {
  /** How many different keys are asked for. */
  readonly keys: number
  /** Skew: key i has a weight of 1 / i^exponent; 0 is even, 0.99 is usual. */
  readonly exponent: number
  readonly requestsPerSecond: number
  /** How often a key's value falls by a write, per second, on average over requests. Default: 0. */
  readonly invalidationsPerSecond?: number
}

export interface CachePlan {
  /** Entries that fit. */
  readonly capacity: number
  /** Time to live, in milliseconds. */
  readonly ttlMs: number
  readonly policy?: 's3-fifo' | 'lru'
}

export interface CachePrediction {
  /** From 0 to 1. */
  readonly hitRatio: number
  /** Without times to live and invalidations: what the room alone allows. */
  readonly hitRatioOfRoom: number
  /** Loads that reach the database, per second, when each miss is one load. */
  readonly loadsPerSecond: number
  /** Loads that the cache spares the database, per second. */
  readonly loadsAvoidedPerSecond: number
}

/** A group of keys that are asked for about as often; the probabilities of all keys sum up to 1. */
export interface Rank {
  readonly probability: number
  readonly keys: number
}

const ranksMax = 400
const stepsMax = 200
const smallShare = 0.1

/** Predicts what a cache hits and what it leaves to the database. Throws 'option-invalid'. */
export function predictCache(workload: Workload, plan: CachePlan): CachePrediction {
  const { keys, exponent, requestsPerSecond, invalidationsPerSecond = 0 } = workload
  checkRange('keys', keys, 1, 2 ** 40)
  checkRange('exponent', exponent, 0, 5)
  checkRange('requestsPerSecond', requestsPerSecond, 0, 1e12)
  checkRange('invalidationsPerSecond', invalidationsPerSecond, 0, 1e12)
  checkRange('capacity', plan.capacity, 1, 2 ** 40)
  checkRange('ttlMs', plan.ttlMs, 1, 2 ** 53)
  const ranks = zipfRanks(keys, exponent)
  const present = presenceOf(ranks, keys, plan)
  let ofRoom = 0
  let withTime = 0
  for (const [place, rank] of ranks.entries()) {
    const weight = rank.probability * rank.keys
    const there = present[place] as number
    ofRoom += weight * there
    withTime += weight * there * survival(rank.probability * requestsPerSecond, plan.ttlMs / 1_000, invalidationsPerSecond)
  }
  return {
    hitRatio: withTime,
    hitRatioOfRoom: ofRoom,
    loadsPerSecond: requestsPerSecond * (1 - withTime),
    loadsAvoidedPerSecond: requestsPerSecond * withTime,
  }
}

/** The share of time that a key of each rank has room, by room alone. */
export function presenceOf(ranks: readonly Rank[], keys: number, { capacity, policy }: Pick<CachePlan, 'capacity' | 'policy'>): number[] {
  if (capacity >= keys) return ranks.map(() => 1)
  return policy === 'lru' ? lruPresence(ranks, capacity) : s3FifoPresence(ranks, capacity)
}

/** Of the requests of a key that has room, the share that finds it neither over its time nor fallen. */
function survival(perSecond: number, ttlSeconds: number, fallsPerSecond: number): number {
  if (perSecond === 0) return 0
  // One miss, then hits for the time to live; a fall ends that time early.
  const lifeSeconds = fallsPerSecond === 0 ? ttlSeconds : -Math.expm1(-fallsPerSecond * ttlSeconds) / fallsPerSecond
  const hits = perSecond * lifeSeconds
  return hits / (1 + hits)
}

function lruPresence(ranks: readonly Rank[], capacity: number): number[] {
  const at = (time: number): number[] => ranks.map(({ probability }) => -Math.expm1(-probability * time))
  return at(solve((time) => count(ranks, at(time)), capacity))
}

function s3FifoPresence(ranks: readonly Rank[], capacity: number): number[] {
  const small = capacity * smallShare
  const main = capacity - small
  let ghostTime = capacity
  let shares = { small: [] as number[], main: [] as number[] }
  // The ghosts' time depends on the others, and hardly changes after a few turns.
  for (let turn = 0; turn < 12; turn++) {
    // For each time in main, the time in small that fills small; then the time in main that fills main.
    const smallTimeFor = (mainTime: number): number => solve((time) => count(ranks, chain(ranks, time, ghostTime, mainTime).small), small)
    const mainTime = solve((time) => count(ranks, chain(ranks, smallTimeFor(time), ghostTime, time).main), main)
    const smallTime = smallTimeFor(mainTime)
    const flow = chain(ranks, smallTime, ghostTime, mainTime)
    shares = flow
    const ghostsPerRequest = count(ranks, flow.ghostRate)
    ghostTime = Math.min(main / Math.max(ghostsPerRequest, 1e-12), 1e15)
  }
  return ranks.map((_, place) => (shares.small[place] as number) + (shares.main[place] as number))
}

/** Shares of time that a key of each rank spends in small and in main, and how often it becomes a ghost, per request of all. */
function chain(
  ranks: readonly Rank[],
  smallTime: number,
  ghostTime: number,
  mainTime: number,
): { readonly small: number[]; readonly main: number[]; readonly ghostRate: number[] } {
  const small: number[] = []
  const main: number[] = []
  const ghostRate: number[] = []
  for (const { probability } of ranks) {
    const inSmall = probability * smallTime
    // Not asked for again while in small.
    const toGhost = Math.exp(-inSmall)
    const fromGhost = -Math.expm1(-probability * ghostTime)
    const mainStay = mainLaps(probability * mainTime) * mainTime
    // One round begins with a request of a key that is outside, and enters small.
    const toMain = 1 - toGhost + toGhost * fromGhost
    const ghostStay = toGhost * (fromGhost / probability)
    const round = 1 / probability + smallTime + ghostStay + toMain * mainStay
    small.push(smallTime / round)
    main.push((toMain * mainStay) / round)
    ghostRate.push(toGhost / round)
  }
  return { small, main, ghostRate }
}

/** How many laps of main a key makes on average before it is pushed out, when it is asked for `hits` times a lap. */
function mainLaps(hits: number): number {
  // Counter 0 to 3: a lap adds its hits, up to 3; at its end, 0 is out, more takes one off.
  const none = Math.exp(-hits)
  const one = none * hits
  const two = (one * hits) / 2
  if (none < 1e-12) return 1e12
  // laps(c) for c hits left at the start of a lap; a lap with no hits at c = 0 is the last.
  // laps(0) = 1 + one·laps(0) + two·laps(1) + more·laps(2), and so on; solved from the top.
  const more = 1 - none - one - two
  const a = [
    [1 - one, -two, -more],
    [-none, 1 - one, -(1 - none - one)],
    [0, -none, 1 - (1 - none)],
  ] as const
  // Cramer's rule for laps(0) with right-hand sides of 1.
  const [[a00, a01, a02], [a10, a11, a12], [a20, a21, a22]] = a
  const determinant = a00 * (a11 * a22 - a12 * a21) - a01 * (a10 * a22 - a12 * a20) + a02 * (a10 * a21 - a11 * a20)
  const first = a11 * a22 - a12 * a21 - a01 * (a22 - a12) + a02 * (a21 - a11)
  return Math.min(first / determinant, 1e12)
}

/** Where a sum that grows with time reaches its target, by halving the logarithm of time. */
function solve(sum: (time: number) => number, target: number): number {
  let low = -3
  let high = 16
  for (let step = 0; step < stepsMax && high - low > 1e-4; step++) {
    const middle = (low + high) / 2
    if (sum(10 ** middle) < target) low = middle
    else high = middle
  }
  return 10 ** ((low + high) / 2)
}

function count(ranks: readonly Rank[], shares: readonly number[]): number {
  let sum = 0
  for (const [place, { keys }] of ranks.entries()) sum += keys * (shares[place] as number)
  return sum
}

/** Zipf in few groups: the first keys one by one, then ever wider ranges of keys that are nearly as likely. */
function zipfRanks(keys: number, exponent: number): Rank[] {
  const weights: { weight: number; keys: number }[] = []
  let total = 0
  const growth = Math.max(1.01, keys ** (1 / (ranksMax / 2)))
  for (let first = 1; first <= keys; ) {
    const next = Math.min(keys + 1, Math.max(first + 1, Math.floor(first * growth)))
    const middle = Math.sqrt(first * (next - 1))
    const weight = middle ** -exponent
    weights.push({ weight, keys: next - first })
    total += weight * (next - first)
    first = next
  }
  return weights.map(({ weight, keys: size }) => ({ probability: weight / total, keys: size }))
}

export function checkRange(name: string, value: number, min: number, max: number): void {
  if (!(value >= min && value <= max))
    throw new HeadraceError('option-invalid', `${name} must be a number from ${min} to ${max}, not ${String(value)}.`)
}
