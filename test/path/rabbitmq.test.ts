/** Programs of other makers at both ends of the write path: commands from them, events to them, over RabbitMQ. */
import { Connection } from 'rabbitmq-client'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { rabbitmqQueue } from '../../src/drivers/rabbitmq/index.ts'
import { sqlite } from '../../src/drivers/sqlite/index.ts'
import { accept, command, defineApp, reject } from '../../src/index.ts'
import { type RabbitmqServer, serverMissing, startRabbitmq } from '../../src/testing/servers/index.ts'
import { afterTest, rowsOf, temporaryFolder } from '../support/apps.ts'

const missing = serverMissing('rabbitmq')
const partitions = 2

describe.skipIf(missing !== null)(`the write path between other programs on RabbitMQ${missing === null ? '' : ` (${missing})`}`, () => {
  let server: RabbitmqServer
  beforeAll(async () => {
    server = await startRabbitmq()
  })
  afterAll(() => server.stop())

  it('applies their commands in order per key, and gives them the events of those that commit', async () => {
    const dataDir = temporaryFolder()
    const book = sqlite('book', {
      schema: 'create table if not exists sold (n integer primary key, id text not null unique, sku text not null)',
    })
    const buy = command('order.buy', {
      input: z.object({ sku: z.string(), n: z.number() }),
      key: ({ sku }) => sku,
      databases: { book },
      async run({ input, id, databases: { book } }) {
        if (input.n % 7 === 0) return reject('not-wanted')
        await book.insertMany('sold', [{ id, sku: input.sku }])
        return accept(null, { emit: [{ topic: 'order.placed', message: { id, n: input.n }, headers: { type: 'placed' } }] })
      },
    })
    const app = defineApp({
      name: 'shop',
      commands: [buy],
      dataDir,
      partitions,
      queue: rabbitmqQueue({ url: server.url }),
      events: { topics: { 'order.placed': { partitions, groups: ['mail'] } } },
    })
    afterTest(() => app.stop())
    await app.start()

    const other = new Connection(server.url)
    const placed: { readonly key: unknown; readonly n: number }[] = []
    const consumers = Array.from({ length: partitions }, (_, partition) =>
      other.createConsumer(
        { queue: `headrace:order.placed:mail:${partition}`, qos: { prefetchCount: 10 }, queueOptions: { passive: true } },
        (message) => {
          placed.push({ key: message.headers?.['headrace:key'], n: (message.body as { n: number }).n })
        },
      ),
    )
    const publisher = other.createPublisher({ confirm: true })
    const routingKey = 'headrace:shop.commands:in'
    for (let n = 1; n <= 40; n++) {
      await publisher.send({ routingKey, durable: true, messageId: `c-${n}`, headers: { type: 'order.buy' } }, { sku: `s${n % 3}`, n })
      // A sender that does not know whether it arrived sends it again.
      if (n % 5 === 0)
        await publisher.send({ routingKey, durable: true, messageId: `c-${n}`, headers: { type: 'order.buy' } }, { sku: `s${n % 3}`, n })
      if (n === 20) await publisher.send({ routingKey, durable: true, messageId: 'odd', headers: { type: 'order.buy' } }, { sku: 7 })
    }
    const wanted = Array.from({ length: 40 }, (_, index) => index + 1).filter((n) => n % 7 !== 0)
    await expect.poll(() => placed.length, { timeout: 30_000 }).toBe(wanted.length)
    const rows = rowsOf<{ id: string; sku: string }>(`${dataDir}/book.sqlite`, 'select id, sku from sold order by n')
    for (const sku of ['s0', 's1', 's2']) {
      const own = wanted.filter((n) => `s${n % 3}` === sku)
      expect(rows.filter((row) => row.sku === sku).map(({ id }) => id)).toEqual(own.map((n) => `c-${n}`))
      expect(placed.filter(({ key }) => key === sku).map(({ n }) => n)).toEqual(own)
    }
    const known = await app.gateway.waitForOutcome('order.buy', 'default', 'c-7', AbortSignal.timeout(10_000))
    expect(known).toMatchObject({ state: 'done', status: 'rejected' })
    for (const consumer of consumers) await consumer.close()
    await publisher.close()
    await other.close()
  })
})
