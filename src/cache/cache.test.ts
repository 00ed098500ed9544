import { afterEach, describe, expect, it, vi } from 'vitest'
import { deferred } from '../std/deferred.ts'
import { type Cache, type CacheOptions, createCache, type Load, versioned } from './index.ts'

const open: Cache[] = []
let clock = 0

function cacheOf(options: CacheOptions = {}): Cache {
  clock = 1_000
  const cache = createCache({ now: () => clock, ...options })
  open.push(cache)
  return cache
}

afterEach(async () => {
  for (const cache of open.splice(0)) await cache.close()
})

/** A load that waits until the test lets it go. */
function gate<T>(): {
  readonly load: Load<T>
  readonly calls: () => number
  readonly begun: (count?: number) => Promise<void>
  readonly end: (value: T, call?: number) => void
  readonly fail: (error: unknown, call?: number) => void
  readonly floors: number[]
} {
  const answers: ReturnType<typeof deferred<T>>[] = []
  const floors: number[] = []
  return {
    load: ({ floor }) => {
      floors.push(floor)
      const answer = deferred<T>()
      answers.push(answer)
      return answer.promise
    },
    calls: () => answers.length,
    begun: (count = 1) => vi.waitFor(() => expect(answers.length).toBeGreaterThanOrEqual(count), { interval: 1 }),
    end: (value, call = answers.length) => answers[call - 1]?.resolve(value),
    fail: (error, call = answers.length) => answers[call - 1]?.reject(error),
    floors,
  }
}

describe('get', () => {
  it('loads once and then answers from memory', async () => {
    const cache = cacheOf()
    const load = vi.fn(() => ({ left: 3 }))
    expect(await cache.get('a', load)).toEqual({ left: 3 })
    expect(await cache.get('a', load)).toEqual({ left: 3 })
    expect(cache.getSync('a')).toEqual({ left: 3 })
    expect(load).toHaveBeenCalledTimes(1)
    expect(cache.stats()).toMatchObject({ hits: 2, misses: 1, loads: 1, entries: 1 })
  })

  it('loads once for all who ask at the same time', async () => {
    const cache = cacheOf()
    const { load, calls, begun, end } = gate<number>()
    const asked = Array.from({ length: 1_000 }, () => cache.get('a', load))
    await begun()
    end(7)
    expect(new Set(await Promise.all(asked))).toEqual(new Set([7]))
    expect(calls()).toBe(1)
    expect(cache.stats()).toMatchObject({ joined: 999, waiting: 0, loading: 0 })
  })

  it('loads anew when the time to live is over', async () => {
    const cache = cacheOf({ ttlMs: 100, earlyRefresh: 0 })
    let value = 0
    const load = (): number => ++value
    expect(await cache.get('a', load)).toBe(1)
    clock += 99
    expect(await cache.get('a', load)).toBe(1)
    clock += 1
    expect(cache.getSync('a')).toBeUndefined()
    expect(await cache.get('a', load)).toBe(2)
  })

  it('gives the error of the load to all who wait, and tries again for the next', async () => {
    const cache = cacheOf()
    const { load, begun, fail, end } = gate<number>()
    const asked = [cache.get('a', load), cache.get('a', load)]
    await begun()
    fail(new Error('database is gone'))
    for (const one of await Promise.allSettled(asked))
      expect(one).toMatchObject({ status: 'rejected', reason: { message: 'database is gone' } })
    const next = cache.get('a', load)
    await begun(2)
    end(1)
    expect(await next).toBe(1)
  })

  it('gives a load that throws before it returns a promise to the asker as a rejection', async () => {
    const cache = cacheOf()
    await expect(
      cache.get('a', () => {
        throw new Error('at once')
      }),
    ).rejects.toThrow('at once')
    expect(cache.stats()).toMatchObject({ loading: 0, waiting: 0, loadErrors: 1 })
  })

  it('hands out frozen values, since all askers share them', async () => {
    const cache = cacheOf()
    const value = await cache.get('a', () => ({ inner: { list: [1] } }))
    expect(() => value.inner.list.push(2)).toThrow(TypeError)
    expect(Object.isFrozen(value.inner)).toBe(true)
    const loose = cache.namespace('loose', { freeze: false })
    expect(Object.isFrozen(await loose.get('a', () => ({ inner: 1 })))).toBe(false)
  })

  it('keeps namespaces apart', async () => {
    const cache = cacheOf()
    const other = cache.namespace('other')
    expect(await cache.get('a', () => 1)).toBe(1)
    expect(await other.get('a', () => 2)).toBe(2)
    await other.invalidate('a')
    expect(cache.getSync('a')).toBe(1)
    expect(other.getSync('a')).toBeUndefined()
    expect(cache.namespace('other')).toBe(other)
  })
})

describe('versions and floors', () => {
  it('never stores what was loaded before an invalidation came: 200 of 200', async () => {
    const cache = cacheOf()
    for (let round = 0; round < 200; round++) {
      const key = `key-${round}`
      const { load, begun, end } = gate<string>()
      const before = cache.get(key, load)
      await begun()
      await cache.invalidate(key)
      end('old')
      expect(await before).toBe('old')
      expect(cache.getSync(key)).toBeUndefined()
      expect(await cache.get(key, () => 'new')).toBe('new')
    }
  })

  it('never stores what was loaded before a command raised the floor: 200 of 200', async () => {
    const cache = cacheOf()
    for (let round = 0; round < 200; round++) {
      const key = `key-${round}`
      const { load, begun, end, floors } = gate<string>()
      const before = cache.get(key, load)
      await begun()
      await cache.invalidate(key, 41 + round)
      end('old')
      expect(await before).toBe('old')
      expect(cache.getSync(key)).toBeUndefined()
      expect(floors).toEqual([0])
      expect(await cache.get(key, ({ floor }) => `at ${floor}`)).toBe(`at ${41 + round}`)
    }
  })

  it('gives nobody who asks after the raise a value that was loaded before it', async () => {
    const cache = cacheOf()
    const { load, begun, end, calls } = gate<string>()
    const before = cache.get('a', load)
    await begun()
    await cache.invalidate('a', 5)
    const after = cache.get('a', load)
    await begun(2)
    end('new', 2)
    end('old', 1)
    expect(await before).toBe('old')
    expect(await after).toBe('new')
    expect(cache.getSync('a')).toBe('new')
    expect(calls()).toBe(2)
  })

  it('stores what was loaded before the raise when its version shows that it is new enough', async () => {
    const cache = cacheOf()
    const { load, begun, end } = gate<ReturnType<typeof versioned<string>>>()
    const asked = cache.get<string>('a', load as unknown as Load<string>)
    await begun()
    await cache.invalidate('a', 5)
    end(versioned('read at 5', 5))
    expect(await asked).toBe('read at 5')
    expect(cache.getSync('a')).toBe('read at 5')
  })

  it('never cuts off an entry that is newer than the floor', async () => {
    const cache = cacheOf()
    await cache.get('a', () => versioned('nine', 9))
    await cache.invalidate('a', 8)
    expect(cache.getSync('a')).toBe('nine')
    await cache.invalidate('a', 9)
    expect(cache.getSync('a')).toBe('nine')
    await cache.invalidate('a', 10)
    expect(cache.getSync('a')).toBeUndefined()
  })

  it('repeats a load that reads from a replica behind the floor', async () => {
    const cache = cacheOf({ now: () => performance.now() })
    await cache.invalidate('a', 3)
    let replica = 1
    const load = vi.fn(({ floor }: { floor: number }) => versioned(`floor ${floor}`, replica++))
    expect(await cache.get('a', load)).toBe('floor 3')
    expect(load).toHaveBeenCalledTimes(3)
    expect(cache.stats().repeats).toBe(2)
  })

  it('gives up on a replica that stays behind, with a code that says so', async () => {
    const cache = cacheOf({ now: () => performance.now(), loadTimeoutMs: 60 })
    await cache.invalidate('a', 3)
    await expect(cache.get('a', () => versioned('old', 2))).rejects.toMatchObject({ code: 'cache-below-floor', retryable: true })
    expect(cache.getSync('a')).toBeUndefined()
  })

  it('keeps a floor that came twice, or late', async () => {
    const cache = cacheOf()
    await cache.invalidate('a', 7)
    await cache.invalidate('a', 6)
    await cache.invalidate('a', 7)
    expect(cache.floor('a')).toBe(7)
    expect(cache.stats().raises).toBe(1)
  })

  it('gives a reader of its own writes no older value', async () => {
    const cache = cacheOf()
    await cache.get('a', () => versioned('four', 4))
    expect(await cache.get('a', () => 'unasked', { minVersion: 4 })).toBe('four')
    const load = vi.fn(({ floor }: { floor: number }) => versioned(`read at ${floor}`, floor))
    expect(await cache.get('a', load, { minVersion: 6 })).toBe('read at 6')
    expect(cache.floor('a')).toBe(0)
  })

  it('does not let a reader of its own writes join a load that began before it asked', async () => {
    const cache = cacheOf()
    const { load, begun, end } = gate<string>()
    const before = cache.get('a', load)
    await begun()
    const mine = cache.get('a', load, { minVersion: 3 })
    await begun(2)
    end('before', 1)
    end('mine', 2)
    expect([await before, await mine]).toEqual(['before', 'mine'])
  })

  it('lets no claim of a reader raise the floor for others', async () => {
    const cache = cacheOf()
    await cache.get('a', () => 'plain', { minVersion: 2 ** 53 - 1 })
    expect(cache.floor('a')).toBe(0)
    await cache.invalidate('a', 1)
    expect(cache.getSync('a')).toBeUndefined()
  })

  it('loads a key that is written all the time at most twice at once', async () => {
    const cache = cacheOf()
    const { load, begun, end, calls } = gate<string>()
    const asked = [cache.get('a', load)]
    for (let version = 1; version <= 50; version++) {
      await cache.invalidate('a', version)
      asked.push(cache.get('a', load), cache.get('a', load))
    }
    await begun(2)
    expect(calls()).toBe(2)
    end('first', 1)
    await begun(3)
    end('second', 2)
    end('third', 3)
    const answers = await Promise.all(asked)
    expect(answers.at(-1)).toBe('third')
    expect(calls()).toBe(3)
    expect(cache.getSync('a')).toBe('third')
  })

  it('gives a stale value below the floor only to a query that says so', async () => {
    const cache = cacheOf({ staleMs: 10_000, staleIfErrorMs: 10_000 })
    const counts = cache.namespace('counts', { staleAfterRaiseMs: 50 })
    for (const namespace of [cache, counts]) {
      await namespace.get('a', () => 'old')
      await namespace.invalidate('a', 1)
    }
    clock += 49
    const { load, begun, end } = gate<string>()
    expect(await counts.get('a', load)).toBe('old')
    const strict = cache.get('a', load)
    await begun(2)
    end('new', 1)
    end('new', 2)
    expect(await strict).toBe('new')
    await vi.waitFor(() => expect(counts.getSync('a')).toBe('new'))
    await counts.invalidate('a', 2)
    clock += 50
    expect(await counts.get('a', () => 'newer')).toBe('newer')
  })
})

describe('set', () => {
  it('raises the floor with its version, and refuses an older one', async () => {
    const cache = cacheOf()
    await cache.set('a', 'five', { version: 5 })
    await cache.set('a', 'four', { version: 4 })
    expect(cache.getSync('a')).toBe('five')
    expect(cache.floor('a')).toBe(5)
  })

  it('is not undone by a load that began before it', async () => {
    const cache = cacheOf()
    const { load, begun, end } = gate<string>()
    const asked = cache.get('a', load)
    await begun()
    void cache.set('a', 'set')
    expect(cache.getSync('a')).toBe('set')
    end('loaded before')
    await asked
    expect(cache.getSync('a')).toBe('set')
  })
})

describe('tags', () => {
  it('fall together with all that carry them', async () => {
    const cache = cacheOf()
    for (const [key, tags] of [
      ['a', ['red']],
      ['b', ['red', 'blue']],
      ['c', ['blue']],
    ] as const)
      await cache.get(key, () => key, { tags })
    await cache.invalidateTag('red')
    expect(['a', 'b', 'c'].map((key) => cache.getSync(key))).toEqual([undefined, undefined, 'c'])
  })

  it('have floors like keys', async () => {
    const cache = cacheOf()
    await cache.get('a', () => versioned('six', 6), { tags: ['red'] })
    await cache.invalidateTag('red', 6)
    expect(cache.getSync('a')).toBe('six')
    await cache.invalidateTag('red', 7)
    expect(cache.getSync('a')).toBeUndefined()
    expect(await cache.get('a', ({ floor }) => versioned(`floor ${floor}`, floor), { tags: ['red'] })).toBe('floor 7')
  })

  it('keep a load that began before they fell out of the cache, and new askers out of that load', async () => {
    const cache = cacheOf()
    const { load, begun, end } = gate<string>()
    const before = cache.get('a', load, { tags: ['red'] })
    await begun()
    await cache.invalidateTag('red')
    const after = cache.get('a', load, { tags: ['red'] })
    await begun(2)
    end('old', 1)
    end('new', 2)
    expect([await before, await after]).toEqual(['old', 'new'])
    expect(cache.getSync('a')).toBe('new')
  })

  it('are bounded: past tagsMax L1 starts empty', async () => {
    const cache = cacheOf({ tagsMax: 16 })
    for (let i = 0; i < 17; i++) await cache.get(`k${i}`, () => i, { tags: [`t${i}`] })
    expect(cache.stats()).toMatchObject({ flushes: 1, entries: 0 })
    await cache.get('k16', () => 16, { tags: ['t16'] })
    expect(cache.getSync('k16')).toBe(16)
    await cache.invalidateTag('t16')
    expect(cache.getSync('k16')).toBeUndefined()
  })
})

describe('stale values', () => {
  it('are served at once while the value is loaded anew', async () => {
    const cache = cacheOf({ ttlMs: 100, staleMs: 50, earlyRefresh: 0 })
    await cache.get('a', () => 'old')
    clock += 149
    const { load, begun, end, calls } = gate<string>()
    expect(await Promise.all([cache.get('a', load), cache.get('a', load)])).toEqual(['old', 'old'])
    await begun()
    end('new')
    await vi.waitFor(() => expect(cache.getSync('a')).toBe('new'))
    expect(calls()).toBe(1)
    clock += 150
    expect(await cache.get('a', () => 'newest')).toBe('newest')
  })

  it('wait for the soft timeout first, when there is one', async () => {
    const cache = cacheOf({ ttlMs: 100, staleMs: 50, softTimeoutMs: 20, earlyRefresh: 0 })
    await cache.get('a', () => 'old')
    clock += 110
    expect(await cache.get('a', () => 'quick')).toBe('quick')
    clock += 110
    const { load, begun, end } = gate<string>()
    expect(await cache.get('a', load)).toBe('quick')
    await begun()
    end('late')
    await vi.waitFor(() => expect(cache.getSync('a')).toBe('late'))
  })

  it('stand in for a load that fails, and spare the database for a while', async () => {
    const cache = cacheOf({ ttlMs: 100, staleIfErrorMs: 5_000, errorPauseMs: 1_000, earlyRefresh: 0 })
    await cache.get('a', () => 'old')
    clock += 200
    const broken = vi.fn(() => Promise.reject(new Error('down')))
    expect(await cache.get('a', broken)).toBe('old')
    clock += 999
    expect(await cache.get('a', broken)).toBe('old')
    expect(broken).toHaveBeenCalledTimes(1)
    clock += 1
    expect(await cache.get('a', broken)).toBe('old')
    expect(broken).toHaveBeenCalledTimes(2)
    clock += 5_000
    await expect(cache.get('a', broken)).rejects.toThrow('down')
  })

  it('stand in for a load that is later than the hard timeout', async () => {
    const cache = cacheOf({ ttlMs: 100, staleIfErrorMs: 5_000, hardTimeoutMs: 20, earlyRefresh: 0 })
    await cache.get('a', () => 'old')
    clock += 200
    const { load, end, begun } = gate<string>()
    expect(await cache.get('a', load)).toBe('old')
    await begun()
    end('late')
    await vi.waitFor(() => expect(cache.getSync('a')).toBe('late'))
  })
})

describe('timeouts', () => {
  it('let no asker wait longer than the hard timeout; the load goes on and fills', async () => {
    const cache = cacheOf({ hardTimeoutMs: 20 })
    const { load, end } = gate<string>()
    await expect(cache.get('a', load)).rejects.toMatchObject({ code: 'cache-load-timeout', retryable: true })
    end('late')
    await vi.waitFor(() => expect(cache.getSync('a')).toBe('late'))
  })

  it('end a load that never returns, and free its key', async () => {
    const cache = cacheOf({ now: () => performance.now(), loadTimeoutMs: 20 })
    const seen = deferred<unknown>()
    const never = cache.get('a', ({ signal }) => {
      signal.addEventListener('abort', () => seen.resolve(signal.reason))
      return new Promise<string>(() => {})
    })
    await expect(never).rejects.toMatchObject({ code: 'cache-load-timeout' })
    expect(await seen.promise).toMatchObject({ code: 'cache-load-timeout' })
    expect(cache.stats()).toMatchObject({ loading: 0, waiting: 0 })
    expect(await cache.get('a', () => 'again')).toBe('again')
  })

  it('let an asker go when its signal aborts, and the others have the value', async () => {
    const cache = cacheOf()
    const { load, end, begun } = gate<string>()
    const controller = new AbortController()
    const gone = cache.get('a', load, { signal: controller.signal })
    const stays = cache.get('a', load)
    await begun()
    controller.abort()
    await expect(gone).rejects.toMatchObject({ code: 'wait-aborted' })
    end('value')
    expect(await stays).toBe('value')
  })
})

describe('bounds', () => {
  it('refuse a load past loadsMax and a wait past waitersMax, at once', async () => {
    const cache = cacheOf({ loadsMax: 2, waitersMax: 3 })
    const { load, end, begun } = gate<string>()
    const taken = [cache.get('a', load), cache.get('b', load)]
    await expect(cache.get('c', load)).rejects.toMatchObject({
      code: 'cache-busy',
      message: expect.stringContaining('loadsMax'),
      retryAfterMs: 1_000,
    })
    taken.push(cache.get('b', load))
    await expect(cache.get('a', load)).rejects.toMatchObject({ code: 'cache-busy', message: expect.stringContaining('waitersMax') })
    await begun(2)
    end('a', 1)
    end('b', 2)
    expect(await Promise.all(taken)).toEqual(['a', 'b', 'b'])
    expect(await cache.get('c', () => 'c')).toBe('c')
  })

  it('keep L1 within its bytes, as far as they can be known', async () => {
    const bytesMax = 512 * 1024
    const cache = cacheOf({ bytesMax })
    for (let i = 0; i < 2_000; i++) await cache.get(`key-${i}`, () => ({ text: 'x'.repeat(1_000), i }))
    const { bytes, entries, evictions } = cache.stats()
    expect(bytes).toBeLessThanOrEqual(bytesMax)
    expect(entries).toBeGreaterThan(300)
    expect(evictions).toBe(2_000 - entries)
  })

  it('serve a value that is too large for L1, and do not keep it', async () => {
    const cache = cacheOf({ bytesMax: 64 * 1024 })
    expect(await cache.get('a', () => 'x'.repeat(20_000))).toHaveLength(20_000)
    expect(cache.getSync('a')).toBeUndefined()
    expect(cache.stats()).toMatchObject({ tooLarge: 1, entries: 0, bytes: 0 })
  })

  it('close at once, with all who wait told so', async () => {
    const cache = cacheOf()
    const { load, begun } = gate<string>()
    const waiting = cache.get('a', load)
    await begun()
    await cache.close()
    await expect(waiting).rejects.toMatchObject({ code: 'cache-closed' })
    await expect(cache.get('b', load)).rejects.toMatchObject({ code: 'cache-closed' })
    await expect(cache.invalidate('b')).rejects.toMatchObject({ code: 'cache-closed' })
  })
})

describe('nothing there', () => {
  it('is remembered for a shorter time, and falls like a value', async () => {
    const cache = cacheOf({ ttlMs: 10_000, negativeTtlMs: 100, earlyRefresh: 0 })
    const load = vi.fn(() => null)
    expect(await cache.get('a', load)).toBeNull()
    clock += 99
    expect(await cache.get('a', load)).toBeNull()
    expect(load).toHaveBeenCalledTimes(1)
    await cache.invalidate('a', 1)
    expect(await cache.get('a', load)).toBeNull()
    clock += 100
    expect(await cache.get('a', load)).toBeNull()
    expect(load).toHaveBeenCalledTimes(3)
  })

  it('is not remembered with negativeTtlMs 0, and does not leave the old value behind', async () => {
    const cache = cacheOf({ ttlMs: 100, negativeTtlMs: 0, staleIfErrorMs: 10_000, earlyRefresh: 0 })
    await cache.get('a', () => 'was there')
    clock += 100
    expect(await cache.get('a', () => undefined)).toBeUndefined()
    await expect(cache.get('a', () => Promise.reject(new Error('down')))).rejects.toThrow('down')
  })
})

describe('early refresh', () => {
  it('loads anew in the background before the end, the likelier the nearer', async () => {
    let dice = 0
    const cache = cacheOf({ ttlMs: 1_000, random: () => dice })
    // A load of 10 ms by the clock.
    const slow = (value: string) => (): string => {
      clock += 10
      return value
    }
    await cache.get('a', slow('old'))
    clock += 995
    dice = 0.2
    expect(await cache.get('a', slow('early'))).toBe('old')
    expect(cache.stats().early).toBe(0)
    dice = 0.9
    expect(await cache.get('a', slow('early'))).toBe('old')
    expect(cache.stats().early).toBe(1)
    await vi.waitFor(() => expect(cache.getSync('a')).toBe('early'))
    expect(cache.stats().misses).toBe(1)
  })
})

describe('getMany', () => {
  it('loads what is missing with one call, and joins loads under way', async () => {
    const cache = cacheOf()
    await cache.get('a', () => 'A')
    const { load, begun, end } = gate<string>()
    const underWay = cache.get('b', load)
    await begun()
    const loadMany = vi.fn(
      (keys: readonly string[]) => new Map(keys.filter((key) => key !== 'none').map((key) => [key, key.toUpperCase()])),
    )
    const asked = cache.getMany(['a', 'b', 'c', 'd', 'c', 'none'], loadMany)
    await vi.waitFor(() => expect(loadMany).toHaveBeenCalled())
    end('B')
    expect(await asked).toEqual(
      new Map([
        ['a', 'A'],
        ['b', 'B'],
        ['c', 'C'],
        ['d', 'D'],
      ]),
    )
    expect(await underWay).toBe('B')
    expect(loadMany).toHaveBeenCalledTimes(1)
    expect(loadMany.mock.calls[0]?.[0]).toEqual(['c', 'd', 'none'])
    expect(cache.getSync('d')).toBe('D')
  })

  it('passes the floors, and does not store what is below', async () => {
    const cache = cacheOf()
    await cache.invalidate('a', 4)
    const begun = deferred<ReadonlyMap<string, number>>()
    const go = deferred<void>()
    const asked = cache.getMany(['a', 'b'], async (keys, { floors }) => {
      begun.resolve(floors)
      await go.promise
      return new Map(keys.map((key) => [key, 'old']))
    })
    expect(await begun.promise).toEqual(
      new Map([
        ['a', 4],
        ['b', 0],
      ]),
    )
    await cache.invalidate('b', 9)
    go.resolve()
    expect(await asked).toEqual(
      new Map([
        ['a', 'old'],
        ['b', 'old'],
      ]),
    )
    expect(cache.getSync('a')).toBe('old')
    expect(cache.getSync('b')).toBeUndefined()
  })

  it('takes more keys than loads are allowed at once, as one load', async () => {
    const cache = cacheOf({ loadsMax: 1 })
    const keys = Array.from({ length: 500 }, (_, i) => `key-${i}`)
    expect((await cache.getMany(keys, (missing) => new Map(missing.map((key) => [key, 1])))).size).toBe(500)
  })
})

describe('warm', () => {
  it('loads a list before it is asked for, a few at a time, and says how far it is', async () => {
    const cache = cacheOf({ now: () => performance.now() })
    let atOnce = 0
    let most = 0
    const seen: number[] = []
    const report = await cache.warm(
      Array.from({ length: 50 }, (_, i) => `key-${i}`),
      async ({ key }) => {
        most = Math.max(most, ++atOnce)
        await new Promise(setImmediate)
        atOnce--
        if (key === 'key-7') throw new Error('no seven')
        return key
      },
      { concurrency: 4, onProgress: ({ done, failed, total }) => seen.push(done + failed, total ?? -1) },
    )
    expect(report).toMatchObject({ done: 49, failed: 1, total: 50, errors: [{ key: 'key-7' }] })
    expect(most).toBe(4)
    expect(seen.slice(-2)).toEqual([50, 50])
    expect(cache.getSync('key-49')).toBe('key-49')
  })

  it('takes its keys from a query as they come, and stops when told', async () => {
    const cache = cacheOf({ now: () => performance.now() })
    const controller = new AbortController()
    let drawn = 0
    async function* rows(): AsyncGenerator<string> {
      for (;;) yield `row-${++drawn}`
    }
    const report = await cache.warm(rows(), ({ key }) => key, {
      concurrency: 2,
      signal: controller.signal,
      onProgress: ({ done }) => done === 10 && controller.abort(),
    })
    expect(report.done).toBeGreaterThanOrEqual(10)
    expect(drawn).toBeLessThan(20)
  })
})

describe('hot keys', () => {
  it('are found among many, with their share', async () => {
    const cache = cacheOf({ hotKeysMax: 16, random: Math.random })
    for (let i = 0; i < 1_000; i++) await cache.get(`cold-${i}`, () => 1)
    for (let i = 0; i < 20_000; i++) await cache.get(i % 4 === 0 ? 'hot' : `cold-${i % 1_000}`, () => 1)
    const [first] = cache.hotKeys()
    expect(first).toMatchObject({ namespace: 'main', key: 'hot' })
    expect(first?.share).toBeGreaterThan(0.15)
    expect(first?.share).toBeLessThan(0.4)
  })
})

describe('bad input', () => {
  const load = (): number => 1
  it.each([
    ['empty', ''],
    ['too long', 'x'.repeat(513)],
    ['too long in UTF-8', 'ü'.repeat(257)],
    ['half a pair', 'a\ud800b'],
    ['half a pair at the end', 'a\udc00'],
    ['a number', 7 as unknown as string],
    ['null', null as unknown as string],
  ])('refuses a key that is %s', async (_, key) => {
    const cache = cacheOf()
    await expect(cache.get(key, load)).rejects.toMatchObject({ code: 'cache-key-invalid' })
    await expect(cache.invalidate(key)).rejects.toMatchObject({ code: 'cache-key-invalid' })
    await expect(cache.set(key, 1)).rejects.toMatchObject({ code: 'cache-key-invalid' })
    await expect(cache.get('a', load, { tags: [key] })).rejects.toMatchObject({ code: 'cache-key-invalid' })
    expect(cache.stats().loads).toBe(0)
  })

  it.each(['with space', 'line\nbreak', 'nul\0', '日本語', '😀', '__proto__', '{braces}'])('takes the key %j', async (key) => {
    const cache = cacheOf()
    expect(await cache.get(key, () => key)).toBe(key)
    expect(cache.getSync(key)).toBe(key)
  })

  it.each([0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 400 * 24 * 3_600_000, '60' as unknown as number])(
    'refuses a time to live of %j',
    async (ttlMs) => {
      expect(() => createCache({ ttlMs })).toThrow(expect.objectContaining({ code: 'option-invalid' }))
      await expect(cacheOf().get('a', load, { ttlMs })).rejects.toMatchObject({ code: 'option-invalid' })
    },
  )

  it('refuses an option that it does not know, with the nearest one', async () => {
    expect(() => createCache({ ttl: 1 } as object)).toThrow(/did you mean 'ttlMs'/)
    await expect(cacheOf().get('a', load, { staleMS: 1 } as object)).rejects.toThrow(/did you mean 'staleMs'/)
    expect(() => cacheOf().namespace('n', { tag: [] } as object)).toThrow(/did you mean 'tags'/)
    expect(() => cacheOf().namespace('no spaces')).toThrow(expect.objectContaining({ code: 'option-invalid' }))
  })

  it('refuses a version that is no whole number', async () => {
    const cache = cacheOf()
    for (const version of [-1, 0.5, Number.NaN, 2 ** 53]) {
      await expect(cache.invalidate('a', version)).rejects.toMatchObject({ code: 'option-invalid' })
      await expect(cache.set('a', 1, { version })).rejects.toMatchObject({ code: 'option-invalid' })
      await expect(cache.get('a', () => versioned(1, version))).rejects.toMatchObject({ code: 'option-invalid' })
    }
  })

  it('refuses a value that is no data', async () => {
    const cache = cacheOf()
    await expect(cache.get('a', () => () => 1)).rejects.toMatchObject({ code: 'cache-value-invalid' })
    await expect(cache.get('a', () => ({ deep: [Symbol('s')] }))).rejects.toMatchObject({ code: 'cache-value-invalid' })
    const circle: { self?: unknown } = {}
    circle.self = circle
    expect(await cache.get('a', () => circle)).toBe(circle)
  })
})
