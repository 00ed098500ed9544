/**
 * A lease on one partition of a queue in a SQLite file.
 *
 * The file decides: every call that changes something checks, in its own
 * transaction, that nobody has taken the partition since. A lease that has run
 * out is good until somebody else asks for the partition.
 */
import { checkWhole } from '../../contracts/bounds.ts'
import {
  type DeathReason,
  type LeaseOptions,
  type QueueLease,
  type QueueMessage,
  queueLeaseLost,
  type TakeOptions,
} from '../../contracts/queue.ts'
import type { Held, QueueStore, TopicRow } from './queue-store.ts'

/** The engine, as a lease sees it. */
export interface LeaseHost {
  readonly store: QueueStore
  readonly closed: boolean
  step<T>(durable: boolean, run: () => T): Promise<T>
  read<T>(run: () => T): T
  watch(wake: () => void, place: string): () => void
}

/** A partition, for those who wait for its messages. */
export const placeOf = (topic: number, partition: number): string => `${topic}/${partition}`

/** An acknowledgement around what is open writes down all of that: so many messages are worth it. */
const gapsAfter = 5_000

export class SqliteLease implements QueueLease {
  readonly group: string
  readonly partition: number
  readonly epoch: number
  readonly #engine: LeaseHost
  readonly #held: Held
  readonly #ttlMs: number
  readonly #lost = new AbortController()
  /** To be taken before what comes after `#taken`. */
  #open: number[]
  #taken: number
  #over = false
  readonly gapsAfter = gapsAfter

  constructor(
    engine: LeaseHost,
    topic: TopicRow,
    { group, partition, ttlMs }: LeaseOptions,
    { epoch, acked, open }: { readonly epoch: number; readonly acked: number; readonly open: number[] },
  ) {
    this.group = group
    this.partition = partition
    this.epoch = epoch
    this.#engine = engine
    this.#held = { topic, group, partition, epoch }
    this.#ttlMs = ttlMs
    this.#taken = acked
    this.#open = open
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  async take({ messagesMax, bytesMax, waitMs, signal }: TakeOptions): Promise<QueueMessage[]> {
    checkWhole('messagesMax', messagesMax, 1, 1_000_000)
    const deadline = performance.now() + waitMs
    const ended = (): boolean => signal?.aborted === true || this.#engine.closed
    for (;;) {
      let wakeUp = (): void => {}
      // From before the look, so that nothing that comes meanwhile is missed.
      const woken = new Promise<void>((resolve) => {
        wakeUp = resolve
      })
      const stop = this.#engine.watch(wakeUp, placeOf(this.#held.topic.n, this.partition))
      try {
        const messages = await this.#next(messagesMax, bytesMax)
        if (messages.length > 0) return messages
        const leftMs = deadline - performance.now()
        if (leftMs <= 0 || ended()) return []
        await this.#sleep(woken, wakeUp, leftMs, signal)
        if (ended()) return []
      } finally {
        stop()
      }
    }
  }

  acknowledge(position: number, open: readonly number[] = []): Promise<void> {
    return this.#step(false, () => this.#engine.store.acknowledge(this.#held, position, open))
  }

  bury(message: QueueMessage, reason: DeathReason): Promise<void> {
    return this.#step(true, () => this.#engine.store.bury(this.#held, message, reason, Date.now()))
  }

  async extend(): Promise<boolean> {
    if (this.#over) return false
    const held = await this.#engine.step(false, () => this.#engine.store.extend(this.#held, this.#ttlMs))
    if (!held) this.#end()
    return held
  }

  async release(): Promise<void> {
    if (this.#over) return
    this.#over = true
    await this.#engine.step(false, () => this.#engine.store.release(this.#held))
  }

  async #next(messagesMax: number, bytesMax: number): Promise<QueueMessage[]> {
    const { store } = this.#engine
    const { topic, group, partition } = this.#held
    if (this.#over) throw queueLeaseLost(topic.name, group, partition)
    const ask = (): QueueMessage[] | 'due' => {
      if (!store.holds(this.#held)) this.#refuse()
      if (store.isPaused(topic, group)) return []
      const due = store.nextDue(topic, partition)
      if (due !== null && due <= Date.now()) return 'due'
      const open = store.readOpen(topic, partition, this.#open, messagesMax, bytesMax)
      return open.length > 0 ? open : store.read(topic, group, partition, this.#taken, messagesMax, bytesMax)
    }
    let messages = this.#engine.read(ask)
    while (messages === 'due') {
      await this.#step(false, () => store.promote(topic, partition, Date.now()))
      messages = this.#engine.read(ask)
    }
    const last = messages.at(-1)?.position ?? this.#taken
    this.#open = this.#open.filter((position) => position > last)
    this.#taken = Math.max(this.#taken, last)
    return messages
  }

  /** Until somebody wakes it, its time or its signal ends it, or a delayed message is due. */
  async #sleep(woken: Promise<void>, wakeUp: () => void, leftMs: number, signal: AbortSignal | undefined): Promise<void> {
    const due = this.#engine.read(() => this.#engine.store.nextDue(this.#held.topic, this.partition))
    const timer = setTimeout(wakeUp, Math.min(leftMs, due === null || due <= Date.now() ? leftMs : due - Date.now()))
    signal?.addEventListener('abort', wakeUp)
    try {
      await woken
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', wakeUp)
    }
  }

  async #step<T>(durable: boolean, run: () => T): Promise<T> {
    const { topic, group, partition } = this.#held
    if (this.#over) throw queueLeaseLost(topic.name, group, partition)
    return this.#engine.step(durable, () => {
      if (!this.#engine.store.holds(this.#held)) this.#refuse()
      return run()
    })
  }

  #refuse(): never {
    const { topic, group, partition } = this.#held
    this.#end()
    throw queueLeaseLost(topic.name, group, partition)
  }

  #end(): void {
    this.#over = true
    this.#lost.abort()
  }
}
