/**
 * The lease of a partition, on a queue of its own with a single active consumer.
 *
 * Who wants the lease consumes the queue and sends a *claim* with its epoch to
 * it. The broker delivers to the oldest consumer that lives, so:
 *
 * - A claimer that gets its own claim is that consumer. It then sees every
 *   record that was there before, and the lease record is the newest of them.
 * - Otherwise somebody else is: the holder gets the claim. If the claim's epoch
 *   is higher, the holder gives up, and everything goes to the claimer; else it
 *   drops the claim. A holder that does not answer keeps the lease until its
 *   connection ends.
 *
 * The lease record carries the highest epoch and the positions handed out, in
 * blocks, so both grow over leases. The holder keeps its record unacknowledged;
 * before it is old it sends a new one and acknowledges the old one, since the
 * broker ends consumers that hold a message for long (30 minutes by default).
 *
 * States: claiming → granted → lost. `lost` is told once.
 */
import { randomBytes } from 'node:crypto'
import type { Channel, ConsumeMessage } from 'amqplib'
import { HeadraceError } from '../../contracts/errors.ts'
import { pause } from '../../std/backoff.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'
import { answered, closeChannel, openChannel } from './calls.ts'
import type { RabbitConnection } from './connection.ts'
import { channelError } from './errors.ts'
import type { KnownOptions } from './options.ts'
import type { Publisher } from './publisher.ts'

export interface TokenHost {
  readonly options: KnownOptions
  readonly consuming: RabbitConnection
  readonly publisher: Publisher
}

export type Claimed =
  | { readonly state: 'granted'; readonly token: LeaseToken }
  | { readonly state: 'held' }
  | { readonly state: 'fenced'; readonly epoch: number }

interface LeaseRecord {
  readonly kind: 'claim' | 'lease'
  readonly nonce: string
  readonly epoch: number
  /** The last position of the newest block; 0 in a claim. */
  readonly reserved: number
}

/** How long the own claim may take to come once the broker has it, in milliseconds. */
const claimWaitMs = 1_000
/** Positions that one record sets aside: more than a lease can deliver before its next record. */
const positionsBlock = 2 ** 30
/** Age at which a record is replaced, in milliseconds: far below the consumer timeout of the broker. */
const recordAgeMaxMs = 4 * 60_000

export class LeaseToken {
  readonly epoch: number
  readonly #host: TokenHost
  readonly #queue: string
  readonly #awaited = new Map<string, Deferred<void>>()
  readonly #held: { readonly record: LeaseRecord | null; readonly raw: ConsumeMessage }[] = []
  #channel: Channel | null = null
  #granted = false
  #isLost = false
  #closing: Promise<void> | null = null
  #onLost: () => void = () => void this.close()
  #base = 0
  #reserved = 0
  #timer: NodeJS.Timeout | null = null

  private constructor(host: TokenHost, queue: string, epoch: number) {
    this.#host = host
    this.#queue = queue
    this.epoch = epoch
  }

  /** Asks for the lease. */
  static async claim(host: TokenHost, queue: string, epoch: number): Promise<Claimed> {
    const token = new LeaseToken(host, queue, epoch)
    try {
      const answer = await token.#claim()
      if (answer.state !== 'granted') await token.close()
      return answer
    } catch (error) {
      await token.close()
      throw channelError(host.options.target, `asking for the lease '${queue}'`, error)
    }
  }

  /** Positions of this lease begin after this one. */
  get base(): number {
    return this.#base
  }

  /** The last position that may be handed out. */
  get reserved(): number {
    return this.#reserved
  }

  get isLost(): boolean {
    return this.#isLost
  }

  onLost(tell: () => void): void {
    this.#onLost = tell
  }

  /** Gives the lease to whoever asks next. */
  close(): Promise<void> {
    this.#closing ??= this.#channel === null ? Promise.resolve() : closeChannel(this.#host.options, this.#channel)
    this.#lose()
    return this.#closing
  }

  async #claim(): Promise<Claimed> {
    const { options, consuming } = this.#host
    const channel = await openChannel(consuming, options)
    this.#channel = channel
    channel.on('close', () => this.#lose())
    await answered(
      options,
      `consuming '${this.#queue}'`,
      channel.consume(this.#queue, (raw) => this.#take(raw)),
    )
    if (!(await this.#send('claim', 0, claimWaitMs))) return { state: 'held' }
    const records = this.#held.flatMap(({ record }) => record ?? [])
    const highest = Math.max(...records.map(({ epoch }) => epoch))
    if (highest > this.epoch) {
      // Only our claim goes: the others are somebody's, or the record.
      for (const { raw, record } of this.#held) if (record?.kind === 'claim' && record.epoch <= this.epoch) channel.ack(raw)
      return { state: 'fenced', epoch: highest }
    }
    this.#base = Math.max(...records.map(({ reserved }) => reserved))
    this.#reserved = this.#base
    this.#granted = true
    if (!(await this.#renew(this.#base))) return { state: 'held' }
    this.#timer = setInterval(() => void this.#renew(this.#reserved).catch(() => this.#lose()), recordAgeMaxMs)
    this.#timer.unref()
    return { state: 'granted', token: this }
  }

  /** Replaces the record by one that sets aside a block after `from`. False when the lease is lost. */
  async #renew(from: number): Promise<boolean> {
    const reserved = from + positionsBlock
    if (!Number.isSafeInteger(reserved))
      throw new HeadraceError('engine-failed', `The lease queue '${this.#queue}' has no positions left. Use a topic of another name.`)
    if (!(await this.#send('lease', reserved, this.#host.options.timeoutMs))) return false
    this.#reserved = reserved
    // All but the new record, which is the last of ours.
    for (const { raw } of this.#held.splice(0, this.#held.length - 1)) if (!this.#isLost) this.#channel?.ack(raw)
    return !this.#isLost
  }

  /** Sends a record and waits until it comes back to us. False when it did not in time, or the lease is lost. */
  async #send(kind: LeaseRecord['kind'], reserved: number, waitMs: number): Promise<boolean> {
    const record: LeaseRecord = { kind, nonce: randomBytes(9).toString('base64url'), epoch: this.epoch, reserved }
    const back = deferred<void>()
    this.#awaited.set(record.nonce, back)
    const late = new AbortController()
    try {
      const [answer] = await this.#host.publisher.send([
        {
          exchange: '',
          routingKey: this.#queue,
          content: Buffer.from(JSON.stringify(record)),
          properties: { messageId: `lease-${record.nonce}`, contentType: 'application/json' },
        },
      ])
      if (answer !== 'confirmed')
        throw new HeadraceError(
          'engine-failed',
          `RabbitMQ did not keep a record in '${this.#queue}' (${answer}). Take away policies that bound it.`,
        )
      return await Promise.race([back.promise.then(() => !this.#isLost), pause(waitMs, late.signal).then(() => false)])
    } finally {
      late.abort()
      this.#awaited.delete(record.nonce)
    }
  }

  #take(raw: ConsumeMessage | null): void {
    // The broker has cancelled the consumer: the queue was deleted, or has no leader.
    if (raw === null) return this.#lose()
    if (this.#isLost) return
    const record = recordFrom(raw)
    const isOwn = record !== null && this.#awaited.has(record.nonce)
    if (this.#granted && !isOwn) {
      // The claimer gets its claim when our channel is closed: it is not acknowledged.
      if (record !== null && record.epoch > this.epoch) this.#lose()
      else this.#channel?.ack(raw)
      return
    }
    this.#held.push({ record, raw })
    if (isOwn) this.#awaited.get(record.nonce)?.resolve()
  }

  #lose(): void {
    if (this.#isLost) return
    this.#isLost = true
    if (this.#timer !== null) clearInterval(this.#timer)
    for (const back of this.#awaited.values()) back.resolve()
    this.#onLost()
  }
}

function recordFrom({ content }: ConsumeMessage): LeaseRecord | null {
  try {
    const record = JSON.parse(content.toString()) as LeaseRecord
    const isRecord = Number.isSafeInteger(record.epoch) && Number.isSafeInteger(record.reserved) && typeof record.nonce === 'string'
    return isRecord ? record : null
  } catch {
    return null
  }
}
