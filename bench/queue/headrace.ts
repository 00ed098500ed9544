/** Headrace's queue, on each of its engines, with the options that users get by default. */
import { createLocks } from 'headrace/lock'
import { memoryLocks } from 'headrace/memory'
import { postgresQueue } from 'headrace/postgres'
import { createQueue, type Queue, type QueueEngine, type QueueOptions, type RunOptions } from 'headrace/queue'
import { type RabbitmqQueueOptions, rabbitmqQueue } from 'headrace/rabbitmq'
import { sqliteQueue } from 'headrace/sqlite'
import { type BenchQueue, inLanes, Meter, type Order, orderOf } from './contender.ts'

export const topic = 'orders'
/** Publishers that wait for their messages at the same time. */
export const publishersAtOnce = 4_000

export function onSqlite(file: string, options: Partial<QueueOptions> = {}): Promise<Queue> {
  return opened(sqliteQueue({ file }), options)
}

export function onPostgres(url: string, options: Partial<QueueOptions> = {}): Promise<Queue> {
  return opened(postgresQueue({ url }), options)
}

export function onRabbitmq(url: string, options: Partial<QueueOptions> = {}, engine: RabbitmqQueueOptions = {}): Promise<Queue> {
  return opened(rabbitmqQueue({ url, timeoutMs: 30_000, ...engine }), { locks: createLocks(memoryLocks()), ...options })
}

async function opened(engine: QueueEngine, options: Partial<QueueOptions>): Promise<Queue> {
  const queue = createQueue({ engine, ...options })
  await queue.declare(topic)
  return queue
}

export function measured(queue: Queue, running: RunOptions = {}, keyCount?: number): BenchQueue {
  return {
    publish: (count) =>
      inLanes(count, publishersAtOnce, (number) => {
        const order = orderOf(number, keyCount)
        return queue.producer.publish(topic, order, { key: order.sku })
      }),
    async consume(count) {
      const meter = new Meter(count)
      const consumption = await queue.consumer.run<Order>(topic, () => meter.handle(), running)
      await meter.done
      await consumption.close()
      return meter.rate()
    },
    empty: async () => (await queue.topic(topic)).purge(),
    close: () => queue.close(),
  }
}
