/**
 * Applies one batch in one transaction: dedupe, load, decide, save, commit.
 *
 * Failures leave here in three forms:
 * - a `CulpritError` names the commands to blame: the batch is repeated without;
 * - any other error blames nobody yet: the lane repeats it whole or splits it;
 * - a command written with `run` that throws is undone alone, and comes back in
 *   `failures` while the rest commits.
 */
import { inspect } from 'node:util'
import type { Database } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { BatchIds, CommitRecord, Ledger, QueuedId, StoredEvent, StoredOutcome, Transaction } from '../contracts/ledger.ts'
import { crashPoint } from '../std/crash-point.ts'
import type { Applied, BatchHandlers, Decision, Handles, RunHandler, Submitted, EmittedEvent } from './command.ts'
import { ofStorage } from './judgement.ts'
import type { Limits } from './options.ts'
import { committedOutcome, rejectedOutcome } from './outcome.ts'
import { impureRejections, snapshot } from './purity.ts'
import { storedEvents } from './events.ts'
import { segmentsOf } from './segments.ts'
import type { Ticket } from './ticket.ts'
import { validInput } from './validate.ts'
import { isThenable, withinTime } from './within-time.ts'

/** Of an answer that is no decision, in an error message, in characters. */
const answerShownMax = 200

export interface Failure {
  readonly ticket: Ticket
  readonly error: unknown
}

/** Says which commands of a batch cannot be applied. */
export class CulpritError extends Error {
  readonly failures: readonly Failure[]
  constructor(failures: readonly Failure[]) {
    super('Some commands of the batch failed')
    this.name = 'CulpritError'
    this.failures = failures
  }
}

/** What the lane adds to the commit of a batch: parked and dead commands, blocked keys, outcomes of the dead. */
export type Extra = Omit<CommitRecord, 'position'>

export interface AppliedBatch {
  /** Outcome by ticket, for commands decided now or before. */
  readonly outcomes: ReadonlyMap<Ticket, StoredOutcome>
  /** Tickets answered by an outcome that was there already. */
  readonly repeated: ReadonlySet<Ticket>
  /** Tickets under whose id the queue holds a command already; nothing was done for them. */
  readonly elsewhere: ReadonlyMap<Ticket, QueuedId>
  /** Keys of cached answers that must fall before the outcomes go out. */
  readonly invalidated: ReadonlySet<string>
  /** Grows with every commit that changed a database: the version of what it wrote. */
  readonly version: number
  /** Events that wait to be published now. */
  readonly events: number
  readonly times: { readonly loadMs: number; readonly decideMs: number; readonly saveMs: number; readonly commitMs: number }
}

export interface ApplyContext {
  readonly ledger: Ledger
  /** What commands may emit to. */
  readonly topics: ReadonlySet<string>
  readonly limits: Limits
  /** The highest position given out so far. */
  readonly position: () => number
  /** Whether the key of a failed command must wait, with everything behind it. */
  readonly mustWait: (ticket: Ticket, error: unknown) => boolean
  /** Makes the extra of the failures of this batch, and of the commands that are held; called right before the commit. */
  readonly extra: (failures: readonly Failure[], held: readonly Ticket[]) => Extra
}

interface Work {
  /** Of the commands decided now. */
  readonly outcomes: Map<Ticket, StoredOutcome>
  /** Of those that emitted any, in order. */
  readonly events: Map<Ticket, readonly StoredEvent[]>
  readonly failures: Failure[]
  /** Keys of failed commands that are tried again, and the commands that came after those. */
  readonly waitingKeys: Set<string>
  readonly behind: Ticket[]
  /** Keys of cached answers that the batch makes old. */
  readonly invalidated: Set<string>
  loadMs: number
  decideMs: number
  saveMs: number
}

/** Applies `tickets`; those in `held` are parked, since their keys must wait, unless they are decided already. */
export async function applyBatch(context: ApplyContext, tickets: readonly Ticket[], held: readonly Ticket[]): Promise<AppliedBatch> {
  const databases = databasesOf(tickets)
  crashPoint('apply.before-load')
  const transaction = await context.ledger.begin(databases, idsOf([...tickets, ...held]))
  try {
    const { fresh, known, repeated, elsewhere } = separate(tickets, transaction)
    const parked: Ticket[] = []
    for (const ticket of held) {
      const outcome = transaction.known.get(ticket.entry.id)
      const queued = queuedElsewhere(ticket, transaction)
      if (outcome !== undefined) known.set(ticket, outcome)
      else if (queued === undefined) parked.push(ticket)
      else elsewhere.set(ticket, queued)
    }
    const work: Work = {
      outcomes: new Map(),
      events: new Map(),
      failures: [],
      waitingKeys: new Set(),
      behind: [],
      invalidated: new Set(),
      loadMs: 0,
      decideMs: 0,
      saveMs: 0,
    }
    await parseAll(context, fresh)
    // Decided by an earlier try of this batch, perhaps, whose effects did not get further.
    for (const ticket of known.keys()) noteInvalidated(ticket, work)
    for (const segment of segmentsOf(fresh)) await applySegment(context, transaction, segment, work)
    for (const [again, first] of repeated) {
      const failure = work.failures.find(({ ticket }) => ticket === first)
      if (failure !== undefined) work.failures.push({ ticket: again, error: failure.error })
      else if (work.behind.includes(first)) work.behind.push(again)
    }
    const committing = performance.now()
    const record = recordOf(context, [...tickets, ...held.filter((ticket) => known.has(ticket))], parked, work)
    crashPoint('apply.before-commit')
    const version = await transaction.commit(record)
    crashPoint('acknowledge.before')
    const outcomes = new Map([...known, ...work.outcomes])
    for (const [again, first] of repeated) {
      const outcome = work.outcomes.get(first)
      if (outcome !== undefined) outcomes.set(again, outcome)
    }
    const { loadMs, decideMs, saveMs } = work
    return {
      outcomes,
      repeated: new Set([...known.keys(), ...repeated.keys()]),
      elsewhere,
      invalidated: work.invalidated,
      version,
      events: record.events?.length ?? 0,
      times: { loadMs, decideMs, saveMs, commitMs: performance.now() - committing },
    }
  } catch (error) {
    // After a commit that failed there is nothing left to abort, and it says so by itself.
    await transaction.abort().catch(() => undefined)
    throw error
  }
}

function databasesOf(tickets: readonly Ticket[]): string[] {
  const names = new Set<string>()
  for (const command of new Set(tickets.map((ticket) => ticket.command))) {
    for (const handle of Object.values(command?.options.databases ?? {})) names.add(handle.name)
  }
  return [...names]
}

function idsOf(tickets: readonly Ticket[]): BatchIds {
  const queued: string[] = []
  const arriving: string[] = []
  for (const { entry } of tickets) (entry.queued ? queued : arriving).push(entry.id)
  return { queued, arriving }
}

/** The command that the queue holds under the id of this one: it was accepted before, so this one must not take its place. */
function queuedElsewhere(ticket: Ticket, transaction: Transaction): QueuedId | undefined {
  return ticket.entry.queued ? undefined : transaction.queued.get(ticket.entry.id)
}

/** Commands that have an outcome, or wait in the queue, and second copies of an id within the batch, are not applied again. */
function separate(
  tickets: readonly Ticket[],
  transaction: Transaction,
): { fresh: Ticket[]; known: Map<Ticket, StoredOutcome>; repeated: Map<Ticket, Ticket>; elsewhere: Map<Ticket, QueuedId> } {
  const fresh: Ticket[] = []
  const elsewhere = new Map<Ticket, QueuedId>()
  const known = new Map<Ticket, StoredOutcome>()
  const repeated = new Map<Ticket, Ticket>()
  const firstOfId = new Map<string, Ticket>()
  for (const ticket of tickets) {
    const { id } = ticket.entry
    const outcome = transaction.known.get(id)
    const first = firstOfId.get(id)
    const queued = queuedElsewhere(ticket, transaction)
    if (outcome !== undefined) known.set(ticket, outcome)
    else if (queued !== undefined) elsewhere.set(ticket, queued)
    else if (first !== undefined) repeated.set(ticket, first)
    else {
      firstOfId.set(id, ticket)
      fresh.push(ticket)
    }
  }
  return { fresh, known, repeated, elsewhere }
}

/** Commands that come from disk hold their input as it was sent; the schema makes it what handlers take. */
async function parseAll(context: ApplyContext, tickets: readonly Ticket[]): Promise<void> {
  const failures: Failure[] = []
  for (const ticket of tickets) {
    if (ticket.parsed !== null) continue
    try {
      if (ticket.command === null)
        throw new HeadraceError(
          'command-unknown',
          `The app has no command '${ticket.entry.command}' any more. Define it again, then redrive.`,
        )
      ticket.parsed = { value: await validInput(ticket.command, JSON.parse(ticket.entry.input), context.limits.handlerTimeoutMs) }
    } catch (error) {
      failures.push({ ticket, error })
    }
  }
  if (failures.length > 0) throw new CulpritError(failures)
}

async function applySegment(context: ApplyContext, transaction: Transaction, tickets: readonly Ticket[], work: Work): Promise<void> {
  const segment = tickets.filter((ticket) => !standsBehind(ticket, work))
  const command = segment[0]?.command
  if (command == null) return
  const databases: Record<string, Database> = {}
  for (const [name, handle] of Object.entries(command.options.databases ?? {})) databases[name] = transaction.database(handle.name)
  const timeoutMs = command.options.timeoutMs ?? context.limits.handlerTimeoutMs
  if ('run' in command.handlers) await runSegment(context, transaction, segment, command.handlers, databases, timeoutMs, work)
  else await decideSegment(context, segment, command.handlers, databases, timeoutMs, work)
}

/** Nothing may pass a command of its own key that failed and is tried again. */
function standsBehind(ticket: Ticket, work: Work): boolean {
  if (!work.waitingKeys.has(ticket.key)) return false
  work.behind.push(ticket)
  return true
}

async function decideSegment(
  context: ApplyContext,
  segment: readonly Ticket[],
  handlers: BatchHandlers<unknown, Handles, unknown, Decision>,
  databases: Record<string, Database>,
  timeoutMs: number,
  work: Work,
): Promise<void> {
  const name = segment[0]?.entry.command ?? ''
  const batch = segment.map(submittedOf)
  const start = performance.now()
  const state = await withinTime(`load of command '${name}'`, timeoutMs, () => handlers.load(batch, databases))
  const loaded = performance.now()
  const accepted = decideAll(context, segment, batch, state, handlers, work)
  const decided = performance.now()
  if (accepted.length > 0) await withinTime(`save of command '${name}'`, timeoutMs, () => handlers.save(state, accepted, databases))
  work.loadMs += loaded - start
  work.decideMs += decided - loaded
  work.saveMs += performance.now() - decided
}

function decideAll(
  context: ApplyContext,
  segment: readonly Ticket[],
  batch: readonly Submitted<unknown>[],
  state: unknown,
  handlers: BatchHandlers<unknown, Handles, unknown, Decision>,
  work: Work,
): Applied<unknown, never>[] {
  const before = snapshot(state)
  const accepted: Applied<unknown, never>[] = []
  const verdicts: boolean[] = []
  segment.forEach((ticket, index) => {
    const submitted = batch[index] as Submitted<unknown>
    try {
      const decision = checkedDecision(ticket, handlers.decide(state, submitted.input, submitted))
      verdicts.push(decision.accepted)
      work.outcomes.set(ticket, outcomeOf(ticket, decision, context.limits.resultBytesMax))
      if (!decision.accepted) return
      noteAccepted(context, ticket, decision.events, work)
      accepted.push({ ...submitted, result: decision.result as never })
    } catch (error) {
      throw new CulpritError([{ ticket, error }])
    }
  })
  if (before !== null) {
    const impure = impureRejections(before, state, verdicts, (copy, index) => {
      const submitted = batch[index] as Submitted<unknown>
      return handlers.decide(copy, submitted.input, submitted).accepted
    })
    if (impure.length > 0) {
      throw new CulpritError(
        impure.map((index) => {
          const ticket = segment[index] as Ticket
          return {
            ticket,
            error: new HeadraceError(
              'decide-impure',
              `decide() of command '${ticket.entry.command}' changed the state and then rejected ${ticket.id}. Return reject() before the first change to the state.`,
            ),
          }
        }),
      )
    }
  }
  return accepted
}

async function runSegment(
  context: ApplyContext,
  transaction: Transaction,
  segment: readonly Ticket[],
  handlers: RunHandler<unknown, Handles, Decision>,
  databases: Record<string, Database>,
  timeoutMs: number,
  work: Work,
): Promise<void> {
  const start = performance.now()
  for (const ticket of segment) {
    if (standsBehind(ticket, work)) continue
    await transaction.savepoint()
    try {
      const answer = await withinTime(`run of command '${ticket.entry.command}'`, timeoutMs, (signal) =>
        handlers.run({ ...submittedOf(ticket), databases, signal }),
      )
      const decision = checkedDecision(ticket, answer)
      work.outcomes.set(ticket, outcomeOf(ticket, decision, context.limits.resultBytesMax))
      if (decision.accepted) noteAccepted(context, ticket, decision.events, work)
      await (decision.accepted ? transaction.releaseSavepoint() : transaction.rollbackToSavepoint())
    } catch (error) {
      // The storage itself failed, or the handler may still be using the transaction: the batch cannot go on.
      if (HeadraceError.is(error) && ofStorage.includes(error.code)) throw error
      if (HeadraceError.is(error) && error.code === 'handler-timeout') throw new CulpritError([{ ticket, error }])
      await transaction.rollbackToSavepoint()
      work.outcomes.delete(ticket)
      work.events.delete(ticket)
      work.failures.push({ ticket, error })
      if (context.mustWait(ticket, error)) work.waitingKeys.add(ticket.key)
    }
  }
  work.saveMs += performance.now() - start
}

function noteAccepted(context: ApplyContext, ticket: Ticket, events: readonly EmittedEvent[] | undefined, work: Work): void {
  noteInvalidated(ticket, work)
  if (events !== undefined && events.length > 0) work.events.set(ticket, storedEvents(ticket, events, context.topics))
}

function noteInvalidated(ticket: Ticket, work: Work): void {
  if (ticket.parsed === null) return
  for (const key of ticket.command?.options.invalidates?.(ticket.parsed.value as never) ?? []) work.invalidated.add(key)
}

function submittedOf(ticket: Ticket): Submitted<unknown> {
  const { key, tenant, position, acceptedAt } = ticket.entry
  return { input: ticket.parsed?.value, id: ticket.id, key, tenant, position, acceptedAt }
}

function checkedDecision(ticket: Ticket, answer: Decision): Decision {
  const valid =
    typeof answer === 'object' &&
    answer !== null &&
    (answer.accepted === true || (answer.accepted === false && typeof answer.code === 'string' && answer.code !== ''))
  if (valid) return answer
  const given: unknown = answer
  // Nobody awaits it, so its refusal must not end the process.
  if (isThenable(given)) given.then(undefined, () => undefined)
  throw new HeadraceError(
    'decide-invalid',
    `Command '${ticket.entry.command}' answered ${isThenable(given) ? 'a promise' : inspect(given, { depth: 1, breakLength: Number.POSITIVE_INFINITY }).slice(0, answerShownMax)}: return accept(…) or reject('code').`,
  )
}

function outcomeOf(ticket: Ticket, decision: Decision, resultBytesMax: number): StoredOutcome {
  return decision.accepted
    ? committedOutcome(ticket, decision.result, resultBytesMax)
    : rejectedOutcome(ticket, decision.code, decision.detail, resultBytesMax)
}

function recordOf(context: ApplyContext, tickets: readonly Ticket[], held: readonly Ticket[], work: Work): CommitRecord {
  const { parked, blocked, dead, done, outcomes } = context.extra(work.failures, [...held, ...work.behind])
  const left = new Set([...work.failures.map(({ ticket }) => ticket), ...work.behind])
  return {
    position: context.position(),
    outcomes: [...work.outcomes.values(), ...outcomes],
    ...(work.events.size === 0 ? {} : { events: [...work.events.values()].flat() }),
    // What was never queued need not cross to the storage to leave the queue.
    done: [...tickets.filter((ticket) => ticket.entry.queued && !left.has(ticket)).map(({ entry }) => entry), ...done],
    parked,
    blocked,
    dead,
  }
}
