/**
 * The messages of a partition that wait for the handler, by key: the messages of
 * a key one after the other, those of other keys beside them.
 *
 * A lane (one key): ready → running → ready …, or, when its first message
 * failed, → waiting → ready. A lane that waits holds up nobody else. What
 * stands in waiting lanes is *parked*, and counted apart.
 *
 * A key that failed is *suspect* until a message of it is done at its first try:
 * its messages go to the handler alone, so that it fails no batch of others.
 */
import type { QueueMessage } from '../contracts/queue.ts'
import { Deque } from '../std/deque.ts'

export interface Item {
  readonly message: QueueMessage
  readonly value: unknown
  /** Why it cannot be handled; null when it can. */
  readonly malformed: string | null
  /** Tries that failed. */
  attempts: number
  /** Was part of a batch that failed: from now on it is tried alone. */
  alone: boolean
}

interface Lane {
  readonly key: string
  readonly items: Deque<Item>
  state: 'ready' | 'running' | 'waiting'
}

/** Messages of one call of the handler. */
export interface Taken {
  readonly lane: Lane
  readonly items: Item[]
}

/** Suspect keys that are remembered; past it the one that has been suspect longest is forgotten, and may fail one more batch. */
const suspectsMax = 10_000

export class KeyLanes {
  readonly #lanes = new Map<string, Lane>()
  readonly #ready = new Deque<Lane>()
  readonly #suspects = new Set<string>()
  #held = 0
  #parked = 0

  /** Messages that wait or run, the parked ones not included. */
  get held(): number {
    return this.#held - this.#parked
  }

  get parked(): number {
    return this.#parked
  }

  get hasReady(): boolean {
    return this.#ready.length > 0
  }

  push(item: Item): void {
    const { key } = item.message
    this.#held += 1
    const known = this.#lanes.get(key)
    if (known === undefined) {
      const lane: Lane = { key, items: new Deque(), state: 'ready' }
      lane.items.push(item)
      this.#lanes.set(key, lane)
      this.#ready.push(lane)
      return
    }
    known.items.push(item)
    if (known.state === 'waiting') this.#parked += 1
  }

  /** Up to `max` messages for one call: of one key in order, of several keys side by side. */
  take(max: number): Taken[] {
    const taken: Taken[] = []
    for (let count = 0; count < max; ) {
      const first = this.#ready.peek()
      const head = first?.items.peek()
      if (first === undefined || head === undefined) break
      const single = head.alone || head.attempts > 0 || head.malformed !== null || this.#suspects.has(first.key)
      if (single && count > 0) break
      const lane = this.#ready.shift() as Lane
      lane.state = 'running'
      const items: Item[] = []
      for (let item = lane.items.peek(); item !== undefined && count < max; item = lane.items.peek()) {
        if (count > 0 && (item.alone || item.malformed !== null)) break
        items.push(item)
        lane.items.shift()
        count += 1
        if (single) break
      }
      taken.push({ lane, items })
      if (single) break
    }
    return taken
  }

  /** The messages are done with. True when the lane has more to do. */
  finish({ lane, items }: Taken): boolean {
    this.#held -= items.length
    if (this.#suspects.size > 0 && items.every(({ attempts, malformed }) => attempts === 0 && malformed === null))
      this.#suspects.delete(lane.key)
    if (lane.items.length === 0) {
      this.#lanes.delete(lane.key)
      return false
    }
    this.#toReady(lane)
    return true
  }

  /** The messages go back to the front of their lane, which is ready at once. */
  putBack({ lane, items }: Taken): void {
    for (const item of items.reverse()) lane.items.unshift(item)
    this.#toReady(lane)
  }

  /** The message goes back to the front of its lane, which waits until `resume`. */
  park({ lane, items }: Taken): void {
    this.#suspects.add(lane.key)
    if (this.#suspects.size > suspectsMax) this.#suspects.delete(this.#suspects.values().next().value as string)
    for (const item of items.reverse()) lane.items.unshift(item)
    lane.state = 'waiting'
    this.#parked += lane.items.length
  }

  resume({ lane }: Taken): void {
    this.#parked -= lane.items.length
    this.#toReady(lane)
  }

  #toReady(lane: Lane): void {
    lane.state = 'ready'
    this.#ready.push(lane)
  }
}
