/**
 * The waiting commands of a lane that are in memory: the front of its queue, in
 * order of position.
 *
 * As long as everything that waits fits, a command goes from the door straight
 * to its batch, and the commit of the batch is the first time it touches the
 * disk. When the window is full the rest *spills*: it is appended to the queue
 * on disk, and read back in order as the window empties. While anything is
 * spilled, everything new spills too, since order is the order of positions.
 */
import { Deque } from '../std/deque.ts'
import type { Limits } from './options.ts'
import type { Ticket } from './ticket.ts'

export class Window {
  readonly #limits: Limits
  readonly #tickets = new Deque<Ticket>()
  #bytes = 0
  /** Position of the last command that went in at the back, or was read from disk. */
  last = 0
  /** Whether commands past `last` wait on disk. */
  spilled = false

  constructor(limits: Limits) {
    this.#limits = limits
  }

  get length(): number {
    return this.#tickets.length
  }

  /** Takes a new command at the back, or says that it must spill. */
  offer(ticket: Ticket): boolean {
    if (
      this.spilled ||
      this.#tickets.length >= this.#limits.windowCommandsMax ||
      this.#bytes + ticket.entry.input.length > this.#limits.windowBytesMax
    ) {
      this.spilled = true
      return false
    }
    this.pushBack(ticket)
    return true
  }

  pushBack(ticket: Ticket): void {
    this.#tickets.push(ticket)
    this.#bytes += ticket.entry.input.length
    this.last = Math.max(this.last, ticket.entry.position)
  }

  /** Gives commands back to the front, in their order. */
  pushFront(tickets: readonly Ticket[]): void {
    for (let index = tickets.length - 1; index >= 0; index--) {
      const ticket = tickets[index] as Ticket
      this.#tickets.unshift(ticket)
      this.#bytes += ticket.entry.input.length
    }
  }

  /** The next commands, up to the limits of a batch; at least one if there is one. */
  take(): Ticket[] {
    const taken: Ticket[] = []
    let bytes = 0
    for (let next = this.#tickets.peek(); next !== undefined && taken.length < this.#limits.batchCommandsMax; next = this.#tickets.peek()) {
      const size = next.entry.input.length
      if (taken.length > 0 && bytes + size > this.#limits.batchBytesMax) break
      bytes += size
      this.#bytes -= size
      this.#tickets.shift()
      // Refused while it waited: its caller has been told, and nothing of it is on disk.
      if (!next.settled) taken.push(next)
    }
    return taken
  }

  /** How many commands to read from disk now; 0 while the window is more than half full. */
  room(): number {
    if (!this.spilled || this.#tickets.length * 2 > this.#limits.windowCommandsMax || this.#bytes * 2 > this.#limits.windowBytesMax)
      return 0
    return this.#limits.windowCommandsMax - this.#tickets.length
  }

  get bytesFree(): number {
    return Math.max(1, this.#limits.windowBytesMax - this.#bytes)
  }

  [Symbol.iterator](): Iterator<Ticket> {
    return this.#tickets[Symbol.iterator]()
  }
}
