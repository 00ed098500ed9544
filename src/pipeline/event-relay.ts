/**
 * Publishes the events that commands have emitted, in the order of their
 * commits, and forgets each once its queue has it.
 *
 * One page at a time: all of it is published again, under the same ids, when
 * anything of it failed, so that nothing passes what could not be published.
 */
import { checkBounds } from '../contracts/bounds.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Ledger, QueuedEvent } from '../contracts/ledger.ts'
import { type MessageHeaders, messageBytesLimit, type NewMessage, type QueueEngine } from '../contracts/queue.ts'
import { checkQueueLimits, standardGroup, topicLimitTable } from '../queue/options.ts'
import { partitionOf } from '../queue/partition.ts'
import { TopicProducer } from '../queue/producer.ts'
import type { DeclareOptions } from '../queue/queue.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import { type Deferred, deferred } from '../std/deferred.ts'

/** A topic that commands emit to. */
export type EventTopic = DeclareOptions

export interface EventOptions {
  readonly topics: Readonly<Record<string, EventTopic>>
  /** Default: the queue that the commands of the app go through. */
  readonly queue?: QueueEngine
}

/** Events in one page. */
const pageMax = 500
const retryBaseMs = 20
const retryMaxMs = 1_000

export class EventRelay {
  readonly #app: string
  readonly #ledger: Ledger
  readonly #producers: ReadonlyMap<string, { readonly producer: TopicProducer; readonly partitions: number }>
  readonly #forgotten: (events: number) => void
  readonly #stop = new AbortController()
  readonly #stopped = deferred<[]>()
  readonly #running: Promise<void>
  #wake: Deferred<void> = deferred()

  /** Declares the topics, and begins with what an earlier life has left. */
  static async open(
    app: string,
    ledger: Ledger,
    engine: QueueEngine,
    topics: EventOptions['topics'],
    forgotten: (events: number) => void,
  ): Promise<EventRelay> {
    const producers = new Map<string, { producer: TopicProducer; partitions: number }>()
    for (const [name, options] of Object.entries(topics)) {
      const { partitions, messagesMax } = checkBounds(topicLimitTable, options)
      const topic = await engine.declare({ name, partitions, groups: options.groups ?? [standardGroup], messagesMax })
      // A full topic is waited for: the events are safe where they are.
      producers.set(name, {
        producer: new TopicProducer(topic, checkQueueLimits({ messageBytesMax: messageBytesLimit }), 'wait'),
        partitions,
      })
    }
    return new EventRelay(app, ledger, producers, forgotten)
  }

  private constructor(
    app: string,
    ledger: Ledger,
    producers: ReadonlyMap<string, { readonly producer: TopicProducer; readonly partitions: number }>,
    forgotten: (events: number) => void,
  ) {
    this.#app = app
    this.#ledger = ledger
    this.#producers = producers
    this.#forgotten = forgotten
    this.#running = this.#run()
  }

  /** Events were committed. */
  wake(): void {
    this.#wake.resolve()
  }

  /** Publishes nothing more. What is not forgotten is published by the next start, under the same ids. */
  async close(): Promise<void> {
    this.#stop.abort()
    this.#stopped.resolve([])
    this.#wake.resolve()
    await this.#running
  }

  async #run(): Promise<void> {
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      try {
        const page = await this.#ledger.events(pageMax)
        const last = page.at(-1)
        if (last === undefined) {
          await this.#wake.promise
          this.#wake = deferred()
          continue
        }
        await this.#publish(page)
        await this.#ledger.forgetEvents(last.n)
        this.#forgotten(page.length)
        failures = 0
      } catch (error) {
        failures += 1
        if (failures === 2) {
          tell('headrace:notice', () => ({
            app: this.#app,
            level: 'warn',
            message: `Events cannot be published, and wait: ${error instanceof Error ? error.message : String(error)}`,
          }))
        }
        await pause(backoffMs(failures - 1, retryBaseMs, retryMaxMs), this.#stop.signal)
      }
    }
  }

  async #publish(page: readonly QueuedEvent[]): Promise<void> {
    // A stop does not wait for a queue that is away.
    const answers = await Promise.race([Promise.allSettled(page.map((event) => this.#publishOne(event))), this.#stopped.promise])
    this.#stop.signal.throwIfAborted()
    for (const answer of answers) if (answer.status === 'rejected') throw answer.reason
  }

  async #publishOne({ topic, key, id, headers, body, at }: QueuedEvent): Promise<void> {
    const known = this.#producers.get(topic)
    if (known === undefined)
      throw new HeadraceError('topic-unknown', `An event for the topic '${topic}' waits, which the app does not declare any more.`)
    const message: NewMessage = {
      partition: partitionOf(key, known.partitions),
      key,
      id,
      headers: JSON.parse(headers) as MessageHeaders,
      body,
      publishedAt: at,
      availableAt: null,
    }
    await known.producer.publish(message)
  }
}
