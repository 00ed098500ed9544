/**
 * The options of the cache: one definition that gives type, default, bounds and
 * documentation. Unknown names are refused with the nearest known one.
 */
import { type NumberOption, numberOption as whole } from '../contracts/bounds.ts'
import type { CacheBus, CacheStore } from '../contracts/cache.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { nearest } from '../contracts/nearest.ts'
import type { Serializer } from './serializer.ts'

const yearMs = 365 * 24 * 3_600_000

/** What one get may say, and a namespace may say for all of its gets. */
export const getTable = Object.freeze({
  ttlMs: whole(60_000, 1, yearMs, 'How long a value is fresh.'),
  negativeTtlMs: whole(1_000, 0, yearMs, 'How long "there is nothing" (null or undefined) is fresh; 0 does not keep it.'),
  staleMs: whole(0, 0, yearMs, 'How long after its TTL a value is served while it is loaded anew (stale-while-revalidate).'),
  staleIfErrorMs: whole(0, 0, yearMs, 'How long after its TTL a value is served when the load fails or is late.'),
  staleAfterRaiseMs: whole(0, 0, yearMs, 'How long a value below its floor is served while it is loaded anew; 0 never serves one.'),
  softTimeoutMs: whole(0, 0, 600_000, 'How long to wait for the load before a stale value is served.'),
  hardTimeoutMs: whole(5_000, 1, 600_000, 'How long to wait at most; past it 504 cache-load-timeout. The load goes on.'),
  loadTimeoutMs: whole(10_000, 1, 600_000, 'How long one load may take; past it its signal aborts and what it returns is dropped.'),
  errorPauseMs: whole(1_000, 0, 600_000, 'How long a stale value that a failed load left in place is served before the next try.'),
  earlyRefresh: whole(1, 0, 100, 'How early a value is loaded anew, by chance, in the time its load took (XFetch beta); 0 turns it off.'),
})

/** The limits of a cache. */
export const limitTable = Object.freeze({
  bytesMax: whole(64 * 1024 ** 2, 64 * 1024, 2 ** 40, 'Bytes of values kept in process (L1).'),
  entriesMax: whole(1_000_000, 16, 16_000_000, 'Entries kept in process (L1).'),
  loadsMax: whole(1_000, 1, 1_000_000, 'Loads under way at once; past it 503 cache-busy.'),
  waitersMax: whole(100_000, 1, 10_000_000, 'Gets that wait for a load at once; past it 503 cache-busy.'),
  floorsMax: whole(100_000, 16, 16_000_000, 'Floors remembered in process; the oldest go first.'),
  tagsMax: whole(100_000, 16, 16_000_000, 'Tags known in process; one more empties L1.'),
  floorKeepMs: whole(600_000, 1_000, yearMs, 'How long a floor outlives its last raise in the shared store: longer than any replica lags.'),
  leaseMs: whole(2_000, 50, 600_000, 'How long a load that died holds up the others; a live one extends its lease.'),
  l1TtlMsWithoutBus: whole(1_000, 1, yearMs, 'How long a value stays in L1 when there is a shared store and no bus.'),
  compressOverBytes: whole(16 * 1024, 64, 2 ** 30, 'Bodies larger than this are compressed for the shared store.'),
  storeTimeoutMs: whole(250, 1, 60_000, 'Longest wait for one call to the shared store.'),
  breakerFailures: whole(5, 1, 1_000, 'Failures in a row that take the shared store out.'),
  breakerPauseMs: whole(500, 1, 600_000, 'How long the shared store is left alone before it is tried again.'),
  pendingChangesMax: whole(
    10_000,
    1,
    1_000_000,
    'Invalidations that wait for a store or bus that does not answer; past it 503 cache-busy.',
  ),
  hotKeysMax: whole(128, 0, 10_000, 'Keys that the hot-key detection follows; 0 turns it off.'),
})

type Numbers<Table> = { -readonly [K in keyof Table]: number }
export type GetNumbers = Readonly<Numbers<typeof getTable>>
export type Limits = Readonly<Numbers<typeof limitTable>>

export interface GetOptions extends Partial<GetNumbers> {
  /** The value falls with any of these. */
  readonly tags?: readonly string[]
  /** Read your writes: the value must be at least of this version. */
  readonly minVersion?: number
  /** Stops the waiting, not the load. */
  readonly signal?: AbortSignal
}

export interface SetOptions {
  /** The version of the value; raises the floor to it. Without: loads in flight are cut. */
  readonly version?: number
  readonly ttlMs?: number
  readonly tags?: readonly string[]
}

export interface NamespaceOptions extends Partial<GetNumbers> {
  readonly tags?: readonly string[]
  /** Writes values for the shared store. Default: JSON. */
  readonly serializer?: Serializer
  /** Freeze plain objects and arrays, since all askers share them. Default: true. */
  readonly freeze?: boolean
}

export interface CacheOptions extends NamespaceOptions, Partial<Limits> {
  /** For messages and metrics. Default: 'cache'. */
  readonly name?: string
  /** False leaves out the tier in process. Default: true. */
  readonly l1?: boolean
  /** The tier that processes share (L2). Of several, each holds its share of the keys, the same in every process. */
  readonly store?: CacheStore | readonly CacheStore[]
  /** Tells the other nodes what falls. */
  readonly bus?: CacheBus
  /**
   * What L1 does while the bus is out of touch. 'serve': go on, so that hits are
   * not touched by its failure, and start empty when it is back. 'bypass': no
   * hits, so that nothing older than an acknowledged write is ever served.
   * Default: 'serve'.
   */
  readonly whenBusLost?: 'serve' | 'bypass'
  /** Milliseconds on a clock that never goes back. Default: performance.now. */
  readonly now?: () => number
  /** From 0 up to 1. Default: Math.random. */
  readonly random?: () => number
}

/** What one get goes by. */
export interface Settings extends GetNumbers {
  readonly tags: readonly string[]
  readonly minVersion: number
  readonly signal: AbortSignal | undefined
}

const getNames = [...Object.keys(getTable), 'tags', 'minVersion', 'signal']
export const namespaceNames = [...Object.keys(getTable), 'tags', 'serializer', 'freeze']
const cacheNames = [...namespaceNames, ...Object.keys(limitTable), 'name', 'l1', 'store', 'bus', 'whenBusLost', 'now', 'random']
const setNames = ['version', 'ttlMs', 'tags']

export function resolveLimits(given: CacheOptions): Limits {
  checkNames('The cache', given, cacheNames)
  if (given.whenBusLost !== undefined && given.whenBusLost !== 'serve' && given.whenBusLost !== 'bypass') {
    throw new HeadraceError('option-invalid', `whenBusLost must be 'serve' or 'bypass', not ${JSON.stringify(given.whenBusLost)}.`)
  }
  return Object.freeze(numbers(limitTable, given))
}

export function resolveNamespace(given: NamespaceOptions, base: Settings | null): Settings {
  checkNames('The cache namespace', given, namespaceNames)
  return Object.freeze({
    ...numbers(getTable, given, base ?? undefined),
    tags: checkTags(given.tags ?? base?.tags ?? []),
    minVersion: 0,
    signal: undefined,
  })
}

/** The settings of one get: those of the namespace, and what the call says. Throws 'option-unknown' and 'option-invalid'. */
export function resolveGet(base: Settings, given: GetOptions | undefined): Settings {
  if (given === undefined) return base
  checkNames('get()', given, getNames)
  const { tags, minVersion, signal } = given
  if (minVersion !== undefined && (!Number.isSafeInteger(minVersion) || minVersion < 0)) {
    throw new HeadraceError('option-invalid', `minVersion must be a whole number from 0 to 2^53 - 1, not ${String(minVersion)}.`)
  }
  return {
    ...numbers(getTable, given, base),
    tags: tags === undefined ? base.tags : checkTags([...base.tags, ...tags]),
    minVersion: minVersion ?? 0,
    signal,
  }
}

export function resolveSet(base: Settings, given: SetOptions): { readonly ttlMs: number; readonly tags: readonly string[] } {
  checkNames('set()', given, setNames)
  return {
    ttlMs: numbers(getTable, given.ttlMs === undefined ? {} : { ttlMs: given.ttlMs }, base).ttlMs,
    tags: given.tags === undefined ? base.tags : checkTags([...base.tags, ...given.tags]),
  }
}

function numbers<Table extends Readonly<Record<string, NumberOption>>>(
  table: Table,
  given: object,
  base?: Readonly<Record<keyof Table, number>>,
): Numbers<Table> {
  const result = {} as Numbers<Table>
  for (const name of Object.keys(table) as (keyof Table & string)[]) {
    const { default: defaultValue, min, max } = table[name] as NumberOption
    const value: unknown = (given as Record<string, unknown>)[name] ?? base?.[name] ?? defaultValue
    if (typeof value !== 'number' || !(value >= min && value <= max) || (name !== 'earlyRefresh' && !Number.isSafeInteger(value))) {
      throw new HeadraceError(
        'option-invalid',
        `${name} must be a ${name === 'earlyRefresh' ? '' : 'whole '}number from ${min} to ${max}, not ${typeof value === 'number' ? value : JSON.stringify(value)}.`,
        { details: { option: name } },
      )
    }
    result[name] = value
  }
  return result
}

const tagsPerEntryMax = 32

function checkTags(tags: readonly string[]): readonly string[] {
  if (!Array.isArray(tags) || tags.length > tagsPerEntryMax)
    throw new HeadraceError('option-invalid', `tags must be a list of at most ${tagsPerEntryMax} strings.`)
  return tags
}

function checkNames(owner: string, given: object, known: readonly string[]): void {
  for (const name in given) {
    if (known.includes(name)) continue
    const proposal = nearest(name, known)
    throw new HeadraceError(
      'option-unknown',
      `${owner} has no option '${name}'${proposal === null ? '' : `; did you mean '${proposal}'?`} Known: ${known.join(', ')}.`,
      { details: { option: name, known } },
    )
  }
}
