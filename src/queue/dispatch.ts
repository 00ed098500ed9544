/** Shares the calls of the handler that may run at once among the partitions of a consumer, in turn. */
import { Deque } from '../std/deque.ts'

/** A partition with messages that may go to the handler. */
export interface Startable {
  /** Starts one call of the handler; false when there is nothing to start any more. */
  start(): boolean
}

export class Dispatcher {
  readonly #ready = new Deque<Startable>()
  readonly #waiting = new Set<Startable>()
  #free: number
  #paused = false

  constructor(concurrency: number) {
    this.#free = concurrency
  }

  get paused(): boolean {
    return this.#paused
  }

  /** The partition has something to start. */
  ready(partition: Startable): void {
    if (!this.#waiting.has(partition)) {
      this.#waiting.add(partition)
      this.#ready.push(partition)
    }
    this.#start()
  }

  /** A call has ended. */
  ended(): void {
    this.#free += 1
    this.#start()
  }

  pause(): void {
    this.#paused = true
  }

  resume(): void {
    this.#paused = false
    this.#start()
  }

  #start(): void {
    while (this.#free > 0 && !this.#paused) {
      const partition = this.#ready.shift()
      if (partition === undefined) return
      this.#waiting.delete(partition)
      this.#free -= 1
      if (partition.start()) this.ready(partition)
      else this.#free += 1
    }
  }
}
