/** The tiers beyond this process: the shared stores behind their guards, and the bus. */
import type { CacheBus, CacheStore, Change } from '../contracts/cache.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Core } from './core.ts'
import { Delivery } from './delivery.ts'
import { Guard } from './guard.ts'
import type { Local } from './local.ts'
import type { CacheOptions, NamespaceOptions } from './options.ts'
import { Ring } from './ring.ts'
import { json } from './serializer.ts'
import { Shared } from './shared.ts'

export class Tiers {
  readonly #core: Core
  readonly #guards: readonly Guard[]
  readonly #ring: Ring<Guard> | null
  readonly #bus: CacheBus | null
  readonly #delivery: Delivery
  readonly #locals = new Map<string, Local>()
  readonly #shared: Shared[] = []
  readonly #joined: Promise<void>

  constructor(core: Core, options: CacheOptions) {
    this.#core = core
    const stores = storesOf(options.store)
    this.#guards = stores.map((store) => new Guard(store, core, () => this.#delivery.retry()))
    this.#ring = stores.length === 0 ? null : new Ring(this.#guards, ({ store }) => store.name)
    this.#bus = core.bus
    this.#delivery = new Delivery(core, this.#ring, this.#bus)
    this.#joined = this.#join()
    // Told to those who ask `ready`; the bus goes on trying by itself.
    this.#joined.catch(() => {})
  }

  /** Whether there is a store that processes share. */
  get shared(): boolean {
    return this.#ring !== null
  }

  share(local: Local, options: NamespaceOptions): Shared | null {
    this.#locals.set(local.namespace, local)
    if (this.#ring === null) return null
    const shared = new Shared(this.#core, local, this.#ring, this.#delivery, options.serializer ?? json)
    this.#shared.push(shared)
    return shared
  }

  /** Tells the stores and the other nodes. */
  async deliver(local: Local, changes: readonly Change[]): Promise<void> {
    if (this.#ring === null && this.#bus === null) return
    await this.#delivery.deliver(local.namespace, changes)
    // A read of the store that was under way may have brought the old value in the meantime.
    if (this.#ring !== null) {
      for (const change of changes) {
        if (change.version === null) local.apply(change)
      }
    }
  }

  /** Writes a small text to the store. Nothing happens without one. */
  async note(name: string, text: string, keepMs: number): Promise<void> {
    const guard = this.#ring?.of(name)
    if (guard === undefined) return
    const written = await guard.call(async (store) => {
      await store.note(name, text, keepMs)
      return true
    })
    if (written === null) throw guard.unavailable()
  }

  async recall(name: string): Promise<string | null> {
    const guard = this.#ring?.of(name)
    if (guard === undefined) return null
    const found = await guard.call(async (store) => ({ text: await store.recall(name) }))
    if (found === null) throw guard.unavailable()
    return found.text
  }

  async ready(): Promise<void> {
    await this.#joined
    for (const shared of this.#shared) {
      if (await shared.claim(this.#guards)) continue
      if (shared.refused !== null) throw shared.refused
      for (const guard of this.#guards) {
        if (guard.lastError !== null) throw guard.unavailable()
      }
    }
  }

  async close(): Promise<void> {
    this.#delivery.close()
    await Promise.allSettled([this.#bus?.close(), ...this.#guards.map(({ store }) => store.close())])
  }

  async #join(): Promise<void> {
    if (this.#bus === null) return
    const { name } = this.#bus
    await this.#bus.join({
      apply: ({ namespace, changes }) => {
        const local = this.#locals.get(namespace)
        if (local === undefined) return
        for (const change of changes) local.apply(change)
      },
      lost: (reason) => {
        tell('headrace:notice', () => ({
          app: this.#core.name,
          level: 'warn',
          message: `The cache bus ${name} is out of touch: ${reason}`,
        }))
      },
      regained: (missed) => {
        if (missed) for (const local of this.#locals.values()) local.flush()
        this.#delivery.retry()
        tell('headrace:notice', () => ({
          app: this.#core.name,
          level: 'info',
          message: `The cache bus ${name} is in touch${missed ? '; L1 starts empty' : ''}.`,
        }))
      },
    })
  }
}

function storesOf(store: CacheOptions['store']): readonly CacheStore[] {
  if (store === undefined) return []
  const stores = Array.isArray(store) ? (store as readonly CacheStore[]) : [store as CacheStore]
  const names = new Set(stores.map(({ name }) => name))
  if (names.size !== stores.length)
    throw new HeadraceError('option-invalid', 'Two of the cache stores have the same name: name each server once.')
  return stores
}
