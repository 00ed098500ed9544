/** Shares the calls of the handler that may run at once among the partitions of a consumer, in turn. */
import { Deque } from '../std/deque.ts'

/** What became of a call of the handler: it runs, it is over already, or there was nothing to call it for. */
export type Started = 'running' | 'ended' | 'nothing'

/** A partition with messages that may go to the handler. */
export interface Startable {
  /** Starts one call of the handler. One that runs is told by `ended` when it is over. */
  start(): Started
}

export class Dispatcher {
  readonly #ready = new Deque<Startable>()
  readonly #waiting = new Set<Startable>()
  #free: number
  #paused = false
  #starting = false

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
    // What is started may come back here at once: the loop that runs goes on with it.
    if (this.#starting) return
    this.#starting = true
    try {
      while (this.#free > 0 && !this.#paused) {
        const partition = this.#ready.shift()
        if (partition === undefined) return
        this.#waiting.delete(partition)
        this.#free -= 1
        const started = partition.start()
        if (started !== 'running') this.#free += 1
        if (started !== 'nothing') this.ready(partition)
      }
    } finally {
      this.#starting = false
    }
  }
}
