import pg from 'pg'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { createQueue, inboxSchema, outboxSchema, type Transact } from '../../queue/index.ts'
import { inboxConformance } from '../../testing/inbox-conformance.ts'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { type Coordinator, createCoordinator } from '../../transaction/index.ts'
import { postgres } from './database.ts'
import { postgresQueue } from './queue.ts'
import { postgresQueueSql } from './queue-sql.ts'

const missing = serverMissing('postgres')

describe.skipIf(missing !== null)(`inbox and outbox on PostgreSQL${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  const coordinators: Coordinator[] = []
  beforeAll(async () => {
    server = await startPostgres({ args: ['-c', 'synchronous_commit=off'] })
    const data = postgres('data', {
      url: server.url,
      schema: `create table ledger (id text primary key, n integer not null); ${inboxSchema.postgres} ${outboxSchema.postgres}`,
    })
    const participant = await data.connect()
    await participant.migrate()
    await participant.close()
    for (let number = 0; number < 2; number++)
      coordinators.push(await createCoordinator({ deployment: `inbox${number}`, databases: [postgres('data', { url: server.url })] }))
  })
  afterAll(async () => {
    await Promise.all(coordinators.map((coordinator) => coordinator.close()))
    await server.stop()
  })

  let next = 0
  inboxConformance({ describe, it }, 'postgres', {
    engine: 'postgres',
    concurrent: true,
    transact: () => {
      const coordinator = coordinators[next++ % coordinators.length] as Coordinator
      const data = postgres('data', { url: server.url })
      const transact: Transact = (run) => coordinator.transaction({ databases: { data } }, ({ databases }) => run(databases.data))
      return transact
    },
    queue: async () => postgresQueue({ url: server.url }),
  })
})

describe.skipIf(missing !== null)(`a queue on PostgreSQL that is set up badly${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let admin: pg.Client
  const refused = async (engine: ReturnType<typeof postgresQueue>): Promise<{ readonly code: string; readonly text: string }> => {
    const queue = createQueue({ engine })
    try {
      await queue.declare('orders', { partitions: 1 })
      return { code: 'none', text: '' }
    } catch (error) {
      const { code, message, stack, cause } = error as Error & { code: string }
      return { code, text: `${message} ${stack} ${JSON.stringify(cause)} ${String(cause)}` }
    } finally {
      await queue.close()
    }
  }
  beforeAll(async () => {
    server = await startPostgres()
    admin = new pg.Client(server.url)
    await admin.connect()
  })
  afterAll(async () => {
    await admin.end()
    await server.stop()
  })

  it('says what is wrong with its url, and never shows a password', async ({ expect }) => {
    for (const url of ['', 'mysql://root:secret7@127.0.0.1/x', 'not a url secret7', 5 as never]) {
      let message = ''
      try {
        postgresQueue({ url })
      } catch (error) {
        message = `${(error as Error & { code: string }).code} ${(error as Error).message}`
      }
      expect(message).toMatch(/^option-invalid .*postgres:\/\//)
      expect(message).not.toContain('secret7')
    }
    const { readFileSync, writeFileSync } = await import('node:fs')
    const file = `${server.directory}/pg_hba.conf`
    const trusting = readFileSync(file, 'utf8')
    await admin.query("set password_encryption = 'scram-sha-256'; create role app login password 'right8'")
    writeFileSync(file, `host all app all scram-sha-256\n${trusting}`)
    await admin.query('select pg_reload_conf()')
    await expect.poll(async () => (await admin.query("select from pg_hba_file_rules where auth_method = 'scram-sha-256'")).rowCount).toBe(1)
    const wrong = await refused(postgresQueue({ url: server.url.replace('postgres@', 'app:secret7@') }))
    expect(wrong.code).toBe('engine-refused')
    expect(wrong.text).not.toContain('secret7')
    const nobody = await refused(postgresQueue({ url: 'postgres://postgres:secret7@127.0.0.1:1/postgres' }))
    expect(nobody.code).toBe('engine-unavailable')
    expect(nobody.text).not.toContain('secret7')
    const missingDatabase = await refused(postgresQueue({ url: server.url.replace(/postgres$/, 'nowhere') }))
    expect(missingDatabase.code).toBe('engine-refused')
  })

  it('names missing tables, and tables of another version', async ({ expect }) => {
    expect((await refused(postgresQueue({ url: server.url, setUp: false }))).code).toBe('tables-missing')
    expect((await refused(postgresQueue({ url: server.url }))).code).toBe('none')
    expect((await refused(postgresQueue({ url: server.url, setUp: false }))).code).toBe('none')
    await admin.query('update headrace_queue_meta set version = 0')
    const older = await refused(postgresQueue({ url: server.url }))
    expect(older.code).toBe('tables-outdated')
    expect(older.text).toMatch(/version 0; this Headrace needs version 2.*postgresQueueSql/)
    await admin.query(postgresQueueSql())
    expect((await refused(postgresQueue({ url: server.url }))).code).toBe('none')
    await admin.query('update headrace_queue_meta set version = 9')
    expect((await refused(postgresQueue({ url: server.url }))).text).toMatch(/Use the newer Headrace/)
  })
})
