/** Locks on one Redis server, behind one face: ours, and two libraries as their documentation shows them. */
import { Redis } from 'ioredis'
import { Mutex } from 'redis-semaphore'
import { createLock, IoredisAdapter } from 'redlock-universal'
import { redisLocks } from 'headrace/redis'
import { createLocks } from 'headrace/lock'
import { type Server, startRedis } from '../../src/testing/servers/index.ts'

export interface BenchLocks {
  /** Takes a key, waiting as long as it takes; resolves with the way to give it back. */
  take(key: string): Promise<() => Promise<unknown>>
  close(): Promise<void>
}

export type OpenLocks = (url: string) => BenchLocks

const ttlMs = 30_000
const waitMs = 120_000

export const contenders = {
  headrace(url) {
    const locks = createLocks(redisLocks({ url, timeoutMs: 10_000 }), { ttlMs, waitMs })
    return {
      async take(key) {
        const lease = await locks.acquire(key)
        return () => lease.release()
      },
      close: () => locks.close(),
    }
  },
  'redis-semaphore'(url) {
    const client = new Redis(url)
    return {
      async take(key) {
        const mutex = new Mutex(client, key, { lockTimeout: ttlMs, acquireTimeout: waitMs })
        await mutex.acquire()
        return () => mutex.release()
      },
      close: async () => client.disconnect(),
    }
  },
  'redlock-universal'(url) {
    const client = new Redis(url)
    const adapter = new IoredisAdapter(client)
    return {
      async take(key) {
        // Its fastest form, polling at the pace of the other library: ten times as often as by default.
        const lock = createLock({ adapter, key, ttl: ttlMs, retryAttempts: waitMs / 10, retryDelay: 10, performance: 'lean' })
        const handle = await lock.acquire()
        return () => lock.release(handle)
      },
      close: async () => client.disconnect(),
    }
  },
} satisfies Record<string, OpenLocks>

/** One server for all contenders of a comparison. */
export function sharedRedis() {
  let users = 0
  let running: Promise<Server> | null = null
  let admin: Redis | null = null
  return {
    async enter(): Promise<string> {
      users += 1
      running ??= startRedis()
      const server = await running
      admin ??= new Redis(server.url)
      return server.url
    },
    /** Calls that clients made since the server started; not those that scripts make inside. */
    async calls(): Promise<number> {
      const info = (await admin?.info('commandstats')) ?? ''
      const counted = [...info.matchAll(/^cmdstat_(set|get|eval|evalsha):calls=(\d+)/gm)]
      // SET and GET inside of scripts are counted too, but no contender's script sends SET; theirs read with GET.
      return counted.filter(([, name]) => name !== 'get').reduce((sum, [, , calls]) => sum + Number(calls), 0)
    },
    async leave(): Promise<void> {
      users -= 1
      if (users > 0 || running === null) return
      admin?.disconnect()
      const server = await running
      running = null
      admin = null
      await server.stop()
    },
  }
}
