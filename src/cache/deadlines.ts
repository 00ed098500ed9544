/**
 * Timeouts that hardly ever come true, and so must cost little: most waits are
 * over long before. Waits of the same length run out in the order they began, so
 * one timer does for all of them; it is left running when a wait ends early.
 */
import { Deque } from '../std/deque.ts'

/** Something that waits. Whoever ends the wait sets `over`; `late` is called at most once, and not after that. */
export interface Wait {
  over: boolean
  late(): void
}

class Queue {
  readonly #ms: number
  readonly #waits = new Deque<{ readonly deadline: number; readonly wait: Wait }>()
  #timer: NodeJS.Timeout | undefined

  constructor(ms: number) {
    this.#ms = ms
  }

  push(wait: Wait): void {
    // What is over goes at once, so that the queue is as long as what really waits.
    while (this.#waits.peek()?.wait.over === true) this.#waits.shift()
    this.#waits.push({ deadline: performance.now() + this.#ms, wait })
    this.#timer ??= setTimeout(this.#expire, this.#ms)
  }

  clear(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    while (this.#waits.shift() !== undefined);
  }

  readonly #expire = (): void => {
    this.#timer = undefined
    const now = performance.now()
    for (let first = this.#waits.peek(); first !== undefined; first = this.#waits.peek()) {
      if (!first.wait.over) {
        if (first.deadline > now) {
          this.#timer = setTimeout(this.#expire, Math.ceil(first.deadline - now))
          return
        }
        first.wait.over = true
        first.wait.late()
      }
      this.#waits.shift()
    }
  }
}

/** Lengths that have a queue of their own; a wait of any other length gets a timer. */
const queuesMax = 32

export class Deadlines {
  readonly #queues = new Map<number, Queue>()

  after(ms: number, wait: Wait): void {
    let queue = this.#queues.get(ms)
    if (queue === undefined) {
      if (this.#queues.size >= queuesMax) {
        setTimeout(() => {
          if (wait.over) return
          wait.over = true
          wait.late()
        }, ms).unref()
        return
      }
      queue = new Queue(ms)
      this.#queues.set(ms, queue)
    }
    queue.push(wait)
  }

  close(): void {
    for (const queue of this.#queues.values()) queue.clear()
  }
}
