import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { LockEngine } from '../../contracts/lock.ts'
import { lockConformance } from '../../testing/lock-conformance.ts'
import { type Server, serverMissing, startRedis } from '../../testing/servers/index.ts'
import { redisLocks } from './lock.ts'

const missing = serverMissing('redis')

describe.skipIf(missing !== null)(`locks on Redis${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  beforeAll(async () => {
    server = await startRedis()
  })
  afterAll(() => server.stop())

  // Closing cuts the connections and releases nothing: to the server it looks like kill -9, once it has read the end of the stream.
  const crash = async (engine: LockEngine): Promise<void> => {
    await engine.close()
    const admin = new Redis(server.url)
    await expect.poll(() => admin.pubsub('CHANNELS', `*${engine.client}`), { interval: 2 }).toEqual([])
    admin.disconnect()
  }
  lockConformance({ describe, it }, 'redis', { open: async (options) => redisLocks({ url: server.url, ...options }), crash })
})
