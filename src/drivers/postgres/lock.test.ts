import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import pg from 'pg'
import type { LockEngine } from '../../contracts/lock.ts'
import { lockConformance } from '../../testing/lock-conformance.ts'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { postgresLocks } from './lock.ts'

const missing = serverMissing('postgres')

describe.skipIf(missing !== null)(`locks on PostgreSQL${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let admin: pg.Pool
  beforeAll(async () => {
    server = await startPostgres()
    admin = new pg.Pool({ connectionString: server.url })
    admin.on('error', () => {})
  })
  afterAll(async () => {
    await admin.end()
    await server.stop()
  })

  // Closing cuts the connections and releases nothing: to the server it looks like kill -9, once the session has ended.
  const crash = async (engine: LockEngine): Promise<void> => {
    await engine.close()
    const name = `headrace-lock:${engine.client.slice(engine.client.lastIndexOf(':') + 1)}`
    const sessions = async (): Promise<number | null> =>
      (await admin.query('select from pg_stat_activity where application_name = $1', [name])).rowCount
    await expect.poll(sessions, { interval: 2 }).toBe(0)
  }
  lockConformance({ describe, it }, 'postgres', { open: async (options) => postgresLocks({ url: server.url, ...options }), crash })
})
