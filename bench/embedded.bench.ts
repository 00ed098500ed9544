/**
 * The embedded write path against what users write by hand, and against its own
 * server without it. `npm run bench -- embedded`.
 */
import { randomUUID } from 'node:crypto'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { DatabaseSync } from '@photostructure/sqlite'
import autocannon from 'autocannon'
import { request } from 'undici'
import { openByHand } from './embedded/by-hand.ts'
import { endChild, forkChild, startToFirstAnswer } from './embedded/child.ts'
import { buyerOf, defineShop } from './embedded/shop.ts'
import { bench, comparison, type Contender, type Opening, perSecond, recordLatencies, type Sample, type Workplace } from './harness.ts'

const batchCommands = 512
const inFlight = 4 * batchCommands
const connections = 64

function openHeadrace(thread: 'main' | 'worker'): Opening {
  return async ({ directory, quick }) => {
    process.env['HEADRACE_SQLITE_THREAD'] = thread
    const { app, buy, fill } = defineShop(directory)
    await app.start()
    delete process.env['HEADRACE_SQLITE_THREAD']
    await app.submit(fill, { skus: ['hot'] })
    const orders = quick ? 2_000 : 60_000
    return {
      async run() {
        const latencies = recordLatencies()
        let next = 0
        const loop = async (): Promise<void> => {
          while (next < orders) {
            const buyer = buyerOf(next++)
            const started = performance.now()
            const { status } = await app.submit(buy, { sku: 'hot', buyer, quantity: 1 }, { id: randomUUID() })
            if (status !== 'committed') throw new Error(`an order was ${status}`)
            latencies.record(performance.now() - started)
          }
        }
        const value = await perSecond(orders, () => Promise.all(Array.from({ length: inFlight }, loop)))
        return { value, ...latencies.percentiles() }
      },
      close: () => app.stop(),
    }
  }
}

function byHand(batchSize: number, orders: (quick: boolean) => number): Opening {
  return ({ directory, quick }) => {
    const floor = openByHand(directory)
    const total = orders(quick)
    let number = 0
    return {
      run: async () =>
        perSecond(total, async () => {
          for (let done = 0; done < total; done += batchSize) {
            floor.apply(
              Array.from({ length: Math.min(batchSize, total - done) }, () => ({
                id: randomUUID(),
                sku: 'hot',
                buyer: buyerOf(number++),
                quantity: 1,
              })),
            )
          }
        }),
      close: () => floor.close(),
    }
  }
}

/** One server for all contenders of a comparison: they measure routes of the same process. */
function serverOf(thread: 'main' | 'worker') {
  let users = 0
  let running: ReturnType<typeof forkChild<{ url: string }>> | null = null
  return {
    async enter({ directory }: Workplace): Promise<string> {
      users += 1
      running ??= forkChild<{ url: string }>('./server.ts', [directory], { HEADRACE_SQLITE_THREAD: thread })
      return (await running).message.url
    },
    async leave(): Promise<void> {
      users -= 1
      if (users === 0 && running !== null) await endChild((await running).child)
    },
  }
}

type Server = ReturnType<typeof serverOf>

function singleRequests(server: Server, route: string): Opening {
  return async (workplace) => {
    const url = await server.enter(workplace)
    const seconds = workplace.quick ? 1 : 5
    return { run: () => hammer(url, route, seconds), close: () => server.leave() }
  }
}

async function hammer(url: string, route: string, seconds: number): Promise<Sample> {
  let number = 0
  const run = randomUUID().slice(0, 8)
  const result = await autocannon({
    url,
    connections,
    duration: seconds,
    requests: [
      {
        method: 'POST',
        path: route,
        setupRequest: (each) => {
          number += 1
          return {
            ...each,
            headers: { 'content-type': 'application/json', 'idempotency-key': `${run}-${number}` },
            body: `{"sku":"hot","buyer":"${buyerOf(number)}","quantity":1}`,
          }
        },
      },
    ],
  })
  if (result.non2xx > 0 || result.errors > 0) throw new Error(`${route}: ${result.non2xx} answers were not 2xx, ${result.errors} errors`)
  return { value: result.requests.average, p50Ms: result.latency.p50, p99Ms: result.latency.p99 }
}

function bulkRequests(server: Server): Opening {
  return async (workplace) => {
    const url = await server.enter(workplace)
    const lines = workplace.quick ? 2_000 : 50_000
    return {
      async run() {
        const run = randomUUID().slice(0, 8)
        const body = Array.from(
          { length: lines },
          (_, index) => `{"id":"${run}-${index}","input":{"sku":"hot","buyer":"${buyerOf(index)}","quantity":1}}\n`,
        ).join('')
        return perSecond(lines, async () => {
          const answer = await request(`${url}/commands/order.buy`, {
            method: 'POST',
            headers: { 'content-type': 'application/x-ndjson' },
            body,
          })
          const answers = (await answer.body.text()).trimEnd().split('\n')
          const committed = answers.filter((line) => line.includes('"status":"committed"')).length
          if (committed !== lines)
            throw new Error(
              `${committed} of ${lines} lines were committed; one of the others: ${answers.find((line) => !line.includes('"committed"'))}`,
            )
        })
      },
      close: () => server.leave(),
    }
  }
}

/** How outcomes are found: a unique index on disk against row numbers in memory (src/drivers/sqlite/hash-index.ts). */
function outcomeRows(schema: string): Opening {
  return ({ directory, quick }) => {
    const database = new DatabaseSync(path.join(directory, 'outcomes.sqlite'))
    database.exec('pragma journal_mode = wal; pragma synchronous = full; pragma cache_size = -65536')
    database.exec(schema)
    const insert = database.prepare('insert into outcome (id, body) values (?, ?)')
    const rows = quick ? 5_000 : 100_000
    return {
      run: async () =>
        perSecond(rows, async () => {
          for (let done = 0; done < rows; done += batchCommands) {
            database.exec('begin')
            for (let index = 0; index < batchCommands; index++)
              insert.run(randomUUID(), '{"status":"committed","result":{"order":"00000000-0000-0000-0000-000000000000"}}')
            database.exec('commit')
          }
        }),
      close: () => database.close(),
    } satisfies Contender
  }
}

const onWorker = serverOf('worker')
const onMain = serverOf('main')

export default bench('embedded', {
  comparisons: [
    comparison({
      unit: 'orders/s',
      contenders: {
        worker: openHeadrace('worker'),
        main: openHeadrace('main'),
        single: byHand(1, (quick) => (quick ? 200 : 2_000)),
        batches: byHand(batchCommands, (quick) => (quick ? 2_048 : 60_000)),
      },
      figures: [
        { name: 'in process, hot SKU, 2,048 in flight', of: 'worker' },
        { name: '… on the main thread', of: 'main' },
        { name: 'one transaction per order, by hand', of: 'single' },
        { name: 'batches of 512, by hand', of: 'batches' },
        { name: 'over one transaction per order', ratio: ['worker', 'single'], goal: { atLeast: 20 } },
        { name: 'over batches by hand', ratio: ['worker', 'batches'], goal: { atLeast: 0.6 } },
        { name: 'worker thread over main thread, in process', ratio: ['worker', 'main'] },
      ],
    }),
    comparison({
      unit: 'requests/s',
      contenders: {
        parse: singleRequests(onWorker, '/parse'),
        commands: singleRequests(onWorker, '/commands/order.buy'),
        bulk: bulkRequests(onWorker),
        main: singleRequests(onMain, '/commands/order.buy'),
      },
      figures: [
        { name: 'HTTP, parse and answer, 64 connections', of: 'parse' },
        { name: 'HTTP, orders, 64 connections', of: 'commands' },
        { name: 'HTTP, orders over parse and answer', ratio: ['commands', 'parse'], goal: { atLeast: 0.5 } },
        { name: 'HTTP, orders, p99', of: 'commands', take: 'p99Ms', unit: 'ms', goal: { atMost: 50 } },
        { name: 'HTTP, bulk (NDJSON)', of: 'bulk' },
        { name: 'HTTP, bulk over single orders', ratio: ['bulk', 'commands'], goal: { atLeast: 3 } },
        { name: 'worker thread over main thread, over HTTP', ratio: ['commands', 'main'] },
      ],
    }),
    comparison({
      unit: 'orders/s',
      rounds: 5,
      contenders: {
        backlog: ({ directory, quick }) => ({
          run: ({ index }) => forkBacklog(path.join(directory, String(index)), quick ? 20_000 : 1_000_000),
        }),
        direct: openHeadrace('worker'),
      },
      figures: [
        { name: 'backlog of a million: accepted on disk', of: 'backlog', take: 'acceptPerSecond' },
        { name: 'backlog of a million: drained', of: 'backlog' },
        { name: 'backlog of a million: memory', of: 'backlog', take: 'memoryMiB', unit: 'MiB', goal: { atMost: 512 } },
        { name: 'drain over orders in process', ratio: ['backlog', 'direct'], goal: { atLeast: 0.8 } },
      ],
    }),
    comparison({
      unit: 'rows/s',
      contenders: {
        appended: outcomeRows('create table outcome (n integer primary key, id text not null, body text not null)'),
        indexed: outcomeRows('create table outcome (n integer primary key, id text not null unique, body text not null)'),
        clustered: outcomeRows('create table outcome (id text primary key not null, body text not null) without rowid'),
      },
      figures: [
        { name: 'outcomes appended, found by a hash table in memory', of: 'appended' },
        { name: '… with a unique index on disk', of: 'indexed' },
        { name: '… as a b-tree by id', of: 'clustered' },
        { name: 'appended over the unique index', ratio: ['appended', 'indexed'] },
      ],
    }),
    comparison({
      unit: 'ms',
      contenders: {
        start: ({ directory }) => ({
          run: ({ index }) =>
            startToFirstAnswer(
              fileURLToPath(new URL('../examples/flash-sale/app.ts', import.meta.url)),
              path.join(directory, String(index)),
              20_000 + ((process.pid + index) % 20_000),
            ),
        }),
      },
      figures: [{ name: 'headrace start, from idle to the first answer', of: 'start', goal: { atMost: 1_000 } }],
    }),
  ],
})

async function forkBacklog(dataDir: string, commands: number): Promise<Sample> {
  const { child, message } = await forkChild<{ acceptPerSecond: number; drainPerSecond: number; memoryMiB: number }>('./backlog.ts', [
    dataDir,
    String(commands),
  ])
  await endChild(child)
  const { acceptPerSecond, drainPerSecond, memoryMiB } = message
  return { value: drainPerSecond, acceptPerSecond, memoryMiB }
}
