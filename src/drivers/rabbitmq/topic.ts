/** A topic on RabbitMQ: its exchange, and the queues of its groups. */
import type { ConsumeMessage } from 'amqplib'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type Appended,
  checkQueueName,
  type DeadLetterQuery,
  type DeadMessage,
  type DeathReason,
  groupUnknown,
  type LeaseAnswer,
  type LeaseOptions,
  leaseTtlMsMax,
  leaseTtlMsMin,
  messagesMaxLimit,
  type NewMessage,
  type PartitionCounts,
  type QueueLease,
  type QueueMessage,
  type QueueTopic,
} from '../../contracts/queue.ts'
import { browse, stateOf } from './browse.ts'
import { answered, withChannel } from './calls.ts'
import type { RabbitConnection } from './connection.ts'
import { DeadLetters } from './dead-letters.ts'
import { Depths } from './depths.ts'
import { Intake } from './intake.ts'
import { type LeaseHost, RabbitLease } from './lease.ts'
import type { KnownOptions } from './options.ts'
import type { Outgoing, Publisher } from './publisher.ts'
import { LeaseToken, type TokenHost } from './token.ts'
import { declareLease, exchangeName, leaseName, partitionName } from './topology.ts'
import { messageFrom, type Properties, propertiesOf } from './wire.ts'

/** When a lease that somebody else holds is worth asking for again: the broker tells no end. */
const heldRetryMs = 1_000

export class RabbitTopic implements QueueTopic, LeaseHost {
  readonly name: string
  readonly partitions: number
  readonly options: KnownOptions
  readonly consuming: RabbitConnection
  readonly publisher: Publisher
  readonly #groups = new Map<string, DeadLetters>()
  readonly #paused = new Set<string>()
  readonly #leases = new Set<RabbitLease>()
  readonly #leaseQueues = new Set<string>()
  readonly #depths: Depths
  readonly #intake: Intake
  /** A declaration sets it: it stands nowhere on the broker. */
  #messagesMax = messagesMaxLimit
  #order: Promise<unknown> = Promise.resolve()

  constructor(host: TokenHost, name: string, partitions: number) {
    this.name = name
    this.partitions = partitions
    this.options = host.options
    this.consuming = host.consuming
    this.publisher = host.publisher
    this.#depths = new Depths(this, name, () => this.#groups.keys())
    this.#intake = new Intake(this, (asked) => this.#depths.reserve(asked, this.#messagesMax))
  }

  /** What a declaration says beside the number of partitions. */
  know(groups: readonly string[], messagesMax: number = this.#messagesMax): void {
    for (const group of groups) if (!this.#groups.has(group)) this.#groups.set(group, new DeadLetters(this, group))
    this.#messagesMax = messagesMax
  }

  async append(messages: readonly NewMessage[]): Promise<Appended[]> {
    const now = Date.now()
    const asked = new Map<number, number>()
    for (const { partition, availableAt } of messages) {
      if (availableAt !== null && availableAt > now)
        throw new HeadraceError(
          'queue-unsupported',
          'RabbitMQ cannot hold delayed messages. Give createQueue a companion, such as sqliteQueue({ file }).',
        )
      checkWhole('partition', partition, 0, this.partitions - 1)
      asked.set(partition, (asked.get(partition) ?? 0) + 1)
    }
    const reserved = this.#depths.reserve(asked, this.#messagesMax)
    // Calls are sent in the order in which they were made, however long one of them waits for the depth.
    const sent = this.#order.then(async () => {
      const { taken, outgoing } = this.#withRoom(messages, await reserved)
      return { taken, confirmed: this.publisher.send(outgoing) }
    })
    this.#order = sent.catch(() => {})
    const { taken, confirmed } = await sent
    const confirmations = await confirmed
    const answers: Appended[] = messages.map(() => ({ state: 'full' }))
    for (const [order, index] of taken.entries()) {
      if (confirmations[order] === 'returned') throw this.#unroutable(messages[index]?.partition ?? 0)
      if (confirmations[order] === 'confirmed') answers[index] = { state: 'kept', position: null }
    }
    return answers
  }

  async lease({ group, partition, ttlMs, epoch }: LeaseOptions): Promise<LeaseAnswer> {
    this.#deadLetters(group)
    checkWhole('partition', partition, 0, this.partitions - 1)
    checkWhole('ttlMs', ttlMs, leaseTtlMsMin, leaseTtlMsMax)
    if (epoch === undefined)
      throw new HeadraceError(
        'queue-unsupported',
        'RabbitMQ gives consumers no epoch. Give createQueue locks, such as createLocks(postgresLocks({ url })).',
      )
    checkWhole('epoch', epoch, 1, Number.MAX_SAFE_INTEGER)
    const queue = leaseName(this.name, group, partition)
    if (!this.#leaseQueues.has(queue)) {
      await withChannel(this.consuming, this.options, (channel) => declareLease(channel, this.options, queue))
      this.#leaseQueues.add(queue)
    }
    const claimed = await this.#claim(queue, epoch)
    if (claimed.state === 'held') return { state: 'held', endsInMs: heldRetryMs }
    if (claimed.state === 'fenced') return claimed
    const { token } = claimed
    try {
      const lease = await RabbitLease.open(this, group, partition, partitionName(this.name, group, partition), token)
      this.#leases.add(lease)
      if (lease.lost.aborted) this.#leases.delete(lease)
      this.#intake.start()
      return { state: 'granted', lease }
    } catch (error) {
      await token.close()
      throw error
    }
  }

  async groups(): Promise<string[]> {
    return [...this.#groups.keys()].sort()
  }

  async counts(group: string): Promise<PartitionCounts[]> {
    const dead = await this.#deadLetters(group).counts()
    return withChannel(this.consuming, this.options, async (channel) => {
      const counts: PartitionCounts[] = []
      for (let partition = 0; partition < this.partitions; partition++) {
        const lease = this.#leaseOf(group, partition)
        const { ready, consumers } = await stateOf(channel, this.options, partitionName(this.name, group, partition))
        counts.push({
          partition,
          depth: ready + (lease?.held ?? 0),
          delayed: 0,
          dead: dead.get(partition) ?? 0,
          oldestPublishedAt: lease?.oldestPublishedAt ?? null,
          acknowledged: lease?.acknowledged ?? 0,
          epoch: lease?.epoch ?? 0,
          leased: consumers > 0,
        })
      }
      return counts
    })
  }

  async peek(group: string, partition: number, limit: number): Promise<QueueMessage[]> {
    this.#deadLetters(group)
    checkWhole('partition', partition, 0, this.partitions - 1)
    const lease = this.#leaseOf(group, partition)
    if (lease !== null) return lease.peek(limit)
    const queue = partitionName(this.name, group, partition)
    const { consumers } = await withChannel(this.consuming, this.options, (channel) => stateOf(channel, this.options, queue))
    if (consumers > 0)
      throw new HeadraceError(
        'queue-unsupported',
        `Another process consumes partition ${partition} of '${this.name}', and RabbitMQ shows nobody else what it has delivered. Look there, or stop that consumer.`,
      )
    return browse(this.consuming, this.options, queue, limit, async (messages) =>
      messages.map((raw, index) => messageFrom(raw, partition, this.partitions, index + 1)),
    )
  }

  deadLetters({ group, after, limit }: DeadLetterQuery): Promise<DeadMessage[]> {
    return this.#deadLetters(group).list(after, limit)
  }

  redrive({ group, letters, limit }: Parameters<QueueTopic['redrive']>[0]): Promise<number> {
    return this.#deadLetters(group).redrive(letters, limit)
  }

  drop({ group, letters }: Parameters<QueueTopic['drop']>[0]): Promise<number> {
    return this.#deadLetters(group).drop(letters)
  }

  async purge(group: string): Promise<number> {
    this.#deadLetters(group)
    return withChannel(this.consuming, this.options, async (channel) => {
      let count = 0
      for (let partition = 0; partition < this.partitions; partition++) {
        const queue = partitionName(this.name, group, partition)
        const { messageCount } = await answered(this.options, `purging '${queue}'`, channel.purgeQueue(queue))
        count += messageCount + ((await this.#leaseOf(group, partition)?.giveUp()) ?? 0)
      }
      return count
    })
  }

  /** In this process only. */
  async setPaused(group: string, paused: boolean): Promise<void> {
    this.#deadLetters(group)
    if (paused) this.#paused.add(group)
    else this.#paused.delete(group)
    for (const lease of this.#leases) lease.wake()
  }

  async isPaused(group: string): Promise<boolean> {
    this.#deadLetters(group)
    return this.isPausedHere(group)
  }

  isPausedHere(group: string): boolean {
    return this.#paused.has(group)
  }

  bury(lease: QueueLease, message: QueueMessage, reason: DeathReason, raw: ConsumeMessage | null): Promise<void> {
    return this.#deadLetters(lease.group).bury(message, reason, raw)
  }

  ended(lease: RabbitLease): void {
    this.#leases.delete(lease)
  }

  /** Ends the leases of this process and the intake. */
  close(): void {
    this.#intake.stop()
    for (const lease of this.#leases) lease.lose()
  }

  /**
   * Those that have room, in the order of publishing: one of each partition in
   * turn. The broker holds a channel up that sends many messages in a row to one
   * quorum queue (quorum_commands_soft_limit, 32).
   */
  #withRoom(messages: readonly NewMessage[], room: Map<number, number>): { readonly taken: number[]; readonly outgoing: Outgoing[] } {
    const byPartition = new Map<number, number[]>()
    for (const [index, { partition }] of messages.entries()) {
      const left = room.get(partition) ?? 0
      if (left <= 0) continue
      room.set(partition, left - 1)
      const indexes = byPartition.get(partition)
      if (indexes === undefined) byPartition.set(partition, [index])
      else indexes.push(index)
    }
    const taken: number[] = []
    for (let turn = 0; byPartition.size > 0; turn++) {
      for (const [partition, indexes] of byPartition) {
        const index = indexes[turn]
        if (index === undefined) byPartition.delete(partition)
        else taken.push(index)
      }
    }
    const exchange = exchangeName(this.name)
    return { taken, outgoing: taken.map((index) => new Appending(exchange, messages[index] as NewMessage)) }
  }

  #deadLetters(group: string): DeadLetters {
    checkQueueName('group', group)
    const letters = this.#groups.get(group)
    if (letters === undefined) throw groupUnknown(this.name, group)
    return letters
  }

  #leaseOf(group: string, partition: number): RabbitLease | null {
    for (const lease of this.#leases) if (lease.group === group && lease.partition === partition) return lease
    return null
  }

  async #claim(queue: string, epoch: number): ReturnType<typeof LeaseToken.claim> {
    try {
      return await LeaseToken.claim(this, queue, epoch)
    } catch (error) {
      // Somebody deleted it: the next call makes it again.
      if (HeadraceError.is(error) && error.code === 'topic-unknown') this.#leaseQueues.delete(queue)
      throw error
    }
  }

  #unroutable(partition: number): HeadraceError {
    return new HeadraceError(
      'topic-unknown',
      `No queue is bound to partition ${partition} of the topic '${this.name}' on RabbitMQ at ${this.options.target.address}. Declare the topic with its groups.`,
      { details: { topic: this.name, partition } },
    )
  }
}

/** A message of an append. Its bytes are made when it is published: until then it waits as it is. */
class Appending implements Outgoing {
  readonly exchange: string
  readonly #message: NewMessage

  constructor(exchange: string, message: NewMessage) {
    this.exchange = exchange
    this.#message = message
  }

  get routingKey(): string {
    return String(this.#message.partition)
  }

  get content(): Buffer {
    return Buffer.from(this.#message.body)
  }

  get bytes(): number {
    return this.#message.body.length
  }

  get properties(): Properties {
    return propertiesOf(this.#message)
  }
}
