/**
 * A namespace of a cache: keys with the same defaults and the same serializer.
 *
 * A hit in L1 is synchronous and short; everything else is in `refill.ts`.
 */
import type { Change } from '../contracts/cache.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { BatchLoad } from './batch-load.ts'
import type { Core } from './core.ts'
import { type Content, type Entry, isDueEarly } from './entry.ts'
import { Flight, takesStale } from './flight.ts'
import { sampleEvery } from './hot-keys.ts'
import { checkKey, checkVersion } from './key.ts'
import type { Load, LoadMany } from './load.ts'
import { Local } from './local.ts'
import {
  type GetOptions,
  type NamespaceOptions,
  resolveGet,
  resolveNamespace,
  resolveSet,
  type SetOptions,
  type Settings,
} from './options.ts'
import { type Loader, Refill } from './refill.ts'
import { frequencyMax } from './s3-fifo.ts'
import type { Shared } from './shared.ts'
import { sealsHold } from './tags.ts'
import type { Tiers } from './tiers.ts'
import { ttlOf } from './ttl.ts'
import { type WarmOptions, type WarmReport, warm } from './warm.ts'

export class Namespace {
  readonly name: string
  readonly #core: Core
  readonly #local: Local
  readonly #index: Map<string, Entry>
  readonly #settings: Settings
  readonly #tiers: Tiers
  readonly #shared: Shared | null
  readonly #refill: Refill
  #untilSample = 1

  /** @internal Made by `cache.namespace()`. */
  constructor(name: string, core: Core, tiers: Tiers, options: NamespaceOptions, base: Settings | null) {
    this.name = name
    this.#core = core
    this.#tiers = tiers
    this.#settings = resolveNamespace(options, base)
    this.#local = new Local(name, core, {
      freeze: options.freeze ?? true,
      keepBelow: this.#settings.staleAfterRaiseMs > 0,
      sharedTags: tiers.shared,
    })
    this.#index = this.#local.index
    this.#shared = tiers.share(this.#local, options)
    this.#refill = new Refill(core, this.#local, this.#shared)
  }

  /** @internal */
  get settings(): Settings {
    return this.#settings
  }

  /** @internal */
  get local(): Local {
    return this.#local
  }

  /**
   * The value of a key, from the nearest tier that has it, or loaded.
   *
   * Of all who ask at once, in all processes that share a store, one loads. The
   * value is shared by all who ask: it is frozen, do not change it.
   *
   * Rejects with what the load threw, or with 'cache-load-timeout',
   * 'cache-below-floor', 'cache-busy', 'cache-key-invalid', 'wait-aborted'.
   */
  get<T>(key: string, load: Load<T>, options?: GetOptions): Promise<T> {
    const entry = this.#index.get(key)
    if (entry !== undefined) {
      const now = this.#core.hitNow()
      if (now < entry.plainUntil && options === undefined) {
        this.#countHit(entry)
        return Promise.resolve(entry.value as T)
      }
      if (this.#serves(entry, options, now)) {
        this.#countHit(entry)
        if (now >= entry.calmUntil) this.#refreshEarly(entry, load, options, now)
        return Promise.resolve(entry.value as T)
      }
    }
    return this.#miss(key, { load }, options) as Promise<T>
  }

  /** The value of a key if L1 has it, fresh and at or above its floor; else undefined. Never waits, never loads. */
  getSync<T>(key: string): T | undefined {
    const entry = this.#index.get(key)
    if (entry === undefined) return undefined
    const now = this.#core.hitNow()
    if (now >= entry.plainUntil && !this.#serves(entry, undefined, now)) return undefined
    this.#countHit(entry)
    return entry.value as T
  }

  /** The values of many keys; those that are nowhere are loaded with one call. What does not exist is left out. */
  async getMany<T>(keys: readonly string[], load: LoadMany<T>, options?: GetOptions): Promise<Map<string, T>> {
    if (keys.length > manyKeysMax)
      throw new HeadraceError('option-invalid', `getMany() takes at most ${manyKeysMax} keys at once, not ${keys.length}.`)
    const result = new Map<string, T>()
    const misses: string[] = []
    const now = this.#core.now()
    for (const key of new Set(keys)) {
      const entry = this.#index.get(key)
      if (entry === undefined || !this.#serves(entry, options, now)) {
        misses.push(key)
        continue
      }
      this.#countHit(entry)
      result.set(key, entry.value as T)
    }
    if (misses.length > 0) {
      const batch = new BatchLoad(load as LoadMany<unknown>)
      const loaders = misses.map((key) => batch.loaderOf(key))
      const answers = await Promise.all(misses.map((key, place) => this.#miss(key, loaders[place] as Loader, options)))
      for (const [place, key] of misses.entries()) result.set(key, answers[place] as T)
    }
    for (const [key, value] of result) {
      if (value === undefined) result.delete(key)
    }
    return result
  }

  /**
   * Puts a value in all tiers. With a version it raises the floor to it; a value
   * older than the floor is not taken. Without one, it cuts the loads under way,
   * and the last `set` wins. Resolves when no node serves an older value.
   */
  async set(key: string, value: unknown, options: SetOptions = {}): Promise<void> {
    checkKey('key', key)
    const { ttlMs, tags } = resolveSet(this.#settings, options)
    for (const tag of tags) checkKey('tag', tag)
    const { version } = options
    if (version !== undefined) checkVersion(version)
    this.#open()
    const change: Change = { kind: 'key', name: key, version: version ?? null }
    this.#local.apply(change)
    if (version !== undefined && version < this.#local.floors.get(key)) return
    const freshMs = ttlOf(value, { ttlMs, negativeTtlMs: this.#settings.negativeTtlMs })
    if (this.#shared === null) {
      this.#keep(key, { value, version: version ?? this.#local.floors.get(key), loadMs: 0, seals: this.#local.seal(tags) }, freshMs)
      return this.#tiers.deliver(this.#local, [change])
    }
    // Stands in for a load, so that an invalidation on the way keeps the value out of L1.
    const watch = this.#local.flights.watch(key, this.#core)
    try {
      const content = await this.#shared.set(change, value, freshMs, tags, this.#settings)
      if (content !== null && this.#local.storable(watch, content.version, content.seals)) this.#keep(key, content, freshMs)
    } finally {
      this.#local.flights.landed(watch)
    }
  }

  /**
   * Lets a key fall. With a version, the floor goes up to it: nothing older is
   * served or stored again, whoever loaded it. Without one, the value is dropped
   * and the loads under way are cut.
   *
   * In this process it is in force when the call returns; the promise resolves
   * when it is in force on all nodes. Rejects with 'cache-unavailable' when the
   * store or the bus did not answer in time: it is in force here all the same,
   * and is told to the others as soon as they can be reached.
   */
  invalidate(key: string, version?: number): Promise<void> {
    return this.change([{ kind: 'key', name: key, version: version ?? null }])
  }

  /** Lets all keys that carry the tag fall, as `invalidate` does with one. */
  invalidateTag(tag: string, version?: number): Promise<void> {
    return this.change([{ kind: 'tag', name: tag, version: version ?? null }])
  }

  /** Many invalidations in one: one message to the store and one to the bus. */
  async change(changes: readonly Change[]): Promise<void> {
    for (const { kind, name, version } of changes) {
      checkKey(kind, name)
      if (version !== null) checkVersion(version)
    }
    this.#open()
    for (const change of changes) this.#local.apply(change)
    await this.#tiers.deliver(this.#local, changes)
  }

  /** The floor of a key, as far as this process knows. */
  floor(key: string): number {
    return this.#local.floors.get(key)
  }

  /** Loads keys before they are asked for. See `warm.ts`. */
  warm<T>(keys: Iterable<string> | AsyncIterable<string>, load: Load<T>, options: WarmOptions = {}): Promise<WarmReport> {
    return warm((key, signal) => this.get(key, load, signal === undefined ? {} : { signal }), keys, options, this.#core)
  }

  #keep(key: string, content: Omit<Content, 'freshUntil'>, freshMs: number): void {
    if (freshMs === 0) return
    const timed = { ...content, freshUntil: this.#core.now() + freshMs }
    this.#local.put(key, this.#shared === null ? timed : this.#shared.forL1(timed), this.#settings.earlyRefresh, true)
  }

  /** Whether L1 may answer with this entry. */
  #serves(entry: Entry, options: GetOptions | undefined, now: number): boolean {
    return (
      now < entry.freshUntil &&
      entry.belowSince === 0 &&
      (entry.seals === null || sealsHold(entry.seals, entry.version)) &&
      (options === undefined || options.minVersion === undefined || entry.version >= options.minVersion) &&
      this.#core.trusted(now)
    )
  }

  #countHit(entry: Entry): void {
    if (entry.frequency < frequencyMax) entry.frequency++
    this.#core.stats.hits++
    if (--this.#untilSample === 0) this.#sample(entry.key)
  }

  #sample(key: string): void {
    // A random distance, so that a program that asks in a fixed round is not seen from one side only.
    this.#untilSample = 1 + Math.floor(this.#core.random() * 2 * sampleEvery)
    this.#core.hot?.note(this.name, key)
  }

  #refreshEarly(entry: Entry, load: Load<unknown>, options: GetOptions | undefined, now: number): void {
    const settings = resolveGet(this.#settings, options)
    if (!isDueEarly(entry.freshUntil, entry.loadMs, settings.earlyRefresh, now, this.#core.random)) return
    if (now < entry.retryAt || this.#local.flights.underWay(entry.key)) return
    if (this.#refill.start(entry.key, { load }, settings, 'refresh') instanceof Flight) this.#core.stats.early++
  }

  /** No fresh value in L1: join the load under way or start one, and take a stale value if the settings say so. */
  #miss(key: string, loader: Loader, options: GetOptions | undefined): Promise<unknown> {
    const { stats, now: clock } = this.#core
    let settings: Settings
    try {
      checkKey('key', key)
      settings = resolveGet(this.#settings, options)
      for (const tag of settings.tags) checkKey('tag', tag)
    } catch (error) {
      loader.passes?.()
      return Promise.reject(error)
    }
    stats.misses++
    if (--this.#untilSample === 0) this.#sample(key)
    const now = clock()
    const entry = this.#index.get(key)
    const stale = entry !== undefined && this.#core.trusted(now) ? this.#local.staleOf(entry, now) : null
    const needMs = Math.max(settings.staleMs, settings.staleIfErrorMs)
    const serveStale = (value: unknown): Promise<unknown> => {
      stats.stale++
      return Promise.resolve(value)
    }
    if (stale !== null && entry !== undefined && now < entry.retryAt && takesStale(stale, settings, needMs, now)) {
      loader.passes?.()
      return serveStale(stale.value)
    }
    const flight = this.#board(key, loader, settings)
    if (!(flight instanceof Flight))
      return stale !== null && takesStale(stale, settings, needMs, now) ? serveStale(stale.value) : Promise.reject(flight)
    if (stale !== null) {
      if (flight.stale === null) flight.offer(stale)
      if (settings.softTimeoutMs === 0 && takesStale(stale, settings, settings.staleMs, now)) return serveStale(stale.value)
    }
    return flight.ask(settings)
  }

  #board(key: string, loader: Loader, settings: Settings): Flight | HeadraceError {
    const joined = this.#local.flights.joinable(key, settings.minVersion)
    const answer = joined === null ? this.#refill.start(key, loader, settings, 'miss') : (this.#core.admit(false) ?? joined)
    if (joined !== null) this.#core.stats.joined++
    if (joined !== null || !(answer instanceof Flight)) loader.passes?.()
    return answer
  }

  #open(): void {
    if (this.#core.closed) throw new HeadraceError('cache-closed', `The cache '${this.#core.name}' is closed.`)
  }
}

/** Keys of one getMany. */
const manyKeysMax = 10_000
