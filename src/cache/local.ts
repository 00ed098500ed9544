/**
 * The part of a namespace that lives in this process: its entries in L1, its
 * floors, its tags, and the loads under way.
 *
 * What must hold: an entry that `find` calls fresh is at or above the floor of
 * its key and of its tags, and was loaded after every invalidation of them that
 * has been applied here.
 */
import type { Change } from '../contracts/cache.ts'
import { hash32 } from '../std/hash.ts'
import type { Core } from './core.ts'
import { type Content, Entry } from './entry.ts'
import { type Flight, Flights, type Stale } from './flight.ts'
import { Floors } from './floors.ts'
import { entryBytes, measure, stringBytes } from './size.ts'
import { type Seal, sealsFloor, sealsHold, Tags } from './tags.ts'

export class Local {
  readonly namespace: string
  readonly index = new Map<string, Entry>()
  readonly floors: Floors
  readonly tags: Tags
  readonly flights = new Flights()
  readonly #core: Core
  readonly #freeze: boolean
  readonly #keepBelow: boolean
  readonly #sharedTags: boolean
  readonly #seed: number

  /** `keepBelow`: entries below their floor are kept, since a get may ask for them. `sharedTags`: the marks of tags are made by a shared store. */
  constructor(
    namespace: string,
    core: Core,
    options: { readonly freeze: boolean; readonly keepBelow: boolean; readonly sharedTags: boolean },
  ) {
    this.namespace = namespace
    this.#core = core
    this.#freeze = options.freeze
    this.#keepBelow = options.keepBelow
    this.#sharedTags = options.sharedTags
    this.#seed = hash32(namespace)
    this.floors = new Floors(core.limits.floorsMax)
    this.tags = new Tags(core.limits.tagsMax)
  }

  /** Whether the entry may be served without further thought, but for its time. */
  holds(entry: Entry): boolean {
    return entry.belowSince === 0 && (entry.seals === null || sealsHold(entry.seals, entry.version))
  }

  /** The entry as a stale value, unless an invalidation without a version has dropped it. */
  staleOf(entry: Entry, now: number): Stale | null {
    let belowSince = entry.belowSince
    if (entry.seals !== null && belowSince === 0 && !sealsHold(entry.seals, entry.version)) {
      if (entry.seals.some(({ mark, stamp }) => mark.stamp !== stamp)) return null
      entry.fall(now)
      belowSince = now
    }
    return { value: entry.value, version: entry.version, freshUntil: entry.freshUntil, belowSince }
  }

  /** The version that a load which begins now must reach. */
  floorOf(key: string, seals: readonly Seal[]): number {
    return Math.max(this.floors.get(key), sealsFloor(seals))
  }

  /** Whether the result of a flight is still good to store. */
  storable(flight: Flight, version: number, seals: readonly Seal[]): boolean {
    return !flight.cut && version >= flight.raisedTo && version >= this.floors.get(flight.key) && sealsHold(seals, version)
  }

  /** Puts a value in L1, unless a newer one is there. `force` is for a value that the caller sets. */
  put(key: string, content: Content, earlyRefresh: number, force = false): void {
    if (!this.#core.l1) return
    const { pool, stats } = this.#core
    const old = this.index.get(key)
    if (old !== undefined && !force && this.holds(old) && old.version > content.version) return
    const size = entryBytes + stringBytes(key) + measure(content.value, this.#freeze)
    const entry = new Entry(this.index, key, old?.hash ?? (hash32(key) ^ this.#seed) >>> 0, size, content, earlyRefresh, !this.#core.bypass)
    this.index.set(key, entry)
    if (old === undefined ? pool.add(entry) : pool.replace(old, entry)) return
    stats.tooLarge++
    this.index.delete(key)
  }

  apply({ kind, name, version }: Change): void {
    if (kind === 'key') {
      if (version === null) this.#cut(name)
      else this.raise(name, version)
    } else if (version === null) {
      this.#core.stats.cuts++
      this.tags.cut(name, this.#sharedTags)
    } else {
      this.#core.stats.raises++
      this.tags.raise(name, version)
    }
  }

  raise(key: string, version: number): void {
    if (!this.floors.raise(key, version)) return
    this.#core.stats.raises++
    this.flights.raise(key, version)
    const entry = this.index.get(key)
    if (entry === undefined || entry.version >= version) return
    if (!this.#keepBelow) this.drop(entry)
    else entry.fall(this.#core.now())
  }

  #cut(key: string): void {
    this.#core.stats.cuts++
    this.flights.cut(key)
    const entry = this.index.get(key)
    if (entry !== undefined) this.drop(entry)
  }

  drop(entry: Entry): void {
    this.#core.pool.remove(entry)
    this.index.delete(entry.key)
  }

  /** The marks as they stand when there is no shared store to ask. */
  seal(tags: readonly string[]): readonly Seal[] {
    if (tags.length === 0) return none
    const seals = this.tags.sealed(tags)
    if (this.tags.full) {
      this.flush()
      return this.tags.sealed(tags)
    }
    return seals
  }

  /** Empties L1 and lets no load under way fill it: anything may have been missed. Floors stay, since they only grow. */
  flush(): void {
    this.#core.stats.flushes++
    this.flights.cutAll()
    for (const entry of this.index.values()) this.#core.pool.remove(entry)
    this.index.clear()
    this.tags.clear()
  }
}

const none: readonly Seal[] = Object.freeze([])
