import pg from 'pg'
import { afterAll, beforeAll, describe, it } from 'vitest'
import type { Participant } from '../../contracts/participant.ts'
import { participantConformance } from '../../testing/participant-conformance.ts'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { TcpProxy } from '../../testing/tcp-proxy.ts'
import { postgres } from './database.ts'

const missing = serverMissing('postgres')

const schema = `
  create table if not exists item (id text primary key not null, n bigint not null, note text);
  create table if not exists pair (a text, b bigint, n bigint not null, primary key (a, b))`

for (const pool of ['its own pool', 'a pool of the user'] as const) {
  describe.skipIf(missing !== null)(`PostgreSQL on ${pool}${missing === null ? '' : ` (${missing})`}`, () => {
    let server: Server
    let proxy: TcpProxy
    const admin = async (database: string, text: string): Promise<void> => {
      const client = new pg.Client({ connectionString: urlOf(server.port, database) })
      client.on('error', () => {})
      await client.connect()
      try {
        await client.query(text)
      } finally {
        await client.end()
      }
    }
    const pools: pg.Pool[] = []
    const open = async (name: string, port: number, database: string): Promise<Participant> => {
      const connectTimeoutMs = 2_000
      const url = urlOf(port, database)
      if (pool === 'its own pool') return postgres(name, { url, schema, connectTimeoutMs }).connect()
      const theirs = new pg.Pool({ connectionString: url })
      theirs.on('error', () => {})
      pools.push(theirs)
      return postgres(name, { pool: theirs, schema, connectTimeoutMs }).connect()
    }

    beforeAll(async () => {
      server = await startPostgres()
      proxy = await TcpProxy.to(server.port)
      await admin('postgres', 'create database shop')
      await admin('postgres', 'create database bare')
      await admin('bare', schema)
      const participant = await open('left', server.port, 'shop')
      await participant.migrate()
      await participant.close()
    })
    afterAll(async () => {
      await Promise.all(pools.map((theirs) => theirs.end()))
      await proxy?.close()
      await server?.stop()
    })

    participantConformance({ describe, it }, 'postgres', {
      open: ({ proxied = false, tables = 'migrated', name = 'left' } = {}) =>
        open(name, proxied ? proxy.port : server.port, tables === 'missing' ? 'bare' : 'shop'),
      empty: () => admin('shop', 'truncate item, pair'),
      insertRaw: async (client, id, n) => {
        await (client as pg.PoolClient).query('insert into item (id, n) values ($1, $2)', [id, n])
      },
      byHand: (end, gid, participant) => admin('shop', `${end === 'committed' ? 'commit' : 'rollback'} prepared '${gid}.${participant}'`),
      restart: (how) => server.restart({ hard: how === 'kill -9' }),
      proxy: () => proxy,
    })
  })
}

const urlOf = (port: number, database: string): string => `postgres://postgres@127.0.0.1:${port}/${database}`
