/**
 * Consuming one partition under one lease: take, hand out by key, try again,
 * bury, acknowledge.
 *
 * - Messages of a key are handled one after the other, in order; a message that
 *   fails is tried again in place, after a pause, and only its key waits.
 * - What is done is acknowledged up to the first position that is not. Where the
 *   engine can, it goes on behind that one once enough has gathered there, so
 *   that a key that fails holds no other's messages.
 * - Past `retries` a message becomes a dead letter, durably, before it is
 *   acknowledged; its key goes on.
 * - When the lease is lost, nothing more is started, and nothing acknowledged.
 *
 * States: running → stopped (drained: handlers finish, the lease is given back)
 *                 → lost (handlers are told by their signal).
 */
import { type DiagnosticEvents, tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { DeathReason, QueueLease, QueueMessage } from '../contracts/queue.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import type { Dispatcher, Startable, Started } from './dispatch.ts'
import { reasonOf, Unprocessable } from './failure.ts'
import { Handed, HandlerCall } from './handler-call.ts'
import { endsLease, keepLease } from './keep-lease.ts'
import { type Item, KeyLanes, type Taken } from './key-lanes.ts'
import { type Delivery, readMessage } from './message.ts'
import type { ConsumerLimits } from './options.ts'
import { Progress } from './progress.ts'
import { PrefetchTuner } from './tuning.ts'

export type BatchHandler = (deliveries: readonly Delivery[]) => unknown

/** Counts of a consumer, over all of its partitions. */
export interface ConsumerCounts {
  handled: number
  retried: number
  dead: number
  lost: number
}

export interface RunOptions {
  readonly topic: string
  readonly lease: QueueLease
  readonly limits: ConsumerLimits
  /** Messages in memory; undefined finds it by measurement. */
  readonly prefetch: number | undefined
  readonly handler: BatchHandler
  readonly dispatcher: Dispatcher
  readonly counts: ConsumerCounts
  readonly random: () => number
}

/** How long one take waits for messages, in milliseconds, and how many it gets; then it is asked again. */
const takeWaitMs = 5_000
const takeMessagesMax = 5_000

export class PartitionRun implements Startable {
  readonly #options: RunOptions
  readonly #lanes = new KeyLanes()
  readonly #progress = new Progress()
  readonly #tuner: PrefetchTuner
  readonly #stop = new AbortController()
  readonly #lost = new AbortController()
  readonly #calls = new Set<Promise<void>>()
  readonly #timers = new Set<NodeJS.Timeout>()
  #wake: (() => void) | null = null
  /** Something is done that the engine was not told of. */
  #untold = false
  #acknowledging: Promise<void> | null = null

  constructor(options: RunOptions) {
    this.#options = options
    const { limits, prefetch } = options
    const min = Math.min(limits.prefetchMax, Math.max(limits.concurrency, limits.batch) * 2)
    this.#tuner = new PrefetchTuner({ min, max: limits.prefetchMax }, prefetch, performance.now())
    options.lease.lost.addEventListener('abort', () => this.#lose())
    if (options.lease.lost.aborted) this.#lose()
  }

  get isLost(): boolean {
    return this.#lost.signal.aborted
  }

  get state(): {
    readonly partition: number
    readonly epoch: number
    readonly held: number
    readonly parked: number
    readonly prefetch: number
  } {
    const { lease } = this.#options
    return {
      partition: lease.partition,
      epoch: lease.epoch,
      held: this.#lanes.held,
      parked: this.#lanes.parked,
      prefetch: this.#tuner.size,
    }
  }

  /** Resolves when the lease is lost or `stop` was called, and no handler runs any more. */
  async run(): Promise<void> {
    this.#tell('leased', 0, null)
    const beat = keepLease(this.#options.lease, this.#options.limits.leaseTtlMs, () => this.#lose())
    try {
      await this.#take()
      for (const timer of this.#timers) clearTimeout(timer)
      await Promise.all(this.#calls)
      this.#tellReached(1)
      await this.#acknowledging
      if (!this.isLost) await this.#options.lease.release().catch(() => {})
    } finally {
      beat.stop()
    }
  }

  /** Takes and starts nothing more; `run` then ends. */
  stop(): void {
    this.#stop.abort()
    this.#wake?.()
  }

  /** Tells the handlers that run to give up. */
  abandon(): void {
    this.stop()
    this.#lose()
  }

  /** Something may go on that was held back by a pause. */
  nudge(): void {
    this.#wake?.()
  }

  start(): Started {
    if (this.#over) return 'nothing'
    const taken = this.#lanes.take(this.#options.limits.batch)
    if (taken.length === 0) return 'nothing'
    const running = this.#handle(taken)
    if (running === null) {
      this.#refill()
      return 'ended'
    }
    const call = running.finally(() => {
      this.#calls.delete(call)
      this.#options.dispatcher.ended()
      this.#refill()
    })
    this.#calls.add(call)
    return 'running'
  }

  get #over(): boolean {
    return this.#stop.signal.aborted || this.isLost
  }

  async #take(): Promise<void> {
    const { lease, limits, dispatcher } = this.#options
    let full = false
    for (let failures = 0; !this.#over; ) {
      const room = this.#room
      if (room <= 0 || this.#lanes.parked >= limits.parkedMax || dispatcher.paused) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve
        })
        this.#wake = null
        continue
      }
      const start = performance.now()
      try {
        const messages = await lease.take({
          messagesMax: room,
          bytesMax: limits.prefetchBytesMax,
          waitMs: takeWaitMs,
          signal: this.#stop.signal,
        })
        // Only a take that need not wait for messages tells what a take costs, and whether it came too late.
        if (full && messages.length > 0) this.#tuner.took(performance.now() - start, this.#lanes.held === 0)
        full = messages.length === room
        failures = 0
        this.#admit(messages)
      } catch (error) {
        if (!this.#goesOn(error)) return
        await pause(
          backoffMs(failures++, limits.retryBaseMs, Math.min(limits.retryMaxMs, limits.leaseTtlMs), this.#options.random),
          this.#stop.signal,
        )
      }
    }
  }

  /** Messages to take now. Half of what may be here is waited for: many small takes cost the engine more than a few large ones. */
  get #room(): number {
    const room = this.#tuner.size - this.#lanes.held
    if (room * 2 < this.#tuner.size) return 0
    return Math.min(room, this.#options.limits.unacknowledgedMax - this.#progress.span, takeMessagesMax)
  }

  /** A take that waits for room may have it. */
  #refill(): void {
    if (this.#wake !== null && this.#room > 0) this.#wake()
  }

  #admit(messages: readonly QueueMessage[]): void {
    if (messages.length === 0) return
    for (const message of messages) {
      const read = readMessage(message)
      this.#progress.begin(message.position)
      this.#lanes.push({
        message,
        value: 'value' in read ? read.value : undefined,
        malformed: 'malformed' in read ? read.malformed : null,
        attempts: 0,
        alone: false,
      })
    }
    this.#options.dispatcher.ready(this)
  }

  /** Null when it is over: a handler without a promise costs none. */
  #handle(taken: readonly Taken[]): Promise<void> | null {
    const items = itemsOf(taken)
    const [first] = items as [Item]
    if (first.malformed !== null) return this.#bury(taken, { code: 'message-malformed', message: first.malformed, attempts: 0 })
    const { limits, topic, lease, handler } = this.#options
    const call = new HandlerCall(limits.handlerTimeoutMs, this.#lost.signal)
    let running: unknown
    try {
      running = handler(items.map((item) => new Handed(topic, lease, item, call)))
    } catch (error) {
      return this.#failed(taken, items, error)
    }
    if (!(running instanceof Promise)) {
      this.#done(taken, items)
      return null
    }
    return call.within(running).then(
      () => this.#done(taken, items),
      (error: unknown) => this.#failed(taken, items, error),
    )
  }

  #done(taken: readonly Taken[], items: readonly Item[]): void {
    this.#options.counts.handled += items.length
    this.#tell('handled', items.length, null, items[0]?.message.publishedAt)
    this.#finish(taken)
  }

  async #failed(taken: readonly Taken[], items: readonly Item[], error: unknown): Promise<void> {
    if (this.isLost || !this.#goesOn(error)) return
    const { limits, counts, random } = this.#options
    const [first] = items as [Item]
    if (items.length > 1) {
      // One of them is to blame: each is tried alone.
      for (const item of items) item.alone = true
      for (const each of taken) this.#lanes.putBack(each)
      this.#options.dispatcher.ready(this)
      return
    }
    first.attempts += 1
    const [only] = taken as [Taken]
    if (error instanceof Unprocessable || first.attempts > limits.retries) return this.#bury(taken, reasonOf(error, first.attempts))
    // A drain does not wait for retries: the message comes again.
    if (this.#stop.signal.aborted) return
    counts.retried += 1
    this.#tell('retried', 1, reasonOf(error, first.attempts).code)
    this.#lanes.park(only)
    const timer = setTimeout(
      () => {
        this.#timers.delete(timer)
        this.#lanes.resume(only)
        this.#wake?.()
        this.#options.dispatcher.ready(this)
      },
      backoffMs(first.attempts - 1, limits.retryBaseMs, limits.retryMaxMs, random),
    )
    this.#timers.add(timer)
  }

  /** Tries until the letter is durable, or the lease lost. */
  async #bury(taken: readonly Taken[], reason: DeathReason): Promise<void> {
    const { lease, limits, counts, random } = this.#options
    const [{ items }] = taken as [Taken]
    const [{ message }] = items as [Item]
    for (let failures = 0; !this.isLost; ) {
      try {
        await lease.bury(message, reason)
        counts.dead += 1
        this.#tell('dead', 1, reason.code)
        this.#finish(taken)
        return
      } catch (error) {
        if (!this.#goesOn(error)) return
        // A drain need not wait for an engine that is away: the message comes again.
        if (this.#stop.signal.aborted) return
        await pause(backoffMs(failures++, limits.retryBaseMs, limits.retryMaxMs, random), this.#stop.signal)
      }
    }
  }

  #finish(taken: readonly Taken[]): void {
    if (this.isLost) return
    const progress = this.#progress
    let count = 0
    for (const each of taken) {
      for (const { message } of each.items) this.#untold = progress.finish(message.position) || this.#untold
      count += each.items.length
      this.#lanes.finish(each)
    }
    this.#tuner.handled(count, performance.now())
    if (this.#lanes.hasReady) this.#options.dispatcher.ready(this)
    this.#tellReached(this.#options.lease.gapsAfter ?? 0)
  }

  /** Acknowledges what is done; around what is not, where the engine can and `enough` messages wait for that. */
  #tellReached(enough: number): void {
    if (this.#options.lease.gapsAfter !== undefined && this.#progress.held >= enough) {
      this.#progress.passOpen()
      this.#untold = true
    }
    if (this.#untold && !this.isLost) this.#acknowledging ??= this.#acknowledge()
  }

  /** One call at a time: what is done meanwhile goes with the next. */
  async #acknowledge(): Promise<void> {
    const { lease, limits, random } = this.#options
    for (let failures = 0; this.#untold && !this.isLost; ) {
      this.#untold = false
      try {
        await lease.acknowledge(this.#progress.reached, this.#progress.open)
        failures = 0
      } catch (error) {
        this.#untold = true
        if (!this.#goesOn(error)) break
        if (this.#stop.signal.aborted && failures > 2) break
        await pause(backoffMs(failures++, limits.retryBaseMs, limits.retryMaxMs, random))
      }
    }
    this.#acknowledging = null
  }

  /** False when the error ends the lease. */
  #goesOn(error: unknown): boolean {
    if (!endsLease(error)) return true
    this.#lose()
    return false
  }

  #tell(
    event: DiagnosticEvents['headrace:queue']['event'],
    messages: number,
    code: string | null,
    publishedAt: number | null = null,
  ): void {
    const { topic, lease } = this.#options
    tell('headrace:queue', () => ({
      topic,
      group: lease.group,
      partition: lease.partition,
      event,
      messages,
      waitMs: publishedAt === null ? null : Math.max(0, Date.now() - publishedAt),
      code,
    }))
  }

  #lose(): void {
    if (this.isLost) return
    if (!this.#stop.signal.aborted) {
      this.#options.counts.lost += 1
      this.#tell('lost', 0, null)
    }
    this.#lost.abort(new HeadraceError('lease-lost', 'The partition of this message was lost: another consumer has it.'))
    this.#stop.abort()
    this.#wake?.()
  }
}

function itemsOf(taken: readonly Taken[]): readonly Item[] {
  const [first] = taken
  return taken.length === 1 && first !== undefined ? first.items : taken.flatMap(({ items }) => items)
}
