/**
 * Appends of one topic, in the order in which they were made.
 *
 * Calls that are made while others are on their way go together in one
 * transaction; those about other partitions go side by side on connections of
 * their own. Two calls about one partition are never on their way at once, so
 * neither overtakes the other.
 */
import type { Appended, NewMessage } from '../../contracts/queue.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'
import { type QueueClient, queueClosed } from './queue-client.ts'
import { rowOf } from './queue-rows.ts'

interface Call {
  readonly messages: readonly NewMessage[]
  readonly partitions: ReadonlySet<number>
  readonly answer: Deferred<Appended[]>
}

/** Messages of calls that go together in one transaction: larger ones are worth a connection of their own, on another core of the server. */
const messagesMax = 1_000
/** Transactions on their way at once. */
const sideBySideMax = 4

export class QueueAppends {
  readonly #client: QueueClient
  readonly #topic: number
  readonly #busy = new Set<number>()
  #calls: Call[] = []
  #running = 0
  #scheduled = false

  constructor(client: QueueClient, topic: number) {
    this.#client = client
    this.#topic = topic
  }

  append(messages: readonly NewMessage[]): Promise<Appended[]> {
    if (this.#client.closed) return Promise.reject(queueClosed())
    if (messages.length === 0) return Promise.resolve([])
    const call = { messages, partitions: new Set(messages.map(({ partition }) => partition)), answer: deferred<Appended[]>() }
    this.#calls.push(call)
    if (!this.#scheduled) {
      this.#scheduled = true
      // What is appended in the same turn goes together.
      queueMicrotask(() => {
        this.#scheduled = false
        this.#start()
      })
    }
    return call.answer.promise
  }

  #start(): void {
    while (this.#calls.length > 0 && this.#running < sideBySideMax) {
      // What an earlier call waits for, a later one waits for too.
      const blocked = new Set(this.#busy)
      const group: Call[] = []
      const left: Call[] = []
      let count = 0
      for (const call of this.#calls) {
        const fits = count === 0 || count + call.messages.length <= messagesMax
        if (fits && [...call.partitions].every((partition) => !blocked.has(partition))) {
          group.push(call)
          count += call.messages.length
        } else {
          left.push(call)
          for (const partition of call.partitions) blocked.add(partition)
        }
      }
      if (group.length === 0) return
      this.#calls = left
      void this.#send(group)
    }
  }

  async #send(group: readonly Call[]): Promise<void> {
    const partitions = [...new Set(group.flatMap((call) => [...call.partitions]))]
    for (const partition of partitions) this.#busy.add(partition)
    this.#running += 1
    try {
      const rows = group.flatMap(({ messages }) => messages.map(rowOf))
      const answers = await this.#client.query(this.#client.calls.append, [this.#topic, partitions, JSON.stringify(rows)])
      let next = 0
      for (const { messages, answer } of group) {
        answer.resolve(
          messages.map((): Appended => {
            const { state, position } = answers.rows[next++] as { state: number; position: string | null }
            if (state === 0) return { state: 'kept', position: position === null ? null : Number(position) }
            return { state: state === 1 ? 'duplicate' : 'full' }
          }),
        )
      }
    } catch (error) {
      for (const { answer } of group) answer.reject(error)
    } finally {
      this.#running -= 1
      for (const partition of partitions) this.#busy.delete(partition)
      this.#start()
    }
  }
}
