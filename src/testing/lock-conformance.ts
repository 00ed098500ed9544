/**
 * What every lock engine promises, as tests. A driver's test gives the way to
 * open clients on one set of locks, and the runner it lives in:
 *
 *   lockConformance({ describe, it }, 'redis', { open, crash })
 */
import assert from 'node:assert/strict'
import { HeadraceError } from '../contracts/errors.ts'
import { type LockAnswer, type LockEngine, type LockRequest, wholeLimit } from '../contracts/lock.ts'
import { createLocks } from '../lock/locks.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import { createRandom } from '../std/random.ts'

export interface LockHarness {
  /** Opens one more client, as another process would, on the same locks. The suite closes it. */
  open(options?: { readonly waitersMax?: number }): Promise<LockEngine>
  /** Ends a client without a word, as kill -9 ends a process: nothing is released. Resolves when its end of the connection is closed for the engine too. */
  crash(engine: LockEngine): Promise<void>
}

export interface TestRunner {
  describe(name: string, define: () => void): void
  it(name: string, run: () => Promise<void>): void
}

const longMs = 30_000
let keys = 0
const newKey = (): string => `conformance:${process.pid}:${Date.now().toString(36)}:${keys++}`

/** A client by hand: it numbers its acquisitions, and keeps the pushes. */
class Client {
  readonly engine: LockEngine
  readonly #pushes = new Map<string, Deferred<number>>()
  readonly #breaks = new Map<string, Deferred<void>>()
  /** Every push in order of arrival. */
  readonly pushed: string[] = []
  #count = 0

  constructor(engine: LockEngine) {
    this.engine = engine
    engine.listen({
      granted: (id, token) => {
        this.pushed.push(id)
        this.#push(id).resolve(token)
      },
      broken: (id) => this.#break(id).resolve(),
      gap: () => {},
    })
  }

  id(): string {
    return `${this.engine.client}/${this.#count++}`
  }

  async take(key: string, options: Partial<LockRequest> = {}): Promise<{ readonly id: string; readonly answer: LockAnswer }> {
    const id = options.id ?? this.id()
    const answer = await this.engine.acquire({
      key,
      id,
      permits: wholeLimit,
      limit: wholeLimit,
      ttlMs: longMs,
      waitMs: longMs,
      tokenFloor: 0,
      ...options,
    })
    return { id, answer }
  }

  /** Takes a key that must be free. */
  async hold(key: string, options: Partial<LockRequest> = {}): Promise<{ readonly id: string; readonly token: number }> {
    const { id, answer } = await this.take(key, options)
    assert.equal(answer.state, 'granted')
    return { id, token: (answer as { token: number }).token }
  }

  /** Queues for a key that must be held. */
  async queue(key: string, options: Partial<LockRequest> = {}): Promise<string> {
    const { id, answer } = await this.take(key, options)
    assert.equal(answer.state, 'queued')
    return id
  }

  /** The token that is pushed to this acquisition. */
  granted(id: string): Promise<number> {
    return this.#push(id).promise
  }

  broken(id: string): Promise<void> {
    return this.#break(id).promise
  }

  #push(id: string): Deferred<number> {
    return entry(this.#pushes, id, deferred<number>)
  }

  #break(id: string): Deferred<void> {
    return entry(this.#breaks, id, deferred<void>)
  }
}

function entry<V>(map: Map<string, V>, key: string, make: () => V): V {
  const known = map.get(key)
  if (known !== undefined) return known
  const value = make()
  map.set(key, value)
  return value
}

export function lockConformance(runner: TestRunner, name: string, harness: LockHarness): void {
  const { describe } = runner

  /** A test with its clients: opened before, closed after. */
  const it = (promise: string, clients: number, run: (...clients: Client[]) => Promise<void>): void =>
    runner.it(promise, async () => {
      const opened = await Promise.all(Array.from({ length: clients }, () => harness.open()))
      try {
        await run(...opened.map((engine) => new Client(engine)))
      } finally {
        await Promise.all(opened.map((engine) => engine.close()))
      }
    })
  type Two = [Client, Client]
  type Three = [Client, Client, Client]

  describe(`the lock engine ${name}`, () => {
    it('grants a free key, and answers the same acquisition again with the same token', 1, async (...all) => {
      const [a] = all as [Client]
      const key = newKey()
      const first = await a.hold(key)
      const again = await a.take(key, { id: first.id })
      assert.equal(again.answer.state, 'granted')
      assert.equal((again.answer as { token: number }).token, first.token)
      const { remainingMs } = again.answer as { remainingMs: number }
      assert.ok(remainingMs > longMs - 5_000 && remainingMs <= longMs, `remaining ${remainingMs}`)
    })

    it('refuses a held key at once when it should not wait, and does not queue the call', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const held = await a.hold(key)
      const { answer } = await b.take(key, { waitMs: 0 })
      assert.equal(answer.state, 'refused')
      assert.equal((await a.engine.release(key, held.id)).held, true)
      assert.deepEqual(await a.engine.list(10_000).then((found) => found.filter((lock) => lock.key === key)), [])
      await b.hold(key)
    })

    it('serves waiters of several clients first come, first served, each by one push', 3, async (...all) => {
      const [a, b, c] = all as Three
      const key = newKey()
      let current = { client: a, id: (await a.hold(key)).id }
      const line: { client: Client; id: string }[] = []
      for (let round = 0; round < 4; round++) {
        for (const client of [c, a, b]) line.push({ client, id: await client.queue(key) })
      }
      for (const next of line) {
        await current.client.engine.release(key, current.id)
        await next.client.granted(next.id)
        const others = line.filter((other) => line.indexOf(other) > line.indexOf(next))
        for (const other of others) assert.ok(!other.client.pushed.includes(other.id), 'somebody overtook')
        current = next
      }
      await current.client.engine.release(key, current.id)
      for (const client of [a, b, c]) assert.equal(new Set(client.pushed).size, client.pushed.length, 'a push came twice')
      assert.equal(a.pushed.length + b.pushed.length + c.pushed.length, line.length)
    })

    it('gives tokens that strictly grow, across owners, clients, kinds of lock and floors', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      let last = 0
      const next = (token: number): void => {
        assert.ok(token > last, `${token} after ${last}`)
        last = token
      }
      for (let round = 0; round < 20; round++) {
        const client = round % 2 === 0 ? a : b
        const held = await client.hold(key, round % 3 === 0 ? { permits: 1 } : {})
        next(held.token)
        const waiting = await b.queue(key)
        await client.engine.release(key, held.id)
        next(await b.granted(waiting))
        await b.engine.release(key, waiting)
      }
      const ahead = last + 5_000_000_000
      const held = await a.hold(key, { tokenFloor: ahead })
      assert.ok(held.token > ahead)
      next(held.token)
      await a.engine.release(key, held.id)
      next((await b.hold(key)).token)
    })

    it('gives tokens above the clock in microseconds, so that they grow when all data is lost', 1, async (...all) => {
      const [a] = all as [Client]
      const before = Date.now() * 1_000
      const { token } = await a.hold(newKey())
      assert.ok(token > before - 5_000_000 && token < before + 60_000_000, `token ${token} at ${before}`)
    })

    it('ends a lease that is not extended, lets the next in, and refuses the old one from then on', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const start = performance.now()
      const old = await a.hold(key, { ttlMs: 300 })
      const { id, answer } = await b.take(key)
      assert.equal(answer.state, 'queued')
      const { endsInMs } = answer as { endsInMs: number }
      assert.ok(endsInMs > 0 && endsInMs <= 300, `ends in ${endsInMs}`)
      const token = await untilGranted(b, key, id)
      const tookMs = performance.now() - start
      assert.ok(tookMs >= 295, `granted after ${tookMs} ms of 300`)
      assert.ok(token > old.token)
      assert.equal((await a.engine.extend(key, old.id, old.token, longMs)).held, false)
      assert.equal((await a.engine.release(key, old.id)).held, false)
      assert.equal((await b.engine.extend(key, id, token, longMs)).held, true)
    })

    it('keeps a lease that is extended, under its token only', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const { id, token } = await a.hold(key, { ttlMs: 400 })
      assert.equal((await a.engine.extend(key, id, token - 1, longMs)).held, false)
      assert.equal((await b.engine.extend(key, b.id(), token, longMs)).held, false)
      const { held } = await a.engine.extend(key, id, token, longMs)
      assert.equal(held, true)
      const { answer } = await b.take(key, { waitMs: 0 })
      assert.ok((answer as { endsInMs: number }).endsInMs > 1_000 || (await settledEnd(b, key)) > 1_000)
      await a.engine.release(key, id)
    })

    it('takes a release that is repeated, unknown or not yours as nothing', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      assert.equal((await a.engine.release(key, a.id())).held, false)
      const held = await a.hold(key)
      assert.equal((await b.engine.release(key, b.id())).held, false)
      assert.equal((await b.take(key, { waitMs: 0 })).answer.state, 'refused')
      assert.equal((await a.engine.release(key, held.id)).held, true)
      assert.equal((await a.engine.release(key, held.id)).held, false)
    })

    it('lets readers in together and a writer alone, and no reader past a waiting writer', 3, async (...all) => {
      const [a, b, c] = all as Three
      const key = newKey()
      const reader = { permits: 1 }
      const first = await a.hold(key, reader)
      const second = await b.hold(key, reader)
      const writer = await c.queue(key)
      const late = await a.queue(key, reader)
      const later = await b.queue(key, reader)
      await a.engine.release(key, first.id)
      assert.deepEqual(c.pushed, [])
      await b.engine.release(key, second.id)
      await c.granted(writer)
      assert.deepEqual([...a.pushed, ...b.pushed], [])
      await c.engine.release(key, writer)
      const tokens = await Promise.all([a.granted(late), b.granted(later)])
      assert.notEqual(tokens[0], tokens[1])
    })

    it('never has more permits of a semaphore out than its limit', 3, async (...all) => {
      const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
      const random = createRandom(seed)
      const [key, limit] = [newKey(), 5]
      let out = 0
      let most = 0
      try {
        await Promise.all(
          Array.from({ length: 30 }, async (_, worker) => {
            const client = all[worker % 3] as Client
            for (let turn = 0; turn < 4; turn++) {
              const permits = random.between(1, 3)
              const { id, answer } = await client.take(key, { permits, limit })
              assert.notEqual(answer.state, 'refused')
              if (answer.state === 'queued') await client.granted(id)
              out += permits
              most = Math.max(most, out)
              assert.ok(out <= limit, `${out} permits of ${limit} are out`)
              await new Promise((resolve) => setImmediate(resolve))
              out -= permits
              assert.equal((await client.engine.release(key, id)).held, true)
            }
          }),
        )
      } catch (error) {
        throw new Error(`with HEADRACE_SEED=${seed}: ${String(error)}`, { cause: error })
      }
      assert.ok(most > 3, `at most ${most} permits were out: the semaphore did not share`)
    })

    it('lets no small request of a semaphore past a large one that waits', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const held = await a.hold(key, { permits: 2, limit: 3 })
      const large = await b.queue(key, { permits: 3, limit: 3 })
      assert.equal((await a.take(key, { permits: 1, limit: 3, waitMs: 0 })).answer.state, 'refused')
      const small = await a.queue(key, { permits: 1, limit: 3 })
      await a.engine.release(key, held.id)
      await b.granted(large)
      assert.deepEqual(a.pushed, [])
      await b.engine.release(key, large)
      await a.granted(small)
    })

    it('refuses another limit while a key is in use, and takes it when it is free', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const held = await a.hold(key, { permits: 1, limit: 3 })
      const { answer } = await b.take(key, { permits: 1, limit: 4 })
      assert.deepEqual(answer, { state: 'limit-differs', limit: 3 })
      await a.engine.release(key, held.id)
      await b.hold(key, { permits: 4, limit: 4 })
    })

    it('skips waiters that died at once, whether they stand first or between', 3, async (...all) => {
      const [a, b, c] = all as Three
      const key = newKey()
      const held = await a.hold(key)
      await c.queue(key)
      const first = await b.queue(key)
      await c.queue(key)
      const second = await a.queue(key)
      await harness.crash(c.engine)
      const start = performance.now()
      await a.engine.release(key, held.id)
      await b.granted(first)
      await b.engine.release(key, first)
      await a.granted(second)
      const tookMs = performance.now() - start
      assert.ok(tookMs < 3_000, `it took ${tookMs} ms past waiters that are dead, with leases of ${longMs} ms`)
      assert.equal((await a.engine.list(10_000)).find((lock) => lock.key === key)?.waiting, 0)
    })

    it('skips a dead writer in front of live readers while other readers hold', 3, async (...all) => {
      const [a, b, c] = all as Three
      const key = newKey()
      await a.hold(key, { permits: 1 })
      await c.queue(key)
      await harness.crash(c.engine)
      const { id, answer } = await b.take(key, { permits: 1 })
      if (answer.state === 'queued') await b.granted(id)
      else assert.equal(answer.state, 'granted')
    })

    it('skips waiters past their deadline', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const held = await a.hold(key, { ttlMs: 250 })
      await b.queue(key, { waitMs: 1 })
      const live = await b.queue(key)
      assert.equal(await Promise.race([untilGranted(b, key, live), a.granted(held.id)]), await b.granted(live))
      assert.equal(b.pushed.length, 1)
    })

    it('lets a waiter leave, and holds nothing for it', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const held = await a.hold(key)
      const gone = await b.queue(key)
      const live = await a.queue(key)
      assert.equal((await b.engine.release(key, gone)).held, true)
      await a.engine.release(key, held.id)
      await a.granted(live)
      assert.deepEqual(b.pushed, [])
    })

    it('lets the waiters behind go on when one in front leaves that did not fit', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      await a.hold(key, { permits: 1 })
      const writer = await a.queue(key)
      const reader = await b.queue(key, { permits: 1 })
      await a.engine.release(key, writer)
      await b.granted(reader)
    })

    runner.it('bounds the queue of a key', async () => {
      const engine = await harness.open({ waitersMax: 2 })
      try {
        const a = new Client(engine)
        const key = newKey()
        await a.hold(key)
        const first = await a.queue(key)
        await a.queue(key)
        assert.equal((await a.take(key)).answer.state, 'full')
        await engine.release(key, first)
        await a.queue(key)
      } finally {
        await engine.close()
      }
    })

    it('keeps keys apart, whatever characters they have', 1, async (...all) => {
      const [a] = all as [Client]
      const base = newKey()
      const odd = [
        base,
        `${base}}`,
        `{${base}`,
        `${base}:q`,
        `${base}%7d`,
        `${base} x\n\t'"\\;--`,
        `${base}\u00e9`,
        `${base}e\u0301`,
        `${base}\u{1f600}`,
        `${base}${'x'.repeat(512 - base.length)}`,
      ]
      const held = []
      for (const key of odd) held.push(await a.hold(key))
      const listed = (await a.engine.list(10_000)).map((lock) => lock.key).filter((key) => key.includes(base))
      assert.deepEqual([...listed].sort(), [...odd].sort())
      for (const [index, key] of odd.entries()) assert.equal((await a.engine.release(key, (held[index] as { id: string }).id)).held, true)
    })

    it('lists who holds and how many wait', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      const held = await a.hold(key, { permits: 2, limit: 3 })
      await b.hold(key, { permits: 1, limit: 3 })
      await b.queue(key, { permits: 1, limit: 3 })
      const lock = (await b.engine.list(10_000)).find((found) => found.key === key)
      assert.equal(lock?.limit, 3)
      assert.equal(lock?.waiting, 1)
      assert.equal(lock?.holders.length, 2)
      const mine = lock?.holders.find((holder) => holder.id === held.id)
      assert.equal(mine?.token, held.token)
      assert.equal(mine?.permits, 2)
      assert.ok((mine?.remainingMs ?? 0) > 1_000)
      assert.equal((await b.engine.list(1)).length, 1)
    })

    it('breaks a lock: tells its holder, and lets the next in with a higher token', 2, async (...all) => {
      const [a, b] = all as Two
      const key = newKey()
      // Whoever is to be told must listen, as a client does that has waited for the key.
      const first = await b.hold(key)
      const id = await a.queue(key)
      await b.engine.release(key, first.id)
      const held = { id, token: await a.granted(id) }
      const next = await b.queue(key)
      assert.equal(await b.engine.break(key, 'nobody/0'), 0)
      assert.equal(await b.engine.break(key), 1)
      assert.ok((await b.granted(next)) > held.token)
      await a.broken(held.id)
      assert.equal((await a.engine.extend(key, held.id, held.token, longMs)).held, false)
      assert.equal(await b.engine.break(newKey()), 0)
    })

    locksPromises(runner, harness)
  })
}

/** What holds for `createLocks` on this engine. */
function locksPromises(runner: TestRunner, harness: LockHarness): void {
  const it = (promise: string, clients: number, run: (engines: readonly LockEngine[]) => Promise<void>): void =>
    runner.it(promise, async () => {
      const opened = await Promise.all(Array.from({ length: clients }, () => harness.open()))
      try {
        await run(opened)
      } finally {
        await Promise.all(opened.map((engine) => engine.close()))
      }
    })

  it('lets one caller in at a time, whatever number of callers and clients, and everybody in the end', 3, async (engines) => {
    const locks = engines.map((engine) => createLocks(engine))
    const key = newKey()
    let inside = 0
    let last = 0
    let done = 0
    await Promise.all(
      Array.from({ length: 60 }, (_, caller) =>
        (locks[caller % 3] as (typeof locks)[number]).using(key, async (lease) => {
          inside += 1
          assert.equal(inside, 1, 'two callers are inside')
          assert.ok(lease.token > last, 'a token did not grow')
          last = lease.token
          await new Promise((resolve) => setImmediate(resolve))
          assert.equal(lease.held, true)
          inside -= 1
          done += 1
        }),
      ),
    )
    assert.equal(done, 60)
    for (const each of locks) {
      assert.deepEqual(each.counts, { held: 0, waiting: 0 })
      await each.close()
    }
  })

  it('stops waiting in time or when the signal aborts, and leaves nothing in the queue', 2, async (engines) => {
    const [mine, theirs] = engines.map((engine) => createLocks(engine)) as [ReturnType<typeof createLocks>, ReturnType<typeof createLocks>]
    const key = newKey()
    const held = await theirs.acquire(key)
    const start = performance.now()
    await assert.rejects(mine.acquire(key, { waitMs: 120 }), (error) => HeadraceError.is(error) && error.code === 'lock-timeout')
    const tookMs = performance.now() - start
    assert.ok(tookMs >= 115 && tookMs < 2_000, `it took ${tookMs} ms`)
    const controller = new AbortController()
    const aborted = mine.acquire(key, { signal: controller.signal })
    await queued(mine, 1)
    controller.abort(new Error('enough'))
    await assert.rejects(aborted, /enough/)
    assert.equal(await mine.tryAcquire(key), null)
    await held.release()
    await until(async () => (await mine.list()).every((lock) => lock.key !== key))
    const lease = await mine.tryAcquire(key)
    assert.ok(lease !== null)
    for (const each of [mine, theirs]) await each.close()
  })

  it('extends a lease for as long as it is held', 2, async (engines) => {
    const [mine, theirs] = engines.map((engine) => createLocks(engine, { ttlMs: 400 })) as [
      ReturnType<typeof createLocks>,
      ReturnType<typeof createLocks>,
    ]
    const key = newKey()
    const lease = await mine.acquire(key)
    await assert.rejects(theirs.acquire(key, { waitMs: 1_100 }), (error) => HeadraceError.is(error) && error.code === 'lock-timeout')
    assert.equal(lease.held, true)
    assert.equal(lease.signal.aborted, false)
    assert.equal(await lease.release(), true)
    for (const each of [mine, theirs]) await each.close()
  })

  it('aborts the signal of a lease that cannot be extended before another caller gets the lock', 2, async (engines) => {
    const [mine, theirs] = engines.map((engine) => createLocks(engine, { ttlMs: 400 })) as [
      ReturnType<typeof createLocks>,
      ReturnType<typeof createLocks>,
    ]
    const key = newKey()
    const lease = await mine.acquire(key, { extend: false })
    let abortedAt = Number.POSITIVE_INFINITY
    lease.signal.addEventListener('abort', () => {
      abortedAt = performance.now()
      assert.equal(lease.held, false)
    })
    const next = await theirs.acquire(key)
    assert.ok(abortedAt < performance.now(), 'the lock was handed on before the signal aborted')
    assert.ok(HeadraceError.is(lease.signal.reason) && lease.signal.reason.code === 'lease-lost')
    assert.throws(() => lease.assertHeld(), /lost/)
    assert.equal(await lease.release(), false)
    assert.equal(await next.release(), true)
    for (const each of [mine, theirs]) await each.close()
  })

  it('takes several keys all or none, in one order, so that nobody waits in a circle', 3, async (engines) => {
    const locks = engines.map((engine) => createLocks(engine))
    const [a, b, c] = [newKey(), newKey(), newKey()]
    const orders = [
      [a, b, c],
      [c, b, a],
      [b, a],
      [c, a],
      [b, c],
    ]
    const inside = new Set<string>()
    await Promise.all(
      Array.from({ length: 30 }, async (_, caller) => {
        const wanted = orders[caller % orders.length] as string[]
        await (locks[caller % 3] as (typeof locks)[number]).using(wanted, async (lease) => {
          assert.deepEqual([...lease.keys], [...wanted].sort())
          for (const key of wanted) {
            assert.ok(!inside.has(key), 'a key is held twice')
            inside.add(key)
          }
          await new Promise((resolve) => setImmediate(resolve))
          for (const key of wanted) inside.delete(key)
        })
      }),
    )
    const first = locks[0] as (typeof locks)[number]
    const second = locks[1] as (typeof locks)[number]
    const blocker = await second.acquire(b)
    await assert.rejects(first.acquire([a, b, c], { waitMs: 100 }), /not free within/)
    assert.equal(await first.tryAcquire([c, b]), null)
    await until(async () => (await second.tryAcquire([a, c]))?.release() ?? false)
    await blocker.release()
    for (const each of locks) await each.close()
  })
}

/** Asks as the waiting room does when the lease in the way should be over. */
async function untilGranted(client: Client, key: string, id: string): Promise<number> {
  for (;;) {
    const push = client.granted(id)
    const { answer } = await client.take(key, { id })
    if (answer.state === 'granted') return answer.token
    const wait = new Promise<'look'>((resolve) => setTimeout(resolve, (answer as { endsInMs: number }).endsInMs + 2, 'look'))
    const first = await Promise.race([push, wait])
    if (first !== 'look') return first
  }
}

/** When a lease ends that was extended: the engine may first tell an earlier moment. */
async function settledEnd(client: Client, key: string): Promise<number> {
  const { answer } = await client.take(key, { waitMs: 0 })
  const { endsInMs } = answer as { endsInMs: number }
  await new Promise((resolve) => setTimeout(resolve, endsInMs + 5))
  return ((await client.take(key, { waitMs: 0 })).answer as { endsInMs: number }).endsInMs
}

const queued = (locks: { readonly counts: { readonly waiting: number } }, waiting: number): Promise<void> =>
  until(async () => locks.counts.waiting === waiting)

/** Polls what nothing tells of, for 5 s at most. */
async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 5_000
  while (!(await holds())) {
    assert.ok(performance.now() < deadline, 'it did not happen within 5 s')
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
