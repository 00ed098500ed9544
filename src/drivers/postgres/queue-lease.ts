/**
 * A lease on one partition of a queue on PostgreSQL. The database decides: every
 * call checks, in its own transaction, that nobody has taken the partition
 * since. A lost connection ends no lease.
 */
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type DeathReason,
  type LeaseOptions,
  type QueueLease,
  type QueueMessage,
  queueLeaseLost,
  reasonCharactersMax,
  type TakeOptions,
} from '../../contracts/queue.ts'
import type { QueueClient } from './queue-client.ts'
import { messageIn, rowOf } from './queue-rows.ts'

/** How long a waiting take trusts that it is notified, in milliseconds. */
const trustMs = 1_000

/** An acknowledgement around what is open writes down all of that: so many messages are worth it. */
const gapsAfter = 5_000

/** Positions of a group that are open. After a lease is granted nobody but its holder changes them. */
export async function openPositions(client: QueueClient, topic: number, partition: number, group: string): Promise<number[]> {
  const { rows } = await client.query(client.calls.openAt, [topic, partition, group])
  const open: unknown = rows[0]?.['open']
  return Array.isArray(open) ? open.map(Number) : []
}

export class PostgresLease implements QueueLease {
  readonly group: string
  readonly partition: number
  readonly epoch: number
  readonly #client: QueueClient
  readonly #name: string
  readonly #topic: number
  readonly #ttlMs: number
  readonly #lost = new AbortController()
  /** To be taken before what comes after `#taken`. */
  #open: number[]
  /** The last position that is open as far as the table knows; 0 for none. */
  #openUpTo: number
  #taken: number
  #over = false
  readonly gapsAfter = gapsAfter

  constructor(
    client: QueueClient,
    topic: { readonly n: number; readonly name: string },
    { group, partition, ttlMs }: LeaseOptions,
    epoch: number,
    acked: number,
    open: number[],
  ) {
    this.group = group
    this.partition = partition
    this.epoch = epoch
    this.#client = client
    this.#name = topic.name
    this.#topic = topic.n
    this.#ttlMs = ttlMs
    this.#taken = acked
    this.#open = open
    this.#openUpTo = open.at(-1) ?? 0
  }

  get lost(): AbortSignal {
    return this.#lost.signal
  }

  async take({ messagesMax, bytesMax, waitMs, signal }: TakeOptions): Promise<QueueMessage[]> {
    checkWhole('messagesMax', messagesMax, 1, 1_000_000)
    const deadline = performance.now() + waitMs
    const ended = (): boolean => signal?.aborted === true || this.#client.closed
    try {
      for (;;) {
        this.#check()
        if (signal?.aborted === true) return []
        const { messages, dueMs } = await this.#next(messagesMax, bytesMax)
        if (messages.length > 0) {
          const last = messages.at(-1)?.position ?? 0
          this.#open = this.#open.filter((position) => position > last)
          this.#taken = Math.max(this.#taken, last)
          return messages
        }
        const leftMs = deadline - performance.now()
        if (leftMs <= 0 || ended()) return []
        await this.#wait(Math.min(leftMs, dueMs ?? leftMs, trustMs), signal)
        if (ended()) return []
      }
    } catch (error) {
      // A take that its caller has ended need not say why it could not go on.
      if (signal?.aborted === true && HeadraceError.is(error) && error.retryable && error.code !== 'lease-lost') return []
      throw error
    }
  }

  async acknowledge(position: number, open: readonly number[] = []): Promise<void> {
    this.#check()
    const { calls } = this.#client
    const isAround = open.length > 0 || this.#openUpTo > 0
    this.#openUpTo = Math.max(open.at(-1) ?? 0, this.#openUpTo)
    const { rows } = isAround
      ? await this.#client.query(calls.acknowledgeAround, [...this.#place(), position, open])
      : await this.#client.query(calls.acknowledge, [...this.#place(), position])
    if (rows[0]?.['held'] !== true) this.#refuse()
    if (open.length === 0 && position >= this.#openUpTo) this.#openUpTo = 0
  }

  async bury(message: QueueMessage, reason: DeathReason): Promise<void> {
    this.#check()
    const letter = {
      ...rowOf(message),
      r: message.redriven,
      m: message.malformed,
      c: reason.code,
      w: reason.message.replaceAll('\0', '').slice(0, reasonCharactersMax),
      n: reason.attempts,
    }
    const { rows } = await this.#client.query(this.#client.calls.bury, [...this.#place(), message.position, JSON.stringify(letter)])
    if (rows[0]?.['held'] !== true) this.#refuse()
  }

  async extend(): Promise<boolean> {
    if (this.#over) return false
    const { changed } = await this.#client.query(this.#client.calls.extend, [...this.#place(), this.#ttlMs])
    if (changed !== 1) this.#end()
    return changed === 1
  }

  async release(): Promise<void> {
    if (this.#over) return
    this.#over = true
    await this.#client.query(this.#client.calls.release, this.#place())
  }

  async #next(messagesMax: number, bytesMax: number): Promise<{ readonly messages: QueueMessage[]; readonly dueMs: number | null }> {
    for (;;) {
      const { calls } = this.#client
      const { rows } =
        this.#open.length > 0
          ? await this.#client.query(calls.takeOpen, [...this.#place(), this.#open, messagesMax, bytesMax])
          : await this.#client.query(calls.take, [...this.#place(), this.#taken, messagesMax, bytesMax])
      const [first] = rows
      if (first?.['held'] !== true) this.#refuse()
      const dueMs = first['due_ms'] === null ? null : Number(first['due_ms'])
      if (dueMs !== null && dueMs <= 0) {
        await this.#client.query(this.#client.calls.promote, [this.#topic, this.partition])
        continue
      }
      // What is open was purged, or its group is paused; what is open no more is not asked for again.
      if (first['position'] === null && this.#open.length > 0) {
        const open = new Set(await openPositions(this.#client, this.#topic, this.partition, this.group))
        this.#open = this.#open.filter((position) => open.has(position))
        if (this.#open.length === 0) continue
      }
      return { messages: first['position'] === null ? [] : rows.map((row) => messageIn(row, this.partition)), dueMs }
    }
  }

  /** Until a message may be there: told by a notification, by the time, or by the signal. */
  async #wait(ms: number, signal: AbortSignal | undefined): Promise<void> {
    let wake = (): void => {}
    const woken = new Promise<void>((resolve) => {
      wake = resolve
    })
    signal?.addEventListener('abort', wake)
    const stop = await this.#client.watch(this.#topic, this.partition, wake)
    let timer: NodeJS.Timeout | undefined
    try {
      // Listening comes first: whoever appends from now on is heard.
      const { rows } = await this.#client.query(this.#client.calls.wait, [this.#topic, this.partition, this.group, this.#taken])
      if (rows[0]?.['waits'] !== true || signal?.aborted === true) return
      timer = setTimeout(wake, ms)
      await woken
    } finally {
      clearTimeout(timer)
      signal?.removeEventListener('abort', wake)
      stop()
    }
  }

  #place(): readonly unknown[] {
    return [this.#topic, this.partition, this.group, this.epoch]
  }

  #check(): void {
    if (this.#over) throw queueLeaseLost(this.#name, this.group, this.partition)
  }

  #refuse(): never {
    this.#end()
    throw queueLeaseLost(this.#name, this.group, this.partition)
  }

  #end(): void {
    this.#over = true
    this.#lost.abort()
  }
}
