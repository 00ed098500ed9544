/**
 * Publishing: natural batches, in order, within bounds.
 *
 * A topic has a few lanes, and each partition belongs to one of them. A lane has
 * one call to the engine under way; what arrives meanwhile goes with the next
 * one. No timers: an idle lane adds no wait, a busy one gathers larger batches.
 *
 * A call that fails for a reason that passes is repeated with the same messages
 * in the same order before anything later of those partitions goes out, so a
 * retry reorders nothing; the ids let the engine, or the inbox of the consumer,
 * recognise what was kept after all.
 *
 * A message: waiting (for room) → queued → sent → kept, or refused with a reason.
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Appended, NewMessage, QueueTopic } from '../contracts/queue.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import { Deque } from '../std/deque.ts'
import type { QueueLimits } from './options.ts'

/** What became of a message that is durable. */
export interface Published {
  readonly id: string
  /** True when a message with this id was waiting already. */
  readonly duplicate: boolean
}

export type OnFull = 'refuse' | 'wait'

/** A message on its way: counted until its publisher is answered, which happens once. */
class Pending {
  readonly message: NewMessage
  readonly bytes: number
  readonly deadline: number
  readonly answer: Promise<Published>
  /** Its caller does not wait any more, and it has not been sent. */
  dropped = false
  readonly #answered: (pending: Pending) => void
  #resolve!: (published: Published) => void
  #reject!: (error: unknown) => void
  #over = false

  constructor(message: NewMessage, bytes: number, deadline: number, answered: (pending: Pending) => void) {
    this.message = message
    this.bytes = bytes
    this.deadline = deadline
    this.#answered = answered
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
    })
  }

  keep(duplicate: boolean): void {
    if (this.#leaves()) this.#resolve({ id: this.message.id, duplicate })
  }

  refuse(error: unknown): void {
    if (this.#leaves()) this.#reject(error)
  }

  #leaves(): boolean {
    if (this.#over) return false
    this.#over = true
    this.#answered(this)
    return true
  }
}

/** Bytes of a message beside its body. */
const overheadBytes = 200
/** How long a caller that is refused had better wait, in milliseconds. */
const fullRetryAfterMs = 1_000

export class TopicProducer {
  readonly #topic: QueueTopic
  readonly #limits: QueueLimits
  readonly #onFull: OnFull
  readonly #lanes: Lane[]
  readonly #room = new Deque<{ readonly turn: Deferred<void>; gone: boolean }>()
  #waiting = 0
  #later = 0
  #inFlight = 0
  #bytes = 0
  #closed = false

  constructor(topic: QueueTopic, limits: QueueLimits, onFull: OnFull) {
    this.#topic = topic
    this.#limits = limits
    this.#onFull = onFull
    this.#lanes = Array.from({ length: Math.min(limits.appendLanes, topic.partitions) }, () => new Lane(topic, limits, onFull))
  }

  get inFlight(): number {
    return this.#inFlight
  }

  /** Resolves when the message is durable. */
  publish(message: NewMessage, signal?: AbortSignal): Promise<Published> {
    if (this.#closed) return Promise.reject(closed())
    const bytes = message.body.length + overheadBytes
    const deadline = performance.now() + this.#limits.publishTimeoutMs
    if (signal !== undefined) return this.#publishUntil(signal, message, bytes, deadline)
    if (this.#isTaken(bytes)) return this.#publishLater(message, bytes, deadline)
    return this.#enter(message, bytes, deadline).answer
  }

  async #publishLater(message: NewMessage, bytes: number, deadline: number): Promise<Published> {
    const pending = await this.#enterLater(message, bytes, deadline, undefined)
    return pending.answer
  }

  async #publishUntil(signal: AbortSignal, message: NewMessage, bytes: number, deadline: number): Promise<Published> {
    signal.throwIfAborted()
    const pending = this.#isTaken(bytes) ? await this.#enterLater(message, bytes, deadline, signal) : this.#enter(message, bytes, deadline)
    const stop = (): void => {
      pending.dropped = true
      pending.refuse(signal.reason)
    }
    signal.addEventListener('abort', stop, { once: true })
    if (signal.aborted) stop()
    try {
      return await pending.answer
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }

  async #enterLater(message: NewMessage, bytes: number, deadline: number, signal: AbortSignal | undefined): Promise<Pending> {
    this.#later += 1
    try {
      do await this.#turn(deadline, signal)
      while (this.#isFull(bytes))
      return this.#enter(message, bytes, deadline)
    } finally {
      this.#later -= 1
    }
  }

  #enter(message: NewMessage, bytes: number, deadline: number): Pending {
    this.#inFlight += 1
    this.#bytes += bytes
    const pending = new Pending(message, bytes, deadline, this.#answered)
    const lane = this.#lanes[message.partition % this.#lanes.length] as Lane
    lane.push(pending)
    return pending
  }

  readonly #answered = (pending: Pending): void => {
    this.#inFlight -= 1
    this.#bytes -= pending.bytes
    this.#next()
  }

  /** Resolves when nothing is on its way any more; refuses what comes after. */
  async close(): Promise<void> {
    this.#closed = true
    for (const { turn } of this.#room) turn.reject(closed())
    await Promise.all(this.#lanes.map((lane) => lane.idle()))
  }

  /** Whoever waits for room goes first, also in the moment between the room and the message. */
  #isTaken(bytes: number): boolean {
    return this.#later > 0 || this.#isFull(bytes)
  }

  #isFull(bytes: number): boolean {
    return this.#inFlight >= this.#limits.inFlightMax || (this.#inFlight > 0 && this.#bytes + bytes > this.#limits.inFlightBytesMax)
  }

  async #turn(deadline: number, signal: AbortSignal | undefined): Promise<void> {
    if (this.#onFull === 'refuse' || this.#waiting >= this.#limits.publishersMax)
      throw new HeadraceError('overloaded', `Too many messages are on their way to '${this.#topic.name}'. Publish it again later.`, {
        retryAfterMs: fullRetryAfterMs,
      })
    const place = { turn: deferred<void>(), gone: false }
    this.#room.push(place)
    this.#waiting += 1
    const timer = setTimeout(() => place.turn.reject(late(this.#topic.name, this.#limits.publishTimeoutMs)), deadline - performance.now())
    const stop = (): void => place.turn.reject(signal?.reason)
    signal?.addEventListener('abort', stop, { once: true })
    try {
      await place.turn.promise
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', stop)
      place.gone = true
      this.#waiting -= 1
    }
  }

  #next(): void {
    for (let place = this.#room.shift(); place !== undefined; place = this.#room.shift()) {
      if (place.gone) continue
      place.turn.resolve()
      return
    }
  }
}

class Lane {
  readonly #topic: QueueTopic
  readonly #limits: QueueLimits
  readonly #onFull: OnFull
  readonly #queues = new Map<number, Deque<Pending>>()
  /** Partitions that were full, and when they are tried again. */
  readonly #stalls = new Map<number, { readonly until: number; readonly count: number }>()
  #running: Promise<void> | null = null
  #wake: (() => void) | null = null

  constructor(topic: QueueTopic, limits: QueueLimits, onFull: OnFull) {
    this.#topic = topic
    this.#limits = limits
    this.#onFull = onFull
  }

  push(pending: Pending): void {
    this.#queueOf(pending.message.partition).push(pending)
    this.#wake?.()
    this.#running ??= this.#run()
  }

  async idle(): Promise<void> {
    await this.#running
  }

  async #run(): Promise<void> {
    // What is published in the same turn goes together.
    await Promise.resolve()
    while (this.#queues.size > 0) {
      const batch = this.#batch()
      if (batch.length > 0) await this.#send(batch)
      else if (this.#queues.size > 0) await this.#untilUnstalled()
    }
    this.#running = null
  }

  /** What waits, partition by partition, in order. */
  #batch(): Pending[] {
    const batch: Pending[] = []
    let bytes = 0
    const now = performance.now()
    for (const [partition, queue] of this.#queues) {
      this.#expire(partition, queue, now)
      if ((this.#stalls.get(partition)?.until ?? 0) <= now) {
        for (let head = queue.peek(); head !== undefined; head = queue.peek()) {
          if (batch.length >= this.#limits.appendMessagesMax || (batch.length > 0 && bytes + head.bytes > this.#limits.appendBytesMax)) {
            // The next batch begins with the partitions that had no turn.
            this.#queues.delete(partition)
            this.#queues.set(partition, queue)
            return batch
          }
          queue.shift()
          if (head.dropped) continue
          batch.push(head)
          bytes += head.bytes
        }
      }
      if (queue.length === 0) this.#queues.delete(partition)
    }
    return batch
  }

  /** Repeats the call until the engine has answered it. */
  async #send(batch: Pending[]): Promise<void> {
    let open = batch
    for (let attempt = 0; open.length > 0; attempt++) {
      try {
        const answers = await this.#topic.append(open.map(({ message }) => message))
        this.#tell(open, answers)
        this.#settle(open, answers)
        return
      } catch (error) {
        const why = HeadraceError.is(error) ? error : new HeadraceError('engine-failed', String(error), { cause: error })
        const now = performance.now()
        const goesOn = why.retryable && why.code !== 'queue-closed'
        for (const pending of open) if (!goesOn || pending.deadline <= now) pending.refuse(why)
        open = goesOn ? open.filter(({ deadline, dropped }) => deadline > now && !dropped) : []
        if (open.length > 0) await pause(backoffMs(attempt, this.#limits.retryBaseMs, this.#limits.retryMaxMs))
      }
    }
  }

  #settle(batch: readonly Pending[], answers: readonly Appended[]): void {
    const refused = new Map<number, Pending[]>()
    for (const [index, pending] of batch.entries()) {
      const { message } = pending
      const state = answers[index]?.state
      if (state === 'kept' || state === 'duplicate') pending.keep(state === 'duplicate')
      else if (this.#onFull === 'refuse') pending.refuse(full(this.#topic.name))
      else if (!pending.dropped) refused.set(message.partition, [...(refused.get(message.partition) ?? []), pending])
    }
    if (this.#stalls.size > 0) for (const { message } of batch) if (!refused.has(message.partition)) this.#stalls.delete(message.partition)
    for (const [partition, pending] of refused) {
      // Back to the front: what came later waits behind.
      const queue = this.#queueOf(partition)
      for (const one of pending.reverse()) queue.unshift(one)
      const count = this.#stalls.get(partition)?.count ?? 0
      const until = performance.now() + backoffMs(count, this.#limits.retryBaseMs, this.#limits.retryMaxMs)
      this.#stalls.set(partition, { until, count: count + 1 })
    }
  }

  #tell(batch: readonly Pending[], answers: readonly Appended[]): void {
    tell('headrace:queue-publish', () => {
      const duplicates = answers.filter(({ state }) => state === 'duplicate').length
      const kept = batch.filter((_, index) => answers[index]?.state !== 'full')
      const oldest = Math.min(...kept.map(({ deadline }) => deadline)) - this.#limits.publishTimeoutMs
      const waitMs = kept.length === 0 ? null : performance.now() - oldest
      return { topic: this.#topic.name, event: 'kept', messages: kept.length, duplicates, waitMs, code: null }
    })
  }

  #expire(partition: number, queue: Deque<Pending>, now: number): void {
    for (let head = queue.peek(); head !== undefined && (head.dropped || head.deadline <= now); head = queue.peek()) {
      queue.shift()
      head.refuse(this.#stalls.has(partition) ? full(this.#topic.name) : late(this.#topic.name, this.#limits.publishTimeoutMs))
    }
  }

  async #untilUnstalled(): Promise<void> {
    const at = Math.min(...[...this.#queues.keys()].map((partition) => this.#stalls.get(partition)?.until ?? 0))
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.max(1, at - performance.now()))
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
    this.#wake = null
  }

  #queueOf(partition: number): Deque<Pending> {
    let queue = this.#queues.get(partition)
    if (queue === undefined) {
      queue = new Deque()
      this.#queues.set(partition, queue)
    }
    return queue
  }
}

const closed = (): HeadraceError => new HeadraceError('queue-closed', 'The queue is closed: do not use it after close().')

const full = (topic: string): HeadraceError =>
  new HeadraceError(
    'queue-full',
    `The topic '${topic}' holds as many messages for this key's partition as it may. Publish it again later.`,
    {
      retryAfterMs: fullRetryAfterMs,
    },
  )

const late = (topic: string, timeoutMs: number): HeadraceError =>
  new HeadraceError(
    'engine-timeout',
    `The message to '${topic}' was not known to be durable within ${timeoutMs} ms. Publish it again under the same id.`,
  )
