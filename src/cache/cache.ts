/** A cache: L1 in process, a store that processes share, a bus between them; any of the three can be left out. */
import { HeadraceError } from '../contracts/errors.ts'
import { Core } from './core.ts'
import { type HotKey, readHotKeys } from './hot-keys.ts'
import { checkNamespace } from './key.ts'
import { Namespace } from './namespace.ts'
import { type CacheOptions, type NamespaceOptions, namespaceNames } from './options.ts'
import type { CacheStats } from './stats.ts'
import { Tiers } from './tiers.ts'

/** The namespace of a cache that is used without naming one. */
const mainNamespace = 'main'

const hotKeysNote = 'hot-keys'
const hotKeysKeepMs = 7 * 86_400_000

export class Cache extends Namespace {
  readonly #core: Core
  readonly #tiers: Tiers
  readonly #namespaces = new Map<string, Namespace>()

  /** @internal */
  constructor(options: CacheOptions, core: Core, tiers: Tiers) {
    super(mainNamespace, core, tiers, namespaceOptionsOf(options), null)
    this.#core = core
    this.#tiers = tiers
    this.#namespaces.set(mainNamespace, this)
  }

  /** Keys of their own, with defaults of their own, in the same memory. Asked for again without options, it is the same one. */
  namespace(name: string, options?: NamespaceOptions): Namespace {
    checkNamespace(name)
    const known = this.#namespaces.get(name)
    if (known !== undefined) {
      if (options !== undefined)
        throw new HeadraceError(
          'option-invalid',
          `The cache namespace '${name}' has its options already: give them once, and ask for it without.`,
        )
      return known
    }
    const made = new Namespace(name, this.#core, this.#tiers, options ?? {}, this.settings)
    this.#namespaces.set(name, made)
    return made
  }

  /** Joins the bus and makes itself known to the store. Not needed: gets work at once, and without L2 until then. Rejects with what is wrong with either. */
  ready(): Promise<void> {
    return this.#tiers.ready()
  }

  stats(): Readonly<CacheStats> {
    const { stats, pool, limits } = this.#core
    const { entriesMax, bytesMax } = limits
    return { ...stats, entries: pool.entries, bytes: pool.bytes, entriesMax, bytesMax }
  }

  /** The keys that are asked for most, the hottest first. */
  hotKeys(count?: number): HotKey[] {
    return this.#core.hot?.top(count) ?? []
  }

  /** Writes the hot keys to the store, for the next start or another node: `savedHotKeys()` is what to warm up with. Rejects with 'cache-unavailable'. */
  saveHotKeys(): Promise<void> {
    return this.#tiers.note(hotKeysNote, JSON.stringify(this.hotKeys()), hotKeysKeepMs)
  }

  /** The hot keys that were saved last, by any node; empty when there are none. Rejects with 'cache-unavailable'. */
  async savedHotKeys(): Promise<HotKey[]> {
    const saved = await this.#tiers.recall(hotKeysNote)
    return saved === null ? [] : readHotKeys(saved)
  }

  /** Ends all waiting with 'cache-closed', and closes the store and the bus. */
  async close(): Promise<void> {
    if (this.#core.closed) return
    this.#core.closed = true
    const error = new HeadraceError('cache-closed', `The cache '${this.#core.name}' is closed.`)
    for (const { local } of this.#namespaces.values()) {
      local.flights.close(error)
      local.flush()
    }
    await this.#tiers.close()
    this.#core.deadlines.close()
  }
}

/** What of the cache's options its main namespace takes, serializer and freezing included; numbers pass to all namespaces. */
function namespaceOptionsOf(options: CacheOptions): NamespaceOptions {
  const own: Record<string, unknown> = {}
  for (const name of namespaceNames) {
    const value = (options as Record<string, unknown>)[name]
    if (value !== undefined) own[name] = value
  }
  return own
}

/** Makes a cache. Throws 'option-unknown' and 'option-invalid'. */
export function createCache(options: CacheOptions = {}): Cache {
  const core = new Core(options)
  return new Cache(options, core, new Tiers(core, options))
}
