/** What the namespaces of one cache share: the room of L1, the limits, the clock and the counts. */
import type { CacheBus } from '../contracts/cache.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { Deadlines } from './deadlines.ts'
import type { Entry } from './entry.ts'
import { HitClock } from './hit-clock.ts'
import { HotKeys } from './hot-keys.ts'
import { type CacheOptions, type Limits, resolveLimits } from './options.ts'
import { S3Fifo } from './s3-fifo.ts'
import { newStats } from './stats.ts'

export class Core {
  readonly name: string
  readonly limits: Limits
  readonly stats = newStats()
  readonly now: () => number
  /** For hits: cheaper, and good to a turn of the event loop. */
  readonly hitNow: () => number
  readonly random: () => number
  readonly l1: boolean
  readonly bus: CacheBus | null
  /** True when L1 may be used only while the bus is in touch. */
  readonly bypass: boolean
  readonly pool: S3Fifo<Entry>
  readonly hot: HotKeys | null
  readonly deadlines = new Deadlines()
  closed = false

  constructor(options: CacheOptions) {
    this.limits = resolveLimits(options)
    this.name = options.name ?? 'cache'
    this.l1 = options.l1 ?? true
    this.bus = options.bus ?? null
    this.bypass = this.bus !== null && options.whenBusLost === 'bypass'
    this.now = options.now ?? (() => performance.now())
    const hitClock = new HitClock(this.now)
    // A clock that was handed in is asked each time; so is the real one where trust depends on it.
    this.hitNow = options.now !== undefined || this.bypass ? this.now : () => hitClock.now()
    this.random = options.random ?? Math.random
    this.hot = this.limits.hotKeysMax === 0 ? null : new HotKeys(this.limits.hotKeysMax)
    this.pool = new S3Fifo({ bytesMax: this.limits.bytesMax, entriesMax: this.limits.entriesMax }, (entry) => {
      this.stats.evictions++
      entry.index.delete(entry.key)
    })
  }

  /** Whether L1 may be trusted now. */
  trusted(now: number): boolean {
    return !this.bypass || now < (this.bus as CacheBus).trustedUntil()
  }

  /** Refuses a load or a wait past its bound. */
  admit(starts: boolean): HeadraceError | null {
    if (this.closed) return new HeadraceError('cache-closed', `The cache '${this.name}' is closed.`)
    const { loadsMax, waitersMax } = this.limits
    if (starts && this.stats.loading >= loadsMax)
      return new HeadraceError('cache-busy', `The cache '${this.name}' has ${loadsMax} loads under way (loadsMax).`, {
        retryAfterMs: 1_000,
      })
    if (this.stats.waiting >= waitersMax)
      return new HeadraceError('cache-busy', `In the cache '${this.name}' ${waitersMax} gets wait for loads (waitersMax).`, {
        retryAfterMs: 1_000,
      })
    return null
  }
}
