/**
 * One call of a handler, with a bound on its time. Its signal is made when
 * somebody looks at it.
 *
 * A handler that does not end in time is told by its signal, and its call
 * counts as failed. Code that goes on regardless runs beside the next try; what
 * it writes is refused where an inbox guards the database.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { MessageHeaders, QueueLease } from '../contracts/queue.ts'
import type { Item } from './key-lanes.ts'
import type { Delivery } from './message.ts'

export class HandlerCall {
  readonly #timeoutMs: number
  readonly #lost: AbortSignal
  #controller: AbortController | null = null

  constructor(timeoutMs: number, lost: AbortSignal) {
    this.#timeoutMs = timeoutMs
    this.#lost = lost
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#lost.aborted) this.#abort(this.#lost.reason)
    }
    return this.#controller.signal
  }

  /** Rejects with what the handler throws, or with 'handler-timeout'. A lost partition is told by the signal alone: the handler ends by itself. */
  async within(running: Promise<unknown>): Promise<void> {
    const lose = (): void => this.#abort(this.#lost.reason)
    this.#lost.addEventListener('abort', lose)
    let timer: NodeJS.Timeout | undefined
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        const why = new HeadraceError(
          'handler-timeout',
          `The handler did not end within ${this.#timeoutMs} ms. Bound its waits, or raise handlerTimeoutMs.`,
        )
        this.#abort(why)
        reject(why)
      }, this.#timeoutMs)
    })
    // What it says after its time is over is of no interest.
    running.catch(() => {})
    try {
      await Promise.race([running, late])
    } finally {
      clearTimeout(timer)
      this.#lost.removeEventListener('abort', lose)
    }
  }

  #abort(why: unknown): void {
    this.#controller?.abort(why)
  }
}

/** A message as its handler sees it. */
export class Handed implements Delivery {
  readonly topic: string
  readonly group: string
  readonly partition: number
  readonly position: number
  readonly epoch: number
  readonly id: string
  readonly key: string
  readonly headers: MessageHeaders
  readonly value: unknown
  readonly body: string
  readonly publishedAt: number
  readonly attempt: number
  readonly redriven: number
  readonly #call: HandlerCall

  constructor(topic: string, lease: QueueLease, { message, value, attempts }: Item, call: HandlerCall) {
    this.topic = topic
    this.group = lease.group
    this.partition = lease.partition
    this.epoch = lease.epoch
    this.position = message.position
    this.id = message.id
    this.key = message.key
    this.headers = message.headers
    this.value = value
    this.body = message.body
    this.publishedAt = message.publishedAt
    this.attempt = attempts + 1
    this.redriven = message.redriven
    this.#call = call
  }

  get signal(): AbortSignal {
    return this.#call.signal
  }
}
