/**
 * A lease on one partition: the token of its lease queue, and a consumer of its
 * message queue on a channel of its own.
 *
 * The messages of the channel are numbered from 1 by the broker (delivery tag);
 * a position is that number after the base of the token. What is delivered and
 * not acknowledged stays here, bounded by `prefetch`.
 *
 * Messages that are not done may be left open behind the acknowledged position:
 * what is done around them is acknowledged one by one, and the broker gives
 * those that are open, in order and first, to the next consumer.
 *
 * States: live → over (released, lost with its connection, or taken over).
 */
import type { Channel, ConsumeMessage } from 'amqplib'
import { checkWhole } from '../../contracts/bounds.ts'
import { type DeathReason, type QueueLease, type QueueMessage, queueLeaseLost, type TakeOptions } from '../../contracts/queue.ts'
import { pause } from '../../std/backoff.ts'
import { Deque } from '../../std/deque.ts'
import { answered, closeChannel, openChannel } from './calls.ts'
import { channelError, queueClosed } from './errors.ts'
import type { LeaseToken, TokenHost } from './token.ts'
import { messageFrom } from './wire.ts'

/** How much of the prefetch may be done behind an open message before it is acknowledged around that. */
const gapsShare = 0.75

/** How long the broker may hold back acknowledgements that came one by one, in milliseconds: a channel that is closed before loses them. */
const settleMs = 100

/** The topic, as a lease sees it. */
export interface LeaseHost extends TokenHost {
  readonly name: string
  readonly partitions: number
  isPausedHere(group: string): boolean
  bury(lease: QueueLease, message: QueueMessage, reason: DeathReason, raw: ConsumeMessage | null): Promise<void>
  ended(lease: RabbitLease): void
}

export class RabbitLease implements QueueLease {
  readonly group: string
  readonly partition: number
  readonly epoch: number
  readonly #host: LeaseHost
  readonly #token: LeaseToken
  readonly #lost = new AbortController()
  readonly #waiting = new Set<() => void>()
  /** Up to the acknowledged position, and not done; in order, by position. */
  readonly #open = new Map<number, ConsumeMessage>()
  /** Delivered after the acknowledged position: those that were taken, then those of `#next`. */
  readonly #unacknowledged = new Deque<ConsumeMessage>()
  readonly #next = new Deque<ConsumeMessage>()
  /** By position: taken messages that cannot be made again from what `take` gave. */
  readonly #odd = new Map<number, ConsumeMessage>()
  readonly #buried = new Map<number, Promise<void>>()
  #channel: Channel | null = null
  #newestTaken: ConsumeMessage | null = null
  #acknowledged = 0
  #settledAt = 0
  #ending: Promise<void> | null = null
  #over = false

  private constructor(host: LeaseHost, group: string, partition: number, token: LeaseToken) {
    this.group = group
    this.partition = partition
    this.epoch = token.epoch
    this.#host = host
    this.#token = token
  }

  /** Begins to consume under a token that was granted. */
  static async open(host: LeaseHost, group: string, partition: number, queue: string, token: LeaseToken): Promise<RabbitLease> {
    const lease = new RabbitLease(host, group, partition, token)
    token.onLost(() => lease.lose())
    const { options, consuming } = host
    const channel = await openChannel(consuming, options)
    lease.#channel = channel
    channel.on('close', () => lease.lose())
    await answered(options, 'setting the prefetch', channel.prefetch(options.prefetch))
    await answered(
      options,
      `consuming '${queue}'`,
      channel.consume(queue, (raw) => lease.#deliver(raw)),
    )
    if (token.isLost) lease.lose()
    return lease
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  /** The last position that was acknowledged under this lease, or before it. */
  get acknowledged(): number {
    return Math.max(this.#acknowledged, this.#token.base)
  }

  get gapsAfter(): number {
    return Math.max(1, Math.floor(this.#host.options.prefetch * gapsShare))
  }

  /** Messages that were delivered and not acknowledged. */
  get held(): number {
    return this.#open.size + this.#unacknowledged.length
  }

  /** When the oldest message that is held was published. */
  get oldestPublishedAt(): number | null {
    for (const head of this.#held()) return this.#read(head).publishedAt
    return null
  }

  /** The first messages that are not acknowledged. */
  peek(limit: number): QueueMessage[] {
    const messages: QueueMessage[] = []
    for (const raw of this.#held()) {
      if (messages.length >= limit) break
      messages.push(this.#read(raw))
    }
    return messages
  }

  async take({ messagesMax, bytesMax, waitMs, signal }: TakeOptions): Promise<QueueMessage[]> {
    checkWhole('messagesMax', messagesMax, 1, 1_000_000)
    const deadline = performance.now() + waitMs
    for (;;) {
      this.#check()
      if (signal?.aborted === true) return []
      if (this.#next.length > 0 && !this.#host.isPausedHere(this.group)) return this.#batch(messagesMax, bytesMax)
      const leftMs = deadline - performance.now()
      if (leftMs <= 0) return []
      await this.#woken(leftMs, signal)
    }
  }

  async acknowledge(position: number, open: readonly number[] = []): Promise<void> {
    this.#check()
    const newest = this.#token.base + this.#tagOf(this.#newestTaken)
    const upTo = Math.min(position, newest)
    const { all, each } = this.#doneUpTo(upTo, new Set(open))
    this.#acknowledged = Math.max(this.#acknowledged, upTo)
    const channel = this.#channel
    if (channel === null || (all === null && each.length === 0)) return
    const { options } = this.#host
    try {
      if (all !== null) channel.ack(all, true)
      for (const raw of each) channel.ack(raw)
      if (each.length > 0) this.#settledAt = performance.now() + settleMs
      // AMQP does not answer acknowledgements. The broker takes the calls of a
      // channel in order, so its answer to this one proves that it had ours.
      await answered(options, 'acknowledging', channel.prefetch(options.prefetch))
    } catch (error) {
      this.#check()
      // Not known: whoever consumes next, perhaps we, begins where the broker says.
      this.lose()
      throw channelError(options.target, 'acknowledging', error)
    }
  }

  async bury(message: QueueMessage, reason: DeathReason): Promise<void> {
    this.#check()
    const { position } = message
    // A letter that is on its way, or there, is not written again.
    const burial = this.#buried.get(position) ?? this.#host.bury(this, message, reason, this.#odd.get(position) ?? null)
    this.#buried.set(position, burial)
    try {
      await burial
    } catch (error) {
      if (this.#buried.get(position) === burial) this.#buried.delete(position)
      throw error
    }
    this.#check()
  }

  /** A lease without its connection is gone; one with it lasts. */
  async extend(): Promise<boolean> {
    return !this.#over
  }

  async release(): Promise<void> {
    const leftMs = this.#settledAt - performance.now()
    if (!this.#over && leftMs > 0) await pause(leftMs, this.#lost.signal)
    this.lose()
    await this.#ending
  }

  /** Acknowledges all that was delivered, taken or not. Answers how many had not been. */
  async giveUp(): Promise<number> {
    const count = this.held
    let newest: ConsumeMessage | undefined
    for (let next = this.#next.shift(); next !== undefined; next = this.#next.shift()) newest = next
    if (newest !== undefined) this.#newestTaken = newest
    if (count > 0) await this.acknowledge(Number.MAX_SAFE_INTEGER)
    return count
  }

  /** A waiting take looks again. */
  wake(): void {
    for (const wake of this.#waiting) wake()
  }

  lose(): void {
    if (this.#over) return
    this.#over = true
    this.#lost.abort(queueLeaseLost(this.#host.name, this.group, this.partition))
    this.wake()
    this.#host.ended(this)
    this.#ending = this.#end()
  }

  /** The messages first: who gets the token finds them in their queue. */
  async #end(): Promise<void> {
    if (this.#channel !== null) await closeChannel(this.#host.options, this.#channel)
    await this.#token.close()
  }

  #deliver(raw: ConsumeMessage | null): void {
    if (raw === null) return this.lose()
    if (this.#over) return
    // Cannot be, by the size of a block; but a position must never be given twice.
    if (this.#positionOf(raw) > this.#token.reserved) return this.lose()
    this.#unacknowledged.push(raw)
    this.#next.push(raw)
    if (this.#next.length === 1) this.wake()
  }

  #batch(messagesMax: number, bytesMax: number): QueueMessage[] {
    const messages: QueueMessage[] = []
    let bytes = 0
    for (let raw = this.#next.peek(); raw !== undefined && messages.length < messagesMax; raw = this.#next.peek()) {
      bytes += raw.content.length
      if (messages.length > 0 && bytes > bytesMax) break
      this.#next.shift()
      this.#newestTaken = raw
      const message = this.#read(raw)
      if (message.malformed !== null || message.redriven > 0) this.#odd.set(message.position, raw)
      messages.push(message)
    }
    return messages
  }

  *#held(): Generator<ConsumeMessage> {
    yield* this.#open.values()
    yield* this.#unacknowledged
  }

  /**
   * Forgets what is done up to a position: all messages up to `all`, which one
   * acknowledgement covers, and `each` of those that stand behind an open one.
   */
  #doneUpTo(upTo: number, open: ReadonlySet<number>): { readonly all: ConsumeMessage | null; readonly each: readonly ConsumeMessage[] } {
    const each: ConsumeMessage[] = []
    let all: ConsumeMessage | null = null
    const settle = (position: number, raw: ConsumeMessage, isFirst: boolean): void => {
      if (isFirst) all = raw
      else each.push(raw)
      this.#odd.delete(position)
      this.#buried.delete(position)
    }
    let isFirst = true
    for (const [position, raw] of this.#open) {
      if (position > upTo || open.has(position)) isFirst = false
      else if (this.#open.delete(position)) settle(position, raw, isFirst)
    }
    for (let head = this.#unacknowledged.peek(); head !== undefined && this.#positionOf(head) <= upTo; head = this.#unacknowledged.peek()) {
      const position = this.#positionOf(head)
      this.#unacknowledged.shift()
      if (open.has(position)) {
        this.#open.set(position, head)
        isFirst = false
      } else settle(position, head, isFirst)
    }
    return { all, each }
  }

  #read(raw: ConsumeMessage): QueueMessage {
    return messageFrom(raw, this.partition, this.#host.partitions, this.#positionOf(raw))
  }

  #tagOf(raw: ConsumeMessage | null): number {
    return raw?.fields.deliveryTag ?? 0
  }

  #positionOf(raw: ConsumeMessage): number {
    return this.#token.base + this.#tagOf(raw)
  }

  #check(): void {
    if (!this.#over) return
    throw this.#host.consuming.isClosed ? queueClosed() : queueLeaseLost(this.#host.name, this.group, this.partition)
  }

  #woken(leftMs: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer)
        this.#waiting.delete(done)
        signal?.removeEventListener('abort', done)
        resolve()
      }
      const timer = setTimeout(done, leftMs)
      this.#waiting.add(done)
      signal?.addEventListener('abort', done)
    })
  }
}
