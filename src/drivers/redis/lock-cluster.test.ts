import { Cluster, Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { LockEngine } from '../../contracts/lock.ts'
import { lockConformance } from '../../testing/lock-conformance.ts'
import { type Server, serverMissing, startRedis } from '../../testing/servers/index.ts'
import { redisLocks } from './lock.ts'

const missing = serverMissing('redis')
const slots = [
  [0, 5460],
  [5461, 10922],
  [10923, 16383],
] as const

describe.skipIf(missing !== null)(`locks on a Redis Cluster${missing === null ? '' : ` (${missing})`}`, () => {
  let servers: Server[]
  let admins: Redis[]
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
    for (const admin of admins) admin.disconnect()
    await Promise.all(servers.map((server) => server.stop()))
  })

  /** The driver does not close a client that it was given: the suite has its own for each engine. */
  const clients = new Map<LockEngine, Cluster>()
  const open = async (options?: { readonly waitersMax?: number }): Promise<LockEngine> => {
    const client = new Cluster(servers.map(({ host, port }) => ({ host, port })))
    const engine = redisLocks({ client, ...options })
    const { close } = engine
    engine.close = async () => {
      await close.call(engine)
      client.disconnect()
    }
    clients.set(engine, client)
    return engine
  }
  const crash = async (engine: LockEngine): Promise<void> => {
    await engine.close()
    const channels = async (): Promise<unknown[]> =>
      (await Promise.all(admins.map((admin) => admin.call('pubsub', 'shardchannels', `*${engine.client}`)))).flat()
    await expect.poll(channels, { interval: 2 }).toEqual([])
  }

  lockConformance({ describe, it }, 'redis cluster', { open, crash })

  it('spreads locks over the nodes, and keeps all of one lock in one slot', async () => {
    const engine = await open()
    engine.listen({ granted: () => {}, broken: () => {}, gap: () => {} })
    const request = { permits: 1, limit: 1, ttlMs: 30_000, waitMs: 30_000, tokenFloor: 0 }
    for (let key = 0; key < 30; key++) {
      await engine.acquire({ ...request, key: `spread:${key}`, id: `${engine.client}/a${key}` })
      await engine.acquire({ ...request, key: `spread:${key}`, id: `${engine.client}/b${key}` })
    }
    for (const admin of admins) {
      const names = await admin.keys('*{spread:*')
      expect(names.length).toBeGreaterThan(0)
      const tags = new Set(names.map((name) => /\{(.*)\}/.exec(name)?.[1]))
      expect(names).toHaveLength(tags.size * 4)
    }
    await engine.close()
  })
})
