/**
 * Publishing with confirms: persistent, mandatory, in order, within a window
 * whose size is fixed or found (`window.ts`).
 *
 * A message: waiting → in flight → confirmed, refused (a bound of its queue) or
 * returned (nothing is bound to its key).
 *
 * - When the channel or connection is lost, all that is in flight goes back to
 *   the front of the waiting, in order, and is published again first. The broker
 *   may have some of it already: ids make that harmless.
 * - While the broker is blocked (memory, disk) nothing more is sent.
 * - Each call ends by its deadline. What it had not sent is then never sent.
 * - A message that the broker answers by closing the channel (too large, no such
 *   exchange) fails alone; the rest is published again.
 */
import type { ConfirmChannel, Options } from 'amqplib'
import { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'
import { Deque } from '../../std/deque.ts'
import type { RabbitConnection } from './connection.ts'
import { channelError, messageOf, queueClosed, reasonIn, replyCode } from './errors.ts'
import type { KnownOptions } from './options.ts'
import { ConfirmWindow } from './window.ts'

export interface Outgoing {
  /** '' publishes straight to the queue that the routing key names. */
  readonly exchange: string
  readonly routingKey: string
  /** Looked at once for each time that it is published. */
  readonly content: Buffer
  readonly properties: Options.Publish & { readonly messageId: string }
  /** Of the content, about. Default: looked up there. */
  readonly bytes?: number
}

export type Confirmation = 'confirmed' | 'refused' | 'returned'

interface Call {
  readonly answers: Confirmation[]
  readonly answer: Deferred<Confirmation[]>
  left: number
  over: boolean
}

interface Item {
  readonly call: Call
  readonly index: number
  readonly message: Outgoing
  readonly bytes: number
  returned: boolean
  /** The broker has confirmed or refused it. */
  answered: boolean
}

/** What the broker says of messages, by their number on the channel. */
interface Answer {
  readonly deliveryTag: number
  readonly multiple: boolean
}

/** Bytes of a message beside its body, about. */
const overheadBytes = 300
/** How much of the window is free before it is filled again. */
const refillShare = 0.25
const reopenBaseMs = 20
const reopenMaxMs = 1_000

export class Publisher {
  readonly #connection: RabbitConnection
  readonly #options: KnownOptions
  readonly #window: ConfirmWindow
  #waiting = new Deque<Item>()
  /** In the order of publishing on this channel, from the first that is not answered; the broker numbers them from 1. */
  #sent = new Deque<Item>()
  #firstTag = 1
  #inFlight = 0
  #inFlightBytes = 0
  #channel: ConfirmChannel | null = null
  #opening: Promise<void> | null = null
  #failures = 0
  #republished = 0
  #closed = false

  constructor(connection: RabbitConnection, options: KnownOptions) {
    this.#connection = connection
    this.#options = options
    this.#window = new ConfirmWindow(options.confirmWindow)
    connection.on('unblocked', () => this.#pump())
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** Messages that may be in flight, at the moment. */
  get window(): number {
    return this.#window.size
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /** Messages that were published again after a loss. */
  get republished(): number {
    return this.#republished
  }

  /** Resolves when the broker has answered every message. A rejection may have kept any of them. */
  send(messages: readonly Outgoing[], timeoutMs = this.#options.timeoutMs): Promise<Confirmation[]> {
    if (this.#closed) return Promise.reject(queueClosed())
    if (messages.length === 0) return Promise.resolve([])
    if (this.#waiting.length > 0 && this.#waiting.length + messages.length > this.#options.waitingMax)
      return Promise.reject(this.#overloaded())
    const call: Call = { answers: [], answer: deferred(), left: messages.length, over: false }
    for (const [index, message] of messages.entries())
      this.#waiting.push({
        call,
        index,
        message,
        bytes: (message.bytes ?? message.content.length) + overheadBytes,
        returned: false,
        answered: false,
      })
    const timer = setTimeout(() => this.#end(call, this.#late(timeoutMs)), timeoutMs)
    this.#pump()
    return call.answer.promise.finally(() => clearTimeout(timer))
  }

  close(): void {
    this.#closed = true
    for (const { call } of [...this.#unanswered(), ...this.#waiting]) this.#end(call, queueClosed())
    this.#waiting = new Deque()
    this.#forgetSent()
    this.#channel = null
  }

  #pump(): void {
    if (this.#closed || this.#waiting.length === 0) return
    const channel = this.#channel
    if (channel === null) {
      this.#opening ??= this.#open()
      return
    }
    while (this.#connection.blocked === null && this.#channel === channel) {
      const item = this.#waiting.peek()
      if (item === undefined) return
      if (item.call.over) {
        this.#waiting.shift()
        continue
      }
      if (this.#inFlight >= this.#window.size) return
      if (this.#inFlight > 0 && this.#inFlightBytes + item.bytes > this.#options.confirmWindowBytes) return
      this.#waiting.shift()
      if (!this.#publish(channel, item)) return
    }
  }

  /** False when the channel takes nothing any more. */
  #publish(channel: ConfirmChannel, item: Item): boolean {
    const { exchange, routingKey, content, properties } = item.message
    properties.persistent = true
    properties.mandatory = true
    try {
      channel.publish(exchange, routingKey, content, properties)
    } catch (error) {
      if (error instanceof RangeError || error instanceof TypeError) {
        this.#end(
          item.call,
          new HeadraceError('message-invalid', `AMQP cannot carry the message '${properties.messageId}': ${error.message}.`),
        )
        return true
      }
      // The channel is closing: its event follows.
      this.#waiting.unshift(item)
      return false
    }
    this.#sent.push(item)
    this.#inFlight += 1
    this.#inFlightBytes += item.bytes
    return true
  }

  /** The broker has answered a message of the channel, or all up to it. */
  #settle(channel: ConfirmChannel, { deliveryTag, multiple }: Answer, isKept: boolean): void {
    if (this.#channel !== channel) return
    const before = this.#inFlight
    for (let tag = multiple ? this.#firstTag : deliveryTag; tag <= deliveryTag; tag++) {
      const item = this.#sent.at(tag - this.#firstTag)
      if (item !== undefined && !item.answered) this.#answer(item, isKept ? (item.returned ? 'returned' : 'confirmed') : 'refused')
    }
    for (let head = this.#sent.peek(); head?.answered === true; head = this.#sent.peek()) {
      this.#sent.shift()
      this.#firstTag += 1
    }
    this.#window.confirmed(before - this.#inFlight, this.#waiting.length > 0, performance.now())
    // Confirms come in ones and twos; what is published in larger bunches costs the system and the broker less.
    if (this.#inFlight <= this.#window.size * (1 - refillShare)) this.#pump()
  }

  #answer(item: Item, answer: Confirmation): void {
    item.answered = true
    this.#inFlight -= 1
    this.#inFlightBytes -= item.bytes
    const { call } = item
    if (call.over) return
    call.answers[item.index] = answer
    call.left -= 1
    if (call.left > 0) return
    call.over = true
    call.answer.resolve(call.answers)
  }

  #end(call: Call, error: HeadraceError): void {
    if (call.over) return
    call.over = true
    call.answer.reject(error)
  }

  async #open(): Promise<void> {
    try {
      while (!this.#closed && this.#hasWork()) {
        try {
          if (this.#failures > 0) await pause(backoffMs(this.#failures - 1, reopenBaseMs, reopenMaxMs))
          const model = await this.#connection.acquire(this.#options.timeoutMs)
          const channel = await model.createConfirmChannel()
          if (this.#closed) return
          this.#use(channel)
          break
        } catch (error) {
          const why = channelError(this.#options.target, 'opening a channel', error)
          this.#failures += 1
          if (!why.retryable) for (const { call } of this.#waiting) this.#end(call, why)
        }
      }
    } finally {
      this.#opening = null
    }
    this.#pump()
  }

  /** Drops what nobody waits for; the connection is not opened for that. */
  #hasWork(): boolean {
    for (let head = this.#waiting.peek(); head?.call.over === true; head = this.#waiting.peek()) this.#waiting.shift()
    return this.#waiting.length > 0
  }

  #use(channel: ConfirmChannel): void {
    let why: unknown = null
    this.#channel = channel
    channel.on('error', (error) => {
      why = error
    })
    channel.on('return', ({ fields, properties }) => {
      for (const item of this.#unanswered()) {
        const { message } = item
        if (item.returned || message.properties.messageId !== properties.messageId || message.routingKey !== fields.routingKey) continue
        item.returned = true
        break
      }
    })
    channel.on('ack', (answer: Answer) => {
      this.#failures = 0
      this.#settle(channel, answer, true)
    })
    channel.on('nack', (answer: Answer) => this.#settle(channel, answer, false))
    channel.on('close', () => this.#lost(channel, why))
  }

  #lost(channel: ConfirmChannel, why: unknown): void {
    if (this.#channel !== channel) return
    this.#channel = null
    this.#failures += 1
    if (why !== null) this.#blame(why)
    const unanswered = [...this.#unanswered()]
    this.#forgetSent()
    for (const item of unanswered.reverse()) {
      if (item.call.over) continue
      item.returned = false
      this.#republished += 1
      this.#waiting.unshift(item)
    }
    this.#pump()
  }

  /** Ends the calls whose message made the broker close the channel. */
  #blame(why: unknown): void {
    const { target } = this.#options
    const said = target.clean(messageOf(why))
    const code = replyCode(why)
    const size = code === 406 ? /message size (\d+) is larger than (?:configured )?max size (\d+)/.exec(said) : null
    if (size !== null) {
      const [bytes, bytesMax] = [Number(size[1]), Number(size[2])]
      for (const { call, message } of this.#unanswered()) {
        if (message.content.length <= bytesMax) continue
        this.#end(
          call,
          new HeadraceError(
            'message-too-large',
            `The message '${message.properties.messageId}' has ${message.content.length} bytes; RabbitMQ at ${target.address} takes ${bytesMax}. Send a smaller one, or raise max_message_size there.`,
            { details: { bytes, bytesMax } },
          ),
        )
      }
      return
    }
    if (code !== 403 && code !== 404) return
    const named = /exchange '([^']*)'/.exec(said)?.[1]
    const exchange = named === 'amq.default' ? '' : named
    const error = channelError(
      target,
      exchange === undefined ? 'publishing' : `publishing to '${exchange}'`,
      Object.assign(new Error(reasonIn(said)), { code }),
    )
    for (const { call, message } of [...this.#unanswered(), ...this.#waiting])
      if (exchange === undefined || message.exchange === exchange) this.#end(call, error)
  }

  *#unanswered(): Generator<Item> {
    for (const item of this.#sent) if (!item.answered) yield item
  }

  /** The next channel numbers anew. */
  #forgetSent(): void {
    this.#sent = new Deque()
    this.#firstTag = 1
    this.#inFlight = 0
    this.#inFlightBytes = 0
  }

  #late(timeoutMs: number): HeadraceError {
    const { target } = this.#options
    const { blocked, isUp, lastError } = this.#connection
    if (blocked !== null)
      return new HeadraceError(
        'engine-timeout',
        `RabbitMQ at ${target.address} takes no messages (${blocked}), and did not for ${timeoutMs} ms. Free memory or disk there, and publish again under the same id.`,
      )
    if (!isUp && lastError !== null) return lastError
    return new HeadraceError(
      'engine-timeout',
      `RabbitMQ at ${target.address} did not confirm within ${timeoutMs} ms. Publish again under the same id.`,
    )
  }

  #overloaded(): HeadraceError {
    return new HeadraceError(
      'overloaded',
      `${this.#waiting.length} messages wait for RabbitMQ at ${this.#options.target.address}${this.#connection.blocked === null ? '' : ', which takes none'}. Publish later, or raise waitingMax.`,
      { retryAfterMs: 1_000 },
    )
  }
}
