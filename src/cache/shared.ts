/**
 * A namespace in the shared store: values packed and unpacked, calls guarded.
 * Every method answers null when the store is out.
 */
import type { CacheStore, Change, FillAnswer, LeaseAnswer, StoreRead } from '../contracts/cache.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { pack, unpack } from './codec.ts'
import type { Core } from './core.ts'
import type { Delivery } from './delivery.ts'
import type { Content } from './entry.ts'
import type { Guard } from './guard.ts'
import type { Local } from './local.ts'
import type { Settings } from './options.ts'
import type { Ring } from './ring.ts'
import type { Serializer } from './serializer.ts'
import { ttlOf } from './ttl.ts'
import { type Seal, sealsHold } from './tags.ts'

export interface SharedValue {
  /** Null when there is no value that this namespace can read. */
  readonly content: Omit<Content, 'seals'> | null
  readonly tags: readonly { readonly tag: string; readonly stamp: string }[]
  readonly floor: number
  /** On the clock of this process; 0 while the value is not below its floor. */
  readonly belowSince: number
}

export type SharedLease =
  | { readonly state: 'hit'; readonly read: SharedValue }
  | { readonly state: 'leased'; readonly token: string; readonly read: SharedValue }
  | { readonly state: 'wait'; readonly read: SharedValue; readonly filled: (forMs: number, signal?: AbortSignal) => Promise<void> }

interface Loaded {
  readonly value: unknown
  readonly version: number
  readonly loadMs: number
  readonly seals: readonly Seal[]
}

const none: readonly never[] = Object.freeze([])

/** How often marks are read again when a tag changes while they are read. */
const markReadsMax = 3

export class Shared {
  readonly #core: Core
  readonly #local: Local
  readonly #ring: Ring<Guard>
  readonly #delivery: Delivery
  readonly #serializer: Serializer
  /** The stores that know the namespace under our serializer, or are being asked. */
  readonly #claims = new Map<Guard, true | Promise<boolean>>()
  /** Set when another app uses the namespace with another serializer; the store is left out then. */
  refused: HeadraceError | null = null

  constructor(core: Core, local: Local, ring: Ring<Guard>, delivery: Delivery, serializer: Serializer) {
    this.#core = core
    this.#local = local
    this.#ring = ring
    this.#delivery = delivery
    this.#serializer = serializer
  }

  read(key: string): Promise<StoreRead | null> {
    const name = this.#name(key)
    const guard = this.#ring.of(name)
    const read = (store: CacheStore): Promise<StoreRead> => store.read(name)
    const usable = this.#usable('key', key, guard)
    if (usable === true) return guard.call(read)
    return Promise.resolve(usable).then((is) => (is ? guard.call(read) : null))
  }

  async lease(key: string, floor: number, minVersion: number, refresh: boolean): Promise<SharedLease | null> {
    const name = this.#name(key)
    const guard = this.#ring.of(name)
    if (!(await this.#usable('key', key, guard))) return null
    const { leaseMs } = this.#core.limits
    const answer: LeaseAnswer | null = await guard.call((store) => store.lease({ key: name, floor, minVersion, leaseMs, refresh }))
    return answer === null ? null : { ...answer, read: this.decode(answer.read) }
  }

  /** Keeps a lease while its load runs. Returns the way to stop. */
  extendWhileLoading(key: string, token: string): () => void {
    const name = this.#name(key)
    const { leaseMs } = this.#core.limits
    const timer = setInterval(() => {
      void this.#ring
        .of(name)
        .call((store) => store.extend(name, token, leaseMs))
        .then((held) => {
          if (held === false) clearInterval(timer)
        })
    }, leaseMs / 2)
    timer.unref()
    return () => clearInterval(timer)
  }

  /**
   * Stores what was loaded. `loaded` is the value as other processes will read
   * it, so that all see the same. Throws 'cache-value-invalid'.
   */
  fill(
    key: string,
    token: string,
    loaded: Loaded,
    settings: Settings,
  ): { readonly loaded: Loaded; readonly answer: Promise<FillAnswer | null> } {
    const name = this.#name(key)
    const guard = this.#ring.of(name)
    const freshMs = ttlOf(loaded.value, settings)
    const body = pack({ ...loaded, tags: loaded.seals }, this.#serializer, this.#core.limits.compressOverBytes)
    const same = this.#readBack(body, loaded)
    if (freshMs === 0 || body.length > guard.store.bodyBytesMax) {
      if (freshMs > 0) this.#core.stats.tooLarge++
      return { loaded: same, answer: this.release(key, token).then(() => 'too-large') }
    }
    const keepMs = freshMs + Math.max(settings.staleMs, settings.staleIfErrorMs)
    const answer = guard.call((store) => store.fill({ key: name, token, version: loaded.version, raise: false, body, freshMs, keepMs }))
    return { loaded: same, answer }
  }

  async release(key: string, token: string): Promise<void> {
    const name = this.#name(key)
    await this.#ring.of(name).call(async (store) => {
      await store.release(name, token)
      return true
    })
  }

  /** Puts a value that the caller sets; the floor goes up with its version. Null when the store has a newer one. Rejects when it is not certain that no older one is served. */
  async set(change: Change, value: unknown, freshMs: number, tags: readonly string[], settings: Settings): Promise<Loaded | null> {
    const key = change.name
    const seals = await this.seals(tags)
    const body = pack({ value, loadMs: 0, tags: seals }, this.#serializer, this.#core.limits.compressOverBytes)
    const version = change.version ?? this.#local.floors.get(key)
    const loaded = this.#readBack(body, { value, version, loadMs: 0, seals })
    const name = this.#name(key)
    const guard = this.#ring.of(name)
    if (freshMs > 0 && body.length <= guard.store.bodyBytesMax && (await this.#usable('key', key, guard))) {
      const keepMs = freshMs + Math.max(settings.staleMs, settings.staleIfErrorMs)
      const answer = await guard.call((store) =>
        store.fill({ key: name, token: null, version: change.version, raise: change.version !== null, body, freshMs, keepMs }),
      )
      if (answer === 'below-floor') return null
      // The store knows; should the other nodes not be reached, the change is delivered as any other, until it is done.
      const told =
        answer === 'stored' &&
        (await this.#delivery.tell(this.#local.namespace, [change]).then(
          () => true,
          () => false,
        ))
      if (told) return loaded
    }
    await this.#delivery.deliver(this.#local.namespace, [change])
    return loaded
  }

  /** The floor that the store has for a key; 0 when it is out. */
  async floorOf(key: string): Promise<number> {
    return (await this.read(key))?.floor ?? 0
  }

  /** The tags of a load that begins now, as they stand. */
  async seals(tags: readonly string[]): Promise<readonly Seal[]> {
    if (tags.length === 0) return none
    const known = this.busInTouch() ? this.#local.tags.known(tags) : null
    if (known !== null) return known
    // Without the store the seals are of this process only, and fall when the store is back.
    return (await this.#learn(tags)) ?? this.#local.seal(tags)
  }

  /** The seals of a stored value, or null when one of its tags has fallen or is not to be had. */
  async sealsOf({ content, tags }: SharedValue): Promise<readonly Seal[] | null> {
    const names = tags.map(({ tag }) => tag)
    const current = (this.busInTouch() ? this.#local.tags.known(names) : null) ?? (await this.#learn(names))
    if (current === null || content === null) return null
    const seals = current.map((seal, place) => ({ ...seal, stamp: tags[place]?.stamp ?? '' }))
    return sealsHold(seals, Number.MAX_SAFE_INTEGER) ? seals : null
  }

  /** Whether no message of the bus can have been missed. */
  busInTouch(): boolean {
    return this.#core.bus !== null && performance.now() < this.#core.bus.trustedUntil()
  }

  /** Without a bus a value must not stay long in L1: nobody tells when it falls. */
  forL1(content: Content): Content {
    const { bus, l1, limits, now } = this.#core
    if (bus !== null || !l1) return content
    return { ...content, freshUntil: Math.min(content.freshUntil, now() + limits.l1TtlMsWithoutBus) }
  }

  /** Makes sure that the namespace is written with this serializer only, on all stores. False while one is out, or when it is not so. */
  async claim(guards: readonly Guard[]): Promise<boolean> {
    const answers = await Promise.all(guards.map(async (guard) => this.#claim(guard)))
    return answers.every(Boolean)
  }

  #claim(guard: Guard): true | Promise<boolean> {
    const known = this.#claims.get(guard)
    if (known !== undefined) return known
    const asked = this.#claimNow(guard).then((mine) => {
      if (mine) this.#claims.set(guard, true)
      else this.#claims.delete(guard)
      return mine
    })
    this.#claims.set(guard, asked)
    return asked
  }

  async #claimNow(guard: Guard): Promise<boolean> {
    const mine = this.#serializer.id
    const found = await guard.call((store) => store.claim(this.#local.namespace, mine))
    if (found === null || found === mine) return found === mine
    this.refused ??= new HeadraceError(
      'cache-namespace-taken',
      `The cache namespace '${this.#local.namespace}' is in use with the serializer '${found}', and this app has '${mine}': use another namespace, or the same serializer. Until then this app reads past the shared store.`,
    )
    const { message } = this.refused
    tell('headrace:notice', () => ({ app: this.#core.name, level: 'error', message }))
    return false
  }

  /** Whether the store may be asked about a name: not while it does not know of a cut, nor before the namespace is ours. */
  #usable(kind: 'key' | 'tag', name: string, guard: Guard): boolean | Promise<boolean> {
    if (this.refused !== null || this.#delivery.isCut(this.#local.namespace, kind, name)) return false
    return this.#claim(guard)
  }

  async #learn(tags: readonly string[]): Promise<readonly Seal[] | null> {
    for (const tag of tags) {
      if (!(await this.#usable('tag', tag, this.#ring.of(this.#name(tag))))) return null
    }
    const { tags: local } = this.#local
    for (let read = 0; read < markReadsMax; read++) {
      const before = local.changes
      const learned = await this.#marks(tags)
      if (learned === null) return null
      // A tag that fell while its mark was read: the mark may be the old one.
      if (local.changes !== before) continue
      for (const [place, tag] of tags.entries()) {
        const mark = learned[place]
        if (mark === undefined) return null
        local.learn(tag, mark)
      }
      if (local.full) this.#local.flush()
      return local.known(tags)
    }
    return null
  }

  async #marks(tags: readonly string[]): Promise<readonly { readonly stamp: string; readonly floor: number }[] | null> {
    const answers = await Promise.all(
      tags.map((tag) => {
        const name = this.#name(tag)
        return this.#ring.of(name).call((store) => store.marks([name]))
      }),
    )
    const marks = answers.map((answer) => answer?.[0])
    return marks.some((mark) => mark === undefined) ? null : (marks as { stamp: string; floor: number }[])
  }

  /** What a record means to this namespace, on the clock of this process. */
  decode({ entry, floor, belowMs }: StoreRead): SharedValue {
    const now = this.#core.now()
    const packed = entry === null ? null : unpack(entry.body, this.#serializer)
    return {
      content:
        packed === null || entry === null
          ? null
          : { value: packed.value, loadMs: packed.loadMs, version: entry.version, freshUntil: now + entry.freshMs },
      tags: packed === null ? none : packed.tags,
      floor,
      belowSince: belowMs === 0 ? 0 : now - belowMs,
    }
  }

  #readBack(body: Uint8Array, loaded: Loaded): Loaded {
    const packed = unpack(body, this.#serializer)
    if (packed === null)
      throw new HeadraceError('cache-value-invalid', `The serializer '${this.#serializer.id}' cannot read what it has written.`)
    return { ...loaded, value: packed.value }
  }

  #name(key: string): string {
    return `${this.#local.namespace}:${key}`
  }
}
