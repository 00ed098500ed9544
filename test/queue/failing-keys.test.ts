/**
 * Many messages over many keys, of which one in a hundred fails: every message
 * of such a key fails a few tries, and some fail for good. The consumer is
 * replaced in the middle.
 *
 *   QUEUE_MESSAGES=1000000 QUEUE_SEED=7 npx vitest run test/queue/failing-keys.test.ts
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { memoryLocks } from '../../src/drivers/memory/index.ts'
import { postgresQueue } from '../../src/drivers/postgres/queue.ts'
import { rabbitmqQueue } from '../../src/drivers/rabbitmq/index.ts'
import { sqliteQueue } from '../../src/drivers/sqlite/queue.ts'
import { createLocks } from '../../src/lock/index.ts'
import { createQueue, type Delivery, type Queue } from '../../src/queue/index.ts'
import { createRandom } from '../../src/std/random.ts'
import { type Server, serverMissing, startPostgres, startRabbitmq } from '../../src/testing/servers/index.ts'

const seed = Number(process.env['QUEUE_SEED'] ?? Date.now() % 1_000_000)
const again = `QUEUE_SEED=${seed} npx vitest run test/queue/failing-keys.test.ts`
const keys = 10_000
/** Every key of this many fails. */
const failingEvery = 100
const retries = 3
const directory = mkdtempSync(join(tmpdir(), 'headrace-test-failing-keys-'))
afterAll(() => rmSync(directory, { recursive: true }))

interface Site {
  readonly missing: string | null
  readonly messages: number
  start(): Promise<Server | null>
  queue(server: Server | null): Queue
}

const limits = { inFlightMax: 100_000, onFull: 'wait', onError: () => {} } as const
const sites: Readonly<Record<string, Site>> = {
  'a SQLite file': {
    missing: null,
    messages: 100_000,
    start: async () => null,
    queue: () => createQueue({ ...limits, engine: sqliteQueue({ file: join(directory, 'queue.sqlite') }) }),
  },
  'PostgreSQL': {
    missing: serverMissing('postgres'),
    messages: 30_000,
    start: () => startPostgres({ args: ['-c', 'synchronous_commit=off'] }),
    queue: (server) => createQueue({ ...limits, engine: postgresQueue({ url: server?.url ?? '' }) }),
  },
  'RabbitMQ': {
    missing: serverMissing('rabbitmq'),
    messages: 30_000,
    start: () => startRabbitmq(),
    // A prefetch that one failing key would fill, if it held the others back.
    queue: (server) =>
      createQueue({ ...limits, engine: rabbitmqQueue({ url: server?.url ?? '', prefetch: 800 }), locks: createLocks(memoryLocks()) }),
  },
}

const fails = (key: number): boolean => key % failingEvery === 0
/** How often this message of a failing key fails: past `retries` it fails for good. */
const failuresOf = (key: number, n: number): number => (fails(key) ? 1 + ((key / failingEvery + n) % (retries + 1)) : 0)

for (const [name, site] of Object.entries(sites)) {
  describe.skipIf(site.missing !== null)(`failing keys in a queue on ${name}${site.missing === null ? '' : ` (${site.missing})`}`, () => {
    it('lose, double and reorder nothing, of theirs or of others, while consumers change', async () => {
      const total = Number(process.env['QUEUE_MESSAGES'] ?? site.messages)
      const random = createRandom(seed)
      const server = await site.start()
      const queue = site.queue(server)
      try {
        const topic = await queue.declare('many', { partitions: 4 })
        const sent = new Array<number>(keys).fill(0)
        const publish = async (): Promise<void> => {
          for (let done = 0; done < total; ) {
            const count = Math.min(20_000, total - done)
            await Promise.all(
              Array.from({ length: count }, () => {
                const key = random.between(0, keys - 1)
                const n = sent[key] as number
                sent[key] = n + 1
                return queue.producer.publish('many', n, { key: `k${key}`, id: `${key}-${n}` })
              }),
            )
            done += count
          }
        }
        await publish()
        const next = new Array<number>(keys).fill(0)
        const broken: string[] = []
        let first = 0
        let repeated = 0
        let reached = (): void => {}
        const handler = ({ id, key, value, attempt }: Delivery<number>): void => {
          const number = Number(key.slice(1))
          const expected = next[number] as number
          // A consumer that ended may leave what it did to the next one: known, and in order.
          if (value < expected) {
            repeated += 1
            return
          }
          if (value > expected) broken.push(`${id} came where ${number}-${expected} was to come`)
          const failures = failuresOf(number, value)
          // The last try of one that fails for good is the end of it here.
          if (attempt > Math.min(failures, retries)) {
            next[number] = value + 1
            first += 1
            if (first === Math.floor(total / 2) || first === total) reached()
          }
          if (attempt <= failures) throw new Error('this key fails')
        }
        const consume = (): ReturnType<Queue['consumer']['run']> =>
          queue.consumer.run<number>('many', handler, { retries, retryBaseMs: 10, retryMaxMs: 40, leaseRetryMs: 20, concurrency: 16 })
        for (const until of [Math.floor(total / 2), total]) {
          const there = new Promise<void>((resolve) => {
            reached = resolve
          })
          const consumption = await consume()
          await there
          if (until === total)
            await expect.poll(async () => (await topic.counts()).reduce((sum, { depth }) => sum + depth, 0), { timeout: 30_000 }).toBe(0)
          await consumption.close()
        }
        expect(broken.slice(0, 5), again).toEqual([])
        expect(next, again).toEqual(sent)
        const buried = sent.flatMap((count, key) =>
          Array.from({ length: count }, (_, n) => n).flatMap((n) => (failuresOf(key, n) > retries ? [`${key}-${n}`] : [])),
        )
        expect(buried.length).toBeGreaterThan(0)
        const letters = await topic.deadLetters({ limit: 10_000 })
        expect(letters.map(({ message }) => message.id).sort(), again).toEqual(buried.sort())
        // What RabbitMQ was told last it may forget: it answers no acknowledgement.
        if (queue.engine.capabilities.stablePositions) expect(repeated, again).toBe(0)
      } finally {
        await queue.close()
        await server?.stop()
      }
    })
  })
}
