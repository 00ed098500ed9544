/**
 * The door of an app: checks what callers send, keeps track of who waits, and
 * hands commands to the lane of their partition.
 *
 * A command is checked completely before anything of it is kept: name, input,
 * key, id, size, then the limits of the node.
 */
import { randomUUID } from 'node:crypto'
import { tell } from '../contracts/diagnostics.ts'
import { type ErrorCode, HeadraceError } from '../contracts/errors.ts'
import type { Entry, Ledger } from '../contracts/ledger.ts'
import { pause } from '../std/backoff.ts'
import { digestOf, hash32 } from '../std/hash.ts'
import { jsonDepth } from '../std/json.ts'
import { nearest } from '../contracts/nearest.ts'
import type { Admission } from './admission.ts'
import type { OutcomeState, SubmitOptions } from './app-contract.ts'
import { idReused } from './batch-runner.ts'
import type { AnyCommand } from './command.ts'
import { keyOf } from './key.ts'
import type { Lane } from './lane.ts'
import type { ResolvedOptions } from './options.ts'
import type { CommandFeed } from './queue/feed.ts'
import { callerId, scopedId } from './outcome.ts'
import { Ticket, type TicketOwner } from './ticket.ts'
import { validInput } from './validate.ts'

/** How often a command that a queue on a server may have is looked for, in milliseconds. */
const lookAgainMs = 50
const idPattern = /^[\x21-\x7e]{1,128}$/
const tenantPattern = /^[A-Za-z0-9._-]{1,64}$/

export interface DoorContext {
  readonly app: string
  readonly options: ResolvedOptions
  readonly commands: ReadonlyMap<string, AnyCommand>
  readonly ledger: Ledger
  readonly admission: Admission
  readonly laneOf: (partition: number) => Lane
  /** Commands that wait in memory, over all lanes. */
  readonly unqueued: () => number
  /** The queue on a server that commands go through, or null. */
  readonly feed: () => CommandFeed | null
  /** Why the app takes no commands now, or null. */
  readonly closed: () => HeadraceError | null
}

/** What identifies a command of a caller. */
interface Given {
  readonly tenant: string
  readonly id: string
  readonly key: string
  readonly digest: string
}

export class Door implements TicketOwner {
  readonly #context: DoorContext
  /** By scoped id: every command of this process that somebody waits for, or that is in a window. */
  readonly #tickets = new Map<string, Ticket>()
  #position: number

  constructor(context: DoorContext) {
    this.#context = context
    this.#position = context.ledger.firstPosition - 1
  }

  get position(): number {
    return this.#position
  }

  /** Resolves to the ticket of the command: a new one, or the one that has its id already. */
  async take(name: string, input: unknown, options: SubmitOptions): Promise<Ticket> {
    const command = this.#command(name)
    this.#checkOpen()
    const tenant = options.tenant ?? 'default'
    if (!tenantPattern.test(tenant))
      throw new HeadraceError(
        'tenant-invalid',
        `The tenant ${JSON.stringify(tenant.slice(0, 80))} is not valid: use 1 to 64 letters, digits, dots, dashes or underscores.`,
      )
    const id = options.id ?? randomUUID()
    if (typeof id !== 'string' || !idPattern.test(id))
      throw new HeadraceError(
        'id-invalid',
        `The id ${JSON.stringify(String(id).slice(0, 140))} is not valid: use 1 to 128 visible ASCII characters.`,
      )
    const text = this.#textOf(name, input)
    // What is checked is what is stored: the same after a stay on disk, and out of the caller's hands.
    const value = await validInput(command, JSON.parse(text), this.#context.options.handlerTimeoutMs)
    const key = keyOf(command, value)
    const digest = digestOf(text)
    const scoped = scopedId(name, tenant, id)

    const waiting = this.#tickets.get(scoped)
    if (waiting !== undefined) {
      if (waiting.entry.digest !== digest) return this.#contested(command, { tenant, id, key, digest })
      tell('headrace:admission', () => ({ app: this.#context.app, command: name, answer: 'joined' }))
      return waiting
    }
    const partition = hash32(key) % this.#context.ledger.partitions
    const lane = this.#context.laneOf(partition)
    this.#admit(name, lane, key, text.length)
    this.#position += 1
    const ticket = new Ticket(
      {
        position: this.#position,
        partition,
        key,
        id: scoped,
        command: name,
        tenant,
        input: text,
        digest,
        acceptedAt: Date.now(),
        attempts: 0,
        queued: false,
      },
      id,
      command,
      { value },
      this,
    )
    this.#remember(ticket)
    const feed = this.#context.feed()
    if (feed === null) lane.offer(ticket)
    else {
      ticket.place = 'disk'
      feed.intake.offer(ticket)
    }
    return ticket
  }

  /** Another input is in flight under this id. This one is refused, unless it is the one that the ledger has: then the other will be. */
  async #contested(command: AnyCommand, given: Given): Promise<Ticket> {
    const { ledger } = this.#context
    const { tenant, id, digest } = given
    const scoped = scopedId(command.name, tenant, id)
    const outcome = (await ledger.outcomes([scoped])).get(scoped)
    const known = outcome ?? (await ledger.pending(scoped))
    if (known?.digest !== digest) {
      throw new HeadraceError(
        'id-reused',
        `The id ${id} of command '${command.name}' is in flight with another input. Use a new id for a new command.`,
      )
    }
    const ticket = this.#standFor(command, given, known.position)
    if (outcome !== undefined) ticket.settle(outcome)
    return ticket
  }

  /** A ticket for a command that the ledger has, and that no ticket here stands for. It is attached when somebody asks for its outcome. */
  #standFor(command: AnyCommand, { tenant, id, key, digest }: Given, position: number): Ticket {
    const entry: Entry = {
      position,
      partition: hash32(key) % this.#context.ledger.partitions,
      key,
      id: scopedId(command.name, tenant, id),
      command: command.name,
      tenant,
      input: '',
      digest,
      acceptedAt: Date.now(),
      attempts: 0,
      queued: true,
    }
    const stand = new Ticket(entry, id, command, null, this)
    stand.place = 'disk'
    stand.forgotten = true
    return stand
  }

  #admit(command: string, lane: Lane, key: string, bytes: number): void {
    const { admission, app, unqueued } = this.#context
    try {
      this.#checkOpen()
      lane.checkKey(key)
      admission.admit(unqueued(), bytes)
    } catch (error) {
      tell('headrace:admission', () => ({ app, command, answer: HeadraceError.is(error) ? error.code : 'internal' }))
      throw error
    }
    tell('headrace:admission', () => ({ app, command, answer: 'taken' }))
  }

  persist(ticket: Ticket): void {
    this.#context.laneOf(ticket.partition).persist(ticket)
  }

  attach(ticket: Ticket): void {
    const other = this.#tickets.get(ticket.entry.id)
    if (other !== undefined) {
      const same = other.entry.digest === ticket.entry.digest
      // One with another input is on its way to be refused; then the place is free.
      other.outcome.then(
        (outcome) => (same ? ticket.settle(outcome) : this.attach(ticket)),
        (error: unknown) => (same || !HeadraceError.is(error) || error.code !== 'id-reused' ? ticket.refuse(error) : this.attach(ticket)),
      )
      return
    }
    ticket.forgotten = false
    this.#remember(ticket)
    // It may have been decided between the forgetting and now.
    this.#context.ledger.outcomes([ticket.entry.id]).then(
      (found) => {
        const outcome = found.get(ticket.entry.id)
        if (outcome === undefined || ticket.settled) return
        ticket.settle(outcome)
        this.forget(ticket)
      },
      (error: unknown) => ticket.refuse(error),
    )
  }

  /** The ticket for a command read from disk. */
  adopt(entry: Entry): Ticket {
    const waiting = this.#tickets.get(entry.id)
    if (waiting !== undefined && waiting.place === 'disk' && waiting.entry.digest === entry.digest) {
      waiting.entry = entry
      waiting.place = 'window'
      return waiting
    }
    // One that arrived later under the same id gives way: its batch finds this one.
    const ticket = new Ticket(entry, callerId(entry.id), this.#context.commands.get(entry.command) ?? null, null, this)
    this.#tickets.set(entry.id, ticket)
    return ticket
  }

  /** The next position: of a command that a queue on a server delivers. */
  nextPosition(): number {
    this.#position += 1
    return this.#position
  }

  /** The ticket that waits for this command to be delivered. */
  awaited(id: string, digest: string): Ticket | undefined {
    const waiting = this.#tickets.get(id)
    return waiting?.place === 'disk' && waiting.entry.digest === digest ? waiting : undefined
  }

  /** The ticket for a command that a queue on a server delivered. */
  deliver(entry: Entry): Ticket {
    const waiting = this.#tickets.get(entry.id)
    if (waiting?.place === 'disk' && waiting.entry.digest !== entry.digest) {
      // Two inputs under one id: the one that the queue has first is the command.
      waiting.refuse(idReused(waiting))
      this.forget(waiting)
    }
    const ticket = this.adopt(entry)
    ticket.appended()
    return ticket
  }

  /** The queue has a message of this id already: the command may be decided, and then it does not come again. */
  settleKnown(ticket: Ticket): void {
    this.#context.ledger.outcomes([ticket.entry.id]).then(
      (found) => {
        const outcome = found.get(ticket.entry.id)
        if (outcome === undefined || ticket.place !== 'disk') return
        ticket.settle(outcome)
        this.forget(ticket)
      },
      (error: unknown) => {
        ticket.refuse(error)
        this.forget(ticket)
      },
    )
  }

  forget(ticket: Ticket): void {
    ticket.forgotten = true
    if (ticket.counted) {
      ticket.counted = false
      this.#context.admission.inFlight -= 1
    }
    if (this.#tickets.get(ticket.entry.id) === ticket) this.#tickets.delete(ticket.entry.id)
  }

  /** Refuses everybody who still waits. */
  refuseAll(code: ErrorCode, message: string): void {
    for (const ticket of [...this.#tickets.values()]) {
      ticket.refuse(new HeadraceError(code, message))
      this.forget(ticket)
    }
  }

  async outcomeState(command: string, tenant: string, id: string): Promise<OutcomeState> {
    this.#command(command)
    const scoped = scopedId(command, tenant, id)
    if (this.#tickets.has(scoped)) return { state: 'pending' }
    const { ledger, feed } = this.#context
    const waits = feed()?.mayHold(scoped) ?? false
    const outcome = (await ledger.outcomes([scoped])).get(scoped)
    if (outcome !== undefined) return { state: 'done', status: outcome.status, body: outcome.body }
    return { state: waits || this.#tickets.has(scoped) || (await ledger.pending(scoped)) !== null ? 'pending' : 'unknown' }
  }

  async waitForOutcome(command: string, tenant: string, id: string, signal: AbortSignal): Promise<OutcomeState> {
    const scoped = scopedId(command, tenant, id)
    const waiting = this.#tickets.get(scoped)
    if (waiting !== undefined) {
      try {
        return doneState(await abortable(waiting.outcome, signal))
      } catch (error) {
        // That was another command under the id; the one that the ledger has is still asked for.
        if (HeadraceError.is(error) && error.code === 'id-reused') return this.waitForOutcome(command, tenant, id, signal)
        throw error
      }
    }
    const pending = await this.#context.ledger.pending(scoped)
    if (pending === null || this.#tickets.has(scoped)) {
      const state = await this.outcomeState(command, tenant, id)
      if (state.state === 'pending' && this.#context.feed() !== null) {
        await abortable(pause(lookAgainMs), signal)
      }
      // It came, or was parked, between the two questions; or the queue on a server has not delivered it.
      return state.state === 'pending' ? this.waitForOutcome(command, tenant, id, signal) : state
    }
    const stand = this.#standFor(this.#command(command), { tenant, id, key: '', digest: pending.digest }, pending.position)
    return doneState(await abortable(stand.outcome, signal))
  }

  #remember(ticket: Ticket): void {
    ticket.counted = true
    this.#context.admission.inFlight += 1
    this.#tickets.set(ticket.entry.id, ticket)
  }

  #command(name: string): AnyCommand {
    const command = this.#context.commands.get(name)
    if (command !== undefined) return command
    const known = [...this.#context.commands.keys()]
    const proposal = nearest(name, known)
    throw new HeadraceError(
      'command-unknown',
      `There is no command ${JSON.stringify(name.slice(0, 80))}${proposal === null ? '' : `; did you mean '${proposal}'?`}`,
      { details: { known } },
    )
  }

  #checkOpen(): void {
    const closed = this.#context.closed()
    if (closed !== null) throw closed
  }

  #textOf(name: string, input: unknown): string {
    const { inputBytesMax, jsonDepthMax } = this.#context.options
    if (jsonDepth(input, jsonDepthMax) > jsonDepthMax)
      throw new HeadraceError('body-too-deep', `The input of command '${name}' is nested more than ${jsonDepthMax} levels deep.`)
    let text: string | undefined
    try {
      text = JSON.stringify(input)
    } catch (error) {
      throw new HeadraceError(
        'input-invalid',
        `The input of command '${name}' cannot be stored as JSON: ${error instanceof Error ? error.message : String(error)}`,
      )
    }
    if (text === undefined) throw new HeadraceError('body-missing', `Command '${name}' needs an input.`)
    if (text.length > inputBytesMax || (text.length * 3 > inputBytesMax && Buffer.byteLength(text) > inputBytesMax)) {
      throw new HeadraceError(
        'body-too-large',
        `The input of command '${name}' has more than ${inputBytesMax} bytes as JSON (inputBytesMax).`,
      )
    }
    return text
  }
}

function doneState({ status, body }: { readonly status: 'committed' | 'rejected' | 'failed'; readonly body: string }): OutcomeState {
  return { state: 'done', status, body }
}

/** Waits for a promise until the signal aborts. Throws 'wait-aborted'. */
export async function abortable<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise
  const aborted = (): HeadraceError =>
    new HeadraceError('wait-aborted', 'The caller stopped waiting. The command goes on; ask for its outcome by its id.', {
      cause: signal.reason,
    })
  if (signal.aborted) {
    // Nobody hears how it ends.
    promise.catch(() => undefined)
    throw aborted()
  }
  return new Promise<T>((resolve, reject) => {
    const onAbort = (): void => reject(aborted())
    signal.addEventListener('abort', onAbort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort))
  })
}
