/**
 * What a user would write without Headrace, on the same drivers: a transaction
 * on one database, and two phases over two.
 *
 * The two phases leave everything out that a crash would need: markers,
 * recovery, and, unless `logged`, the decision. They are a floor.
 */
import { createPool, type Pool as MysqlPool, type PoolConnection } from 'mysql2/promise'
import pg from 'pg'
import type { Urls } from './servers.ts'

/** One transfer: a row of each database is changed and one is added. */
export interface Transfer {
  readonly id: string
  readonly account: number
}

export interface ByHand {
  apply(transfer: Transfer): Promise<void>
  close(): Promise<void>
}

export function onPostgres(url: string, connections: number): ByHand {
  const pool = new pg.Pool({ connectionString: url, max: connections })
  return {
    async apply(transfer) {
      const client = await pool.connect()
      try {
        await client.query('begin')
        await writeStock(client, transfer)
        await client.query('commit')
      } finally {
        client.release()
      }
    },
    close: () => pool.end(),
  }
}

export function onMariadb(url: string, connections: number): ByHand {
  const pool = createPool({ uri: url, connectionLimit: connections })
  return {
    async apply(transfer) {
      const connection = await pool.getConnection()
      try {
        await connection.query('start transaction')
        await writeWallet(connection, transfer)
        await connection.query('commit')
      } finally {
        connection.release()
      }
    },
    close: () => pool.end(),
  }
}

/** Prepares both side by side, then commits both side by side. `logged`: between the two, the decision is put on disk. */
export function twoPhases(urls: Urls, connections: number, logged: boolean): ByHand {
  const stock = new pg.Pool({ connectionString: urls.stock, max: connections })
  const wallet: MysqlPool = createPool({ uri: urls.wallet, connectionLimit: connections })
  const ready = logged ? stock.query('create table if not exists decision (id varchar(60) primary key)') : Promise.resolve()
  return {
    async apply(transfer) {
      await ready
      const [client, connection] = await Promise.all([stock.connect(), wallet.getConnection()])
      const { id } = transfer
      try {
        await Promise.all([
          (async () => {
            await client.query('begin')
            await writeStock(client, transfer)
            await client.query(`prepare transaction '${id}'`)
          })(),
          (async () => {
            await connection.query(`xa start '${id}'`)
            await writeWallet(connection, transfer)
            await connection.query(`xa end '${id}'`)
            await connection.query(`xa prepare '${id}'`)
          })(),
        ])
        if (logged) await client.query('insert into decision (id) values ($1)', [id])
        await Promise.all([client.query(`commit prepared '${id}'`), connection.query(`xa commit '${id}'`)])
      } finally {
        client.release()
        connection.release()
      }
    },
    async close() {
      await Promise.all([stock.end(), wallet.end()])
    },
  }
}

async function writeStock(client: pg.PoolClient, { id, account }: Transfer): Promise<void> {
  await client.query('update account set balance = balance - 1 where id = $1', [account])
  await client.query('insert into entry (id, account, amount) values ($1, $2, -1)', [id, account])
}

async function writeWallet(connection: PoolConnection, { id, account }: Transfer): Promise<void> {
  await connection.query('update account set balance = balance + 1 where id = ?', [account])
  await connection.query('insert into entry (id, account, amount) values (?, ?, 1)', [id, account])
}
