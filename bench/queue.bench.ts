/**
 * The queue against the bare client of RabbitMQ, and against job queues on
 * PostgreSQL and Redis. `npm run bench -- queue`.
 *
 * Every contender of a comparison uses one server and one process. What is
 * published is thrown away before the next contender has its turn. Consumers
 * that others write to PostgreSQL need not wait for the disk either, as ours do
 * not: what a crash takes back of an acknowledgement is delivered again.
 */
import path from 'node:path'
import { bench, type Comparison, comparison, type Opening } from './harness.ts'
import type { BareSettings } from './queue/amqp.ts'
import type { BenchQueue } from './queue/contender.ts'
import { curves } from './queue/curves.ts'
import { endToEnd } from './queue/end-to-end.ts'
import { measured, onPostgres, onRabbitmq, onSqlite } from './queue/headrace.ts'
import { idleLatency } from './queue/idle.ts'
import { bullmq, graphileWorker, pgBoss } from './queue/job-queues.ts'
import { bestBare, consuming, onServer, publishing, type Use } from './queue/rounds.ts'
import { newDatabase, postgresql, rabbitmq, syncedRedis } from './queue/servers.ts'

type Verb = 'publish' | 'consume'
const uses = { publish: publishing, consume: consuming } satisfies Record<Verb, (count: number) => Use>

const rabbitMessages = 30_000
const bare = (window: number, prefetch: number, acknowledged: number): BareSettings => ({ window, prefetch, acknowledged })
/** What is tried for the bare client; its best is what it is measured with. */
const windows = [bare(256, 500, 1), bare(1_024, 500, 1), bare(2_048, 500, 1), bare(4_096, 500, 1)]
const prefetches = [bare(1_024, 250, 1), bare(1_024, 500, 1), bare(1_024, 2_000, 1)]
const bulkPrefetches = [bare(1_024, 500, 50), bare(1_024, 2_000, 200)]

function publishOnBroker(): Comparison {
  const server = rabbitmq()
  const use = publishing(rabbitMessages)
  return comparison({
    unit: 'messages/s',
    contenders: {
      headrace: onServer(server, async (url) => measured(await onRabbitmq(url)), use),
      bare: bestBare(server, windows, use),
      least: bestBare(server, windows, use, 'least'),
    },
    figures: [
      { name: 'RabbitMQ, publish', of: 'headrace' },
      { name: 'RabbitMQ, publish over the bare client, best window, same message', ratio: ['headrace', 'bare'], goal: { atLeast: 0.85 } },
      { name: 'RabbitMQ, publish over the bare client, best window, only an id', ratio: ['headrace', 'least'] },
    ],
  })
}

function consumeOnBroker(): Comparison {
  const server = rabbitmq()
  const use = consuming(rabbitMessages)
  return comparison({
    unit: 'messages/s',
    contenders: {
      headrace: onServer(server, async (url) => measured(await onRabbitmq(url)), use),
      bare: bestBare(server, prefetches, use),
      bulk: bestBare(server, bulkPrefetches, use),
    },
    figures: [
      { name: 'RabbitMQ, consume', of: 'headrace' },
      { name: 'RabbitMQ, consume over the bare client, each acknowledged', ratio: ['headrace', 'bare'], goal: { atLeast: 0.85 } },
      { name: 'RabbitMQ, consume over the bare client, acknowledged in bulk', ratio: ['headrace', 'bulk'] },
    ],
  })
}

const singleJobs = 3_000
const manyJobs = 40_000
/** Their batch modes, which take longer to consume. */
const batchedJobs: Record<Verb, number> = { publish: 40_000, consume: 15_000 }

function onDatabase(verb: Verb): Comparison {
  const server = postgresql()
  const contender = (count: number, open: (url: string) => Promise<BenchQueue>): Opening =>
    onServer(server, async (url) => open(await newDatabase(url)), uses[verb](count))
  const figure = (other: 'pg-boss' | 'graphile-worker', form: '' | ' in batches', atLeast: number) =>
    ({
      name: `PostgreSQL, ${verb} over ${other}${form === '' ? ', single jobs' : form}`,
      ratio: ['headrace', `${other}${form}`],
      goal: { atLeast },
    }) as const
  return comparison({
    unit: 'messages/s',
    contenders: {
      headrace: contender(manyJobs, async (url) => measured(await onPostgres(url))),
      'pg-boss': contender(singleJobs, (url) => pgBoss(url, false)),
      'pg-boss in batches': contender(batchedJobs[verb], (url) => pgBoss(url, true)),
      'graphile-worker': contender(singleJobs, (url) => graphileWorker(url, false)),
      'graphile-worker in batches': contender(batchedJobs[verb], (url) => graphileWorker(url, true)),
    },
    figures: [
      { name: `PostgreSQL, ${verb}`, of: 'headrace' },
      figure('pg-boss', '', 3),
      figure('graphile-worker', '', 3),
      figure('pg-boss', ' in batches', 0.7),
      figure('graphile-worker', ' in batches', 0.7),
    ],
  })
}

const bullJobs = 10_000

/** BullMQ keeps its jobs in Redis, which syncs each write; ours are on their own engines, so these are ratios of ways, not of code. */
function besideBull(verb: Verb): Comparison {
  const [redis, database] = [syncedRedis(), postgresql()]
  const use = uses[verb](bullJobs)
  return comparison({
    unit: 'messages/s',
    contenders: {
      sqlite: async ({ directory }) => {
        const queue = measured(await onSqlite(path.join(directory, 'queue.sqlite')))
        return { run: ({ quick, index }) => use(queue, { quick, warm: index < 0 }), close: async () => void (await queue.close()) }
      },
      postgres: onServer(database, async (url) => measured(await onPostgres(url)), use),
      bullmq: onServer(redis, (url) => bullmq(url, false), use),
      'bullmq in batches': onServer(redis, (url) => bullmq(url, true), use),
    },
    figures: [
      { name: `SQLite, ${verb}`, of: 'sqlite' },
      { name: `BullMQ, ${verb}`, of: 'bullmq' },
      { name: `SQLite over BullMQ, ${verb}`, ratio: ['sqlite', 'bullmq'] },
      { name: `PostgreSQL over BullMQ, ${verb}`, ratio: ['postgres', 'bullmq'] },
      ...(verb === 'publish'
        ? [{ name: 'PostgreSQL over BullMQ in bulk, publish', ratio: ['postgres', 'bullmq in batches'] as const }]
        : []),
    ],
  })
}

export default bench('queue', {
  comparisons: [
    publishOnBroker(),
    consumeOnBroker(),
    onDatabase('publish'),
    onDatabase('consume'),
    idleLatency(),
    besideBull('publish'),
    besideBull('consume'),
    endToEnd(),
    ...curves(),
  ],
})
