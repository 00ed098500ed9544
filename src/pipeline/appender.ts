/**
 * Writes commands to the queue on disk, as many at once as wait: while one
 * append is on its way, the next one gathers. No timer, and no delay when idle.
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Entry, Ledger } from '../contracts/ledger.ts'
import type { Ticket } from './ticket.ts'

/** Commands in one append. */
const appendCommandsMax = 2_000

export interface AppenderEvents {
  /** These are on disk. */
  appended(tickets: readonly Ticket[]): void
  /** Their ids are known to the ledger already: `ticket` was not written. */
  conflicting(ticket: Ticket, known: 'queued' | 'decided', digest: string): void
  /** Nothing of these is on disk. */
  refused(tickets: readonly Ticket[], error: HeadraceError): void
}

export class Appender {
  readonly #app: string
  readonly #ledger: Ledger
  readonly #events: AppenderEvents
  #onIdle: (() => void) | null = null
  #waiting: Ticket[] = []
  #running = false
  /** Commands handed over whose append has not answered yet. */
  pending = 0

  constructor(app: string, ledger: Ledger, events: AppenderEvents) {
    this.#app = app
    this.#ledger = ledger
    this.#events = events
  }

  add(ticket: Ticket): void {
    this.#waiting.push(ticket)
    this.pending += 1
    if (!this.#running) void this.#run()
  }

  /** Calls back whenever nothing is pending any more. */
  whenIdle(listener: () => void): void {
    this.#onIdle = listener
  }

  async #run(): Promise<void> {
    this.#running = true
    // Lets the other commands of this turn of the event loop join.
    await new Promise(setImmediate)
    while (this.#waiting.length > 0) {
      const taken = this.#waiting.splice(0, appendCommandsMax)
      // A batch has these already: its commit writes what durable() waits for.
      const tickets = taken.filter((ticket) => ticket.place !== 'batch' && !ticket.settled && !ticket.entry.queued)
      if (tickets.length > 0) await this.#append(tickets)
      this.pending -= taken.length
    }
    this.#running = false
    this.#onIdle?.()
  }

  async #append(tickets: readonly Ticket[]): Promise<void> {
    const startedAt = performance.now()
    for (const ticket of tickets) ticket.entry = { ...ticket.entry, queued: true }
    const entries = tickets.map(({ entry }) => entry)
    // A ticket that was given the entry on disk meanwhile, since the two have one id, keeps that one.
    const notQueued = (ticket: Ticket, entry: Entry | undefined): void => {
      if (ticket.entry === entry) ticket.entry = { ...entry, queued: false }
    }
    try {
      const conflicts = await this.#ledger.append(entries)
      const known = new Map(conflicts.map((conflict) => [conflict.id, conflict]))
      this.#events.appended(tickets.filter((ticket) => !known.has(ticket.entry.id)))
      for (const [index, ticket] of tickets.entries()) {
        const conflict = known.get(ticket.entry.id)
        if (conflict === undefined) continue
        notQueued(ticket, entries[index])
        this.#events.conflicting(ticket, conflict.known, conflict.digest)
      }
      tell('headrace:append', () => ({ app: this.#app, commands: tickets.length, ms: performance.now() - startedAt }))
    } catch (error) {
      for (const [index, ticket] of tickets.entries()) notQueued(ticket, entries[index])
      this.#events.refused(tickets, HeadraceError.is(error) ? error : new HeadraceError('internal', undefined, { cause: error }))
    }
  }
}
