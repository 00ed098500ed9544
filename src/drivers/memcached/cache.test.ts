import { connect } from 'node:net'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { createCache } from '../../cache/index.ts'
import { nothingStored } from '../../contracts/cache.ts'
import { cacheConformance } from '../../testing/cache-conformance.ts'
import { type Server, serverMissing, startMemcached } from '../../testing/servers/index.ts'
import { memcachedCache } from './cache.ts'

const missing = serverMissing('memcached')

describe.skipIf(missing !== null)(`the cache on Memcached${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  beforeAll(async () => {
    server = await startMemcached()
  })
  afterAll(() => server.stop())

  const store = (options = {}) => memcachedCache({ server: `127.0.0.1:${server.port}`, timeoutMs: 200, ...options })

  cacheConformance({ describe, it }, 'memcached', { open: async () => memcachedCache({ server: `127.0.0.1:${server.port}` }) })

  it('loads once for several caches that ask at the same time', async () => {
    const caches = Array.from({ length: 4 }, () => createCache({ store: store() }))
    let loads = 0
    const load = async (): Promise<number> => {
      loads++
      await new Promise((resolve) => setTimeout(resolve, 30))
      return 7
    }
    const answers = await Promise.all(caches.flatMap((cache) => Array.from({ length: 100 }, () => cache.get('once', load))))
    expect(new Set(answers)).toEqual(new Set([7]))
    expect(loads).toBe(1)
    for (const cache of caches) await cache.close()
  })

  it('answers in time when the server is stopped or gone, and is back by itself', async () => {
    const one = store()
    await one.read('a')
    server.pause()
    const began = performance.now()
    await expect(one.read('a')).rejects.toMatchObject({ code: 'engine-timeout' })
    expect(performance.now() - began).toBeLessThan(1_500)
    server.resume()
    await vi.waitFor(async () => expect(await one.read('a')).toBe(nothingStored))
    await server.kill()
    await vi.waitFor(() => expect(one.read('a')).rejects.toMatchObject({ code: 'engine-unavailable' }))
    await server.restart()
    await vi.waitFor(async () => expect(await one.read('a')).toBe(nothingStored))
    await one.close()
  })

  it('says that a value is too large, keeps no old one, and lets nobody wait for it', async () => {
    const [one, other] = [store({ itemBytesMax: 4 * 1024 ** 2 }), store()]
    const request = { key: 'large', floor: 3, minVersion: 0, leaseMs: 10_000, refresh: false }
    const lease = await one.lease(request)
    const waiting = await other.lease(request)
    if (lease.state !== 'leased' || waiting.state !== 'wait') throw new Error('the lease is not where it should be')
    expect(
      await one.fill({
        key: 'large',
        token: lease.token,
        version: 3,
        raise: false,
        body: Buffer.alloc(2 * 1024 ** 2),
        freshMs: 1_000,
        keepMs: 1_000,
      }),
    ).toBe('too-large')
    await waiting.filled(5_000)
    expect(await other.read('large')).toMatchObject({ entry: null, floor: 3 })
    await Promise.all([one.close(), other.close()])
  })

  it('serves what does not fit from the load and L1', async () => {
    const cache = createCache({ store: store(), bytesMax: 64 * 1024 ** 2, compressOverBytes: 2 ** 30 })
    const load = vi.fn(() => 'x'.repeat(1_200_000))
    expect(await cache.get('large', load)).toHaveLength(1_200_000)
    expect(cache.getSync('large')).toHaveLength(1_200_000)
    expect(cache.stats().tooLarge).toBe(1)
    await cache.close()
  })

  it('too small for what is stored, it loses values, and nothing else', async () => {
    const small = await startMemcached({ memoryMb: 2 })
    const cache = createCache({ store: memcachedCache({ server: `127.0.0.1:${small.port}` }), l1: false, compressOverBytes: 2 ** 30 })
    for (let round = 0; round < 2; round++) {
      for (let i = 0; i < 100; i++) expect(await cache.get(`k${i}`, () => `${i}:${'x'.repeat(50_000)}`)).toMatch(new RegExp(`^${i}:x`))
    }
    await cache.close()
    await small.stop()
  })

  it('reads what is not a record of its own as nothing', async () => {
    const one = store({ prefix: 'odd:' })
    const socket = connect(server.port, '127.0.0.1')
    for (const odd of ['', 'x', '{"json":true}', 'H'.repeat(80)]) {
      await new Promise<void>((resolve) => {
        socket.once('data', () => resolve())
        socket.write(`set odd:k:a 0 60 ${odd.length}\r\n${odd}\r\n`)
      })
      expect(await one.read('a')).toBe(nothingStored)
    }
    socket.destroy()
    await one.close()
  })

  it('refuses options that are none', () => {
    for (const options of [
      { server: 'no port' },
      { server: 'a:b' },
      { prefix: 'a b' },
      { prefix: '' },
      { timeoutMs: 0 },
      { connectionsMax: 0 },
    ]) {
      expect(() => memcachedCache(options)).toThrow(expect.objectContaining({ code: 'option-invalid' }))
    }
  })
})
