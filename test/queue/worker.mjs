/**
 * A process that consumes a topic into a database; the queue tests kill it, stop
 * it, and let it run on.
 *
 *   argv  { engine, queue, data, topic, partitions, ttlMs, fault }
 *   out   { ready }, { begun: id, epoch }    before the transaction of the message
 *         { inside: id }                     in it, its work done, before the commit
 *         { done: id } or { failed: id, error }
 *
 * A message with the header `stall` waits that many milliseconds before its
 * transaction. `fault: 'no-inbox'` does the work without the inbox.
 *
 * Lines go out by synchronous writes: what the parent reads is what this
 * process has said before it died or stood still. Plain JavaScript on the built
 * package, since Node 20 runs no TypeScript.
 */
import { writeSync } from 'node:fs'
import { createLocks } from 'headrace/lock'
import { postgres, postgresLocks, postgresQueue } from 'headrace/postgres'
import { createInbox, createQueue } from 'headrace/queue'
import { rabbitmqQueue } from 'headrace/rabbitmq'
import { sqliteQueue, sqliteTransactions } from 'headrace/sqlite'
import { createCoordinator } from 'headrace/transaction'

const { engine, queue, data, topic, partitions, ttlMs, fault } = JSON.parse(process.argv[2])
const say = (line) => writeSync(1, `${JSON.stringify(line)}\n`)

async function transactions() {
  if (engine === 'sqlite') return sqliteTransactions({ file: data }).transact
  const handle = postgres('data', { url: data })
  const coordinator = await createCoordinator({ deployment: `w${process.pid}`, databases: [handle] })
  return (run) => coordinator.transaction({ databases: { data: handle } }, ({ databases }) => run(databases.data))
}

const transact = await transactions()
const work = async ({ id, key }, database) => {
  await database.insertMany('history', [{ id, key_text: key }])
  await database.upsertMany('ledger', 'id', [{ id, n: 1 }], { add: ['n'] })
  say({ inside: id })
}
const handle =
  fault === 'no-inbox'
    ? (delivery) => transact((database) => work(delivery, database))
    : createInbox({ engine: engine === 'sqlite' ? engine : 'postgres', transact }).once(work)

const engines = {
  sqlite: () => ({ engine: sqliteQueue({ file: queue }) }),
  postgres: () => ({ engine: postgresQueue({ url: queue }) }),
  // The broker hands a partition over when it misses the heartbeats of a process that stands still.
  rabbitmq: () => ({ engine: rabbitmqQueue({ url: queue, heartbeatSeconds: 1 }), locks: createLocks(postgresLocks({ url: data })) }),
}
const messages = createQueue({ ...engines[engine](), onError: () => {} })
await messages.declare(topic, { partitions })
await messages.consumer.run(
  topic,
  async (delivery) => {
    const { id, epoch, headers } = delivery
    say({ begun: id, epoch })
    if (headers.stall !== undefined) await new Promise((resolve) => setTimeout(resolve, Number(headers.stall)))
    try {
      await handle(delivery)
    } catch (error) {
      say({ failed: id, error: error.code ?? String(error) })
      throw error
    }
    say({ done: id })
  },
  { leaseTtlMs: ttlMs, leaseRetryMs: 50, retryBaseMs: 20, retryMaxMs: 200, retries: 100 },
)
say({ ready: true })
// Ends with its parent.
process.stdin.on('end', () => process.exit()).resume()
