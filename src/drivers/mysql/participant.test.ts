import mysql2 from 'mysql2/promise'
import { afterAll, beforeAll, describe, it } from 'vitest'
import type { Participant } from '../../contracts/participant.ts'
import { participantConformance } from '../../testing/participant-conformance.ts'
import { type Server, serverMissing, startMariadb } from '../../testing/servers/index.ts'
import { TcpProxy } from '../../testing/tcp-proxy.ts'
import { mysql } from './handle.ts'

const missing = serverMissing('mariadb')

const schema = `
  create table if not exists item (id varchar(100) character set utf8mb4 collate utf8mb4_bin primary key, n bigint not null, note text);
  create table if not exists pair (a varchar(100), b bigint, n bigint not null, primary key (a, b));`

for (const pool of ['its own pool', 'a pool of the user', 'a pool that takes one statement at a time'] as const) {
  describe.skipIf(missing !== null)(`MariaDB on ${pool}${missing === null ? '' : ` (${missing})`}`, { timeout: 30_000 }, () => {
    let server: Server
    let proxy: TcpProxy
    const pools: mysql2.Pool[] = []
    const admin = async (database: string, ...texts: string[]): Promise<void> => {
      const client = await mysql2.createConnection({ uri: urlOf(server.port, database), multipleStatements: true })
      try {
        for (const text of texts) await client.query(text)
      } finally {
        client.destroy()
      }
    }
    const open = async (name: string, port: number, database: string): Promise<Participant> => {
      const connectTimeoutMs = 2_000
      const url = urlOf(port, database)
      if (pool === 'its own pool') return mysql(name, { url, schema, connectTimeoutMs }).connect()
      const theirs = mysql2.createPool({ uri: url, connectionLimit: 10, multipleStatements: pool === 'a pool of the user' })
      pools.push(theirs)
      return mysql(name, { pool: theirs, schema, connectTimeoutMs }).connect()
    }

    beforeAll(async () => {
      server = await startMariadb()
      proxy = await TcpProxy.to(server.port)
      await admin('test', 'create database shop character set utf8mb4; create database bare character set utf8mb4')
      await admin('bare', schema)
      const participant = await open('left', server.port, 'shop')
      await participant.migrate()
      await participant.close()
    }, 60_000)
    afterAll(async () => {
      await proxy?.close()
      await Promise.all(pools.map((theirs) => theirs.end().catch(() => undefined)))
      await server?.stop()
    }, 60_000)

    participantConformance({ describe, it }, 'mysql', {
      open: ({ proxied = false, tables = 'migrated', name = 'left' } = {}) =>
        open(name, proxied ? proxy.port : server.port, tables === 'missing' ? 'bare' : 'shop'),
      empty: () => admin('shop', 'delete from item; delete from pair'),
      insertRaw: async (client, id, n) => {
        await (client as mysql2.PoolConnection).query('insert into item (id, n) values (?, ?)', [id, n])
      },
      // A person ends the session that prepared it first: as long as it lives, nobody else can end the branch.
      async byHand(end, gid, participant) {
        const client = await mysql2.createConnection(urlOf(server.port, 'shop'))
        try {
          await client.query('set session transaction isolation level read uncommitted')
          const [rows] = await client.query<mysql2.RowDataPacket[]>(
            'select session from headrace_branch where gid = ? and participant = ?',
            [gid, participant],
          )
          await client.query(`kill connection ${Number(rows[0]?.['session'])}`)
          for (let tries = 0; ; tries++) {
            try {
              await client.query(`xa ${end === 'committed' ? 'commit' : 'rollback'} '${gid}','${participant}'`)
              return
            } catch (error) {
              // The killed session may still be on its way out.
              if ((error as { errno?: number }).errno !== 1397 || tries > 1_000) throw error
            }
          }
        } finally {
          client.destroy()
        }
      },
      restart: (how) => server.restart({ hard: how === 'kill -9' }),
      // Answer by answer, a commit never arrives while answers are held back: that case needs the others.
      ...(pool === 'a pool that takes one statement at a time' ? {} : { proxy: () => proxy }),
    })
  })
}

const urlOf = (port: number, database: string): string => `mysql://root@127.0.0.1:${port}/${database}`
