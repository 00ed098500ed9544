/**
 * A message queue on RabbitMQ, 3.10 or newer, 4.x included.
 *
 * Two connections: one publishes, one consumes and asks. A broker that is short
 * of memory stops reading from those that publish; acknowledgements and consumers
 * must go on, since they are what frees memory.
 *
 * What RabbitMQ does not do is in the capabilities: it makes no epochs, shows no
 * positions, holds no delays. Locks and a companion engine bring those.
 */
import { inspect } from 'node:util'
import type { HeadraceError } from '../../contracts/errors.ts'
import {
  checkQueueName,
  checkTopic,
  partitionsDiffer,
  type QueueCapabilities,
  type QueueEngine,
  type QueueTopic,
  type TopicOptions,
  topicUnknown,
} from '../../contracts/queue.ts'
import { withChannel } from './calls.ts'
import { RabbitConnection } from './connection.ts'
import { queueClosed } from './errors.ts'
import { type KnownOptions, knownOptions, type RabbitmqQueueOptions } from './options.ts'
import { findPartitions } from './find-topic.ts'
import { Publisher } from './publisher.ts'
import { RabbitTopic } from './topic.ts'
import { declareTopic } from './topology.ts'

export const rabbitmqQueueCapabilities: QueueCapabilities = Object.freeze({
  leases: false,
  stablePositions: false,
  delays: false,
  dedupes: false,
  exactBounds: false,
  remembersTopics: false,
  pauses: false,
  gaps: true,
})

/** How the client stands with the broker, for health checks and logs. */
export interface RabbitmqStatus {
  readonly connected: boolean
  /** Why the broker takes no messages (a memory or disk alarm); null while it does. */
  readonly blocked: string | null
  /** Messages that were published and not yet confirmed. */
  readonly unconfirmed: number
  /** How many may be, at the moment. */
  readonly confirmWindow: number
  /** Messages that wait for room in the window, for the connection, or for the end of an alarm. */
  readonly waiting: number
  /** How often both connections were opened again. */
  readonly reconnects: number
  /** Messages that were published again after a loss. */
  readonly republished: number
  /** Why the connection is not there. */
  readonly lastError: HeadraceError | null
}

export interface RabbitmqQueueEngine extends QueueEngine {
  status(): RabbitmqStatus
}

/** A message queue on RabbitMQ: `createQueue({ engine: rabbitmqQueue({ url }), locks })`. Throws 'option-invalid' and 'option-unknown'; connects with the first call. */
export function rabbitmqQueue(options: RabbitmqQueueOptions = {}): RabbitmqQueueEngine {
  return new RabbitQueueEngine(options)
}

class RabbitQueueEngine implements RabbitmqQueueEngine {
  readonly engine = 'rabbitmq'
  readonly capabilities = rabbitmqQueueCapabilities
  readonly options: KnownOptions
  readonly consuming: RabbitConnection
  readonly publisher: Publisher
  readonly #publishing: RabbitConnection
  readonly #topics = new Map<string, RabbitTopic>()
  #closing: Promise<void> | null = null

  constructor(options: RabbitmqQueueOptions) {
    this.options = knownOptions(options)
    this.#publishing = new RabbitConnection(this.options, 'publisher')
    this.consuming = new RabbitConnection(this.options, 'consumer')
    this.publisher = new Publisher(this.#publishing, this.options)
  }

  status(): RabbitmqStatus {
    const [publishing, consuming] = [this.#publishing, this.consuming]
    return {
      connected: publishing.isUp || consuming.isUp,
      blocked: publishing.blocked,
      unconfirmed: this.publisher.inFlight,
      confirmWindow: this.publisher.window,
      waiting: this.publisher.waiting,
      reconnects: Math.max(0, publishing.opened - 1) + Math.max(0, consuming.opened - 1),
      republished: this.publisher.republished,
      lastError: publishing.lastError ?? consuming.lastError,
    }
  }

  async declare(options: TopicOptions): Promise<QueueTopic> {
    checkTopic(options)
    if (this.#closing !== null) throw queueClosed()
    const { name, partitions, groups, messagesMax } = options
    const known = this.#topics.get(name)
    if (known !== undefined && known.partitions !== partitions) throw partitionsDiffer(name, known.partitions, partitions)
    await withChannel(this.consuming, this.options, (channel) => declareTopic(channel, this.options, options))
    // Another call may have made it meanwhile.
    const topic = this.#topics.get(name) ?? new RabbitTopic(this, name, partitions)
    this.#topics.set(name, topic)
    topic.know(groups, messagesMax)
    return topic
  }

  async open(name: string): Promise<QueueTopic> {
    checkQueueName('topic', name)
    if (this.#closing !== null) throw queueClosed()
    const topic = this.#topics.get(name)
    if (topic === undefined) throw topicUnknown(name)
    return topic
  }

  async find(name: string, groups: readonly string[]): Promise<QueueTopic> {
    checkQueueName('topic', name)
    if (this.#closing !== null) throw queueClosed()
    const partitions = await findPartitions(this.consuming, this.options, name, groups)
    const topic = this.#topics.get(name) ?? new RabbitTopic(this, name, partitions)
    this.#topics.set(name, topic)
    topic.know(groups)
    return topic
  }

  async topics(): Promise<string[]> {
    return [...this.#topics.keys()].sort()
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** A logged engine shows where it goes, never how it logs in. */
  [inspect.custom](): string {
    return `RabbitmqQueue(${this.options.target.address})`
  }

  async #close(): Promise<void> {
    this.publisher.close()
    for (const topic of this.#topics.values()) topic.close()
    await Promise.all([this.#publishing.close(), this.consuming.close()])
  }
}
