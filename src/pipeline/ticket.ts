/**
 * A command in this process, from the door to its outcome.
 *
 * Where it is kept, in order of life:
 *   memory   only this process knows it; nobody has been told anything;
 *   queued   the ledger was told to hold it, and a crash cannot lose it once
 *            that append has answered;
 *   settled  it has its outcome, or was refused.
 *
 * A ticket exists while somebody waits for it or while it is in the window of
 * its lane. A queued command that nobody waits for lives on disk alone.
 */
import type { HeadraceError } from '../contracts/errors.ts'
import type { Entry, OutcomeStatus } from '../contracts/ledger.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import type { Receipt } from './app-contract.ts'
import type { AnyCommand } from './command.ts'

/** The message of a queue on a server that a command came with. */
export interface Delivery {
  /** The commit that ends it is on disk; or `refusal` says why it is no command, and it becomes a dead letter. */
  end(refusal?: HeadraceError): void
}

export interface Settlement {
  readonly status: OutcomeStatus
  readonly body: string
}

/** The validated input of a command; null until it is parsed again after a stay on disk. */
export interface Parsed {
  readonly value: unknown
}

export interface TicketOwner {
  /** Somebody waits for the ticket to be on disk. */
  persist(ticket: Ticket): void
  /** Somebody waits for the outcome of a ticket that was forgotten. */
  attach(ticket: Ticket): void
}

export class Ticket implements Receipt {
  entry: Entry
  parsed: Parsed | null
  readonly command: AnyCommand | null
  /** The caller's id; `entry.id` has tenant and command in it. */
  readonly id: string
  /** When it came to this process, on the monotonic clock. */
  readonly takenAt = performance.now()
  /** Which waking of its key lets it pass while the key is blocked; 0 for none. */
  wakening = 0
  /** Who has it now. On 'disk' the queue has it, and the ticket stands for those who wait. */
  place: 'window' | 'batch' | 'disk' = 'window'
  /** The message of the queue on a server that it came with: that queue holds it until the delivery has ended. */
  delivery: Delivery | null = null
  /** Whether the door counts it as in flight. */
  counted = false
  /** Whether it is in the window of its lane and not on disk. */
  unqueued = false
  /** True once the door has let go of it; who asks for its outcome later is attached again. */
  forgotten = false
  settlement: Settlement | null = null
  failure: unknown = null
  #appended = false
  #outcome: Deferred<Settlement> | null = null
  #durable: Deferred<void> | null = null
  readonly #owner: TicketOwner

  constructor(entry: Entry, id: string, command: AnyCommand | null, parsed: Parsed | null, owner: TicketOwner) {
    this.entry = entry
    this.id = id
    this.command = command
    this.parsed = parsed
    this.#owner = owner
    this.#appended = entry.queued
  }

  /** Whether it would survive a crash of this process: nobody may drop it, or refuse it for a reason that passes. */
  get kept(): boolean {
    return this.entry.queued || this.delivery !== null
  }

  get key(): string {
    return this.entry.key
  }

  get partition(): number {
    return this.entry.partition
  }

  get settled(): boolean {
    return this.settlement !== null || this.failure !== null
  }

  /** True when somebody waits for something of it. */
  get awaited(): boolean {
    return this.#outcome !== null || this.#durable !== null
  }

  get outcome(): Promise<Settlement> {
    if (this.#outcome === null) {
      this.#outcome = deferred()
      // Whoever asked may have gone: a refusal must not end the process.
      this.#outcome.promise.catch(() => undefined)
      if (this.settlement !== null) this.#outcome.resolve(this.settlement)
      else if (this.failure !== null) this.#outcome.reject(this.failure)
      else if (this.forgotten) this.#owner.attach(this)
    }
    return this.#outcome.promise
  }

  async durable(): Promise<void> {
    if (this.failure !== null) throw this.failure
    if (this.#appended || this.settlement !== null) return
    if (this.#durable === null) {
      this.#durable = deferred()
      this.#durable.promise.catch(() => undefined)
      if (!this.entry.queued) this.#owner.persist(this)
    }
    return this.#durable.promise
  }

  /** The ledger has it on disk. */
  appended(): void {
    this.#appended = true
    this.#durable?.resolve()
    this.#durable = null
  }

  settle(settlement: Settlement): void {
    if (this.settled) return
    this.settlement = settlement
    this.#outcome?.resolve(settlement)
    this.#durable?.resolve()
  }

  refuse(error: unknown): void {
    if (this.settled) return
    this.failure = error
    this.#outcome?.reject(error)
    this.#durable?.reject(error)
  }
}
