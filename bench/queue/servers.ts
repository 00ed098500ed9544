/** Private servers for the bench of the queue: started with the first contender that enters, stopped with the last that leaves. */
import pg from 'pg'
import { startPostgres, startRabbitmq, startRedis } from 'headrace/testing/servers'

export interface Shared {
  /** The url of the server. */
  enter(): Promise<string>
  leave(): Promise<void>
}

function shared(start: () => Promise<{ readonly url: string; stop(): Promise<void> }>): Shared {
  let users = 0
  let running: ReturnType<typeof start> | null = null
  return {
    async enter() {
      users += 1
      running ??= start()
      return (await running).url
    },
    async leave() {
      users -= 1
      if (users > 0 || running === null) return
      const server = await running
      running = null
      await server.stop()
    },
  }
}

export const rabbitmq = (): Shared => shared(() => startRabbitmq())
/** Durable as far as Redis can be: each write is synced. */
export const syncedRedis = (): Shared => shared(() => startRedis({ appendfsync: 'always' }))
export const postgresql = (): Shared => shared(() => startPostgres({ args: ['-c', 'shared_buffers=128MB', '-c', 'max_wal_size=4GB'] }))

let databases = 0

/** A new database on the server, so that one contender's rows are not in the way of another's. */
export async function newDatabase(url: string): Promise<string> {
  const name = `bench_${databases++}`
  const admin = new pg.Client({ connectionString: url })
  await admin.connect()
  await admin.query(`create database ${name}`)
  await admin.end()
  return url.replace(/[^/]+$/, name)
}

/**
 * The same database for consumers, whose writes then do not wait for the disk:
 * Headrace's acknowledgements do not either, since all that a crash can take
 * back of them is delivered again. A contender is given the same.
 */
export const withoutSync = (url: string): string => `${url}?options=-c%20synchronous_commit%3Doff`
