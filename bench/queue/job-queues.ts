/**
 * Job queues that people use on PostgreSQL and Redis, as their documentation
 * shows them for speed: one job a call, and their batch modes.
 */
import { Queue as BullQueue, Worker } from 'bullmq'
import { Logger, makeWorkerUtils, run } from 'graphile-worker'
import { Redis } from 'ioredis'
import pg from 'pg'
import PgBoss from 'pg-boss'
import { type BenchQueue, inLanes, Meter, type Order, orderOf } from './contender.ts'
import { withoutSync } from './servers.ts'

const name = 'orders'
/** Calls at once, one job each, over as many connections. */
const callsAtOnce = 20
/** Jobs of one call in the batch modes, and such calls at once. */
const batchJobs = 1_000
const batchesAtOnce = 2

const orders = (batch: number): Order[] => Array.from({ length: batchJobs }, (_, index) => orderOf(batch * batchJobs + index))
const batchesOf = (count: number): number => Math.ceil(count / batchJobs)

export async function pgBoss(url: string, batched: boolean): Promise<BenchQueue> {
  const quiet = { supervise: false, schedule: false, max: callsAtOnce }
  const producer = await new PgBoss({ connectionString: url, ...quiet }).start()
  const consumer = await new PgBoss({ connectionString: withoutSync(url), ...quiet }).start()
  for (const boss of [producer, consumer]) boss.on('error', (error) => process.emitWarning(error))
  await producer.createQueue(name)
  const insert = (count: number): Promise<void> =>
    inLanes(batchesOf(count), batchesAtOnce, (batch) => producer.insert(orders(batch).map((data) => ({ name, data }))))
  return {
    publish: (count) => (batched ? insert(count) : inLanes(count, callsAtOnce, (number) => producer.send(name, orderOf(number)))),
    fill: insert,
    // Its workers look for jobs at most twice a second; fetch and complete are what they do.
    async consume(count) {
      const meter = new Meter(count)
      const batchSize = batched ? batchJobs : 1
      const lanes = batched ? batchesAtOnce : callsAtOnce
      const lane = async (): Promise<void> => {
        for (;;) {
          const jobs = await consumer.fetch<Order>(name, { batchSize, priority: false })
          if (jobs.length === 0) return
          for (const { data } of jobs) if (data.quantity === 1) meter.handle()
          await consumer.complete(
            name,
            jobs.map(({ id }) => id),
          )
        }
      }
      await Promise.all(Array.from({ length: lanes }, lane))
      return meter.rate()
    },
    async empty() {
      const client = new pg.Client({ connectionString: url })
      await client.connect()
      // Completed jobs too, which it keeps for half a day.
      await client.query('truncate pgboss.job')
      await client.end()
    },
    close: () => Promise.all([producer.stop({ graceful: false, wait: true }), consumer.stop({ graceful: false, wait: true })]),
  }
}

export async function graphileWorker(url: string, batched: boolean): Promise<BenchQueue> {
  const logger = new Logger(() => () => {})
  const producing = new pg.Pool({ connectionString: url, max: callsAtOnce })
  const consuming = new pg.Pool({ connectionString: withoutSync(url), max: callsAtOnce + 6 })
  const warn = (error: Error): void => process.emitWarning(error)
  for (const pool of [producing, consuming]) pool.on('error', warn).on('connect', (client) => client.on('error', warn))
  const utils = await makeWorkerUtils({ pgPool: producing, logger })
  await utils.migrate()
  const addAll = (count: number): Promise<void> =>
    inLanes(batchesOf(count), batchesAtOnce, (batch) => utils.addJobs(orders(batch).map((payload) => ({ identifier: name, payload }))))
  return {
    publish: (count) => (batched ? addAll(count) : inLanes(count, callsAtOnce, (number) => utils.addJob(name, orderOf(number)))),
    fill: addAll,
    async consume(count) {
      const meter = new Meter(count)
      const runner = await run({
        pgPool: consuming,
        logger,
        noHandleSignals: true,
        taskList: { [name]: () => meter.handle() },
        preset: {
          worker: {
            concurrentJobs: batched ? 24 : callsAtOnce,
            ...(batched ? { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } : {}),
          },
        },
      })
      await meter.done
      // Jobs that are done go out of the table: until then the last of them are not acknowledged.
      for (;;) {
        const { rows } = await consuming.query<{ left: boolean }>('select exists (select from graphile_worker._private_jobs) as left')
        if (rows[0]?.left === false) break
      }
      const rate = meter.rate()
      await runner.stop()
      return rate
    },
    empty: () => producing.query('truncate graphile_worker._private_jobs'),
    async close() {
      await utils.release()
      await Promise.all([producing.end(), consuming.end()])
    },
  }
}

/** With `insert`, each job is one row of the table `done` of the database there. */
export function bullmq(url: string, batched: boolean, insert?: (order: Order) => Promise<unknown>): BenchQueue {
  const connection = new Redis(url, { maxRetriesPerRequest: null })
  const queue = new BullQueue<Order>(name, { connection, defaultJobOptions: { removeOnComplete: true, removeOnFail: true } })
  const publish = (count: number): Promise<void> =>
    batched
      ? inLanes(batchesOf(count), batchesAtOnce, (batch) => queue.addBulk(orders(batch).map((data) => ({ name, data }))))
      : inLanes(count, publishersOfBull, (number) => queue.add(name, orderOf(number)))
  return {
    publish,
    fill: (count) => inLanes(batchesOf(count), batchesAtOnce, (batch) => queue.addBulk(orders(batch).map((data) => ({ name, data })))),
    async consume(count) {
      const meter = new Meter(count)
      const worker = new Worker<Order>(
        name,
        async ({ data }) => {
          await insert?.(data)
          meter.handle()
        },
        { connection, concurrency: workersOfBull },
      )
      await meter.done
      await worker.close()
      return meter.rate()
    },
    empty: () => queue.obliterate({ force: true }),
    async close() {
      await queue.close()
      connection.disconnect()
    },
  }
}

/** Many at once go through one connection side by side, and share syncs of the disk. */
const publishersOfBull = 1_000
const workersOfBull = 200
