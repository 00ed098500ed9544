/**
 * What every shared store of the cache promises, as tests. A driver's test gives
 * the way to open clients on one server, and the runner it lives in:
 *
 *   cacheConformance({ describe, it }, 'redis', { open })
 */
import assert from 'node:assert/strict'
import { setTimeout as wait } from 'node:timers/promises'
import { type CacheStore, nothingStored } from '../contracts/cache.ts'
import { createRandom } from '../std/random.ts'
import { floorKeepMs, longMs, newKey, StoreClient, textOf } from './cache-store-client.ts'

export interface CacheHarness {
  /** Opens one more client, as another process would, on the same data. The suite closes it. */
  open(): Promise<CacheStore>
}

export interface TestRunner {
  describe(name: string, define: () => void): void
  it(name: string, run: () => Promise<void>): void
}

export function cacheConformance({ describe, it }: TestRunner, engine: string, harness: CacheHarness): void {
  const with2 = (run: (one: StoreClient, other: StoreClient) => Promise<void>) => async (): Promise<void> => {
    const stores = [await harness.open(), await harness.open()] as const
    try {
      await run(new StoreClient(stores[0]), new StoreClient(stores[1]))
    } finally {
      await Promise.all(stores.map((store) => store.close()))
    }
  }

  describe(`the cache store ${engine}: values`, () => {
    it(
      'knows nothing of a key that nobody filled',
      with2(async (one) => {
        assert.deepEqual(await one.store.read(newKey()), nothingStored)
      }),
    )

    it(
      'gives what one filled to all others, byte for byte, with its version and time',
      with2(async (one, other) => {
        const key = newKey()
        const body = Buffer.from(Array.from({ length: 512 }, (_, place) => place % 256))
        const token = await one.lease(key)
        assert.equal(await one.store.fill({ key, token, version: 7, raise: false, body, freshMs: 10_000, keepMs: 20_000 }), 'stored')
        const read = await other.store.read(key)
        assert.deepEqual(Buffer.from(read.entry?.body ?? []), body)
        assert.equal(read.entry?.version, 7)
        assert.ok((read.entry?.freshMs ?? 0) > 5_000 && (read.entry?.freshMs ?? 0) <= 10_050, `fresh for ${read.entry?.freshMs} ms`)
        assert.equal(read.belowMs, 0)
        assert.equal((await other.ask(key)).state, 'hit')
      }),
    )

    it(
      'takes keys of any text, and does not mix them up',
      with2(async (one, other) => {
        const start = newKey()
        const odd = ['a b', 'a\nb', 'a\0b', 'a}b{c', '{a}', 'ü', '日本語', '😀', 'a'.repeat(400), `${'a'.repeat(400)}b`, '%7d', '%257d']
        for (const text of odd) assert.equal(await one.fill(`${start}${text}`, null, null, text), 'stored')
        for (const text of odd) assert.equal(textOf(await other.store.read(`${start}${text}`)), text)
      }),
    )

    it(
      'calls a value over when its time is, and keeps it to be served stale',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 1, 'old', { freshMs: 30, keepMs: longMs })
        await wait(60)
        const read = await other.store.read(key)
        assert.equal(textOf(read), 'old')
        assert.ok((read.entry?.freshMs ?? 1) <= 0)
        const answer = await other.ask(key)
        assert.equal(answer.state, 'leased')
        assert.equal(textOf(answer.read), 'old')
      }),
    )
  })

  describe(`the cache store ${engine}: floors`, () => {
    it(
      'refuses a fill below the floor, and takes one at it',
      with2(async (one, other) => {
        const key = newKey()
        const token = await one.lease(key)
        await other.raise(key, 5)
        assert.equal(await one.fill(key, token, 4, 'old'), 'below-floor')
        assert.equal(textOf(await one.store.read(key)), null)
        const again = await one.ask(key)
        assert.equal(again.read.floor, 5)
        assert.equal(again.state, 'leased')
        assert.equal(await one.fill(key, (again as { token: string }).token, 5, 'new'), 'stored')
        assert.equal(textOf(await other.store.read(key)), 'new')
      }),
    )

    it(
      'does not call a value below the floor a hit, says since when it is below, and keeps it to be served stale',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 3, 'three')
        await other.raise(key, 4)
        const read = await one.store.read(key)
        assert.equal(read.floor, 4)
        assert.ok((read.belowMs ?? 0) > 0)
        assert.equal(textOf(read), 'three')
        assert.equal((await one.ask(key)).state, 'leased')
      }),
    )

    it(
      'lets a floor only grow, however often and in whatever order it is raised',
      with2(async (one, other) => {
        const key = newKey()
        const random = createRandom(5)
        const versions = random.shuffle([1, 2, 3, 4, 5, 6, 7, 8, 8, 7])
        await Promise.all(versions.map((version, place) => (place % 2 === 0 ? one : other).raise(key, version)))
        assert.equal((await one.store.read(key)).floor, 8)
        await one.raise(key, 2)
        assert.equal((await other.store.read(key)).floor, 8)
      }),
    )

    it(
      'keeps a value that is at or above a floor raised late',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 9, 'nine')
        await other.raise(key, 9)
        assert.equal((await other.ask(key)).state, 'hit')
      }),
    )

    it(
      'takes over the floor that an asker knows',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 3, 'three')
        const answer = await other.ask(key, { floor: 6 })
        assert.equal(answer.state, 'leased')
        assert.equal(answer.read.floor, 6)
        assert.equal((await one.store.read(key)).floor, 6)
      }),
    )

    it(
      'does not take a claim of a reader for a floor',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 3, 'three')
        assert.equal((await other.ask(key, { minVersion: 6 })).state, 'leased')
        assert.equal((await one.store.read(key)).floor, 0)
      }),
    )

    it(
      'raises many keys and tags in one call',
      with2(async (one, other) => {
        const names = Array.from({ length: 300 }, newKey)
        await one.store.change(
          names.map((name, place) => ({ kind: 'key', name, version: place + 1 })),
          floorKeepMs,
        )
        assert.deepEqual(
          await Promise.all(names.map(async (name) => (await other.store.read(name)).floor)),
          names.map((_, place) => place + 1),
        )
      }),
    )
  })

  describe(`the cache store ${engine}: leases`, () => {
    it(
      'gives one of many askers the lease, and the others the value when it is there',
      with2(async (one, other) => {
        const key = newKey()
        const answers = await Promise.all(Array.from({ length: 20 }, (_, place) => (place % 2 === 0 ? one : other).ask(key)))
        const leased = answers.filter((answer) => answer.state === 'leased')
        assert.equal(leased.length, 1)
        const waiting = answers.flatMap((answer) => (answer.state === 'wait' ? [answer.filled(longMs)] : []))
        assert.equal(waiting.length, 19)
        assert.equal(await one.fill(key, leased[0]?.token ?? '', 1, 'value'), 'stored')
        const began = performance.now()
        // Stores without push wake their waiters to look again.
        for (;;) {
          await Promise.all(waiting)
          if (textOf(await other.store.read(key)) === 'value') break
        }
        assert.ok(performance.now() - began < 2_000)
      }),
    )

    it(
      'hands the lease on when its holder gives up',
      with2(async (one, other) => {
        const key = newKey()
        const token = await one.lease(key)
        const answer = await other.ask(key)
        assert.equal(answer.state, 'wait')
        const filled = answer.state === 'wait' ? answer.filled(longMs) : Promise.resolve()
        await one.store.release(key, token)
        await filled
        assert.equal((await other.ask(key)).state, 'leased')
        assert.equal(await one.fill(key, token, 1, 'late'), 'superseded')
      }),
    )

    it(
      'ends a lease that nobody extends, and lets the late holder store nothing once another has it',
      with2(async (one, other) => {
        const key = newKey()
        const first = await one.lease(key, { leaseMs: 700 })
        const answer = await other.ask(key)
        assert.equal(answer.state, 'wait')
        const began = performance.now()
        if (answer.state === 'wait') await answer.filled(longMs)
        assert.ok(performance.now() - began < 5_000)
        let second = await other.ask(key)
        while (second.state === 'wait') {
          await second.filled(longMs)
          second = await other.ask(key)
        }
        assert.equal(second.state, 'leased')
        assert.equal(await one.store.extend(key, first, longMs), false)
        assert.equal(await one.fill(key, first, 1, 'late'), 'superseded')
        assert.equal(await other.fill(key, (second as { token: string }).token, 1, 'in time'), 'stored')
        assert.equal(textOf(await one.store.read(key)), 'in time')
      }),
    )

    it(
      'keeps a lease that is extended',
      with2(async (one, other) => {
        const key = newKey()
        const token = await one.lease(key, { leaseMs: 80 })
        assert.equal(await one.store.extend(key, token, longMs), true)
        await wait(120)
        assert.equal((await other.ask(key)).state, 'wait')
        assert.equal(await one.store.extend(key, 'not-the-token---', longMs), false)
      }),
    )

    it(
      'gives a new lease after a raise, since the load under way may have read before it',
      with2(async (one, other) => {
        const key = newKey()
        const first = await one.lease(key)
        await other.raise(key, 3)
        const second = await other.lease(key)
        assert.equal(await one.fill(key, first, 3, 'first'), 'superseded')
        assert.equal(await other.fill(key, second, 3, 'second'), 'stored')
      }),
    )

    it(
      'cuts the lease and the value with an invalidation that has no version',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 3, 'three')
        const token = await one.lease(key, { refresh: true })
        await other.cut(key)
        assert.equal(await one.fill(key, token, 3, 'three again'), 'superseded')
        assert.equal(textOf(await one.store.read(key)), null)
        assert.equal((await one.ask(key)).state, 'leased')
      }),
    )

    it(
      'cuts the lease of a key that has a floor, and keeps the floor',
      with2(async (one, other) => {
        const key = newKey()
        await one.raise(key, 3)
        const token = await one.lease(key)
        await other.cut(key)
        assert.equal(await one.fill(key, token, 3, 'three'), 'superseded')
        assert.equal((await one.store.read(key)).floor, 3)
      }),
    )

    it(
      'leases a fresh value for an early refresh, once, and keeps serving it',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 3, 'three')
        const token = await one.lease(key, { refresh: true })
        assert.equal((await other.ask(key, { refresh: true })).state, 'wait')
        assert.equal((await other.ask(key)).state, 'hit')
        assert.equal(await one.fill(key, token, 4, 'four'), 'stored')
        assert.equal(textOf(await other.store.read(key)), 'four')
      }),
    )

    it(
      'does not let an older load replace a newer value',
      with2(async (one, other) => {
        const key = newKey()
        await one.fill(key, await one.lease(key), 8, 'eight')
        const token = await other.lease(key, { refresh: true })
        assert.equal(await other.fill(key, token, 7, 'seven'), 'below-floor')
        assert.equal(textOf(await one.store.read(key)), 'eight')
      }),
    )
  })

  describe(`the cache store ${engine}: set`, () => {
    it(
      'raises the floor with its version, and ends the lease under way',
      with2(async (one, other) => {
        const key = newKey()
        const token = await one.lease(key)
        assert.equal(await other.fill(key, null, 6, 'six', { raise: true }), 'stored')
        assert.equal(await one.fill(key, token, 6, 'loaded'), 'superseded')
        assert.equal(await other.fill(key, null, 5, 'five', { raise: true }), 'below-floor')
        const read = await one.store.read(key)
        assert.deepEqual([textOf(read), read.floor, read.entry?.version], ['six', 6, 6])
      }),
    )

    it(
      'without a version stores at the floor, whatever it is',
      with2(async (one, other) => {
        const key = newKey()
        await one.raise(key, 4)
        assert.equal(await other.fill(key, null, null, 'set'), 'stored')
        const read = await one.store.read(key)
        assert.deepEqual([textOf(read), read.floor, read.entry?.version], ['set', 4, 4])
      }),
    )
  })

  describe(`the cache store ${engine}: tags and names`, () => {
    it(
      'gives all the same mark of a tag, a new stamp after a cut, and a higher floor after a raise',
      with2(async (one, other) => {
        const tag = newKey()
        const [first] = await one.store.marks([tag])
        assert.deepEqual(await other.store.marks([tag]), [first])
        await other.store.change([{ kind: 'tag', name: tag, version: 5 }], floorKeepMs)
        await other.store.change([{ kind: 'tag', name: tag, version: 4 }], floorKeepMs)
        assert.deepEqual(await one.store.marks([tag]), [{ stamp: first?.stamp, floor: 5 }])
        await one.store.change([{ kind: 'tag', name: tag, version: null }], floorKeepMs)
        const [cut] = await other.store.marks([tag])
        assert.notEqual(cut?.stamp, first?.stamp)
        assert.equal(cut?.floor, 5)
      }),
    )

    it(
      'keeps keys, tags, names and notes apart',
      with2(async (one, other) => {
        const name = newKey()
        await one.fill(name, null, 1, 'value')
        await one.store.marks([name])
        assert.equal(await one.store.claim(name, 'json'), 'json')
        await one.store.note(name, 'hot', longMs)
        assert.equal(textOf(await other.store.read(name)), 'value')
        assert.equal(await other.store.claim(name, 'msgpack'), 'json')
        assert.equal(await other.store.recall(name), 'hot')
        assert.equal(await other.store.recall(newKey()), null)
      }),
    )
  })

  describe(`the cache store ${engine}: under way at once`, () => {
    it(
      'never holds a value below its floor, whoever loads, raises and cuts at the same time',
      with2(async (one, other) => {
        const random = createRandom(Date.now() % 2 ** 32)
        const key = newKey()
        const context = `seed ${random.seed}`
        let truth = 0
        const reader = async (client: StoreClient): Promise<void> => {
          for (let round = 0; round < 60; round++) {
            const answer = await client.ask(key, { leaseMs: 200 })
            if (answer.state === 'hit') assert.ok(Number(textOf(answer.read)) >= answer.read.floor, context)
            if (answer.state === 'wait') await answer.filled(50)
            if (answer.state !== 'leased') continue
            const read = truth
            if (random.chance(0.5)) await wait(random.int(3))
            await client.fill(key, answer.token, read, String(read))
          }
        }
        const writer = async (client: StoreClient): Promise<void> => {
          for (let round = 0; round < 60; round++) {
            const version = ++truth
            await (random.chance(0.9) ? client.raise(key, version) : client.cut(key).then(() => client.raise(key, version)))
            const read = await client.store.read(key)
            // What the writer reads after its own raise is at least as new, or is said to be below.
            if (read.entry !== null && read.entry.version >= read.floor)
              assert.ok(read.entry.version >= version, `${context}: read ${read.entry.version} after raising to ${version}`)
          }
        }
        await Promise.all([reader(one), reader(other), reader(one), reader(other), writer(one), writer(other)])
      }),
    )
  })
}
