import pg from 'pg'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { type FencedRegisters, fenceConformance } from '../../testing/fence-conformance.ts'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { postgresFence, postgresFenced, postgresFenceSql } from './fence.ts'

const missing = serverMissing('postgres')

describe.skipIf(missing !== null)(`the guard in PostgreSQL${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let pool: pg.Pool
  beforeAll(async () => {
    server = await startPostgres()
    pool = new pg.Pool({ connectionString: server.url, max: 30 })
    // Connections that are still closing when the server stops say so.
    pool.on('error', () => {})
    await pool.query(postgresFenceSql)
    await pool.query('create table register (name text primary key, value bigint not null)')
  })
  afterAll(async () => {
    await pool.end()
    await server.stop()
  })

  const registers = (client: pg.ClientBase | pg.Pool): FencedRegisters => ({
    read: async (name) => Number((await client.query('select value from register where name = $1', [name])).rows[0]?.value ?? 0),
    write: async (name, value) => {
      await client.query('insert into register values ($1, $2) on conflict (name) do update set value = excluded.value', [name, value])
    },
  })

  fenceConformance({ describe, it }, 'postgres', {
    concurrent: true,
    fenced: (lease, run) => postgresFenced(pool, lease, (client) => run(registers(client))),
    read: (name) => registers(pool).read(name),
    async withoutTable(run) {
      await pool.query('alter table headrace_fence rename to hidden')
      await run()
      await pool.query('alter table hidden rename to headrace_fence')
    },
    async outside(lease) {
      const client = await pool.connect()
      try {
        await postgresFence(client, lease)
      } finally {
        client.release()
      }
    },
  })
})
