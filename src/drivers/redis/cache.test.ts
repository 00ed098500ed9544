import { inspect } from 'node:util'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { nothingStored } from '../../contracts/cache.ts'
import { cacheConformance } from '../../testing/cache-conformance.ts'
import { type Server, serverMissing, startRedis } from '../../testing/servers/index.ts'
import { redisCache } from './cache.ts'

const missing = serverMissing('redis')

describe.skipIf(missing !== null)(`the cache on Redis${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server.stop())

  cacheConformance({ describe, it }, 'redis', { open: async () => redisCache({ url: server.url }) })

  it('wakes a waiter by push, long before its lease is over', async () => {
    const [one, other] = [redisCache({ url: server.url }), redisCache({ url: server.url })]
    const request = { key: 'pushed', floor: 0, minVersion: 0, leaseMs: 20_000, refresh: false }
    const lease = await one.lease(request)
    const waits: Promise<number>[] = []
    for (let i = 0; i < 20; i++) {
      const answer = await other.lease({ ...request, key: `pushed` })
      if (answer.state !== 'wait' || lease.state !== 'leased') throw new Error('the lease is not where it should be')
      const began = performance.now()
      waits.push(answer.filled(10_000).then(() => performance.now() - began))
    }
    if (lease.state === 'leased')
      await one.fill({ key: 'pushed', token: lease.token, version: 1, raise: false, body: Buffer.from('x'), freshMs: 1_000, keepMs: 1_000 })
    expect(Math.max(...(await Promise.all(waits)))).toBeLessThan(1_000)
    await Promise.all([one.close(), other.close()])
  })

  it('leaves nothing behind that does not end by itself', async () => {
    const store = redisCache({ url: server.url, prefix: 'ends:' })
    const admin = new Redis(server.url)
    await store.lease({ key: 'a', floor: 3, minVersion: 0, leaseMs: 1_000, refresh: false })
    await store.lease({ key: 'a', floor: 3, minVersion: 0, leaseMs: 1_000, refresh: false })
    await store.change(
      [
        { kind: 'key', name: 'b', version: 3 },
        { kind: 'tag', name: 't', version: null },
      ],
      60_000,
    )
    await store.fill({ key: 'c', token: null, version: null, raise: false, body: Buffer.from('x'), freshMs: 1_000, keepMs: 1_000 })
    await store.marks(['u'])
    await store.claim('n', 'json')
    await store.note('m', 'hot', 1_000)
    const keys = await admin.keys('ends:*')
    expect(keys.length).toBe(8)
    for (const key of keys) expect([key, await admin.pttl(key)]).toEqual([key, expect.toSatisfy((ms: number) => ms > 0)])
    admin.disconnect()
    await store.close()
  })

  it('reads what is not a record of its own as nothing', async () => {
    const store = redisCache({ url: server.url, prefix: 'odd:' })
    const admin = new Redis(server.url)
    for (const odd of ['', 'x', 'H', 'H\u0001', '{"json": true}'.repeat(20)]) {
      await admin.set('odd:{a}', odd)
      expect(await store.read('a')).toBe(nothingStored)
      expect((await store.lease({ key: 'a', floor: 0, minVersion: 0, leaseMs: 1_000, refresh: false })).state).toBe('leased')
      await admin.del('odd:{a}')
    }
    admin.disconnect()
    await store.close()
  })

  it('refuses a prefix that could change its scripts', () => {
    for (const prefix of ['', "it's", 'a b', 'x'.repeat(65), 'a{b}'])
      expect(() => redisCache({ url: server.url, prefix })).toThrow(expect.objectContaining({ code: 'option-invalid' }))
  })

  it('says what is wrong with the server, and prints no password', async () => {
    const admin = new Redis(server.url)
    await admin.call('acl', 'setuser', 'reader', 'on', '>open-sesame', '~*', '&*', '+@read', '+@connection', '+subscribe', '+info')
    await admin.call('acl', 'setuser', 'writer', 'on', '>open-sesame', '~*', '&*', '+@all', '-@scripting')
    const failure = async (
      user: string,
      password: string,
      run: (store: ReturnType<typeof redisCache>) => Promise<unknown>,
    ): Promise<{ code: string; message: string }> => {
      const store = redisCache({ url: `redis://${user}:${password}@127.0.0.1:${server.port}` })
      const error = await run(store).then(
        () => ({ code: 'none', message: '' }),
        (reason: unknown) => reason,
      )
      expect(inspect([error, store], { depth: 9, showHidden: true })).not.toContain(password)
      await store.close()
      return error as { code: string; message: string }
    }
    const request = { key: 'a', floor: 0, minVersion: 0, leaseMs: 1_000, refresh: false }
    expect(await failure('reader', 'wrong-sesame', (store) => store.read('a'))).toMatchObject({ code: 'engine-refused' })
    expect(await failure('writer', 'open-sesame', (store) => store.lease(request))).toMatchObject({
      code: 'engine-refused',
      message: expect.stringContaining('+eval'),
    })
    expect(await failure('reader', 'open-sesame', (store) => store.lease(request))).toMatchObject({ code: 'engine-refused' })
    await admin.call('replicaof', '127.0.0.1', '1')
    const store = redisCache({ url: server.url })
    await expect(store.lease(request)).rejects.toMatchObject({ code: 'engine-refused' })
    await admin.call('replicaof', 'no', 'one')
    await store.close()
    admin.disconnect()
  })
})
