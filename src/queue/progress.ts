/**
 * Which messages of a partition are done: the engine wants one position, all up
 * to which is done, while parallel keys finish in any order.
 *
 * A message that waits for its retry holds that position back. Where the engine
 * can acknowledge around it, `passOpen` moves the position to the newest message
 * that is done, and what is left before it is named as *open*. So nothing stands
 * here but messages that are not done, and those done since the last move.
 */
import { Deque } from '../std/deque.ts'

export class Progress {
  /** In order: what is not done, and what was done behind it since the last move. */
  #begun = new Deque<number>()
  /** Done, and still in `#begun`. */
  readonly #done = new Set<number>()
  #reached = 0
  #newestDone = 0

  /** Messages that are not done, and those done behind them that are not passed. */
  get span(): number {
    return this.#begun.length
  }

  /** Messages that are done behind one that is not: their acknowledgement waits. */
  get held(): number {
    return this.#done.size
  }

  /** The position up to which everything is done, but for `open`; 0 before the first. */
  get reached(): number {
    return this.#reached
  }

  /** Messages up to `reached` that are not done, in order. None before `passOpen`. */
  get open(): number[] {
    const open: number[] = []
    for (const position of this.#begun) {
      if (position > this.#reached) break
      if (!this.#done.has(position)) open.push(position)
    }
    return open
  }

  /** Begins a message; positions come in order. */
  begin(position: number): void {
    this.#begun.push(position)
  }

  /** True when `reached` or `open` has changed. */
  finish(position: number): boolean {
    this.#done.add(position)
    this.#newestDone = Math.max(this.#newestDone, position)
    const wasOpen = position <= this.#reached
    const before = this.#reached
    for (let head = this.#begun.peek(); head !== undefined && this.#done.delete(head); head = this.#begun.peek()) {
      this.#reached = Math.max(this.#reached, head)
      this.#begun.shift()
    }
    return wasOpen || this.#reached > before
  }

  /** Moves the position to the newest message that is done; what is not done before it is open. */
  passOpen(): void {
    const left = new Deque<number>()
    for (const position of this.#begun) if (!this.#done.has(position)) left.push(position)
    this.#begun = left
    this.#done.clear()
    this.#reached = Math.max(this.#reached, this.#newestDone)
  }
}
