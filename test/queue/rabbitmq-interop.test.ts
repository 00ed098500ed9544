/** What others do to RabbitMQ: clients of other makers, and brokers that are not as Headrace needs them. */
import { inspect } from 'node:util'
import amqp, { type Channel } from 'amqplib'
import { Connection } from 'rabbitmq-client'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { memoryLocks } from '../../src/drivers/memory/index.ts'
import { rabbitmqQueue } from '../../src/drivers/rabbitmq/index.ts'
import { createLocks } from '../../src/lock/index.ts'
import { createQueue, partitionOf } from '../../src/queue/index.ts'
import { freePort, type RabbitmqServer, serverMissing, startRabbitmq } from '../../src/testing/servers/index.ts'
import {
  closeClients,
  declare,
  firsts,
  granted,
  group,
  home,
  newClient,
  newTopic,
  numbered,
  refusal,
  takenUpTo,
  upTo,
} from './rabbitmq-fixture.ts'

const missing = serverMissing('rabbitmq')
const messageBytesMax = 1_000_000
const secret = 'hunter2-%-secret'

describe.skipIf(missing !== null)(`RabbitMQ and others${missing === null ? '' : ` (${missing})`}`, () => {
  let server: RabbitmqServer
  let raw: Channel
  let rawConnection: Awaited<ReturnType<typeof amqp.connect>>
  beforeAll(async () => {
    server = await startRabbitmq({ settings: { max_message_size: messageBytesMax } })
    rawConnection = await amqp.connect(server.url)
    raw = await rawConnection.createChannel()
  })
  afterAll(async () => {
    await rawConnection.close()
    await server.stop()
  })
  afterEach(closeClients)

  const url = (change: (url: URL) => void): string => {
    const changed = new URL(server.url)
    change(changed)
    return changed.href
  }

  /** Calls on a channel of their own: a refusal closes it. */
  async function rawly(run: (channel: Channel) => Promise<unknown>): Promise<void> {
    const channel = await rawConnection.createChannel()
    channel.on('error', () => {})
    await run(channel)
    await channel.close()
  }

  describe('another client (rabbitmq-client)', () => {
    it('publishes plain JSON through the intake, in order per key; what is malformed becomes a dead letter and stops nothing', async () => {
      const name = newTopic()
      const queue = createQueue({ engine: rabbitmqQueue({ url: server.url }), locks: createLocks(memoryLocks()) })
      const topic = await queue.declare(name, { partitions: 4 })
      const handled: { readonly key: string; readonly id: string; readonly value: unknown; readonly headers: unknown }[] = []
      await queue.consumer.run(name, ({ key, id, value, headers }) => void handled.push({ key, id, value, headers }))
      const other = new Connection(server.url)
      const publisher = other.createPublisher({ confirm: true })
      const routingKey = `headrace:${name}:in`
      const keys = ['a', 'b', 'c']
      for (let number = 0; number < 30; number++) {
        const headers = { 'headrace:key': keys[number % 3], 'type': 'order.placed', 'attempt': 3 }
        await publisher.send({ routingKey, durable: true, messageId: `o-${number}`, headers }, { number })
        if (number === 10) {
          await publisher.send({ routingKey, durable: true, headers: { 'headrace:key': 'a' } }, { no: 'message id' })
          await publisher.send(
            { routingKey, durable: true, messageId: 'bad-1', headers: { 'headrace:key': 'a' } },
            Buffer.from([0xff, 0xfe, 0x00]),
          )
          await publisher.send(
            { routingKey, durable: true, messageId: 'bad-2', headers: { 'headrace:key': 'b' } },
            Buffer.from('{"broken": '),
          )
          await publisher.send(
            { routingKey, durable: true, messageId: 'bad-3', headers: { 'headrace:key': { not: 'a text' } } },
            { number },
          )
        }
      }
      await expect.poll(() => handled.length, { timeout: 20_000 }).toBe(30)
      for (const [index, key] of keys.entries())
        expect(handled.filter((one) => one.key === key).map(({ value }) => value)).toEqual(
          upTo(10).map((round) => ({ number: round * 3 + index })),
        )
      expect(handled[0]?.headers).toEqual({ type: 'order.placed', attempt: '3' })
      await expect.poll(async () => (await topic.deadLetters()).length, { timeout: 20_000 }).toBe(4)
      const letters = await topic.deadLetters()
      expect(new Set(letters.map(({ reason }) => reason.code))).toEqual(new Set(['message-malformed']))
      const why = letters.map(({ reason }) => reason.message).join('\n')
      for (const expected of [/message_id must be/, /not UTF-8/, /not JSON/, /headrace:key must be a text/]) expect(why).toMatch(expected)
      await publisher.close()
      await other.close()
      await queue.close()
    }, 60_000)

    it('publishes straight to a partition, and is told apart when it is the wrong one', async () => {
      const { engine } = await newClient(server)
      const topic = await declare(engine, newTopic())
      const other = new Connection(server.url)
      const publisher = other.createPublisher({ confirm: true })
      const at = { exchange: `headrace:${topic.name}`, durable: true }
      const wrong = ['x', 'y', 'z', 'v', 'w'].find((key) => partitionOf(key, topic.partitions) !== home) as string
      await publisher.send({ ...at, routingKey: String(home), messageId: 'p-0', headers: { 'headrace:key': 'k' } }, 0)
      await publisher.send({ ...at, routingKey: String(home), messageId: 'p-1', headers: { 'headrace:key': wrong } }, 1)
      const [right, misplaced] = await takenUpTo(await granted(topic), 2)
      expect(right).toMatchObject({ id: 'p-0', key: 'k', body: '0', malformed: null })
      expect(misplaced?.malformed).toMatch(/belongs to partition \d, not \d/)
      await publisher.close()
      await other.close()
    })

    it('consumes a group of its own: plain JSON, with id, key and headers', async () => {
      const { engine } = await newClient(server)
      const name = newTopic()
      const topic = await engine.declare({ name, partitions: 1, groups: [group, 'outside'], messagesMax: 1_000 })
      await topic.append(
        numbered(0, 20, { partition: 0, headers: { type: 'order.placed' } }).map((one) => ({
          ...one,
          body: JSON.stringify({ n: Number(one.body) }),
        })),
      )
      const other = new Connection(server.url)
      const seen: { readonly id: string | undefined; readonly body: unknown; readonly headers: Record<string, unknown> | undefined }[] = []
      const consumer = other.createConsumer(
        { queue: `headrace:${name}:outside:0`, queueOptions: { passive: true }, qos: { prefetchCount: 5 } },
        async ({ messageId, body, headers }) => {
          seen.push({ id: messageId, body, headers })
        },
      )
      await expect.poll(() => seen.length, { timeout: 10_000 }).toBe(20)
      expect(seen.map(({ body }) => body)).toEqual(upTo(20).map((n) => ({ n })))
      expect(seen[3]).toMatchObject({ id: 'm-3', headers: { 'type': 'order.placed', 'headrace:key': 'k' } })
      await consumer.close()
      await other.close()
      expect((await topic.counts('outside'))[0]?.depth).toBe(0)
      expect((await topic.counts(group))[0]?.depth).toBe(20)
    })
  })

  describe('a broker that is not as it should be', () => {
    it('refuses a url that is none, and options that it does not know', async () => {
      for (const bad of [
        '',
        'localhost',
        'http://127.0.0.1',
        `amqp://u:${secret}@:x`,
        'amqp://127.0.0.1/a/b',
        'amqp://127.0.0.1?heartbeat=1',
      ]) {
        const { code, message } = await refusal((async () => rabbitmqQueue({ url: bad }))())
        expect(code).toBe('option-invalid')
        expect(message).not.toContain(secret)
      }
      const unknown = await refusal((async () => rabbitmqQueue({ prefech: 1 } as never))())
      expect(unknown.code).toBe('option-unknown')
      expect(unknown.message).toMatch(/did you mean 'prefetch'/)
      expect((await refusal((async () => rabbitmqQueue({ prefetch: 0 }))())).code).toBe('option-invalid')
    })

    it('tells a wrong password, a missing virtual host and a port where nobody listens apart, and prints no password', async () => {
      const password = encodeURIComponent(secret)
      const cases = [
        [url((at) => Object.assign(at, { password })), 'engine-refused', /refused the user 'guest' or its password/],
        [url((at) => Object.assign(at, { username: 'nobody' })), 'engine-refused', /refused the user 'nobody'/],
        [url((at) => Object.assign(at, { pathname: '/nowhere' })), 'engine-refused', /rabbitmqctl add_vhost 'nowhere'/],
        [`amqp://guest:${password}@127.0.0.1:${await freePort()}`, 'engine-unavailable', /cannot be reached.*ECONNREFUSED/],
      ] as const
      for (const [at, code, expected] of cases) {
        const engine = rabbitmqQueue({ url: at, timeoutMs: 1_000 })
        const start = performance.now()
        const refused = await refusal(declare(engine, newTopic()))
        expect(refused).toMatchObject({ code })
        expect(refused.message).toMatch(expected)
        expect(performance.now() - start).toBeLessThan(8_000)
        expect(refused.message + inspect(engine, { depth: 10, showHidden: true }) + JSON.stringify(engine.status())).not.toContain(
          'hunter2',
        )
        await engine.close()
      }
    })

    it('names the right that a user lacks', async () => {
      await server.ctl('add_user', 'weak', secret)
      await server.ctl('set_permissions', 'weak', '^nothing$', '.*', '.*')
      const engine = rabbitmqQueue({ url: url((at) => Object.assign(at, { username: 'weak', password: encodeURIComponent(secret) })) })
      const refused = await refusal(declare(engine, newTopic()))
      expect(refused.code).toBe('engine-refused')
      expect(refused.message).toMatch(/set_permissions/)
      expect(refused.message).not.toContain('hunter2')
      await engine.close()
    })

    it('refuses a classic queue, and a quorum queue with other arguments, says what to do, and deletes nothing', async () => {
      const { engine } = await newClient(server)
      const [classic, other] = [newTopic(), newTopic()]
      await rawly((channel) => channel.assertQueue(`headrace:${classic}:${group}:0`, { durable: true }))
      await rawly((channel) =>
        channel.assertQueue(`headrace:${other}:${group}:1`, { durable: true, arguments: { 'x-queue-type': 'quorum', 'x-max-length': 5 } }),
      )
      raw.sendToQueue(`headrace:${classic}:${group}:0`, Buffer.from('kept'))
      const refused = await refusal(declare(engine, classic))
      expect(refused.code).toBe('topic-differs')
      expect(refused.message).toMatch(/must be a durable quorum queue.*Nothing was changed.*delete it, or use a topic of another name/)
      const differs = await refusal(declare(engine, other))
      expect(differs.code).toBe('topic-differs')
      expect(differs.message).toMatch(/was declared otherwise: inequivalent arg 'x-/)
      expect(await raw.checkQueue(`headrace:${classic}:${group}:0`)).toMatchObject({ messageCount: 1 })
    })

    it('refuses a message that is too large for the broker, alone: those beside it are kept', async () => {
      const { engine } = await newClient(server)
      const topic = await declare(engine, newTopic())
      const large = numbered(90, 1, { body: 'x'.repeat(messageBytesMax + 1) })
      const [before, refused, after] = [topic.append(numbered(0, 10)), refusal(topic.append(large)), topic.append(numbered(10, 10))]
      await Promise.all([before, after])
      expect(await refused).toMatchObject({ code: 'message-too-large' })
      expect((await refused).message).toMatch(/takes 1000000.*max_message_size/)
      expect(firsts(await takenUpTo(await granted(topic), 20))).toEqual(upTo(20))
    })

    it('tells the publisher when a message has no queue, or its exchange is gone', async () => {
      const { engine } = await newClient(server)
      const topic = await declare(engine, newTopic())
      await rawly((channel) => channel.unbindQueue(`headrace:${topic.name}:${group}:${home}`, `headrace:${topic.name}`, String(home)))
      const unbound = await refusal(topic.append(numbered(0, 3)))
      expect(unbound.code).toBe('topic-unknown')
      expect(unbound.message).toMatch(/No queue is bound to partition/)
      await declare(engine, topic.name)
      await topic.append(numbered(0, 3))
      await rawly((channel) => channel.deleteExchange(`headrace:${topic.name}`))
      expect((await refusal(topic.append(numbered(3, 1)))).code).toBe('topic-unknown')
      await declare(engine, topic.name)
      await topic.append(numbered(3, 1))
      expect(firsts(await takenUpTo(await granted(topic), 4))).toEqual(upTo(4))
    })

    it("answers 'full' when a policy bounds the queue, and takes messages again when some are acknowledged", async () => {
      const { engine } = await newClient(server)
      const topic = await declare(engine, newTopic())
      await topic.append(numbered(0, 5))
      await server.ctl(
        'set_policy',
        'bound',
        `^headrace:${topic.name}:${group}:.$`,
        '{"max-length":5,"overflow":"reject-publish"}',
        '--apply-to',
        'queues',
      )
      try {
        let next = 5
        let kept = 5
        // The broker lets a few through before it refuses.
        const one = async (): Promise<string | undefined> => {
          const [answer] = await topic.append(numbered(next++, 1))
          if (answer?.state === 'kept') kept += 1
          return answer?.state
        }
        await expect.poll(one, { timeout: 10_000, interval: 20 }).toBe('full')
        const lease = await granted(topic)
        const messages = await takenUpTo(lease, kept)
        await lease.acknowledge(messages.at(-1)?.position ?? 0)
        await expect.poll(one, { timeout: 10_000, interval: 20 }).toBe('kept')
      } finally {
        await server.ctl('clear_policy', 'bound')
      }
    }, 60_000)

    it('is told when the queue of a lease is deleted', async () => {
      const { engine } = await newClient(server)
      const topic = await declare(engine, newTopic())
      const lease = await granted(topic)
      await rawly((channel) => channel.deleteQueue(`headrace:${topic.name}:${group}:${home}`))
      await expect.poll(() => lease.lost.aborted, { timeout: 10_000 }).toBe(true)
    })
  })
})
