import { Cluster, Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Cache, createCache } from '../../cache/index.ts'
import type { CacheStore } from '../../contracts/cache.ts'
import { cacheConformance } from '../../testing/cache-conformance.ts'
import { type Server, serverMissing, startRedis } from '../../testing/servers/index.ts'
import { redisCache } from './cache.ts'
import { redisCacheBus } from './cache-bus.ts'

const missing = serverMissing('redis')
const slots = [
  [0, 5460],
  [5461, 10922],
  [10923, 16383],
] as const

describe.skipIf(missing !== null)(`the cache on a Redis Cluster${missing === null ? '' : ` (${missing})`}`, () => {
  let servers: Server[]
  let admins: Redis[]
  const clients: Cluster[] = []
  beforeAll(async () => {
    servers = await Promise.all(slots.map(() => startRedis({ args: ['--cluster-enabled', 'yes', '--cluster-node-timeout', '2000'] })))
    admins = servers.map((server) => new Redis(server.url))
    for (const [index, admin] of admins.entries()) {
      const [from, to] = slots[index] as (typeof slots)[number]
      await admin.call('cluster', 'addslotsrange', from, to)
      for (const other of servers) await admin.call('cluster', 'meet', '127.0.0.1', other.port)
    }
    const ready = async (): Promise<boolean> => {
      const infos = await Promise.all(admins.map((admin) => admin.call('cluster', 'info')))
      return infos.every((info) => String(info).includes('cluster_state:ok') && String(info).includes('cluster_known_nodes:3'))
    }
    // Nothing tells when the nodes agree; the bound is that of the hook.
    while (!(await ready())) await new Promise((resolve) => setTimeout(resolve, 20))
  })
  afterAll(async () => {
    for (const client of clients) client.disconnect()
    for (const admin of admins) admin.disconnect()
    await Promise.all(servers.map((server) => server.stop()))
  })

  const client = (): Cluster => {
    const made = new Cluster(servers.map(({ host, port }) => ({ host, port })))
    clients.push(made)
    return made
  }
  const open = async (): Promise<CacheStore> => redisCache({ client: client(), timeoutMs: 5_000 })

  cacheConformance({ describe, it }, 'redis cluster', { open })

  it('spreads keys over the nodes', async () => {
    const store = await open()
    await store.change(
      Array.from({ length: 100 }, (_, place) => ({ kind: 'key', name: `spread-${place}`, version: 1 })),
      60_000,
    )
    for (const admin of admins) expect((await admin.keys('headrace:cache:{spread-*')).length).toBeGreaterThan(10)
    await store.close()
  })

  it('brings invalidations to every node of the app, whichever node of the cluster it listens on', async () => {
    const nodes: Cache[] = []
    for (let i = 0; i < 4; i++) {
      const cache = createCache({
        store: await open(),
        bus: redisCacheBus({ client: client(), trustMs: 2_000, timeoutMs: 5_000 }),
        storeTimeoutMs: 5_000,
      })
      await cache.ready()
      nodes.push(cache)
    }
    const [writer, ...readers] = nodes as [Cache, ...Cache[]]
    for (let version = 1; version <= 20; version++) {
      for (const reader of readers) await reader.get('a', () => version - 1)
      await writer.invalidate('a', version)
      for (const reader of readers) expect(reader.getSync('a')).toBeUndefined()
    }
    for (const node of nodes) await node.close()
  })
})
