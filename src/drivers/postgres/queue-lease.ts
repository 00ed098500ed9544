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

export class PostgresLease implements QueueLease {
  readonly group: string
  readonly partition: number
  readonly epoch: number
  readonly #client: QueueClient
  readonly #name: string
  readonly #topic: number
  readonly #ttlMs: number
  readonly #lost = new AbortController()
  #taken: number
  #over = false

  constructor(
    client: QueueClient,
    topic: { readonly n: number; readonly name: string },
    { group, partition, ttlMs }: LeaseOptions,
    epoch: number,
    acked: number,
  ) {
    this.group = group
    this.partition = partition
    this.epoch = epoch
    this.#client = client
    this.#name = topic.name
    this.#topic = topic.n
    this.#ttlMs = ttlMs
    this.#taken = acked
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
          this.#taken = messages.at(-1)?.position ?? this.#taken
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

  async acknowledge(position: number): Promise<void> {
    this.#check()
    const { rows } = await this.#client.query(this.#client.calls.acknowledge, [...this.#place(), position])
    if (rows[0]?.['held'] !== true) this.#refuse()
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
      const { rows } = await this.#client.query(this.#client.calls.take, [...this.#place(), this.#taken, messagesMax, bytesMax])
      const [first] = rows
      if (first?.['held'] !== true) this.#refuse()
      const dueMs = first['due_ms'] === null ? null : Number(first['due_ms'])
      if (dueMs !== null && dueMs <= 0) {
        await this.#client.query(this.#client.calls.promote, [this.#topic, this.partition])
        continue
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
