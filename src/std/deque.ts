/** A queue with both ends open, on a ring of array slots: push, shift and unshift cost the same at any length. */
export class Deque<T> {
  #slots: (T | undefined)[] = new Array<T | undefined>(64)
  #head = 0
  #length = 0

  get length(): number {
    return this.#length
  }

  push(item: T): void {
    this.#grow()
    this.#slots[(this.#head + this.#length) & (this.#slots.length - 1)] = item
    this.#length += 1
  }

  unshift(item: T): void {
    this.#grow()
    this.#head = (this.#head - 1) & (this.#slots.length - 1)
    this.#slots[this.#head] = item
    this.#length += 1
  }

  shift(): T | undefined {
    if (this.#length === 0) return undefined
    const item = this.#slots[this.#head]
    this.#slots[this.#head] = undefined
    this.#head = (this.#head + 1) & (this.#slots.length - 1)
    this.#length -= 1
    return item
  }

  peek(): T | undefined {
    return this.#length === 0 ? undefined : this.#slots[this.#head]
  }

  /** By its place from the front, from 0. */
  at(index: number): T | undefined {
    return index < 0 || index >= this.#length ? undefined : this.#slots[(this.#head + index) & (this.#slots.length - 1)]
  }

  *[Symbol.iterator](): Generator<T> {
    for (let index = 0; index < this.#length; index++) yield this.#slots[(this.#head + index) & (this.#slots.length - 1)] as T
  }

  #grow(): void {
    if (this.#length < this.#slots.length) return
    const larger = new Array<T | undefined>(this.#slots.length * 2)
    let index = 0
    for (const item of this) larger[index++] = item
    this.#slots = larger
    this.#head = 0
  }
}
