/**
 * What a user would write without Headrace, with the same clients on the same
 * servers: one transaction per order over 20 connections, and a loop over
 * batches. Over two databases both are two-phase commits, whose decision is a
 * row in PostgreSQL; without recovery, and without a look for repeated ids.
 */
import { createPool, type Pool as MysqlPool, type PoolConnection, type RowDataPacket } from 'mysql2/promise'
import pg from 'pg'
import type { Places } from './servers.ts'
import { type Order, price } from './shop.ts'

const connections = 20
const outcomeTable = 'create table if not exists outcome (id varchar(64) primary key, body text not null)'
const decisionTable = 'create table if not exists decided (gid varchar(64) primary key)'

export interface ByHand {
  single(order: Order): Promise<void>
  batch(orders: readonly Order[]): Promise<void>
  close(): Promise<void>
}

const bodyOf = ({ id }: Order): string => JSON.stringify({ id, command: 'order.buy', status: 'committed', result: { order: id } })

export async function openByHand({ shopUrl, bankUrl }: Places): Promise<ByHand> {
  const shop = new pg.Pool({ connectionString: shopUrl, max: connections })
  await shop.query(`${outcomeTable}; ${decisionTable}`)
  if (shopUrl === bankUrl) return overOne(shop)
  const bank = createPool({ uri: bankUrl, connectionLimit: connections })
  return overTwo(shop, bank)
}

function overOne(shop: pg.Pool): ByHand {
  return {
    async single(order) {
      const client = await shop.connect()
      try {
        await client.query('begin')
        await takeStock(client, order)
        await client.query({ name: 'w', text: 'select balance from wallet where buyer = $1 for update', values: [order.buyer] })
        await client.query({
          name: 'u',
          text: 'update wallet set balance = balance - $2 where buyer = $1',
          values: [order.buyer, order.quantity * price],
        })
        await client.query({ name: 'o', text: 'insert into outcome values ($1, $2)', values: [order.id, bodyOf(order)] })
        await client.query('commit')
      } finally {
        client.release()
      }
    },
    async batch(orders) {
      const client = await shop.connect()
      try {
        await client.query('begin')
        const left = await takeBatch(client, orders)
        const wallets = await client.query<{ buyer: string; balance: string }>({
          name: 'bw',
          text: 'select buyer, balance from wallet where buyer = any($1) order by buyer for update',
          values: [[...new Set(orders.map(({ buyer }) => buyer))]],
        })
        const balances = spent(new Map(wallets.rows.map(({ buyer, balance }) => [buyer, Number(balance)])), orders)
        await saveBatch(client, orders, left)
        await client.query({
          name: 'bu',
          text: 'update wallet set balance = v.balance from unnest($1::text[], $2::bigint[]) as v (buyer, balance) where wallet.buyer = v.buyer',
          values: [[...balances.keys()], [...balances.values()]],
        })
        await client.query('commit')
      } finally {
        client.release()
      }
    },
    close: () => shop.end(),
  }
}

function overTwo(shop: pg.Pool, bank: MysqlPool): ByHand {
  let number = 0
  const both = async (work: (client: pg.PoolClient, connection: PoolConnection) => Promise<void>): Promise<void> => {
    const gid = `hand_${process.pid}_${number++}`
    const [client, connection] = await Promise.all([shop.connect(), bank.getConnection()])
    try {
      await Promise.all([client.query('begin'), connection.query(`xa start '${gid}'`)])
      await work(client, connection)
      await Promise.all([
        client.query(`prepare transaction '${gid}'`),
        connection.query(`xa end '${gid}'`).then(() => connection.query(`xa prepare '${gid}'`)),
      ])
      await client.query({ name: 'd', text: 'insert into decided values ($1)', values: [gid] })
      await Promise.all([client.query(`commit prepared '${gid}'`), connection.query(`xa commit '${gid}'`)])
    } finally {
      client.release()
      connection.release()
    }
  }
  return {
    single: (order) =>
      both(async (client, connection) => {
        await Promise.all([
          takeStock(client, order).then(() =>
            client.query({ name: 'o', text: 'insert into outcome values ($1, $2)', values: [order.id, bodyOf(order)] }),
          ),
          connection
            .execute('select balance from wallet where buyer = ? for update', [order.buyer])
            .then(() =>
              connection.execute('update wallet set balance = balance - ? where buyer = ?', [order.quantity * price, order.buyer]),
            ),
        ])
      }),
    batch: (orders) =>
      both(async (client, connection) => {
        const ofBank = async (): Promise<void> => {
          const [rows] = await connection.query<(RowDataPacket & { buyer: string; balance: number })[]>(
            'select buyer, balance from wallet where buyer in (?) order by buyer for update',
            [[...new Set(orders.map(({ buyer }) => buyer))]],
          )
          const balances = spent(new Map(rows.map(({ buyer, balance }) => [buyer, balance])), orders)
          await connection.query('insert into wallet (buyer, balance) values ? on duplicate key update balance = values(balance)', [
            [...balances],
          ])
        }
        const ofShop = async (): Promise<void> => saveBatch(client, orders, await takeBatch(client, orders))
        await Promise.all([ofShop(), ofBank()])
      }),
    async close() {
      await Promise.all([shop.end(), bank.end()])
    },
  }
}

async function takeStock(client: pg.PoolClient, { id, sku, buyer, quantity }: Order): Promise<void> {
  const { rows } = await client.query<{ remaining: string }>({
    name: 's',
    text: 'select remaining from stock where sku = $1 for update',
    values: [sku],
  })
  if (Number(rows[0]?.remaining) < quantity) throw new Error('the bench expects plenty')
  await client.query({ name: 't', text: 'update stock set remaining = remaining - $2 where sku = $1', values: [sku, quantity] })
  await client.query({
    name: 'i',
    text: 'insert into orders (id, sku, buyer, quantity) values ($1, $2, $3, $4)',
    values: [id, sku, buyer, quantity],
  })
}

async function takeBatch(client: pg.PoolClient, orders: readonly Order[]): Promise<Map<string, number>> {
  const { rows } = await client.query<{ sku: string; remaining: string }>({
    name: 'bs',
    text: 'select sku, remaining from stock where sku = any($1) order by sku for update',
    values: [[...new Set(orders.map(({ sku }) => sku))]],
  })
  const left = new Map(rows.map(({ sku, remaining }) => [sku, Number(remaining)]))
  for (const { sku, quantity } of orders) left.set(sku, (left.get(sku) as number) - quantity)
  return left
}

async function saveBatch(client: pg.PoolClient, orders: readonly Order[], left: ReadonlyMap<string, number>): Promise<void> {
  await client.query({
    name: 'bt',
    text: 'update stock set remaining = v.remaining from unnest($1::text[], $2::bigint[]) as v (sku, remaining) where stock.sku = v.sku',
    values: [[...left.keys()], [...left.values()]],
  })
  await client.query({
    name: 'bi',
    text: 'insert into orders (id, sku, buyer, quantity) select * from unnest($1::text[], $2::text[], $3::text[], $4::bigint[])',
    values: [
      orders.map(({ id }) => id),
      orders.map(({ sku }) => sku),
      orders.map(({ buyer }) => buyer),
      orders.map(({ quantity }) => quantity),
    ],
  })
  await client.query({
    name: 'bo',
    text: 'insert into outcome select * from unnest($1::text[], $2::text[])',
    values: [orders.map(({ id }) => id), orders.map(bodyOf)],
  })
}

function spent(balances: Map<string, number>, orders: readonly Order[]): Map<string, number> {
  for (const { buyer, quantity } of orders) balances.set(buyer, (balances.get(buyer) as number) - quantity * price)
  return balances
}
