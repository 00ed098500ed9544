/**
 * Runs one batch to its end: applies it, sends outcomes to those who wait, and
 * does what a failure asks for.
 *
 *   transient        repeated whole, with backoff; commands that nobody was
 *                    told of are refused when the tries are used up, and those
 *                    on disk go on being tried.
 *   culprits known   repeated without them.
 *   culprit unknown  split in half, until the command that breaks it is alone.
 *   alone            judged (judgement.ts): parked for a retry, or dead-lettered.
 *   storage failed   thrown: the app fails; nothing is guessed, the next start recovers.
 *
 * Order: a command never passes another of its key. Whoever comes after a
 * parked command is parked behind it (blocked-keys.ts).
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Ledger, StoredOutcome } from '../contracts/ledger.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import type { Admission } from './admission.ts'
import { type AppliedBatch, applyBatch, CulpritError, type Failure } from './apply.ts'
import type { BlockedKeys } from './blocked-keys.ts'
import { fatal, type Judged, judge, recordOfFailures, transient } from './judgement.ts'
import type { Limits } from './options.ts'
import type { Ticket } from './ticket.ts'

/** Outcomes that go out in one turn of the event loop. */
const settledPerTurn = 32

export interface BatchContext {
  readonly app: string
  readonly ledger: Ledger
  readonly limits: Limits
  readonly admission: Admission
  /** What commands may emit to. */
  readonly topics: ReadonlySet<string>
  readonly position: () => number
  /** The ticket has its end, or lives on disk alone: forget it. */
  readonly forget: (ticket: Ticket) => void
  /** Somebody waits for a forgotten ticket: let it follow the command of its id. */
  readonly attach: (ticket: Ticket) => void
  /** Effects that must come before the outcomes go out, such as raised cache floors. */
  readonly beforeOutcomes: (batch: AppliedBatch) => Promise<void> | void
}

export class BatchRunner {
  readonly #context: BatchContext
  readonly #blocked: BlockedKeys
  readonly #stopped: AbortSignal
  /** The outcomes of the last batch are on their way to those who wait. */
  settling: Promise<void> = Promise.resolve()
  /** Those of the batch before it. A lane waits for them before it takes again: their callers' next commands belong in the batch. */
  settledBefore: Promise<void> = Promise.resolve()

  constructor(context: BatchContext, blocked: BlockedKeys, stopped: AbortSignal) {
    this.#context = context
    this.#blocked = blocked
    this.#stopped = stopped
  }

  /** Resolves when every command of the batch has its outcome, is parked, or was refused. Throws what the app cannot go on after. */
  run(tickets: readonly Ticket[]): Promise<void> {
    return this.#process(tickets, [])
  }

  async #process(batch: readonly Ticket[], failures: readonly Failure[]): Promise<void> {
    let tickets = batch
    let failed = failures
    for (let attempt = 0; ; ) {
      const { ready, held } = this.#separate(tickets, failed)
      if (ready.length === 0 && held.length === 0 && failed.length === 0) return
      try {
        await this.#apply(ready, held, failed)
        return
      } catch (error) {
        if (error instanceof CulpritError) {
          const culprits = new Set(error.failures.map(({ ticket }) => ticket))
          const { blamed, behind } = this.#blame([...failed, ...error.failures])
          failed = blamed
          tickets = [...tickets.filter((ticket) => !culprits.has(ticket)), ...behind].sort((a, b) => a.entry.position - b.entry.position)
          tell('headrace:retry', () => ({ app: this.#context.app, commands: culprits.size, way: 'alone', error: error.failures[0]?.error }))
        } else if (HeadraceError.is(error) && fatal.includes(error.code)) {
          throw error
        } else if (HeadraceError.is(error) && transient.includes(error.code)) {
          attempt += 1
          const goesOn = await this.#waitForStorage([...tickets, ...failed.map(({ ticket }) => ticket)], attempt, error)
          tickets = tickets.filter(goesOn)
          failed = failed.filter(({ ticket }) => goesOn(ticket))
        } else if (ready.length === 1) {
          const { blamed, behind } = this.#blame([...failed, { ticket: ready[0] as Ticket, error }])
          failed = blamed
          tickets = [...held, ...behind]
        } else if (ready.length === 0) {
          throw error
        } else {
          tell('headrace:retry', () => ({ app: this.#context.app, commands: ready.length, way: 'split', error }))
          const half = Math.ceil(tickets.length / 2)
          await this.#process(tickets.slice(0, half), failed)
          tickets = tickets.slice(half)
          failed = []
        }
      }
    }
  }

  /** Of the commands of one key that failed, the first one whose key must wait is judged; the others stand behind it, and have their turn later. */
  #blame(failures: readonly Failure[]): { blamed: Failure[]; behind: Ticket[] } {
    const waiting = new Set<string>()
    const blamed: Failure[] = []
    const behind: Ticket[] = []
    for (const failure of [...failures].sort((a, b) => a.ticket.entry.position - b.ticket.entry.position)) {
      const { ticket, error } = failure
      if (waiting.has(ticket.key)) behind.push(ticket)
      else {
        blamed.push(failure)
        if (judge(ticket, error, this.#context.limits).verdict !== 'skip') waiting.add(ticket.key)
      }
    }
    return { blamed, behind }
  }

  /** Commands whose key must wait are held; so is whoever comes after a command that failed and is not given up. */
  #separate(tickets: readonly Ticket[], failed: readonly Failure[]): { ready: Ticket[]; held: Ticket[] } {
    const waiting = new Map<string, number>()
    for (const { ticket, error } of failed) {
      if (judge(ticket, error, this.#context.limits).verdict !== 'skip')
        waiting.set(ticket.key, Math.min(ticket.entry.position, waiting.get(ticket.key) ?? Number.POSITIVE_INFINITY))
    }
    const ready: Ticket[] = []
    const held: Ticket[] = []
    for (const ticket of tickets) {
      const state = this.#blocked.get(ticket.key)
      const blocked = state !== undefined && (ticket.wakening === 0 || ticket.wakening !== state.wakening)
      const behind = ticket.entry.position > (waiting.get(ticket.key) ?? Number.POSITIVE_INFINITY)
      if (blocked || behind) held.push(ticket)
      else ready.push(ticket)
    }
    return { ready, held }
  }

  async #apply(ready: readonly Ticket[], held: readonly Ticket[], failed: readonly Failure[]): Promise<void> {
    const { app, limits, admission } = this.#context
    const startedAt = performance.now()
    let judged: Judged[] = []
    let parked: readonly Ticket[] = []
    const batch = await applyBatch(
      {
        ledger: this.#context.ledger,
        topics: this.#context.topics,
        limits,
        position: this.#context.position,
        mustWait: (ticket, error) => judge(ticket, error, limits).verdict !== 'skip',
        extra: (failures, toPark) => {
          const { blamed, behind } = this.#blame([...failed, ...failures])
          judged = blamed.map(({ ticket, error }) => judge(ticket, error, limits))
          parked = [...toPark, ...behind]
          return recordOfFailures(judged, parked)
        },
      },
      ready,
      held,
    )
    const ms = performance.now() - startedAt
    if (ready.length > 0) admission.served(ready.length, ms)
    await this.#context.beforeOutcomes(batch)
    tell('headrace:batch', () => ({
      app,
      commands: ready.length,
      ms,
      ...batch.times,
      waitMs: startedAt - Math.min(startedAt, ...ready.map(({ takenAt }) => takenAt)),
    }))
    for (const [ticket] of batch.outcomes) this.#leave(ticket)
    for (const verdict of judged) this.#afterJudgement(verdict)
    for (const ticket of parked) this.#afterParking(ticket)
    for (const [ticket, { digest }] of batch.elsewhere) this.#stepAside(ticket, digest)
    for (const ticket of [...batch.outcomes.keys(), ...judged.map(({ ticket }) => ticket), ...parked, ...batch.elsewhere.keys()])
      endDelivery(ticket, batch.outcomes.get(ticket) ?? batch.elsewhere.get(ticket))
    this.settledBefore = this.settling
    this.settling = this.settling.then(() => this.#settleByParts(batch))
  }

  /**
   * Outcomes go out in small parts, one for each turn of the event loop: between
   * them the answers of the storage thread are heard, so that the next batch goes
   * on beside the callers' own work instead of behind it.
   */
  async #settleByParts(batch: AppliedBatch): Promise<void> {
    let settled = 0
    for (const [ticket, outcome] of batch.outcomes) {
      if (settled++ % settledPerTurn === 0) await new Promise(setImmediate)
      this.#settle(ticket, outcome, batch.repeated.has(ticket))
    }
  }

  /** The command is decided: the door and its key count it no more. */
  #leave(ticket: Ticket): void {
    const { admission } = this.#context
    if (ticket.entry.queued) {
      admission.queued -= 1
      admission.queuedBytes -= ticket.entry.input.length
    }
    if (ticket.wakening !== 0) this.#blocked.done(ticket.key)
  }

  #settle(ticket: Ticket, outcome: StoredOutcome, repeated: boolean): void {
    const { app, forget } = this.#context
    if (outcome.digest === ticket.entry.digest) ticket.settle(outcome)
    else ticket.refuse(idReused(ticket))
    forget(ticket)
    tell('headrace:outcome', () => ({
      app,
      command: ticket.entry.command,
      status: outcome.status,
      code: outcome.status === 'committed' ? null : codeIn(outcome.body),
      ms: performance.now() - ticket.takenAt,
      repeated,
    }))
  }

  #afterJudgement({ ticket, verdict, retryAt, outcome, code, message }: Judged): void {
    const { app } = this.#context
    const { key, partition, id, position, command } = ticket.entry
    if (outcome !== null) {
      this.#leave(ticket)
      this.#settle(ticket, outcome, false)
      if (verdict === 'block') this.#blocked.wait(key, partition, null, 0)
      tell('headrace:dead-letter', () => ({ app, command, key, id, position, code, message }))
      return
    }
    this.#blocked.wait(key, partition, retryAt, 0)
    this.#afterParking(ticket)
  }

  #afterParking(ticket: Ticket): void {
    const { admission, forget } = this.#context
    if (!ticket.entry.queued) {
      ticket.entry = { ...ticket.entry, queued: true }
      admission.queued += 1
      admission.queuedBytes += ticket.entry.input.length
    }
    admission.parked += 1
    ticket.place = 'disk'
    ticket.appended()
    this.#blocked.parkedMore(ticket.key, ticket.partition)
    if (ticket.wakening !== 0) this.#blocked.done(ticket.key)
    ticket.wakening = 0
    if (!ticket.awaited) forget(ticket)
  }

  /** The queue holds a command under the id of this one: the same, and then it stands for that, or another, whose place it cannot take. */
  #stepAside(ticket: Ticket, digest: string): void {
    const { attach, forget } = this.#context
    forget(ticket)
    if (digest !== ticket.entry.digest) {
      ticket.refuse(idReused(ticket))
      return
    }
    ticket.place = 'disk'
    ticket.appended()
    if (ticket.awaited) attach(ticket)
  }

  /**
   * The storage cannot take the batch now. Commands that are on disk wait for
   * it; those that are not are given back to their callers once the tries are
   * used up: nothing of them was kept. A batch that is decided already is
   * tried until it is found so. Answers which commands are tried again.
   */
  async #waitForStorage(tickets: readonly Ticket[], attempt: number, error: HeadraceError): Promise<(ticket: Ticket) => boolean> {
    const { app, limits, forget } = this.#context
    tell('headrace:retry', () => ({ app, commands: tickets.length, way: 'whole', error }))
    const stopping = this.#stopped.aborted
    if (error.details?.['decided'] === true) {
      await pause(backoffMs(attempt - 1, limits.retryBaseMs, limits.retryMaxMs))
      return () => true
    }
    if (attempt <= limits.batchRetriesMax && !stopping) {
      await pause(backoffMs(attempt - 1, limits.retryBaseMs, limits.retryMaxMs), this.#stopped)
      return () => true
    }
    for (const ticket of tickets) {
      if (ticket.kept) continue
      ticket.refuse(new HeadraceError(error.code, error.message, { retryAfterMs: limits.retryMaxMs, cause: error }))
      forget(ticket)
    }
    if (stopping) return () => false
    if (tickets.some(({ kept }) => kept)) await pause(limits.retryMaxMs, this.#stopped)
    return ({ kept }) => kept
  }
}

/** The commit that ends it is on disk: the queue that delivered it need not keep it. Under the id of another command it is a dead letter there, unless its caller is told. */
function endDelivery(ticket: Ticket, known: { readonly digest: string } | undefined): void {
  const refused = known !== undefined && known.digest !== ticket.entry.digest && !ticket.awaited
  ticket.delivery?.end(refused ? idReused(ticket) : undefined)
  ticket.delivery = null
}

export function idReused(ticket: Ticket): HeadraceError {
  return new HeadraceError(
    'id-reused',
    `The id ${ticket.id} of command '${ticket.entry.command}' was used before with another input. Use a new id for a new command.`,
  )
}

function codeIn(body: string): string | null {
  return (JSON.parse(body) as { code?: string }).code ?? null
}
