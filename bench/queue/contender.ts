/** What the bench asks of a queue, and the message that all of them carry. */

export interface BenchQueue {
  /** Resolves when so many messages are durable. */
  publish(count: number): Promise<unknown>
  /** Handles as many messages, which are there, each in a call of its own; from the first to the last acknowledgement. Messages a second. */
  consume(count: number): Promise<number>
  /** Puts messages there, the fastest way. Default: `publish`. */
  fill?(count: number): Promise<unknown>
  /** Throws away what is there. */
  empty(): Promise<unknown>
  close(): Promise<unknown>
}

export interface Order {
  readonly number: number
  readonly sku: string
  readonly buyer: string
  readonly quantity: number
  readonly note: string
}

export const keys = 10_000
const keyNames = Array.from({ length: keys }, (_, index) => `sku-${index}`)

export function orderOf(number: number, keyCount = keys): Order {
  return { number, sku: keyNames[number % keyCount] as string, buyer: `buyer-${number % 997}`, quantity: 1, note: 'leave it at the door' }
}

/** Numbers 0 to `count`, so many callers at once, each one after the other. */
export async function inLanes(count: number, lanes: number, one: (number: number) => Promise<unknown>): Promise<void> {
  let next = 0
  const lane = async (): Promise<void> => {
    while (next < count) await one(next++)
  }
  await Promise.all(Array.from({ length: Math.min(lanes, count) }, lane))
}

/** The rate of handling, and the end of it: counts from the first message. */
export class Meter {
  readonly done: Promise<void>
  readonly #count: number
  #finish: () => void = () => {}
  #handled = 0
  #startedAt = 0

  constructor(count: number) {
    this.#count = count
    this.done = new Promise((resolve) => {
      this.#finish = resolve
    })
  }

  get handled(): number {
    return this.#handled
  }

  handle(messages = 1): void {
    if (this.#handled === 0) this.#startedAt = performance.now()
    this.#handled += messages
    if (this.#handled >= this.#count && this.#handled - messages < this.#count) this.#finish()
  }

  /** Messages a second, up to now. */
  rate(): number {
    if (this.#handled < this.#count) throw new Error(`only ${this.#handled} of ${this.#count} messages were handled`)
    return this.#count / ((performance.now() - this.#startedAt) / 1_000)
  }
}
