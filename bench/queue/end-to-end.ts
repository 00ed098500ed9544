/** From publish to one row in PostgreSQL for each message: exactly once by the inbox, beside BullMQ, which gives it at least once. */
import pg from 'pg'
import { postgres } from 'headrace/postgres'
import { createInbox, inboxSchema, type Queue } from 'headrace/queue'
import { createCoordinator } from 'headrace/transaction'
import { comparison, type Opening } from '../harness.ts'
import { inLanes, keys, Meter, type Order, orderOf } from './contender.ts'
import { onPostgres, onRabbitmq, publishersAtOnce, topic } from './headrace.ts'
import { bullmq } from './job-queues.ts'
import { newDatabase, postgresql, rabbitmq, type Shared, syncedRedis } from './servers.ts'

const messages = 15_000
const bullMessages = 5_000
/** Messages of one transaction, at most. */
const batch = 500
const connections = 20

const table = 'create table done (number integer not null, round integer not null, sku text not null, primary key (round, number))'

interface Places {
  readonly database: Shared
  readonly broker?: Shared
}

function exactlyOnce({ database, broker }: Places, keyCount: number): Opening {
  return async () => {
    const url = await newDatabase(await database.enter())
    const queue: Queue = broker === undefined ? await onPostgres(url) : await onRabbitmq(await broker.enter())
    const data = postgres('data', { url, schema: `${table}; ${inboxSchema.postgres}` })
    const participant = await data.connect()
    await participant.migrate()
    await participant.close()
    const coordinator = await createCoordinator({ deployment: 'bench', databases: [data] })
    const inbox = createInbox({
      engine: 'postgres',
      transact: (run) => coordinator.transaction({ databases: { data } }, ({ databases }) => run(databases.data)),
    })
    return {
      async run({ quick, index }) {
        const count = quick ? 500 : messages
        const meter = new Meter(count)
        const save = inbox.onceBatch<Order>((deliveries, tables) =>
          tables.insertMany(
            'done',
            deliveries.map(({ value: { number, sku } }) => ({ number, round: index, sku })),
          ),
        )
        const consumption = await queue.consumer.runBatch<Order>(
          topic,
          async (deliveries) => {
            await save(deliveries)
            meter.handle(deliveries.length)
          },
          { batch },
        )
        const started = performance.now()
        await inLanes(count, publishersAtOnce, (number) => {
          const order = orderOf(number, keyCount)
          return queue.producer.publish(topic, order, { key: order.sku })
        })
        await meter.done
        const value = count / ((performance.now() - started) / 1_000)
        await consumption.close()
        await rowsAre(url, index, count)
        return value
      },
      async close() {
        await coordinator.close()
        await queue.close()
        await broker?.leave()
        await database.leave()
      },
    }
  }
}

function withBull(database: Shared, redis: Shared): Opening {
  return async () => {
    const url = await newDatabase(await database.enter())
    const pool = new pg.Pool({ connectionString: url, max: connections })
    pool.on('error', (error) => process.emitWarning(error))
    await pool.query(table)
    let round = 0
    const queue = bullmq(await redis.enter(), false, ({ number, sku }) =>
      pool.query('insert into done (number, round, sku) values ($1, $2, $3)', [number, round, sku]),
    )
    return {
      async run({ quick, index }) {
        round = index
        const count = quick ? 500 : bullMessages
        const started = performance.now()
        const consumed = queue.consume(count)
        await queue.publish(count)
        await consumed
        const value = count / ((performance.now() - started) / 1_000)
        await rowsAre(url, index, count)
        return value
      },
      async close() {
        await queue.close()
        await pool.end()
        await redis.leave()
        await database.leave()
      },
    }
  }
}

/** A figure of rows that are not there would be worth nothing. */
async function rowsAre(url: string, round: number, count: number): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  const { rows } = await client.query<{ count: number }>('select count(*)::integer as count from done where round = $1', [round])
  await client.end()
  if (rows[0]?.count !== count) throw new Error(`${rows[0]?.count} rows of ${count}`)
}

export function endToEnd() {
  const [database, broker, redis] = [postgresql(), rabbitmq(), syncedRedis()]
  return comparison({
    unit: 'rows/s',
    contenders: {
      'PostgreSQL, one key': exactlyOnce({ database }, 1),
      'PostgreSQL, 10,000 keys': exactlyOnce({ database }, keys),
      'RabbitMQ, one key': exactlyOnce({ database, broker }, 1),
      'RabbitMQ, 10,000 keys': exactlyOnce({ database, broker }, keys),
      bullmq: withBull(database, redis),
    },
    figures: [
      { name: 'message to row, exactly once, PostgreSQL, one key', of: 'PostgreSQL, one key' },
      { name: 'message to row, exactly once, PostgreSQL, 10,000 keys', of: 'PostgreSQL, 10,000 keys' },
      { name: 'message to row, exactly once, RabbitMQ, one key', of: 'RabbitMQ, one key' },
      { name: 'message to row, exactly once, RabbitMQ, 10,000 keys', of: 'RabbitMQ, 10,000 keys' },
      { name: 'message to row, PostgreSQL over BullMQ (at least once)', ratio: ['PostgreSQL, 10,000 keys', 'bullmq'] },
      { name: 'message to row, RabbitMQ over BullMQ (at least once)', ratio: ['RabbitMQ, 10,000 keys', 'bullmq'] },
    ],
  })
}
