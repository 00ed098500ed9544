/** What an idle queue adds: from the call of publish to the handler, one message at a time, with pauses. */
import path from 'node:path'
import { comparison, type Opening, recordLatencies } from '../harness.ts'
import type { Queue } from 'headrace/queue'
import { orderOf } from './contender.ts'
import { onPostgres, onRabbitmq, onSqlite, topic } from './headrace.ts'
import { postgresql, rabbitmq, type Shared } from './servers.ts'

const messages = 150
/** Longer than any of them needs, so that each message finds the queue idle. */
const pauseMs = 8

function idle(open: (directory: string, url: string) => Promise<Queue>, server?: Shared): Opening {
  return async ({ directory }) => {
    const queue = await open(directory, (await server?.enter()) ?? '')
    let handled = (): void => {}
    const consumption = await queue.consumer.run(topic, () => handled())
    return {
      async run({ quick }) {
        const latencies = recordLatencies()
        for (let number = 0; number < (quick ? 20 : messages); number++) {
          await new Promise((resolve) => setTimeout(resolve, pauseMs))
          const order = orderOf(number)
          const arrived = new Promise<void>((resolve) => {
            handled = resolve
          })
          const started = performance.now()
          const published = queue.producer.publish(topic, order, { key: order.sku })
          await arrived
          latencies.record(performance.now() - started)
          await published
        }
        const measured = latencies.percentiles()
        return { value: measured.p50Ms, p99: measured.p99Ms, ...measured }
      },
      async close() {
        await consumption.close()
        await queue.close()
        await server?.leave()
      },
    }
  }
}

export function idleLatency() {
  return comparison({
    unit: 'ms',
    contenders: {
      sqlite: idle((directory) => onSqlite(path.join(directory, 'queue.sqlite'))),
      postgres: idle((_, url) => onPostgres(url), postgresql()),
      rabbitmq: idle((_, url) => onRabbitmq(url), rabbitmq()),
    },
    figures: [
      { name: 'idle queue on SQLite, publish to handler, p50', of: 'sqlite', goal: { atMost: 3 } },
      { name: 'idle queue on PostgreSQL, publish to handler, p50', of: 'postgres', goal: { atMost: 3 } },
      { name: 'idle queue on RabbitMQ, publish to handler, p50', of: 'rabbitmq', goal: { atMost: 5 } },
    ],
  })
}
