/**
 * A load under way, and those who wait for it (single-flight).
 *
 * A flight is *open* until an invalidation of its key comes: what it read may be
 * older than what the invalidation told of. From then on it takes no new askers;
 * those who asked before get its result, since their reads overlap the write.
 * Its result is stored only when it reached the floor as it stands at the end,
 * and never when it was *cut* by an invalidation without a version.
 *
 * At most two flights of a key are in the air; a third waits on the ground until
 * one of them lands. So a key that is written all the time is loaded at most
 * twice at once, and nobody waits longer than two loads.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { Deadlines, Wait } from './deadlines.ts'
import type { Settings } from './options.ts'
import type { CacheStats } from './stats.ts'
import { type Seal, sealsUntouched } from './tags.ts'

const flightsPerKeyMax = 2

/** A value that is over its time or below its floor, and may be better than none. */
export interface Stale {
  readonly value: unknown
  readonly version: number
  readonly freshUntil: number
  /** When the floor went above it; 0 while it is not. */
  readonly belowSince: number
}

/** Whether an asker takes a stale value now, by staleMs or staleIfErrorMs, or by staleAfterRaiseMs when it is below its floor. */
export function takesStale(stale: Stale, settings: Settings, withinMs: number, now: number): boolean {
  if (stale.version < settings.minVersion) return false
  if (stale.belowSince > 0 && now - stale.belowSince >= settings.staleAfterRaiseMs) return false
  return now < stale.freshUntil || now - stale.freshUntil < withinMs
}

/** One who waits for a flight. Its hard timeout is `late`. */
class Asker implements Wait {
  over = false
  readonly settings: Settings
  readonly resolve: (value: unknown) => void
  readonly reject: (error: unknown) => void
  readonly #flight: Flight
  softTimer: NodeJS.Timeout | undefined = undefined
  onAbort: (() => void) | undefined = undefined

  constructor(settings: Settings, resolve: (value: unknown) => void, reject: (error: unknown) => void, flight: Flight) {
    this.settings = settings
    this.resolve = resolve
    this.reject = reject
    this.#flight = flight
  }

  late(): void {
    this.#flight.late(this)
  }
}

/** What a flight needs of its cache. */
export interface FlightCore {
  readonly stats: CacheStats
  readonly deadlines: Deadlines
  readonly now: () => number
}

export class Flight {
  readonly key: string
  /** The highest version that an asker needs. */
  minVersion: number
  open = true
  cut = false
  /** The tags as they stood when it last began to read; null before. */
  seals: readonly Seal[] | null = null
  /** The highest floor that was raised while it is in the air. */
  raisedTo = 0
  stale: Stale | null = null
  #controller: AbortController | null = null
  readonly #askers = new Set<Asker>()
  readonly #core: FlightCore

  constructor(key: string, minVersion: number, core: FlightCore) {
    this.key = key
    this.minVersion = minVersion
    this.#core = core
  }

  /** Whether its result is good enough for one who asks now. */
  takes(minVersion: number): boolean {
    return this.open && this.minVersion >= minVersion && (this.seals === null || sealsUntouched(this.seals))
  }

  /** Aborts when the load has run out of time or the cache is closed. Made only when somebody asks: a hit in the shared store needs none. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController()
    return this.#controller.signal
  }

  abort(reason: unknown): void {
    this.#controller ??= new AbortController()
    this.#controller.abort(reason)
  }

  get askers(): number {
    return this.#askers.size
  }

  /** Waits for the result as these settings say. */
  ask(settings: Settings): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const { signal, hardTimeoutMs } = settings
      if (signal?.aborted === true) return reject(aborted(this.key))
      const asker = new Asker(settings, resolve, reject, this)
      this.#core.deadlines.after(hardTimeoutMs, asker)
      if (signal !== undefined) {
        asker.onAbort = () => {
          this.#leave(asker)
          reject(aborted(this.key))
        }
        signal.addEventListener('abort', asker.onAbort, { once: true })
      }
      this.#askers.add(asker)
      this.#core.stats.waiting++
      if (this.stale !== null) this.#offerTo(asker, this.stale)
    })
  }

  /** A stale value was found on the way: askers who take one get it, at once or after their soft timeout. */
  offer(stale: Stale): void {
    this.stale = stale
    for (const asker of [...this.#askers]) this.#offerTo(asker, stale)
  }

  land(value: unknown): void {
    for (const asker of [...this.#askers]) this.#answer(asker, value)
  }

  crash(error: unknown): void {
    for (const asker of [...this.#askers]) {
      if (this.#takesInNeed(asker)) continue
      this.#leave(asker)
      asker.reject(error)
    }
  }

  #offerTo(asker: Asker, stale: Stale): void {
    const { settings } = asker
    if (asker.softTimer !== undefined || !takesStale(stale, settings, settings.staleMs, this.#core.now())) return
    if (settings.softTimeoutMs === 0) return this.#answerStale(asker, stale)
    asker.softTimer = setTimeout(() => this.#answerStale(asker, stale), settings.softTimeoutMs)
  }

  /** The hard timeout of an asker. */
  late(asker: Asker): void {
    if (this.#takesInNeed(asker)) return
    this.#leave(asker)
    asker.reject(
      new HeadraceError(
        'cache-load-timeout',
        `The load of cache key ${JSON.stringify(this.key)} took longer than hardTimeoutMs (${asker.settings.hardTimeoutMs}). It goes on; ask again, make it cheaper, or raise hardTimeoutMs.`,
      ),
    )
  }

  #takesInNeed(asker: Asker): boolean {
    const { settings } = asker
    if (this.stale === null || !takesStale(this.stale, settings, Math.max(settings.staleMs, settings.staleIfErrorMs), this.#core.now()))
      return false
    this.#answerStale(asker, this.stale)
    return true
  }

  #answerStale(asker: Asker, stale: Stale): void {
    this.#core.stats.stale++
    this.#answer(asker, stale.value)
  }

  #answer(asker: Asker, value: unknown): void {
    this.#leave(asker)
    asker.resolve(value)
  }

  #leave(asker: Asker): void {
    if (!this.#askers.delete(asker)) return
    this.#core.stats.waiting--
    asker.over = true
    if (asker.softTimer !== undefined) clearTimeout(asker.softTimer)
    if (asker.onAbort !== undefined) asker.settings.signal?.removeEventListener('abort', asker.onAbort)
  }
}

function aborted(key: string): HeadraceError {
  return new HeadraceError('wait-aborted', `The caller stopped waiting for cache key ${JSON.stringify(key)}.`)
}

interface KeyFlights {
  readonly airborne: Flight[]
  waiting: { readonly flight: Flight; readonly start: () => void } | null
}

/** The flights of a namespace, by key. */
export class Flights {
  readonly #keys = new Map<string, KeyFlights>()

  /** The flight that an asker may join, or null. */
  joinable(key: string, minVersion: number): Flight | null {
    const flights = this.#keys.get(key)
    if (flights === undefined) return null
    const open = flights.airborne.find((flight) => flight.takes(minVersion))
    if (open !== undefined) return open
    if (flights.waiting === null) return null
    // It has not begun, so it can still aim at what this asker needs.
    flights.waiting.flight.minVersion = Math.max(flights.waiting.flight.minVersion, minVersion)
    return flights.waiting.flight
  }

  /** Whether a load is under way whose result can still be stored. */
  underWay(key: string): boolean {
    return this.#keys.get(key)?.airborne.some((flight) => flight.takes(0)) === true
  }

  /** Starts the flight, now or when there is room. Only after `joinable` has answered null. */
  depart(flight: Flight, start: () => void): void {
    let flights = this.#keys.get(flight.key)
    if (flights === undefined) {
      flights = { airborne: [], waiting: null }
      this.#keys.set(flight.key, flights)
    }
    if (flights.airborne.length >= flightsPerKeyMax) {
      flights.waiting = { flight, start }
      return
    }
    flights.airborne.push(flight)
    start()
  }

  /** A flight that nobody joins: it is only told what falls meanwhile. */
  watch(key: string, core: FlightCore): Flight {
    const flight = new Flight(key, 0, core)
    flight.open = false
    const flights = this.#keys.get(key)
    if (flights === undefined) this.#keys.set(key, { airborne: [flight], waiting: null })
    else flights.airborne.push(flight)
    return flight
  }

  landed(flight: Flight): void {
    const flights = this.#keys.get(flight.key)
    if (flights === undefined) return
    const place = flights.airborne.indexOf(flight)
    if (place >= 0) flights.airborne.splice(place, 1)
    const next = flights.waiting
    if (next !== null) {
      flights.waiting = null
      flights.airborne.push(next.flight)
      next.start()
    } else if (flights.airborne.length === 0) {
      this.#keys.delete(flight.key)
    }
  }

  raise(key: string, version: number): void {
    for (const flight of this.#keys.get(key)?.airborne ?? []) {
      flight.open = false
      flight.raisedTo = Math.max(flight.raisedTo, version)
    }
  }

  cut(key: string): void {
    for (const flight of this.#keys.get(key)?.airborne ?? []) {
      flight.open = false
      flight.cut = true
    }
  }

  /** Cuts all: anything may have been missed. */
  cutAll(): void {
    for (const key of this.#keys.keys()) this.cut(key)
  }

  /** Ends all waiting, and tells the loads to stop. */
  close(error: unknown): void {
    for (const { airborne, waiting } of this.#keys.values()) {
      for (const flight of waiting === null ? airborne : [...airborne, waiting.flight]) {
        flight.cut = true
        flight.crash(error)
        flight.abort(error)
      }
    }
    this.#keys.clear()
  }
}
