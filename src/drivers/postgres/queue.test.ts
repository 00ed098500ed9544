import pg from 'pg'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { queueConformance } from '../../testing/queue-conformance.ts'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { postgresQueue, postgresQueueCapabilities } from './queue.ts'

const missing = serverMissing('postgres')

describe.skipIf(missing !== null)(`queues on PostgreSQL${missing === null ? '' : ` (${missing})`}`, () => {
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

  queueConformance({ describe, it }, 'postgres', {
    capabilities: postgresQueueCapabilities,
    open: async () => postgresQueue({ url: server.url }),
    // Closing releases nothing: what is left looks as after kill -9.
    crash: (engine) => engine.close(),
  })
})
