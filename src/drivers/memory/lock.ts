/**
 * Locks in the memory of one process: for tests, and for a program that is
 * alone. Engines on the same store are clients of the same locks.
 */
import { checkWhole } from '../../contracts/bounds.ts'
import type { LockAnswer, LockEnd, LockEngine, LockEvents, LockRequest, LockStatus } from '../../contracts/lock.ts'
import { clientName } from '../../std/client-name.ts'

export interface MemoryLocksOptions {
  /** What engines share. Default: a store of its own. */
  readonly store?: MemoryLockStore
  /** How many may wait for one key. Default: 10000. */
  readonly waitersMax?: number
}

export interface MemoryLockStoreOptions {
  /** Monotonic time, in milliseconds. Default: that of the process. */
  readonly now?: () => number
  /** Microseconds since 1970, for tokens. Default: the wall clock. */
  readonly wallUs?: () => number
}

interface Holder {
  readonly permits: number
  readonly token: number
  endsAt: number
}

interface Waiter {
  readonly permits: number
  readonly ttlMs: number
  readonly deadline: number
}

interface State {
  limit: number
  last: number
  used: number
  /** No lease ends before. */
  earliest: number
  readonly holders: Map<string, Holder>
  /** In order of arrival. */
  readonly queue: Map<string, Waiter>
}

/** Idle keys are forgotten when there are more than this, oldest first; their tokens go on from the clock. */
const idleKeysMax = 100_000

/** The state of all locks, and who listens. */
export class MemoryLockStore {
  readonly #now: () => number
  readonly #wallUs: () => number
  readonly #states = new Map<string, State>()
  readonly #clients = new Map<string, LockEvents>()

  constructor(options: MemoryLockStoreOptions = {}) {
    this.#now = options.now ?? (() => performance.now())
    this.#wallUs = options.wallUs ?? (() => Math.floor((performance.timeOrigin + performance.now()) * 1_000))
  }

  join(client: string, events: LockEvents): void {
    this.#clients.set(client, events)
  }

  leave(client: string): void {
    this.#clients.delete(client)
  }

  /** Forgets every lock and waiter, as an engine does that kept nothing on disk. */
  clear(): void {
    this.#states.clear()
  }

  acquire(request: LockRequest, waitersMax: number): LockAnswer {
    const { key, id, permits, limit, ttlMs, waitMs, tokenFloor } = request
    const state = this.#states.get(key) ?? this.#create(key, limit)
    const tokenBefore = state.last
    state.last = Math.max(state.last, tokenFloor)
    this.#serve(state)
    const mine = state.holders.get(id)
    if (mine !== undefined) return { state: 'granted', token: mine.token, remainingMs: mine.endsAt - this.#now() }
    if (state.queue.has(id)) return { state: 'queued', endsInMs: this.#endsIn(state), tokenBefore }
    if (state.used === 0 && state.queue.size === 0) state.limit = limit
    if (state.limit !== limit) return { state: 'limit-differs', limit: state.limit }
    if (state.queue.size === 0 && state.used + permits <= limit) {
      const token = this.#grant(state, id, permits, ttlMs)
      return { state: 'granted', token, remainingMs: ttlMs }
    }
    if (waitMs === 0) return { state: 'refused', endsInMs: this.#endsIn(state), tokenBefore }
    if (state.queue.size >= waitersMax) return { state: 'full' }
    state.queue.set(id, { permits, ttlMs, deadline: this.#now() + waitMs })
    return { state: 'queued', endsInMs: this.#endsIn(state), tokenBefore }
  }

  extend(key: string, id: string, token: number, ttlMs: number): LockEnd {
    const state = this.#states.get(key)
    const holder = state?.holders.get(id)
    const tokenBefore = state?.last ?? 0
    if (holder === undefined || holder.token !== token || holder.endsAt <= this.#now()) return { held: false, tokenBefore }
    holder.endsAt = this.#now() + ttlMs
    return { held: true, tokenBefore }
  }

  release(key: string, id: string): LockEnd {
    const state = this.#states.get(key)
    if (state === undefined) return { held: false, tokenBefore: 0 }
    const tokenBefore = state.last
    const left = state.queue.delete(id)
    const ended = this.#end(state, id)
    this.#serve(state)
    return { held: left || ended, tokenBefore }
  }

  break(key: string, id: string | undefined): number {
    const state = this.#states.get(key)
    if (state === undefined) return 0
    const broken = [...state.holders.keys()].filter((holder) => id === undefined || holder === id)
    for (const holder of broken) {
      this.#end(state, holder)
      this.#push(holder, (events) => events.broken(holder))
    }
    this.#serve(state)
    return broken.length
  }

  list(max: number): LockStatus[] {
    const found: LockStatus[] = []
    const now = this.#now()
    for (const [key, { limit, last, holders, queue }] of this.#states) {
      const live = [...holders].filter(([, holder]) => holder.endsAt > now)
      if (live.length === 0 && queue.size === 0) continue
      if (found.length >= max) break
      found.push({
        key,
        limit,
        lastToken: last,
        waiting: queue.size,
        holders: live.map(([id, { permits, token, endsAt }]) => ({ id, token, permits, remainingMs: endsAt - now })),
      })
    }
    return found
  }

  #create(key: string, limit: number): State {
    if (this.#states.size >= idleKeysMax) this.#forgetIdle()
    const state: State = { limit, last: 0, used: 0, earliest: 0, holders: new Map(), queue: new Map() }
    this.#states.set(key, state)
    return state
  }

  #forgetIdle(): void {
    let excess = this.#states.size - idleKeysMax / 2
    for (const [key, state] of this.#states) {
      if (excess <= 0) return
      if (state.used > 0 || state.queue.size > 0) continue
      this.#states.delete(key)
      excess -= 1
    }
  }

  #grant(state: State, id: string, permits: number, ttlMs: number): number {
    const endsAt = this.#now() + ttlMs
    state.last = Math.max(state.last + 1, this.#wallUs())
    state.used += permits
    state.earliest = state.holders.size === 0 ? endsAt : Math.min(state.earliest, endsAt)
    state.holders.set(id, { permits, token: state.last, endsAt })
    return state.last
  }

  #end(state: State, id: string): boolean {
    const holder = state.holders.get(id)
    if (holder === undefined) return false
    state.holders.delete(id)
    state.used -= holder.permits
    return true
  }

  /** Leases that are over end, then waiters are served while the head of the queue fits. */
  #serve(state: State): void {
    const now = this.#now()
    if (state.used > 0 && state.earliest <= now) {
      let earliest = Number.POSITIVE_INFINITY
      for (const [id, holder] of state.holders) {
        if (holder.endsAt <= now) this.#end(state, id)
        else earliest = Math.min(earliest, holder.endsAt)
      }
      state.earliest = earliest
    }
    for (const [id, waiter] of state.queue) {
      const dead = waiter.deadline <= now || !this.#clients.has(clientOf(id))
      if (!dead && state.used + waiter.permits > state.limit) return
      state.queue.delete(id)
      if (dead) continue
      const token = this.#grant(state, id, waiter.permits, waiter.ttlMs)
      this.#push(id, (events) => events.granted(id, token))
    }
  }

  #push(id: string, tell: (events: LockEvents) => void): void {
    const events = this.#clients.get(clientOf(id))
    if (events !== undefined) queueMicrotask(() => tell(events))
  }

  #endsIn(state: State): number {
    return state.used === 0 ? 0 : Math.max(0, state.earliest - this.#now())
  }
}

const clientOf = (id: string): string => id.slice(0, id.lastIndexOf('/'))

/** Locks in memory: `createLocks(memoryLocks())`. */
export function memoryLocks(options: MemoryLocksOptions = {}): LockEngine {
  const { store = new MemoryLockStore(), waitersMax = 10_000 } = options
  checkWhole('waitersMax', waitersMax, 1, 1_000_000)
  const client = clientName()
  return {
    engine: 'memory',
    client,
    tellsGaps: true,
    listen: (events) => store.join(client, events),
    acquire: async (request) => store.acquire(request, waitersMax),
    extend: async (key, id, token, ttlMs) => store.extend(key, id, token, ttlMs),
    release: async (key, id) => store.release(key, id),
    list: async (max) => store.list(max),
    break: async (key, id) => store.break(key, id),
    close: async () => store.leave(client),
  }
}
