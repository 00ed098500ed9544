/**
 * Brings invalidations to the shared stores and to the other nodes, and keeps
 * those that did not get through until they do.
 *
 * The store comes first where a change has no version: another node that drops
 * its value must not find the old one in the store. Changes with a version may
 * travel side by side, since the receiver passes its floor on to the store.
 */
import type { CacheBus, Change } from '../contracts/cache.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { backoffMs } from '../std/backoff.ts'
import type { Core } from './core.ts'
import type { Guard } from './guard.ts'
import type { Ring } from './ring.ts'

interface Pending {
  readonly namespace: string
  readonly change: Change
}

const retryPauseMs = 50
const retryPauseMsMax = 2_000

/** On top of the time that a publisher waits for other nodes. */
const busSlackMs = 1_000

export class Delivery {
  readonly #core: Core
  readonly #ring: Ring<Guard> | null
  readonly #bus: CacheBus | null
  /** By namespace, kind and name; of two changes of one name with a version the higher one. */
  readonly #pending = new Map<string, Pending>()
  #timer: NodeJS.Timeout | undefined
  #attempt = 0
  #retrying = false

  constructor(core: Core, ring: Ring<Guard> | null, bus: CacheBus | null) {
    this.#core = core
    this.#ring = ring
    this.#bus = bus
  }

  /** Invalidations without a version that the store does not know of yet: what it holds for them is void. */
  isCut(namespace: string, kind: 'key' | 'tag', name: string): boolean {
    return this.#pending.size > 0 && this.#pending.has(idOf(namespace, { kind, name, version: null }))
  }

  get pending(): number {
    return this.#pending.size
  }

  /** Resolves when the changes are in force everywhere. Rejects with 'cache-unavailable' when that is not known in time; it goes on trying. */
  async deliver(namespace: string, changes: readonly Change[]): Promise<void> {
    if (this.#pending.size + changes.length > this.#core.limits.pendingChangesMax) {
      throw new HeadraceError(
        'cache-busy',
        `More than ${this.#core.limits.pendingChangesMax} invalidations wait for the shared cache (pendingChangesMax). This one is in force in this process only: send it again.`,
      )
    }
    // From here on reads of the store know of the cuts.
    const batch = changes.map((change) => ({ namespace, change }))
    for (const item of batch) this.#remember(item)
    await this.#attemptAll(batch)
  }

  /** Tells the other nodes only: the store knows already. */
  async tell(namespace: string, changes: readonly Change[]): Promise<void> {
    await this.#toBus(changes.map((change) => ({ namespace, change })))
  }

  /** Tries what is left, now. */
  retry(): void {
    if (this.#pending.size > 0) this.#schedule(0)
  }

  close(): void {
    clearTimeout(this.#timer)
    this.#pending.clear()
  }

  async #attemptAll(batch: readonly Pending[]): Promise<void> {
    const stores = this.#ring === null ? [] : this.#toStores(batch)
    const versioned = batch.every(({ change }) => change.version !== null)
    if (!versioned) await Promise.allSettled(stores)
    const answers = await Promise.allSettled([...stores, this.#toBus(batch)])
    const failed = answers.find((answer) => answer.status === 'rejected')
    if (failed === undefined) {
      for (const item of batch) this.#forget(item)
      return
    }
    this.#schedule(backoffMs(this.#attempt++, retryPauseMs, retryPauseMsMax, this.#core.random))
    throw failed.reason
  }

  /** One call for each store that has one of the keys. */
  #toStores(batch: readonly Pending[]): Promise<void>[] {
    const groups = new Map<Guard, Change[]>()
    for (const { namespace, change } of batch) {
      const name = `${namespace}:${change.name}`
      const guard = (this.#ring as Ring<Guard>).of(name)
      const group = groups.get(guard)
      const full = { ...change, name }
      if (group === undefined) groups.set(guard, [full])
      else group.push(full)
    }
    return [...groups].map(async ([guard, changes]) => {
      const done = await guard.call(async (store) => {
        await store.change(changes, this.#core.limits.floorKeepMs)
        return true
      })
      if (done === null) throw guard.unavailable()
    })
  }

  async #toBus(batch: readonly Pending[]): Promise<void> {
    const bus = this.#bus
    if (bus === null) return
    const byNamespace = new Map<string, Change[]>()
    for (const { namespace, change } of batch) {
      const changes = byNamespace.get(namespace)
      if (changes === undefined) byNamespace.set(namespace, [change])
      else changes.push(change)
    }
    await inTime(bus.publish([...byNamespace].map(([namespace, changes]) => ({ namespace, changes }))), bus.trustMs + busSlackMs, bus.name)
  }

  #remember(item: Pending): void {
    const id = idOf(item.namespace, item.change)
    const known = this.#pending.get(id)
    if (known === undefined || item.change.version === null || (known.change.version ?? 0) < item.change.version)
      this.#pending.set(id, item)
  }

  /** A cut is done only with the last one of its name; a raise with any that is as high. */
  #forget(item: Pending): void {
    const id = idOf(item.namespace, item.change)
    const known = this.#pending.get(id)
    if (known === item || (known !== undefined && item.change.version !== null && (known.change.version ?? 0) <= item.change.version))
      this.#pending.delete(id)
  }

  #schedule(ms: number): void {
    if (this.#core.closed || this.#retrying) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#retryPending(), ms)
    this.#timer.unref()
  }

  async #retryPending(): Promise<void> {
    this.#retrying = true
    try {
      await this.#attemptAll([...this.#pending.values()])
      this.#attempt = 0
    } catch {
      // Counted and told by the guard; the schedule below tries again.
    }
    this.#retrying = false
    if (this.#pending.size > 0) this.#schedule(backoffMs(this.#attempt, retryPauseMs, retryPauseMsMax, this.#core.random))
  }
}

/** Changes with and without a version are two things: neither makes up for the other. */
function idOf(namespace: string, { kind, name, version }: Change): string {
  return `${namespace}\0${kind}\0${version === null ? 'cut' : 'raise'}\0${name}`
}

/** The answer, or a rejection when the time is over. */
function inTime<T>(answer: Promise<T>, timeoutMs: number, name: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new HeadraceError('cache-unavailable', `${name} did not answer within ${timeoutMs} ms.`)),
      timeoutMs,
    )
    answer.then(resolve, reject).finally(() => clearTimeout(timer))
  })
}
