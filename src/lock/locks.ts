/**
 * Locks over an engine.
 *
 *   const locks = createLocks(redisLocks({ url }))
 *   await locks.using('sku:1', async (lease) => { … lease.token … })
 *
 * No lock alone is safe: a holder that was stopped past its lease writes when
 * it runs again. Give `lease` to the guard of each database that is written to.
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { checkWhole } from '../contracts/bounds.ts'
import { type LockEngine, type LockRequest, semaphoreLimitMax, wholeLimit } from '../contracts/lock.ts'
import { type LockClock, monotonicClock } from './clock.ts'
import { Hold, type HoldOwner } from './hold.ts'
import { breakLock, listLocks, type LockListing } from './inspect.ts'
import { KeysLease, type Lease, NestedLease } from './lease.ts'
import { type Acquisition, type AcquireOptions, checkAcquire, checkKeys, checkLocks, type LocksOptions } from './options.ts'
import { heldHere, runHolding } from './reentry.ts'
import { type Grant, WaitingRoom } from './waiting.ts'

export interface SemaphoreOptions extends Omit<AcquireOptions, 'mode'> {
  /** How many to take at once. Default: 1. */
  readonly permits?: number
}

/** At most `limit` permits of a key are out at once. */
export interface Semaphore {
  acquire(options?: SemaphoreOptions): Promise<Lease>
  tryAcquire(options?: Omit<SemaphoreOptions, 'waitMs'>): Promise<Lease | null>
  using<T>(run: (lease: Lease) => Promise<T> | T, options?: SemaphoreOptions): Promise<T>
}

export interface Locks {
  /** Takes one key, or several in sorted order, all or none; waits up to waitMs. Rejects with 'lock-timeout', or the reason of the signal. */
  acquire(key: string | readonly string[], options?: AcquireOptions): Promise<Lease>
  /** Takes it if it is free now; else null. */
  tryAcquire(key: string | readonly string[], options?: Omit<AcquireOptions, 'waitMs'>): Promise<Lease | null>
  /** Runs `run` while the key is held, and gives it back. Rejects with 'lease-lost' when the lease did not last to the end of `run`. */
  using<T>(key: string | readonly string[], run: (lease: Lease) => Promise<T> | T, options?: AcquireOptions): Promise<T>
  /** A semaphore: at most `limit` permits of the key, 1 to 1000000, are out at once. Everybody must give the same limit. */
  semaphore(key: string, limit: number): Semaphore
  list(options?: { readonly max?: number }): Promise<LockListing[]>
  /** Takes a lock away from its holders. Returns how many leases were broken. */
  break(key: string, options?: { readonly id?: string }): Promise<number>
  /** Leases that this process holds, and callers of it that wait. */
  readonly counts: { readonly held: number; readonly waiting: number }
  /** Gives back what is held, refuses whoever waits ('lock-closed'), and closes the engine. */
  close(): Promise<void>
}

/** Makes locks over an engine: `redisLocks`, `postgresLocks`, `sqliteLocks`, `memoryLocks`. The engine belongs to them from now on. */
export function createLocks(engine: LockEngine, options: LocksOptions = {}): Locks {
  return new EngineLocks(engine, options)
}

/** How a key is taken: how much of which limit. */
interface Share {
  readonly permits: number
  readonly limit: number
}

const exclusive: Share = { permits: wholeLimit, limit: wholeLimit }
const shared: Share = { permits: 1, limit: wholeLimit }
/** A token this far ahead of our wall clock, in microseconds, was set by a caller, and is no floor for other keys. */
const tokenAheadMax = 86_400_000_000

class EngineLocks implements Locks, HoldOwner {
  readonly engine: LockEngine
  readonly clock: LockClock
  readonly #defaults: Acquisition
  readonly #room: WaitingRoom
  readonly #holds = new Map<string, Hold>()
  #count = 0
  /** The highest token that this process has seen: tokens of every key start above it, whatever the engine has lost. */
  #highest = 0
  #closed = false

  constructor(engine: LockEngine, options: LocksOptions) {
    const { defaults, waitersMax } = checkLocks(options)
    this.engine = engine
    this.clock = options.clock ?? monotonicClock
    this.#defaults = defaults
    this.#room = new WaitingRoom({
      engine,
      clock: this.clock,
      random: options.random ?? Math.random,
      waitersMax,
      onQueued: (key) => this.#tell('waiting', key),
    })
    engine.listen({
      granted: (id, token) => this.#room.granted(id, token),
      broken: (id) => this.#holds.get(id)?.broken(),
      gap: () => void this.#room.gap(),
    })
  }

  get counts(): { readonly held: number; readonly waiting: number } {
    return { held: this.#holds.size, waiting: this.#room.waiting }
  }

  async acquire(key: string | readonly string[], options?: AcquireOptions): Promise<Lease> {
    const asked = checkAcquire(options, this.#defaults)
    return this.#acquire(checkKeys(key), asked.shared ? shared : exclusive, asked)
  }

  async tryAcquire(key: string | readonly string[], options?: Omit<AcquireOptions, 'waitMs'>): Promise<Lease | null> {
    const asked = checkAcquire({ ...options, waitMs: 0 }, this.#defaults)
    return this.#tryAcquire(checkKeys(key), asked.shared ? shared : exclusive, asked)
  }

  async using<T>(key: string | readonly string[], run: (lease: Lease) => Promise<T> | T, options?: AcquireOptions): Promise<T> {
    const asked = checkAcquire(options, this.#defaults)
    return this.#using(checkKeys(key), asked.shared ? shared : exclusive, asked, run)
  }

  semaphore(key: string, limit: number): Semaphore {
    const keys = checkKeys(key)
    checkWhole('limit', limit, 1, semaphoreLimitMax)
    const read = ({ permits = 1, ...rest }: SemaphoreOptions = {}): { readonly asked: Acquisition; readonly share: Share } => {
      checkWhole('permits', permits, 1, limit)
      return { asked: checkAcquire(rest, this.#defaults), share: { permits, limit } }
    }
    return {
      acquire: async (options) => {
        const { asked, share } = read(options)
        return this.#acquire(keys, share, asked)
      },
      tryAcquire: async (options) => {
        const { asked, share } = read({ ...options, waitMs: 0 })
        return this.#tryAcquire(keys, share, asked)
      },
      using: async (run, options) => {
        const { asked, share } = read(options)
        return this.#using(keys, share, asked, run)
      },
    }
  }

  list(options?: { readonly max?: number }): Promise<LockListing[]> {
    return listLocks(this.engine, options)
  }

  break(key: string, options?: { readonly id?: string }): Promise<number> {
    return breakLock(this.engine, key, options)
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.#room.close(new HeadraceError('lock-closed'))
    await Promise.all([...this.#holds.values()].map((hold) => hold.release()))
    await this.engine.close()
  }

  seen(key: string, tokenBefore: number | null, sentAt: number): void {
    if (tokenBefore !== null) this.#room.mark(key, tokenBefore, sentAt)
  }

  lost(hold: Hold): void {
    this.#holds.delete(hold.id)
    this.#tell('lost', hold.key, 0, this.clock.now() - hold.heldSince)
  }

  released(hold: Hold): void {
    this.#holds.delete(hold.id)
    this.#tell('released', hold.key, 0, this.clock.now() - hold.heldSince)
  }

  async #acquire(keys: readonly string[], share: Share, asked: Acquisition): Promise<Lease> {
    const lease = await this.#tryAcquire(keys, share, asked)
    if (lease !== null) return lease
    const mine = keys.find((key) => this.#holdsHere(key))
    const hint = mine === undefined ? '' : ` A lease of this process holds ${JSON.stringify(mine)}.`
    throw new HeadraceError(
      'lock-timeout',
      `The lock ${keys.map((key) => JSON.stringify(key)).join(', ')} is not free, and waitMs is 0.${hint}`,
    )
  }

  /** Null when it was not free and should not be waited for. */
  async #tryAcquire(keys: readonly string[], share: Share, asked: Acquisition): Promise<Lease | null> {
    if (this.#closed) throw new HeadraceError('lock-closed')
    asked.signal?.throwIfAborted()
    const missing = this.#withoutHeld(keys, share, asked)
    if (missing instanceof NestedLease) return missing
    const deadline = this.clock.now() + asked.waitMs
    for (;;) {
      const holds = await this.#takeAll(missing, share, asked, deadline)
      if (holds === null) return null
      if (holds.every((hold) => hold.held)) return new KeysLease(holds)
      // This process stood still for so long that a lease was over when it came to it: once more, while there is time.
      await this.#giveUp(holds)
      if (this.clock.now() >= deadline) {
        if (asked.waitMs === 0) return null
        throw new HeadraceError(
          'lock-timeout',
          `The lease of ${keys.map((key) => JSON.stringify(key)).join(', ')} was over again before the caller had it, and waitMs is over.`,
        )
      }
    }
  }

  /** All of the keys in order, or none: null when one was not free and should not be waited for. */
  async #takeAll(keys: readonly string[], share: Share, asked: Acquisition, deadline: number): Promise<Hold[] | null> {
    const holds: Hold[] = []
    try {
      for (const key of keys) {
        const hold = await this.#take(key, share, asked, asked.waitMs === 0 ? 0 : Math.max(1, Math.ceil(deadline - this.clock.now())))
        if (hold === null) {
          await this.#giveUp(holds)
          return null
        }
        holds.push(hold)
      }
      return holds
    } catch (error) {
      await this.#giveUp(holds)
      throw error
    }
  }

  async #giveUp(holds: readonly Hold[]): Promise<void> {
    await Promise.all([...holds].reverse().map((hold) => hold.release()))
  }

  /** The keys to take, or the lease that already has them all. */
  #withoutHeld(keys: readonly string[], share: Share, asked: Acquisition): readonly string[] | NestedLease {
    for (const key of keys) {
      const held = heldHere(this, key)
      if (held === undefined) continue
      const name = JSON.stringify(key)
      if (!asked.reentrant) {
        throw new HeadraceError(
          'lock-reentered',
          `This call already holds the lock ${name}: taking it again would wait for itself. Pass the lease on, or ask for it: { reentrant: true }.`,
        )
      }
      if (held.shared && share.permits > 1) {
        throw new HeadraceError(
          'lock-reentered',
          `This call holds the lock ${name} as shared: two such calls would wait for each other to make it exclusive. Take it exclusive from the start.`,
        )
      }
      if (!keys.every((other) => held.lease.tokens.has(other))) {
        throw new HeadraceError(
          'lock-reentered',
          `This call holds ${name} but not all of the keys it asks for: taking the rest now would leave the sorted order. Take all keys at once.`,
        )
      }
      return new NestedLease(held.lease)
    }
    return keys
  }

  async #take(key: string, share: Share, asked: Acquisition, waitMs: number): Promise<Hold | null> {
    const { ttlMs } = asked
    const request: LockRequest = {
      key,
      id: `${this.engine.client}/${(this.#count++).toString(36)}`,
      permits: share.permits,
      limit: share.limit,
      ttlMs,
      waitMs,
      tokenFloor: Math.max(asked.tokenFloor, this.#highest),
    }
    const askedAt = this.clock.now()
    let grant: Grant | null
    try {
      grant = waitMs === 0 ? await this.#room.tryTake(request) : await this.#room.take(request, asked.signal)
    } catch (error) {
      this.#tell('refused', key, this.clock.now() - askedAt)
      throw this.#closed || !this.#holdsHere(key) ? error : explained(error, key)
    }
    if (grant === null) {
      this.#tell('refused', key, this.clock.now() - askedAt)
      return null
    }
    if (grant.token > this.#highest && grant.token < Date.now() * 1_000 + tokenAheadMax) this.#highest = grant.token
    const hold = new Hold(this, key, request.id, grant.token, ttlMs, grant.endsAt, asked.extend)
    this.#holds.set(request.id, hold)
    this.#tell('granted', key, this.clock.now() - askedAt)
    if (this.#closed) {
      await hold.release()
      throw new HeadraceError('lock-closed')
    }
    return hold
  }

  async #using<T>(keys: readonly string[], share: Share, asked: Acquisition, run: (lease: Lease) => Promise<T> | T): Promise<T> {
    const lease = await this.#acquire(keys, share, asked)
    if (lease instanceof NestedLease) {
      try {
        return await run(lease)
      } finally {
        await lease.release()
      }
    }
    let result: T
    try {
      result = await runHolding(this, lease as KeysLease, share.permits < share.limit, async () => run(lease))
    } catch (error) {
      await lease.release()
      throw error
    }
    if (!(await lease.release())) {
      throw (
        (lease as KeysLease).lost ??
        new HeadraceError(
          'lease-lost',
          `The lease of ${keys.map((key) => JSON.stringify(key)).join(', ')} was over before the work under it ended.`,
        )
      )
    }
    return result
  }

  #holdsHere(key: string): boolean {
    for (const hold of this.#holds.values()) if (hold.key === key) return true
    return false
  }

  #tell(event: 'waiting' | 'granted' | 'refused' | 'released' | 'lost', key: string, waitMs = 0, heldMs = 0): void {
    tell('headrace:lock', () => ({
      engine: this.engine.engine,
      event,
      key,
      waitMs,
      heldMs,
      held: this.#holds.size,
      waiting: this.#room.waiting,
    }))
  }
}

/** A wait that ended for a lease of this very process is most often a lease that was not passed on, or not released. */
function explained(error: unknown, key: string): unknown {
  if (!HeadraceError.is(error) || error.code !== 'lock-timeout') return error
  return new HeadraceError('lock-timeout', `${error.message} A lease of this process holds it now.`, {
    details: { ...error.details, key, heldHere: true },
  })
}
