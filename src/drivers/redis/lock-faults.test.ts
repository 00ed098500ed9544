/** What only Redis can do to its locks: forget, go away, fall silent, refuse. */
import { inspect } from 'node:util'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { HeadraceError } from '../../contracts/errors.ts'
import { createLocks, type Locks } from '../../lock/index.ts'
import { type Server, serverMissing, startRedis } from '../../testing/servers/index.ts'
import { redisLocks, type RedisLocksOptions } from './lock.ts'

const missing = serverMissing('redis')
const open = (url: string, options: Omit<RedisLocksOptions, 'url'> = {}, ttlMs = 1_000): Locks =>
  createLocks(redisLocks({ url, ...options }), { ttlMs, waitMs: 15_000 })
const failure = (work: Promise<unknown>): Promise<HeadraceError> =>
  work.then(
    () => Promise.reject(new Error('it succeeded')),
    (error: HeadraceError) => error,
  )

describe.skipIf(missing !== null)(`locks on a Redis with faults${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let admin: Redis
  beforeAll(async () => {
    server = await startRedis()
    admin = new Redis(server.url)
    admin.on('error', () => {})
  })
  afterAll(async () => {
    admin.disconnect()
    await server.stop()
  })

  it('give tokens that grow over restarts that lose everything, and tell the holder', async () => {
    const [mine, theirs] = [open(server.url), open(server.url)]
    const lease = await mine.acquire('k')
    let last = lease.token
    for (let round = 0; round < 3; round++) {
      await server.restart({ hard: true })
      const next = await theirs.acquire('k')
      expect(next.token).toBeGreaterThan(last)
      last = next.token
      await next.release()
    }
    if (!lease.signal.aborted) await new Promise((resolve) => lease.signal.addEventListener('abort', resolve))
    expect(lease.held).toBe(false)
    await Promise.all([mine.close(), theirs.close()])
  })

  it('give tokens that grow when the clock of the server is set back, as long as it knows the last one', async () => {
    const locks = open(server.url)
    const ahead = Date.now() * 1_000 + 3_600_000_000
    await admin.set('headrace:lock:{back}', `f${ahead}`)
    let last = ahead
    for (let round = 0; round < 5; round++) {
      const lease = await locks.acquire('back')
      expect(lease.token).toBeGreaterThan(last)
      last = lease.token
      await lease.release()
    }
    expect(last - ahead).toBeLessThan(100)
    await locks.close()
  })

  it('serve every waiter when Redis is restarted empty under them', async () => {
    const [mine, theirs] = [open(server.url), open(server.url)]
    await mine.acquire('k')
    let inside = 0
    const served = Promise.all(
      Array.from({ length: 20 }, async (_, caller) => {
        const lease = await (caller % 2 === 0 ? mine : theirs).acquire('k')
        inside += 1
        expect(inside).toBe(1)
        await new Promise((resolve) => setImmediate(resolve))
        inside -= 1
        await lease.release()
      }),
    )
    await expect.poll(() => mine.counts.waiting + theirs.counts.waiting, { interval: 5 }).toBe(20)
    await server.restart({ hard: true })
    await served
    await Promise.all([mine.close(), theirs.close()])
  })

  it('serve every waiter when the data is flushed and the connections stay', async () => {
    const locks = open(server.url)
    await locks.acquire('k')
    const waiting = Array.from({ length: 5 }, () => locks.using('k', () => 1))
    await expect.poll(() => locks.counts.waiting, { interval: 5 }).toBe(5)
    await admin.flushall()
    expect(await Promise.all(waiting)).toHaveLength(5)
    await locks.close()
  })

  it('serve every waiter when the subscriptions are cut', async () => {
    const [mine, theirs] = [open(server.url, {}, 20_000), open(server.url, {}, 20_000)]
    const lease = await theirs.acquire('k')
    const waiting = Array.from({ length: 5 }, () => mine.using('k', () => 1))
    await expect.poll(() => mine.counts.waiting, { interval: 5 }).toBe(5)
    await admin.call('client', 'kill', 'type', 'pubsub')
    // Released while nobody listens: the script finds them dead, and they must come back by themselves.
    const start = performance.now()
    await lease.release()
    expect(await Promise.all(waiting)).toHaveLength(5)
    // Without the word of the gap, they would ask after two thirds of their lease of 20 s.
    expect(performance.now() - start).toBeLessThan(6_000)
    await Promise.all([mine.close(), theirs.close()])
  })

  it('lose the lease before it is over when Redis stands still, and go on afterwards', async () => {
    const [mine, theirs] = [open(server.url, { timeoutMs: 200 }), open(server.url, { timeoutMs: 200 })]
    const lease = await mine.acquire('k')
    const start = performance.now()
    server.pause()
    await new Promise((resolve) => lease.signal.addEventListener('abort', resolve))
    expect(performance.now() - start).toBeLessThan(1_000)
    const next = theirs.acquire('k')
    server.resume()
    expect((await next).token).toBeGreaterThan(lease.token)
    await Promise.all([mine.close(), theirs.close()])
  })

  it('never hang while Redis is gone: every call ends within its bounds', async () => {
    const locks = open(server.url, { timeoutMs: 200 })
    const lease = await locks.acquire('held')
    await server.kill('SIGKILL')
    const start = performance.now()
    expect((await failure(locks.tryAcquire('k'))).retryable).toBe(true)
    expect((await failure(locks.acquire('k', { waitMs: 300 }))).retryable).toBe(true)
    expect((await failure(locks.list())).retryable).toBe(true)
    await lease.release()
    await locks.close()
    expect(performance.now() - start).toBeLessThan(3_000)
    await server.restart()
  })

  it('say what a user or server lacks, and print no password', async () => {
    await admin.call('acl', 'setuser', 'plain', 'on', '>pw-plain', '~*', '&*', '+@all', '-@scripting')
    await admin.call('acl', 'setuser', 'mute', 'on', '>pw-mute', '~*', 'resetchannels', '+@all')
    const tryAs = async (user: string): Promise<HeadraceError> => {
      const locks = createLocks(redisLocks({ url: `redis://${user}@127.0.0.1:${server.port}` }))
      const error = await failure(locks.acquire(`as:${user}`, { waitMs: 500 }))
      await locks.close()
      return error
    }
    const holder = open(server.url)
    const held = await holder.acquire('as:mute:pw-mute')
    for (const user of ['plain:pw-plain', 'mute:pw-mute', 'plain:pw-wrong']) {
      const error = await tryAs(user)
      expect([user, error.code]).toEqual([user, 'engine-refused'])
      expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(user.split(':')[1])
    }
    await held.release()
    await admin.call('replicaof', '127.0.0.1', '1')
    expect((await failure(holder.tryAcquire('k'))).message).toContain('replica')
    await admin.call('replicaof', 'no', 'one')
    await holder.close()
  })

  it('refuse a prefix that would break the names of keys', () => {
    for (const prefix of ['', 'a b', 'a{b', 'x'.repeat(65)]) expect(() => redisLocks({ prefix })).toThrow(/prefix must be/)
  })

  it('keep locks of other prefixes apart', async () => {
    const [a, b] = [open(server.url, { prefix: 'a:' }), open(server.url, { prefix: 'b:' })]
    const leases = [await a.acquire('k'), await b.acquire('k')]
    expect((await a.list()).map((lock) => lock.key)).toEqual(['k'])
    for (const lease of leases) await lease.release()
    await Promise.all([a.close(), b.close()])
  })

  it('need two scripts for a hand-off, with 500 waiters of five clients, and serve each client in order', async () => {
    const clients = Array.from({ length: 5 }, () =>
      createLocks(redisLocks({ url: server.url, timeoutMs: 5_000 }), { ttlMs: 30_000, waitMs: 60_000 }),
    )
    const first = await (clients[0] as Locks).acquire('crowd')
    const served: number[][] = clients.map(() => [])
    const tokens: number[] = []
    const waiting = Promise.all(
      Array.from({ length: 500 }, async (_, caller) => {
        const client = caller % 5
        const lease = await (clients[client] as Locks).acquire('crowd')
        served[client]?.push(caller)
        tokens.push(lease.token)
        await lease.release()
      }),
    )
    await expect.poll(() => clients.reduce((sum, client) => sum + client.counts.waiting, 0), { interval: 5 }).toBe(500)
    await admin.config('RESETSTAT')
    await first.release()
    await waiting
    const stats = await admin.info('commandstats')
    const scripts = [...stats.matchAll(/cmdstat_eval(?:sha)?:calls=(\d+)/g)].reduce((sum, [, calls]) => sum + Number(calls), 0)
    // All were in the queue already: what is left is one release each.
    expect(scripts).toBeGreaterThanOrEqual(501)
    expect(scripts).toBeLessThanOrEqual(510)
    for (const order of served) expect(order).toEqual([...order].sort((a, b) => a - b))
    expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => a - b))
    expect(await admin.keys('headrace:lock:{crowd}:*')).toEqual([])
    await Promise.all(clients.map((client) => client.close()))
  })
})
