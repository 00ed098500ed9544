import { inspect } from 'node:util'
import { describe, expect, it, vi } from 'vitest'
import { type DiagnosticEvents, listen } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { LockEngine, LockEvents } from '../contracts/lock.ts'
import { MemoryLockStore, memoryLocks } from '../drivers/memory/lock.ts'
import type { LockClock } from './clock.ts'
import { createLocks, type Locks } from './locks.ts'
import type { AcquireOptions, LocksOptions } from './options.ts'

/** A clock that is set by hand: nothing waits. */
class ManualClock implements LockClock {
  time = 1_000
  readonly #timers = new Map<number, { readonly at: number; readonly callback: () => void }>()
  #count = 0

  now(): number {
    return this.time
  }

  set(callback: () => void, ms: number): unknown {
    this.#timers.set(++this.#count, { at: this.time + ms, callback })
    return this.#count
  }

  clear(timer: unknown): void {
    this.#timers.delete(timer as number)
  }

  get timers(): number {
    return this.#timers.size
  }

  /** Goes on by `ms`, calling what falls due on the way; promises continue in between. */
  async advance(ms: number): Promise<void> {
    const end = this.time + ms
    await settled()
    for (;;) {
      const due = [...this.#timers].filter(([, timer]) => timer.at <= end).sort(([, a], [, b]) => a.at - b.at)[0]
      if (due === undefined) break
      this.#timers.delete(due[0])
      this.time = Math.max(this.time, due[1].at)
      due[1].callback()
      await settled()
    }
    this.time = end
    await settled()
  }

  /** Time goes on, and no timer runs: the process was stopped. */
  stopFor(ms: number): void {
    this.time += ms
  }
}

async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve()
}

interface World {
  readonly clock: ManualClock
  readonly store: MemoryLockStore
  open(options?: LocksOptions, wrap?: (engine: LockEngine) => LockEngine): Locks
}

function world(): World {
  const clock = new ManualClock()
  const store = new MemoryLockStore({ now: () => clock.time, wallUs: () => clock.time * 1_000 })
  return {
    clock,
    store,
    open: (options = {}, wrap = (engine) => engine) => createLocks(wrap(memoryLocks({ store })), { clock, random: () => 0.5, ...options }),
  }
}

const codeOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'it succeeded',
    (error: unknown) => (HeadraceError.is(error) ? error.code : String(error)),
  )

describe('what a caller may ask for', () => {
  const locks = createLocks(memoryLocks())

  it('refuses keys that are empty, too long, no text, or have odd bytes', async () => {
    const bad: unknown[] = [
      '',
      'x'.repeat(513),
      'é'.repeat(257),
      'a\0b',
      'a\ud800b',
      7,
      null,
      undefined,
      [],
      ['a', ''],
      Array.from({ length: 65 }, (_, index) => `k${index}`),
    ]
    for (const key of bad) {
      expect(await codeOf(locks.acquire(key as string)), inspect(key)).toBe('lock-key-invalid')
      expect(await codeOf(locks.tryAcquire(key as string)), inspect(key)).toBe('lock-key-invalid')
      expect(await codeOf(locks.using(key as string, () => 1)), inspect(key)).toBe('lock-key-invalid')
    }
    for (const key of ['x'.repeat(512), 'é'.repeat(256), '😀', ' ', '\n']) await (await locks.acquire(key)).release()
  })

  it('refuses leases and waits that are zero, huge or no number, and options that do not exist', async () => {
    const bad: AcquireOptions[] = [
      { ttlMs: 0 },
      { ttlMs: 49 },
      { ttlMs: 86_400_001 },
      { ttlMs: Number.NaN },
      { ttlMs: 100.5 },
      { ttlMs: '100' as never },
      { waitMs: -1 },
      { waitMs: 1e12 },
      { tokenFloor: 2 ** 53 },
      { mode: 'both' as never },
      { reentrant: 1 as never },
    ]
    for (const options of bad) expect(await codeOf(locks.acquire('k', options)), inspect(options)).toBe('option-invalid')
    await expect(locks.acquire('k', { ttl: 5 } as never)).rejects.toThrow("did you mean 'ttlMs'")
    expect(() => createLocks(memoryLocks(), { waitms: 5 } as never)).toThrow("did you mean 'waitMs'")
    expect(() => createLocks(memoryLocks(), { ttlMs: 0 })).toThrow(/ttlMs must be a whole number/)
    expect(() => locks.semaphore('k', 0)).toThrow(/limit must be/)
    expect(await codeOf(locks.semaphore('k', 2).acquire({ permits: 3 }))).toBe('option-invalid')
  })
})

describe('holding a lock', () => {
  it('gives it back at the end of a block, and at the end of using', async () => {
    const locks = createLocks(memoryLocks())
    {
      await using lease = await locks.acquire('k')
      expect(lease.held).toBe(true)
      expect(locks.counts.held).toBe(1)
      expect(await locks.tryAcquire('k')).toBeNull()
    }
    expect(locks.counts.held).toBe(0)
    expect(await locks.using('k', (lease) => lease.token)).toBeGreaterThan(0)
    await expect(locks.using('k', () => Promise.reject(new Error('mine')))).rejects.toThrow('mine')
    expect(locks.counts.held).toBe(0)
  })

  it('tells that the lease was over before the work ended, unless the work failed itself', async () => {
    const { clock, open } = world()
    const locks = open({ ttlMs: 1_000 })
    const lost = codeOf(locks.using('k', () => clock.advance(1_001), { extend: false }))
    expect(await lost).toBe('lease-lost')
    const failed = locks.using(
      'k',
      async () => {
        await clock.advance(1_001)
        throw new Error('mine')
      },
      { extend: false },
    )
    await expect(failed).rejects.toThrow('mine')
  })

  it('extends the lease from a third of it on, and needs no timer once it is given back', async () => {
    const { clock, open } = world()
    const [mine, theirs] = [open({ ttlMs: 3_000 }), open()]
    const lease = await mine.acquire('k')
    await clock.advance(3_600_000)
    expect(lease.held).toBe(true)
    expect(await theirs.tryAcquire('k')).toBeNull()
    expect(await lease.release()).toBe(true)
    expect(await lease.release()).toBe(true)
    expect(clock.timers).toBe(0)
    expect((await theirs.tryAcquire('k'))?.held).toBe(true)
  })

  it('aborts the signal before the engine can end the lease, when the engine does not answer', async () => {
    const { clock, open } = world()
    let away = false
    const flaky = (engine: LockEngine): LockEngine => ({
      ...engine,
      extend: (...call) => (away ? Promise.reject(new HeadraceError('engine-unavailable')) : engine.extend(...call)),
    })
    const [mine, theirs] = [open({ ttlMs: 1_000 }, flaky), open()]
    const lease = await mine.acquire('k')
    await clock.advance(5_000)
    away = true
    const order: string[] = []
    const awayAt = clock.time
    lease.signal.addEventListener('abort', () => order.push(clock.time < awayAt + 1_000 ? 'aborted in time' : 'aborted late'))
    void theirs.acquire('k').then(() => order.push('handed on'))
    await clock.advance(1_100)
    expect(order).toEqual(['aborted in time', 'handed on'])
    expect(lease.held).toBe(false)
    expect(() => lease.assertHeld()).toThrow(/lost/)
    expect(lease.signal.reason).toMatchObject({ code: 'lease-lost' })
    expect(await lease.release()).toBe(false)
  })

  it('goes on with a lease when the engine answers again in time', async () => {
    const { clock, open } = world()
    let away = false
    const flaky = (engine: LockEngine): LockEngine => ({
      ...engine,
      extend: (...call) => (away ? Promise.reject(new HeadraceError('engine-timeout')) : engine.extend(...call)),
    })
    const locks = open({ ttlMs: 1_000 }, flaky)
    const lease = await locks.acquire('k')
    away = true
    await clock.advance(900)
    away = false
    await clock.advance(5_000)
    expect(lease.held).toBe(true)
  })

  it('is not held any more for a process that was stopped past its lease, before any timer has run', async () => {
    const { clock, open } = world()
    const locks = open({ ttlMs: 1_000 })
    const lease = await locks.acquire('k')
    clock.stopFor(1_001)
    expect(lease.held).toBe(false)
    expect(() => lease.assertHeld()).toThrow(/may be over/)
    await expect(lease.extend()).rejects.toThrow(/had run out/)
    expect(lease.signal.aborted).toBe(true)
  })

  it('does not look at the wall clock: setting it neither ends nor prolongs a lease', async () => {
    const locks = createLocks(memoryLocks({ store: new MemoryLockStore() }), { ttlMs: 150 })
    const wall = vi.spyOn(Date, 'now')
    try {
      for (const stepMs of [-3_600_000, 3_600_000]) {
        const lease = await locks.acquire('k', { extend: false })
        const real = performance.timeOrigin + performance.now()
        wall.mockImplementation(() => real + stepMs)
        expect(lease.held).toBe(true)
        await new Promise((resolve) => lease.signal.addEventListener('abort', resolve))
        expect(lease.held).toBe(false)
      }
    } finally {
      wall.mockRestore()
    }
  })

  it('would be caught on the wall clock: a lease that runs on one is held after its end when the clock is set back', async () => {
    const { clock, open } = world()
    let setBackMs = 0
    const wallClock: LockClock = {
      now: () => clock.now() - setBackMs,
      set: (callback, ms) => clock.set(callback, ms),
      clear: (timer) => clock.clear(timer),
    }
    const lease = await open({ ttlMs: 1_000, clock: wallClock }).acquire('k', { extend: false })
    setBackMs = 600
    const next = open().acquire('k')
    await clock.advance(1_050)
    const second = await next
    // The very fault that the tests above look for: two holders.
    expect([lease.held, second.held]).toEqual([true, true])
  })

  it('is told at once when an operator breaks it, and whoever waits gets it', async () => {
    const { open } = world()
    const [mine, theirs] = [open(), open()]
    const lease = await mine.acquire('k')
    const next = theirs.acquire('k')
    await settled()
    expect(await theirs.break('k')).toBe(1)
    expect((await next).token).toBeGreaterThan(lease.token)
    await settled()
    expect(lease.held).toBe(false)
    expect(lease.signal.reason).toMatchObject({ message: expect.stringContaining('an operator broke it') })
  })
})

describe('waiting for a lock', () => {
  it('counts a pushed lease from when it can have been granted, and extends one that may be half over before it is handed out', async () => {
    const { clock, open } = world()
    const calls: string[] = []
    const late: (() => void)[] = []
    const slowPushes = (engine: LockEngine): LockEngine => ({
      ...engine,
      listen: (events: LockEvents) => engine.listen({ ...events, granted: (id, token) => late.push(() => events.granted(id, token)) }),
      extend: (...call) => {
        calls.push('extend')
        return engine.extend(...call)
      },
    })
    const [mine, theirs] = [open({ ttlMs: 1_000, waitMs: 60_000 }, slowPushes), open({ ttlMs: 30_000 })]
    const held = await theirs.acquire('k')
    const next = mine.acquire('k')
    await clock.advance(10)
    await held.release()
    await settled()
    // The push is on its way for 600 ms of a lease of 1000 ms.
    clock.stopFor(600)
    for (const deliver of late.splice(0)) deliver()
    const lease = await next
    expect(calls).toEqual(['extend'])
    expect(lease.remainingMs).toBeGreaterThan(900)
    await lease.release()
    // One that is prompt costs no call.
    const again = await theirs.acquire('k')
    const prompt = mine.acquire('k')
    await settled()
    await again.release()
    await settled()
    for (const deliver of late.splice(0)) deliver()
    await prompt
    expect(calls).toEqual(['extend'])
  })

  it('asks again when the push came after the lease was over, and takes no old push for a new one', async () => {
    const { clock, open } = world()
    const late: (() => void)[] = []
    const slowPushes = (engine: LockEngine): LockEngine => ({
      ...engine,
      listen: (events: LockEvents) => engine.listen({ ...events, granted: (id, token) => late.push(() => events.granted(id, token)) }),
    })
    const [mine, theirs] = [open({ ttlMs: 1_000, waitMs: 60_000 }, slowPushes), open({ ttlMs: 30_000 })]
    const held = await theirs.acquire('k')
    const next = mine.acquire('k')
    let done = false
    void next.then(() => {
      done = true
    })
    await settled()
    await held.release()
    await settled()
    // Granted and over without our knowing; somebody else holds it now.
    clock.stopFor(1_500)
    const other = await theirs.acquire('k')
    for (const deliver of late) deliver()
    await settled()
    expect(done).toBe(false)
    // In the queue again; the old push comes once more.
    for (const deliver of late) deliver()
    await settled()
    expect(done).toBe(false)
    late.length = 0
    await other.release()
    await settled()
    for (const deliver of late.splice(0)) deliver()
    expect((await next).token).toBeGreaterThan(other.token)
  })

  it('finds out by itself, one lease later at most, when a push is lost', async () => {
    const { clock, open } = world()
    const deaf = (engine: LockEngine): LockEngine => ({ ...engine, listen: (events) => engine.listen({ ...events, granted: () => {} }) })
    const [mine, theirs] = [open({ ttlMs: 1_000, waitMs: 60_000 }, deaf), open({ ttlMs: 1_000 })]
    const held = await theirs.acquire('k')
    const waiting = [mine.acquire('k'), mine.acquire('k'), mine.acquire('k')]
    const got: number[] = []
    for (const each of waiting) {
      void each.then((lease) => {
        got.push(lease.token)
        return lease.release()
      })
    }
    await settled()
    await held.release()
    await clock.advance(4_000)
    expect(got).toHaveLength(3)
  })

  it('survives an engine that forgets everything while callers wait', async () => {
    const { clock, store, open } = world()
    const locks = open({ ttlMs: 1_000, waitMs: 60_000 })
    const lease = await locks.acquire('k')
    const waiting = [1, 2, 3].map(() => locks.acquire('k'))
    await settled()
    store.clear()
    await clock.advance(500)
    expect(lease.held).toBe(false)
    const tokens: number[] = []
    for (const each of waiting) {
      void each.then((next) => {
        tokens.push(next.token)
        return next.release()
      })
    }
    await clock.advance(5_000)
    expect(tokens).toHaveLength(3)
    expect([lease.token, ...tokens]).toEqual([lease.token, ...tokens].sort((a, b) => a - b))
    expect(new Set([lease.token, ...tokens]).size).toBe(4)
  })

  it('gives higher tokens to this process even when the engine lost its data and its clock', async () => {
    const { clock, store } = world()
    let backUs = 0
    const lost = new MemoryLockStore({ now: () => clock.time, wallUs: () => clock.time * 1_000 - backUs })
    const locks = createLocks(memoryLocks({ store: lost }), { clock })
    const first = await locks.acquire('k')
    await first.release()
    lost.clear()
    store.clear()
    backUs = 500_000
    expect((await locks.acquire('k')).token).toBeGreaterThan(first.token)
    const floor = first.token + 1_000_000_000
    expect((await locks.acquire('other', { tokenFloor: floor })).token).toBeGreaterThan(floor)
  })

  it('rides out an engine that is away for a while, and passes its error on when it stays away', async () => {
    const { clock, open } = world()
    let away = true
    const flaky = (engine: LockEngine): LockEngine => ({
      ...engine,
      acquire: (request) => (away ? Promise.reject(new HeadraceError('engine-unavailable')) : engine.acquire(request)),
    })
    const locks = open({ waitMs: 2_000 }, flaky)
    const rode = locks.acquire('k')
    await clock.advance(1_000)
    away = false
    await clock.advance(600)
    expect((await rode).held).toBe(true)
    away = true
    const failed = codeOf(locks.acquire('other'))
    await clock.advance(2_100)
    expect(await failed).toBe('engine-unavailable')
    expect(await codeOf(locks.tryAcquire('other'))).toBe('engine-unavailable')
    expect(locks.counts.waiting).toBe(0)
  })

  it('bounds the callers that wait in this process', async () => {
    const { open } = world()
    const locks = open({ waitersMax: 2 })
    const held = await locks.acquire('k')
    const [a, b] = [locks.acquire('k'), locks.acquire('k')]
    expect(await codeOf(locks.acquire('k'))).toBe('lock-queue-full')
    await held.release()
    await (await a).release()
    await (await b).release()
  })

  it('says that this very process holds what was waited for in vain', async () => {
    const { clock, open } = world()
    const locks = open({ waitMs: 1_000 })
    await locks.acquire('k')
    const second = locks.acquire('k').catch((error: Error) => error.message)
    await clock.advance(1_001)
    expect(await second).toContain('A lease of this process holds it')
    await expect(locks.acquire('k', { waitMs: 0 })).rejects.toThrow(/waitMs is 0/)
  })

  it('ends for everybody when the locks are closed, and gives back what is held', async () => {
    const { store, open } = world()
    const locks = open()
    await locks.acquire('k')
    const waiting = codeOf(locks.acquire('k'))
    await settled()
    await locks.close()
    await locks.close()
    expect(await waiting).toBe('lock-closed')
    expect(await codeOf(locks.acquire('k'))).toBe('lock-closed')
    expect(store.list(10)).toEqual([])
  })
})

describe('taking a key that is held already', () => {
  it('is refused with a clear error inside using, also from what it calls', async () => {
    const locks = createLocks(memoryLocks())
    const inner = (): Promise<unknown> => locks.acquire(['other', 'k'])
    await locks.using('k', async () => {
      expect(await codeOf(locks.acquire('k'))).toBe('lock-reentered')
      expect(await codeOf(locks.using('k', () => 1))).toBe('lock-reentered')
      expect(await codeOf(Promise.resolve().then(inner))).toBe('lock-reentered')
      await (await locks.acquire('other')).release()
    })
    await (await locks.acquire('k')).release()
  })

  it('gives the lease that is held when it is asked for, and gives it back once', async () => {
    const locks = createLocks(memoryLocks())
    await locks.using(['a', 'b'], async (outer) => {
      await locks.using(
        'a',
        async (inner) => {
          expect(inner.token).toBe(outer.tokens.get('a'))
          expect(inner.signal).toBe(outer.signal)
        },
        { reentrant: true },
      )
      expect(outer.held).toBe(true)
      const nested = await locks.acquire('b', { reentrant: true })
      expect(await nested.release()).toBe(true)
      expect(nested.held).toBe(false)
      expect(await codeOf(locks.acquire(['b', 'c'], { reentrant: true }))).toBe('lock-reentered')
    })
    expect(locks.counts.held).toBe(0)
  })

  it('is never an upgrade from shared to exclusive', async () => {
    const locks = createLocks(memoryLocks())
    await locks.using(
      'k',
      async () => {
        expect(await codeOf(locks.acquire('k', { reentrant: true }))).toBe('lock-reentered')
        await (await locks.acquire('k', { mode: 'shared', reentrant: true })).release()
      },
      { mode: 'shared' },
    )
  })

  it('does not count for work that outlives its lease, nor for other locks', async () => {
    const locks = createLocks(memoryLocks())
    const others = createLocks(memoryLocks())
    let later!: () => Promise<string>
    await locks.using('k', async () => {
      later = () => codeOf(locks.acquire('k').then((lease) => lease.release()))
      await (await others.acquire('k')).release()
      setImmediate(() => {})
    })
    expect(await later()).toBe('it succeeded')
  })
})

describe('what the locks tell of themselves', () => {
  it('publishes waiting, grants, refusals, releases and losses, with gauges', async () => {
    const { clock, open } = world()
    const locks = open({ ttlMs: 1_000 })
    const heard: DiagnosticEvents['headrace:lock'][] = []
    const stop = listen('headrace:lock', (event) => heard.push(event))
    const first = await locks.acquire('k')
    const second = locks.acquire('k')
    await clock.advance(20)
    expect(locks.counts).toEqual({ held: 1, waiting: 1 })
    await first.release()
    await (await second).release()
    await locks.tryAcquire('k', { extend: false })
    await clock.advance(2_000)
    await locks.tryAcquire('k')
    await locks.tryAcquire('k')
    stop()
    expect(heard.map((event) => event.event)).toEqual([
      'granted',
      'waiting',
      'released',
      'granted',
      'released',
      'granted',
      'lost',
      'granted',
      'refused',
    ])
    expect(heard[1]).toEqual({ engine: 'memory', event: 'waiting', key: 'k', waitMs: 0, heldMs: 0, held: 1, waiting: 1 })
    expect(heard[2]).toMatchObject({ heldMs: 20, held: 0 })
    expect(heard[3]).toMatchObject({ waitMs: 20, held: 1, waiting: 0 })
  })

  it('lists locks by kind, with who holds them', async () => {
    const locks = createLocks(memoryLocks())
    await locks.acquire('a')
    await locks.acquire('b', { mode: 'shared' })
    await locks.semaphore('c', 5).acquire({ permits: 2 })
    void locks.acquire('a').catch(() => {})
    await settled()
    const listed = await locks.list()
    expect(listed.map(({ key, kind, limit, waiting }) => ({ key, kind, limit, waiting }))).toEqual([
      { key: 'a', kind: 'exclusive', limit: null, waiting: 1 },
      { key: 'b', kind: 'shared', limit: null, waiting: 0 },
      { key: 'c', kind: 'semaphore', limit: 5, waiting: 0 },
    ])
    expect(listed[0]?.holders[0]?.owner).toMatch(new RegExp(`:${process.pid}$`))
    expect(listed.map((lock) => lock.holders[0]?.permits)).toEqual([1, 1, 2])
    await locks.close()
  })
})
