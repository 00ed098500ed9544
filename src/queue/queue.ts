/**
 * The message queue: `createQueue({ engine })`. The engine keeps messages in
 * order and durably (`contracts/queue.ts`); here is what makes a good queue of
 * it: publishing in batches, consuming by key, retries, delays, dead letters.
 */
import { listen, tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import {
  checkQueueName,
  groupUnknown,
  type DeadMessage,
  type GroupCounts,
  type PartitionCounts,
  type QueueEngine,
  type QueueMessage,
  type QueueTopic,
} from '../contracts/queue.ts'
import { checkBounds, checkNames } from '../contracts/bounds.ts'
import { Consumption, type PartitionLocks } from './consumption.ts'
import { DelayRelay } from './delay-relay.ts'
import { type Delivery, newMessage, type PublishOptions } from './message.ts'
import {
  checkConsumerLimits,
  checkGroups,
  checkQueueLimits,
  type ConsumerLimits,
  consumerLimitTable,
  type QueueLimits,
  queueLimitTable,
  standardGroup,
  topicLimitTable,
} from './options.ts'
import type { BatchHandler } from './partition-run.ts'
import { type OnFull, type Published, TopicProducer } from './producer.ts'

/** The group of a topic that names none. */

export interface QueueOptions extends Partial<QueueLimits> {
  /** Where messages are kept: `sqliteQueue(…)`, `postgresQueue(…)` … The queue closes it. */
  readonly engine: QueueEngine
  /** Gives partitions their epochs where the engine cannot: `createLocks(…)` of headrace/lock. */
  readonly locks?: PartitionLocks
  /** Holds delayed messages where the engine cannot: another engine, such as `sqliteQueue(…)`. The queue closes it. */
  readonly companion?: QueueEngine
  /** What publish does when a partition holds messagesMax, or too much is on its way: reject at once, or wait. Default: 'refuse'. */
  readonly onFull?: OnFull
  /** Called with errors that a consumer gets over by itself, such as an engine that is away. Default: a process warning. */
  readonly onError?: (error: HeadraceError) => void
  /** Spreads retries in time. Default: Math.random. */
  readonly random?: () => number
}

export interface DeclareOptions {
  /** Default: 16. Fixed when the topic is made. */
  readonly partitions?: number
  /** Groups of consumers; each gets every message. Default: ['default']. */
  readonly groups?: readonly string[]
  /** Messages that one partition holds. Default: 1000000. */
  readonly messagesMax?: number
}

export interface RunOptions extends Partial<ConsumerLimits> {
  /** Default: 'default'. */
  readonly group?: string
  /** Messages of a partition in memory. Default: found by measurement, up to prefetchMax. */
  readonly prefetch?: number
}

export interface Producer {
  /** Resolves when the message is durable. Messages of one key that are published one after the other keep that order. */
  publish(topic: string, message: unknown, options?: PublishOptions): Promise<Published>
}

export interface Consumer {
  /** Handles messages one by one: a key in order, keys side by side. */
  run<T = unknown>(topic: string, handler: (delivery: Delivery<T>) => unknown, options?: RunOptions): Promise<Consumption>
  /** Handles up to `batch` messages in one call. A batch that fails is tried again message by message. */
  runBatch<T = unknown>(topic: string, handler: (deliveries: readonly Delivery<T>[]) => unknown, options?: RunOptions): Promise<Consumption>
}

/** What an operator sees of a topic, and does to it. Groups default to 'default'. */
export interface TopicAdmin {
  groups(): Promise<string[]>
  counts(group?: string): Promise<PartitionCounts[]>
  peek(options: { readonly group?: string; readonly partition: number; readonly limit?: number }): Promise<QueueMessage[]>
  deadLetters(options?: { readonly group?: string; readonly after?: string; readonly limit?: number }): Promise<DeadMessage[]>
  /** Puts dead letters back in the queue of their group, in the order of their first append; the named ones, or the first `limit`. */
  redrive(options?: { readonly group?: string; readonly letters?: readonly string[]; readonly limit?: number }): Promise<number>
  drop(options: { readonly group?: string; readonly letters: readonly string[] }): Promise<number>
  purge(group?: string): Promise<number>
  /** Stops every consumer of the group from taking, whichever process it is in. */
  pause(group?: string): Promise<void>
  resume(group?: string): Promise<void>
  isPaused(group?: string): Promise<boolean>
}

export interface Queue extends AsyncDisposable {
  readonly engine: QueueEngine
  readonly producer: Producer
  readonly consumer: Consumer
  /** Makes a topic, or opens it and adds the groups that are new. */
  declare(name: string, options?: DeclareOptions): Promise<TopicAdmin>
  /** A topic that exists. Rejects with 'topic-unknown'. */
  topic(name: string): Promise<TopicAdmin>
  topics(): Promise<string[]>
  /** Depth and age of the topics that this queue has declared or used, for each of their groups. */
  counts(): Promise<GroupCounts[]>
  /** Closes the consumers gracefully, then waits for what is on its way, then closes the engine. */
  close(): Promise<void>
}

/** A message queue on an engine. Throws 'option-invalid' and 'option-unknown'. */
export function createQueue(options: QueueOptions): Queue {
  return new MessageQueue(options)
}

const queueNames = [...Object.keys(queueLimitTable), 'engine', 'locks', 'companion', 'onFull', 'onError', 'random']
const runNames = [...Object.keys(consumerLimitTable), 'group', 'prefetch']
const declareNames = [...Object.keys(topicLimitTable), 'groups']
const pageMax = 1_000

interface Known {
  readonly topic: QueueTopic
  readonly producer: TopicProducer
}

class MessageQueue implements Queue {
  readonly engine: QueueEngine
  readonly producer: Producer
  readonly consumer: Consumer
  readonly #options: QueueOptions
  readonly #limits: QueueLimits
  readonly #onFull: OnFull
  readonly #topics = new Map<string, Promise<Known>>()
  readonly #consumptions = new Set<Consumption>()
  readonly #delays: DelayRelay | null
  readonly #ignoreLooks: () => void
  #looking: Promise<GroupCounts[]> | null = null
  #closing: Promise<void> | null = null

  constructor(options: QueueOptions) {
    if (typeof options?.engine?.declare !== 'function')
      throw new HeadraceError('option-invalid', 'createQueue needs an engine, such as sqliteQueue({ file }).')
    checkNames('createQueue', options, queueNames)
    const { onFull = 'refuse', companion, engine } = options
    if (onFull !== 'refuse' && onFull !== 'wait') throw new HeadraceError('option-invalid', "onFull must be 'refuse' or 'wait'.")
    this.#options = options
    this.#limits = checkQueueLimits(options)
    this.#onFull = onFull
    this.engine = engine
    if (companion !== undefined && companion.capabilities.delays !== true)
      throw new HeadraceError(
        'option-invalid',
        `The companion ${companion.engine} cannot hold delayed messages. Use sqliteQueue or postgresQueue.`,
      )
    this.#delays =
      companion === undefined || engine.capabilities.delays
        ? null
        : new DelayRelay(companion, {
            forward: async (topic, message) => void (await (await this.#known(topic)).producer.publish(message)),
            onError: (error) => this.#onError(error),
          })
    this.#ignoreLooks = listen('headrace:queue-look', ({ add }) => add(engine.engine, this.#look()))
    this.producer = { publish: (topic, message, publishing) => this.#publish(topic, message, publishing) }
    this.consumer = {
      run: (topic, handler, running = {}) =>
        this.#run(topic, ([delivery]) => handler(delivery as Delivery<never>), { ...running, batch: 1 }),
      runBatch: (topic, handler, running = {}) =>
        this.#run(topic, (deliveries) => handler(deliveries as readonly Delivery<never>[]), running),
    }
  }

  async declare(name: string, options: DeclareOptions = {}): Promise<TopicAdmin> {
    this.#checkOpen()
    checkNames(`The topic '${name}'`, options, declareNames)
    const { groups = [standardGroup] } = options
    const { partitions, messagesMax } = checkBounds(topicLimitTable, options)
    checkGroups(name, groups)
    const topic = await this.engine.declare({ name, partitions, groups, messagesMax })
    await this.#delays?.declare(name, partitions, messagesMax)
    const before = await this.#topics.get(name)?.catch(() => null)
    const known = { topic, producer: before?.producer ?? new TopicProducer(topic, this.#limits, this.#onFull) }
    this.#topics.set(name, Promise.resolve(known))
    return admin(topic)
  }

  async topic(name: string): Promise<TopicAdmin> {
    return admin((await this.#known(name)).topic)
  }

  topics(): Promise<string[]> {
    return this.engine.topics()
  }

  async counts(): Promise<GroupCounts[]> {
    const counts: GroupCounts[] = []
    // One after the other: who looks is not to take all connections of the engine.
    for (const known of [...this.#topics.values()]) {
      const topic = (await known.catch(() => null))?.topic
      if (topic === undefined) continue
      for (const group of await topic.groups())
        counts.push({ topic: topic.name, group, paused: await topic.isPaused(group), partitions: await topic.counts(group) })
    }
    return counts
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #close(): Promise<void> {
    this.#ignoreLooks()
    await Promise.all([...this.#consumptions].map((each) => each.close()))
    await this.#delays?.close()
    const known = await Promise.all([...this.#topics.values()].map((each) => each.catch(() => null)))
    await Promise.all(known.flatMap((each) => (each === null ? [] : [each.producer.close()])))
    await this.engine.close()
  }

  async #publish(topic: string, value: unknown, options: PublishOptions = {}): Promise<Published> {
    this.#checkOpen()
    const { topic: known, producer } = await this.#known(topic)
    try {
      const message = newMessage(value, options, known.partitions, this.#limits.messageBytesMax, Date.now())
      if (message.availableAt === null || this.engine.capabilities.delays) return await producer.publish(message, options.signal)
      if (this.#delays === null)
        throw new HeadraceError(
          'queue-unsupported',
          `${this.engine.engine} cannot hold delayed messages. Give createQueue a companion, such as sqliteQueue({ file }).`,
        )
      return await this.#delays.hold(topic, message)
    } catch (error) {
      // A caller that gave up was not refused.
      if (HeadraceError.is(error))
        tell('headrace:queue-publish', () => ({ topic, event: 'refused', messages: 1, duplicates: 0, waitMs: null, code: error.code }))
      throw error
    }
  }

  async #run(name: string, handler: BatchHandler, options: RunOptions): Promise<Consumption> {
    this.#checkOpen()
    checkNames('run', options, runNames)
    const { group = standardGroup, prefetch } = options
    checkQueueName('group', group)
    const limits = checkConsumerLimits(options)
    if (prefetch !== undefined) checkBounds({ prefetch: consumerLimitTable.prefetchMax }, { prefetch })
    const { topic } = await this.#known(name)
    // Says now what the loops would only find out later.
    if (!(await topic.groups()).includes(group)) throw groupUnknown(name, group)
    const locks = this.engine.capabilities.leases ? null : (this.#options.locks ?? null)
    if (!this.engine.capabilities.leases && locks === null)
      throw new HeadraceError(
        'queue-unsupported',
        `${this.engine.engine} gives consumers no epoch. Give createQueue locks, such as createLocks(postgresLocks({ url })).`,
      )
    const { random = Math.random } = this.#options
    const consumption = new Consumption({
      topic,
      group,
      limits,
      prefetch,
      locks,
      handler,
      random,
      onError: (error) => this.#onError(error),
    })
    this.#consumptions.add(consumption)
    void consumption.ended.then(() => this.#consumptions.delete(consumption))
    return consumption
  }

  /** One look at a time, however often metrics ask while the engine is slow. */
  #look(): Promise<GroupCounts[]> {
    this.#looking ??= this.counts().finally(() => {
      this.#looking = null
    })
    return this.#looking
  }

  #known(name: string): Promise<Known> {
    let known = this.#topics.get(name)
    if (known === undefined) {
      const opening = this.#open(name)
      known = opening
      this.#topics.set(name, opening)
      opening.catch(() => {
        // Somebody may declare it later.
        if (this.#topics.get(name) === opening) this.#topics.delete(name)
      })
    }
    return known
  }

  async #open(name: string): Promise<Known> {
    const topic = await this.engine.open(name)
    return { topic, producer: new TopicProducer(topic, this.#limits, this.#onFull) }
  }

  #onError(error: HeadraceError): void {
    if (this.#options.onError !== undefined) this.#options.onError(error)
    else process.emitWarning(error.message, { code: error.code })
  }

  #checkOpen(): void {
    if (this.#closing !== null) throw new HeadraceError('queue-closed', 'The queue is closed: do not use it after close().')
  }
}

function admin(topic: QueueTopic): TopicAdmin {
  return {
    groups: () => topic.groups(),
    counts: (group = standardGroup) => topic.counts(group),
    peek: ({ group = standardGroup, partition, limit = 10 }) => topic.peek(group, partition, limit),
    deadLetters: ({ group = standardGroup, limit = 100, after } = {}) =>
      topic.deadLetters({ group, limit, ...(after === undefined ? {} : { after }) }),
    redrive: ({ group = standardGroup, letters, limit = pageMax } = {}) =>
      topic.redrive({ group, limit, ...(letters === undefined ? {} : { letters }) }),
    drop: ({ group = standardGroup, letters }) => topic.drop({ group, letters }),
    purge: (group = standardGroup) => topic.purge(group),
    pause: (group = standardGroup) => topic.setPaused(group, true),
    resume: (group = standardGroup) => topic.setPaused(group, false),
    isPaused: (group = standardGroup) => topic.isPaused(group),
  }
}
