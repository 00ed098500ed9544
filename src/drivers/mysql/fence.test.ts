import mysql from 'mysql2/promise'
import { afterAll, beforeAll, describe, it } from 'vitest'
import { type FencedRegisters, fenceConformance } from '../../testing/fence-conformance.ts'
import { type Server, serverMissing, startMariadb } from '../../testing/servers/index.ts'
import { mysqlFenced, mysqlFenceSql } from './fence.ts'

const missing = serverMissing('mariadb')

describe.skipIf(missing !== null)(`the guard in MariaDB${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let pool: mysql.Pool
  beforeAll(async () => {
    server = await startMariadb()
    pool = mysql.createPool({ uri: server.url, connectionLimit: 30 })
    await pool.query(mysqlFenceSql)
    await pool.query('create table register (name varbinary(512) primary key, value bigint not null)')
  })
  afterAll(async () => {
    await pool.end()
    await server.stop()
  })

  const registers = (client: mysql.Connection | mysql.Pool): FencedRegisters => ({
    async read(name) {
      const [rows] = await client.query<mysql.RowDataPacket[]>('select value from register where name = ?', [name])
      return Number(rows[0]?.['value'] ?? 0)
    },
    async write(name, value) {
      await client.query('insert into register values (?, ?) on duplicate key update value = values(value)', [name, value])
    },
  })

  fenceConformance({ describe, it }, 'mysql', {
    concurrent: true,
    outside: null,
    fenced: (lease, run) => mysqlFenced(pool, lease, (connection) => run(registers(connection))),
    read: (name) => registers(pool).read(name),
    async withoutTable(run) {
      await pool.query('rename table headrace_fence to hidden')
      await run()
      await pool.query('rename table hidden to headrace_fence')
    },
  })
})
