/**
 * A million messages over ten thousand keys, of which one in a hundred fails:
 * what the others lose. `npm run bench -- queue-million`.
 *
 * Half of the failing keys fail each message twice, then take it; the other half
 * fail each message to its end, so that it becomes a dead letter, with the
 * retries and pauses that are the defaults. Both contenders of a comparison
 * consume the same messages; in one of them no key fails. The value is the rate
 * of the healthy keys alone: from the start of the consumer until the last
 * healthy message is handled. Publishing is not in that time.
 *
 * The order of every key is checked message by message, and that nothing comes
 * twice; `test/queue/failing-keys.test.ts` checks the rest.
 *
 * A million messages on SQLite; on servers 100,000, or a million with
 * HEADRACE_BENCH_MILLION=1.
 */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { createLocks } from 'headrace/lock'
import { memoryLocks } from 'headrace/memory'
import { postgresQueue } from 'headrace/postgres'
import { createQueue, type Delivery, type Queue } from 'headrace/queue'
import { rabbitmqQueue } from 'headrace/rabbitmq'
import { sqliteQueue } from 'headrace/sqlite'
import { bench, comparison, type Opening } from './harness.ts'
import { postgresql, rabbitmq, type Shared } from './queue/servers.ts'

const keys = 10_000
const failingEvery = 100
const publishedAtOnce = 20_000
const million = 1_000_000
const onServers = process.env['HEADRACE_BENCH_MILLION'] === '1' ? million : 100_000
const quickMessages = 20_000

const isFailing = (key: number): boolean => key % failingEvery === 0
const isLost = (key: number): boolean => key % (failingEvery * 2) === 0
const healthyOf = (messages: number): number => messages - messages / failingEvery

async function publish(queue: Queue, topic: string, messages: number): Promise<void> {
  for (let from = 0; from < messages; from += publishedAtOnce)
    await Promise.all(
      Array.from({ length: Math.min(publishedAtOnce, messages - from) }, (_, index) => {
        const key = (from + index) % keys
        return queue.producer.publish(topic, (from + index - key) / keys, { key: `k${key}`, id: `${topic}-${from + index}` })
      }),
    )
}

/** Consumes all, and answers the healthy messages in a second. */
async function healthyRate(queue: Queue, topic: string, messages: number, failing: boolean): Promise<number> {
  const next = new Array<number>(keys).fill(0)
  let left = healthyOf(messages)
  let ended = (_error?: Error): void => {}
  const done = new Promise<void>((resolve, reject) => {
    ended = (error) => (error === undefined ? resolve() : reject(error))
  })
  const handler = ({ key, value, attempt }: Delivery<number>): void => {
    const number = Number(key.slice(1))
    const expected = next[number] as number
    if (value !== expected) return ended(new Error(`message ${value} of key ${number} came where ${expected} was to come`))
    if (isFailing(number)) {
      const isOver = !failing || (isLost(number) ? attempt > 5 : attempt > 2)
      if (isOver) next[number] = value + 1
      if (failing && (!isOver || isLost(number))) throw new Error('this key fails')
      return
    }
    next[number] = value + 1
    if (--left === 0) ended()
  }
  const started = performance.now()
  const consumption = await queue.consumer.run<number>(topic, handler, { concurrency: 16 })
  await done
  const rate = healthyOf(messages) / ((performance.now() - started) / 1_000)
  await consumption.close()
  await (await queue.topic(topic)).purge()
  return rate
}

const limits = { inFlightMax: publishedAtOnce * 2, onFull: 'wait', onError: () => {} } as const

/** A contender with a queue of its own; a server is shared. */
function contender(open: (url: string, directory: string) => Queue, messages: number, failing: boolean, server?: Shared): Opening {
  return async ({ directory, quick }) => {
    const url = (await server?.enter()) ?? ''
    const queue = open(url, directory)
    const count = quick ? quickMessages : messages
    return {
      async run({ index }) {
        const topic = `${failing ? 'failing' : 'healthy'}-${index + 1}`
        await queue.declare(topic, { partitions: 16 })
        await publish(queue, topic, count)
        return healthyRate(queue, topic, count, failing)
      },
      async close() {
        await queue.close()
        await rm(directory, { recursive: true, force: true })
        await server?.leave()
      },
    }
  }
}

function engine(name: string, messages: number, open: (url: string, directory: string) => Queue, server?: Shared) {
  return comparison({
    unit: 'messages of healthy keys/s',
    contenders: {
      'one key in 100 fails': contender(open, messages, true, server),
      'none fails': contender(open, messages, false, server),
    },
    figures: [
      { name: `${name}, ${messages} messages, one key in 100 fails`, of: 'one key in 100 fails' },
      {
        name: `${name}, ${messages} messages, healthy keys beside failing ones`,
        ratio: ['one key in 100 fails', 'none fails'],
        goal: { atLeast: 0.95 },
      },
    ],
  })
}

export default bench('queue-million', {
  comparisons: [
    engine('SQLite', million, (_url, directory) =>
      createQueue({ ...limits, engine: sqliteQueue({ file: path.join(directory, 'queue.sqlite') }) }),
    ),
    engine('PostgreSQL', onServers, (url) => createQueue({ ...limits, engine: postgresQueue({ url }) }), postgresql()),
    engine(
      'RabbitMQ',
      onServers,
      (url) => createQueue({ ...limits, engine: rabbitmqQueue({ url }), locks: createLocks(memoryLocks()) }),
      rabbitmq(),
    ),
  ],
})
