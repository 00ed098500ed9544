/**
 * Which messages of a partition are done: the engine wants one position, all up
 * to which is done, while parallel keys finish in any order.
 */
import { Deque } from '../std/deque.ts'

export class Progress {
  readonly #open = new Deque<number>()
  readonly #done = new Set<number>()
  #reached = 0

  /** Positions between the first that is not done and the newest. */
  get span(): number {
    return this.#open.length
  }

  /** The highest position up to which everything is done; 0 before the first. */
  get reached(): number {
    return this.#reached
  }

  /** Begins a message; positions come in order. */
  begin(position: number): void {
    this.#open.push(position)
  }

  /** True when `reached` has grown. */
  finish(position: number): boolean {
    this.#done.add(position)
    const before = this.#reached
    for (let head = this.#open.peek(); head !== undefined && this.#done.delete(head); head = this.#open.peek()) {
      this.#reached = head
      this.#open.shift()
    }
    return this.#reached > before
  }
}
