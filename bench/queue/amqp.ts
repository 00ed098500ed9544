/**
 * RabbitMQ through the bare client, as fast as it goes: the same quorum queues
 * and the same messages (persistent, mandatory, with id, key and time), or the
 * least message that has an id; confirms counted in a window, the window and the
 * prefetch found by trying.
 */
import { type ChannelModel, type ConfirmChannel, connect } from 'amqplib'
import { partitionOf } from 'headrace/queue'
import { type BenchQueue, Meter, orderOf } from './contender.ts'

const partitions = 16
const exchange = 'bare'
const queueName = (partition: number): string => `bare:${partition}`

export interface BareSettings {
  /** Messages that are not yet confirmed. */
  readonly window: number
  /** Messages of a queue that are not yet acknowledged. */
  readonly prefetch: number
  /** Messages that one acknowledgement is for. */
  readonly acknowledged: number
}

/** The bare client under settings that may be changed between rounds. */
export async function bareAmqp(url: string, settings: () => BareSettings, message: 'same' | 'least'): Promise<BenchQueue> {
  const [publishing, consuming] = await Promise.all([connect(url), connect(url)])
  const channel = await publishing.createConfirmChannel()
  await channel.assertExchange(exchange, 'direct', { durable: true })
  for (let partition = 0; partition < partitions; partition++) {
    const name = queueName(partition)
    await channel.assertQueue(name, { durable: true, arguments: { 'x-queue-type': 'quorum' } })
    await channel.bindQueue(name, exchange, String(partition))
  }
  return {
    publish: (count) => publishAll(channel, count, settings().window, message),
    // Enough to have it done soon.
    fill: (count) => publishAll(channel, count, 1_024, message),
    consume: (count) => consumeAll(consuming, count, settings()),
    async empty() {
      for (let partition = 0; partition < partitions; partition++) await channel.purgeQueue(queueName(partition))
    },
    async close() {
      await publishing.close()
      await consuming.close()
    },
  }
}

/** What Headrace sends beside the body. */
function sameProperties(messageId: string, key: string) {
  const now = Date.now()
  return {
    persistent: true,
    mandatory: true,
    contentType: 'application/json',
    messageId,
    timestamp: Math.floor(now / 1_000),
    headers: { 'headrace:key': key, 'headrace:published-at': String(now) },
  }
}

function publishAll(channel: ConfirmChannel, count: number, window: number, message: 'same' | 'least'): Promise<void> {
  return new Promise((resolve, reject) => {
    let sent = 0
    let confirmed = 0
    const send = (): void => {
      while (sent < count && sent - confirmed < window) {
        const order = orderOf(sent)
        const routingKey = String(partitionOf(order.sku, partitions))
        const content = Buffer.from(JSON.stringify(order))
        const properties =
          message === 'least'
            ? { persistent: true, mandatory: true, contentType: 'application/json', messageId: `order-${sent}` }
            : sameProperties(`order-${String(sent).padStart(17, '0')}`, order.sku)
        sent += 1
        channel.publish(exchange, routingKey, content, properties, answered)
      }
    }
    const answered = (error: unknown): void => {
      if (error !== null) return reject(error as Error)
      confirmed += 1
      if (confirmed === count) resolve()
      else send()
    }
    send()
  })
}

async function consumeAll(connection: ChannelModel, count: number, { prefetch, acknowledged }: BareSettings): Promise<number> {
  const meter = new Meter(count)
  const consumers = await Promise.all(
    Array.from({ length: partitions }, async (_, partition) => {
      const channel = await connection.createChannel()
      await channel.prefetch(prefetch)
      let open = 0
      let last: Parameters<typeof channel.ack>[0] | null = null
      const acknowledge = (): void => {
        if (last !== null) channel.ack(last, true)
        last = null
        open = 0
      }
      await channel.consume(queueName(partition), (message) => {
        if (message === null) return
        JSON.parse(message.content.toString())
        last = message
        open += 1
        if (open >= acknowledged) acknowledge()
        meter.handle()
      })
      return { channel, acknowledge }
    }),
  )
  await meter.done
  // What the broker answers proves that it has the acknowledgements before it.
  await Promise.all(
    consumers.map(({ channel, acknowledge }) => {
      acknowledge()
      return channel.close()
    }),
  )
  return meter.rate()
}
