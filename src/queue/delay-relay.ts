/**
 * Delayed messages for an engine that cannot hold them: they wait in another
 * engine, the companion, and go to their topic when they are due.
 *
 * A message is taken out of the companion only when the engine has it, so a
 * crash between the two delivers it twice, under one id; it is never lost.
 * Messages of one key that are due at different moments arrive in that order.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { NewMessage, QueueEngine, QueueTopic } from '../contracts/queue.ts'
import { Consumption } from './consumption.ts'
import { checkConsumerLimits, consumerLimitTable } from './options.ts'
import type { Delivery } from './message.ts'
import type { Published } from './producer.ts'

const relayGroup = 'relay'
/** Messages of one topic on their way to the engine at once. */
const forwardsMax = 256

export interface RelayOptions {
  forward(topic: string, message: NewMessage): Promise<void>
  onError(error: HeadraceError): void
}

export class DelayRelay {
  readonly #companion: QueueEngine
  readonly #options: RelayOptions
  readonly #topics = new Map<string, QueueTopic>()
  readonly #running = new Set<Consumption>()

  constructor(companion: QueueEngine, options: RelayOptions) {
    this.#companion = companion
    this.#options = options
  }

  async declare(name: string, partitions: number, messagesMax: number): Promise<void> {
    if (this.#topics.has(name)) return
    const topic = await this.#companion.declare({ name, partitions, messagesMax, groups: [relayGroup] })
    this.#topics.set(name, topic)
    const limits = checkConsumerLimits({ concurrency: forwardsMax, retries: consumerLimitTable.retries.max })
    this.#running.add(
      new Consumption({
        topic,
        group: relayGroup,
        limits,
        prefetch: undefined,
        locks: null,
        random: Math.random,
        handler: ([delivery]) => this.#forward(name, delivery as Delivery),
        onError: this.#options.onError,
      }),
    )
  }

  /** Resolves when the companion holds the message durably. */
  async hold(name: string, message: NewMessage): Promise<Published> {
    const topic = this.#topics.get(name)
    if (topic === undefined)
      throw new HeadraceError('topic-unknown', `Declare the topic '${name}' in this process to publish delayed messages to it.`)
    const [answer] = await topic.append([message])
    if (answer?.state === 'full')
      throw new HeadraceError('queue-full', `The topic '${name}' holds as many delayed messages as it may.`, { retryAfterMs: 1_000 })
    return { id: message.id, duplicate: answer?.state === 'duplicate' }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#running].map((each) => each.close()))
    await this.#companion.close()
  }

  async #forward(topic: string, { id, key, headers, body, partition, publishedAt }: Delivery): Promise<void> {
    await this.#options.forward(topic, { id, key, headers, body, partition, publishedAt, availableAt: null })
  }
}
