/**
 * How a miss becomes a value: shared store, lease, load, fill.
 *
 *     read the shared store ── a hit ──────────────────────────────> land
 *        │ none, old, or below the floor
 *        ▼
 *     ask for the lease ── filled meanwhile ──> land
 *        │        └─ another loads ──> wait for its push, ask again
 *        ▼ leased
 *     load ── below the floor it was given ──> load again
 *        ▼
 *     fill (store), keep (L1), land
 *
 * A store that does not answer is left out: the load runs alone. What a load
 * returns is stored only at or above the floor as it stands then.
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import type { Core } from './core.ts'
import { isDueEarly } from './entry.ts'
import { Flight } from './flight.ts'
import { checkVersion } from './key.ts'
import { type Load, Versioned } from './load.ts'
import type { Local } from './local.ts'
import type { Settings } from './options.ts'
import type { Shared, SharedLease, SharedValue } from './shared.ts'
import type { Seal } from './tags.ts'
import { ttlOf } from './ttl.ts'

/** A load below its floor is repeated after this pause, doubling up to the second. */
const repeatPauseMs = 2
const repeatPauseMsMax = 200

const noSeals: readonly Seal[] = Object.freeze([])

interface Loaded {
  readonly value: unknown
  readonly version: number
  readonly loadMs: number
  readonly seals: readonly Seal[]
}

/** What a flight is for: an asker who has nothing, or a value that is to be replaced before its end. */
export type Errand = 'miss' | 'refresh'

export interface Loader {
  readonly load: Load<unknown>
  /** One of many that are loaded with one call: the call is counted, not the key. */
  readonly batched?: boolean
  /** Called once it is certain that this flight does not load now: others need not wait for it. */
  readonly passes?: () => void
}

export class Refill {
  readonly #core: Core
  readonly #local: Local
  readonly #shared: Shared | null

  constructor(core: Core, local: Local, shared: Shared | null) {
    this.#core = core
    this.#local = local
    this.#shared = shared
  }

  /** Starts a flight, unless the loads are at their bound. */
  start(key: string, loader: Loader, settings: Settings, errand: Errand): Flight | HeadraceError {
    const refused = this.#core.admit(loader.batched !== true)
    if (refused !== null) return refused
    const flight = new Flight(key, settings.minVersion, this.#core)
    if (loader.batched !== true) this.#core.stats.loading++
    this.#local.flights.depart(flight, () => void this.#fly(flight, loader, settings, errand))
    return flight
  }

  async #fly(flight: Flight, loader: Loader, settings: Settings, errand: Errand): Promise<void> {
    const { stats } = this.#core
    let again = false
    try {
      const shared = this.#shared
      if (shared === null) flight.seals = this.#local.seal(settings.tags)
      const found =
        shared === null ? await this.#alone(flight, loader, settings) : await this.#throughShared(shared, flight, loader, settings, errand)
      again = found.again
      this.#local.flights.landed(flight)
      flight.land(found.value)
    } catch (error) {
      const entry = this.#local.index.get(flight.key)
      if (entry !== undefined) entry.retryAt = this.#core.now() + settings.errorPauseMs
      this.#local.flights.landed(flight)
      flight.crash(error)
    } finally {
      if (loader.batched !== true) stats.loading--
      loader.passes?.()
    }
    if (again && !this.#core.closed) this.start(flight.key, loader, settings, 'refresh')
  }

  async #alone(flight: Flight, loader: Loader, settings: Settings): Promise<Found> {
    const loaded = await this.#load(flight, loader, settings, 0)
    this.#keep(flight, loaded, settings)
    return { value: loaded.value, again: false }
  }

  async #throughShared(shared: Shared, flight: Flight, loader: Loader, settings: Settings, errand: Errand): Promise<Found> {
    const { key } = flight
    if (errand === 'miss') {
      const read = await shared.read(key)
      // A store that did not answer is not asked for a lease as well: one timeout is enough.
      if (read === null) return this.#alone(flight, loader, settings)
      const value = shared.decode(read)
      // Awaited only where there are tags: a hit in the store should cost little more than the trip.
      const found =
        value.tags.length === 0 ? this.#take(shared, flight, value, noSeals, settings) : await this.#adopt(shared, flight, value, settings)
      if (found !== null) return found
    }
    let refresh = errand === 'refresh'
    const deadline = this.#core.now() + settings.loadTimeoutMs
    for (;;) {
      const lease = await shared.lease(key, this.#local.floors.get(key), flight.minVersion, refresh)
      if (lease === null) return this.#alone(flight, loader, settings)
      if (lease.state === 'leased') return this.#leased(shared, flight, loader, settings, lease)
      const found = await this.#adopt(shared, flight, lease.read, settings)
      if (found !== null && !(refresh && lease.state === 'wait')) return found
      // Somebody loads it already: an early refresh has nothing more to do.
      if (errand === 'refresh' && lease.state === 'wait' && flight.askers === 0) {
        flight.open = false
        return { value: undefined, again: false }
      }
      if (lease.state === 'hit') {
        // Fresh by its time and floor, yet not good here: one of its tags has fallen.
        refresh = true
        continue
      }
      loader.passes?.()
      const leftMs = deadline - this.#core.now()
      if (leftMs <= 0)
        throw new HeadraceError(
          'cache-load-timeout',
          `The load of cache key ${JSON.stringify(key)} by another process did not end within loadTimeoutMs (${settings.loadTimeoutMs}).`,
        )
      await lease.filled(leftMs, flight.signal)
      refresh = false
    }
  }

  /** Takes the value of the shared store when it is good, else offers it as stale. */
  async #adopt(shared: Shared, flight: Flight, read: SharedValue, settings: Settings): Promise<Found | null> {
    return this.#take(shared, flight, read, read.tags.length === 0 ? noSeals : await shared.sealsOf(read), settings)
  }

  #take(
    shared: Shared,
    flight: Flight,
    { content, belowSince, floor }: SharedValue,
    seals: readonly Seal[] | null,
    settings: Settings,
  ): Found | null {
    flight.seals = seals ?? noSeals
    if (content === null) return null
    const now = this.#core.now()
    const reached = Math.max(this.#local.floorOf(flight.key, flight.seals), flight.minVersion, floor)
    if (seals === null || content.version < reached || content.freshUntil <= now) {
      if (seals !== null) flight.offer({ ...content, belowSince: belowSince > 0 || content.version >= reached ? belowSince : now })
      return null
    }
    if (this.#core.l1 && this.#local.storable(flight, content.version, seals))
      this.#local.put(flight.key, shared.forL1({ ...content, seals }), settings.earlyRefresh)
    this.#core.stats.sharedHits++
    return { value: content.value, again: isDueEarly(content.freshUntil, content.loadMs, settings.earlyRefresh, now, this.#core.random) }
  }

  async #leased(
    shared: Shared,
    flight: Flight,
    loader: Loader,
    settings: Settings,
    lease: SharedLease & { readonly state: 'leased' },
  ): Promise<Found> {
    const stopExtending = shared.extendWhileLoading(flight.key, lease.token)
    try {
      await this.#adopt(shared, flight, lease.read, settings)
      let loaded = await this.#load(flight, loader, settings, lease.read.floor)
      if (shared.busInTouch()) {
        // Whoever waits for this value asked before any invalidation that the store knows and the bus has not brought.
        const fill = shared.fill(flight.key, lease.token, loaded, settings)
        loaded = fill.loaded
        this.#keep(flight, loaded, settings)
        void fill.answer
        return { value: loaded.value, again: false }
      }
      for (let last = false; ; last = true) {
        const fill = shared.fill(flight.key, lease.token, loaded, settings)
        loaded = fill.loaded
        const answer = await fill.answer
        if (answer === 'below-floor' || answer === 'superseded') {
          this.#core.stats.refusedFills++
          // Those who ask from now on start a flight of their own; a load that begins now is good enough for all who are here.
          if (!last) {
            flight.open = false
            loaded = await this.#load(flight, loader, settings, await shared.floorOf(flight.key))
            continue
          }
        } else {
          this.#keep(flight, loaded, settings)
        }
        return { value: loaded.value, again: false }
      }
    } catch (error) {
      void shared.release(flight.key, lease.token)
      throw error
    } finally {
      stopExtending()
    }
  }

  /** Calls the user's load until what it returns has reached the floor it was given. */
  async #load(flight: Flight, { load }: Loader, settings: Settings, floorHint: number): Promise<Loaded> {
    const { now, stats } = this.#core
    const deadline = now() + settings.loadTimeoutMs
    for (let attempt = 0; ; attempt++) {
      const seals = this.#shared === null ? this.#local.seal(settings.tags) : await this.#shared.seals(settings.tags)
      flight.seals = seals
      const floor = Math.max(this.#local.floorOf(flight.key, seals), floorHint)
      const needed = Math.max(floor, flight.minVersion)
      const began = now()
      stats.loads++
      let answer: unknown
      try {
        answer = await bounded(flight, load, needed, deadline - began, settings.loadTimeoutMs)
      } catch (error) {
        stats.loadErrors++
        this.#tellLoad(now() - began, false)
        throw error
      }
      const loadMs = now() - began
      this.#tellLoad(loadMs, true)
      if (!(answer instanceof Versioned)) return { value: answer, version: floor, loadMs, seals }
      checkVersion(answer.version)
      if (answer.version >= needed) return { value: answer.value, version: answer.version, loadMs, seals }
      stats.repeats++
      const pauseMs = backoffMs(attempt, repeatPauseMs, repeatPauseMsMax, this.#core.random)
      if (now() + pauseMs >= deadline) {
        throw new HeadraceError(
          'cache-below-floor',
          `The load of cache key ${JSON.stringify(flight.key)} read version ${answer.version}, and ${needed} is needed. Let it read from the primary when its replica is behind the floor it is given.`,
          { details: { version: answer.version, needed } },
        )
      }
      await pause(pauseMs, flight.signal)
    }
  }

  #tellLoad(ms: number, ok: boolean): void {
    tell('headrace:cache-load', () => ({ cache: this.#core.name, ms, ok }))
  }

  /** Puts what was loaded in L1, if it is still good. */
  #keep(flight: Flight, loaded: Loaded, settings: Settings): void {
    const { key } = flight
    if (!this.#local.storable(flight, loaded.version, loaded.seals)) {
      this.#core.stats.refusedFills++
      return
    }
    const ttlMs = ttlOf(loaded.value, settings)
    if (ttlMs === 0) {
      const old = this.#local.index.get(key)
      if (old !== undefined) this.#local.drop(old)
      return
    }
    const content = { ...loaded, freshUntil: this.#core.now() + ttlMs }
    this.#local.put(key, this.#shared === null ? content : this.#shared.forL1(content), settings.earlyRefresh)
  }
}

interface Found {
  readonly value: unknown
  /** Load it anew in the background: it is near its end. */
  readonly again: boolean
}

/** Runs the user's load, for so long and no longer. */
function bounded(flight: Flight, load: Load<unknown>, floor: number, leftMs: number, timeoutMs: number): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const { signal } = flight
    if (signal.aborted) return reject(signal.reason)
    const end = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', onAbort)
    }
    const onAbort = (): void => {
      end()
      reject(signal.reason)
    }
    const timer = setTimeout(
      () => {
        flight.abort(
          new HeadraceError(
            'cache-load-timeout',
            `The load of cache key ${JSON.stringify(flight.key)} took longer than loadTimeoutMs (${timeoutMs}); its signal was aborted and its result will be dropped.`,
          ),
        )
      },
      Math.max(leftMs, 0),
    )
    signal.addEventListener('abort', onAbort)
    Promise.resolve()
      .then(() => load({ key: flight.key, floor, signal }))
      .then(
        (answer) => {
          end()
          resolve(answer)
        },
        (error: unknown) => {
          end()
          reject(error)
        },
      )
  })
}
