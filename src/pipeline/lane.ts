/**
 * A lane: the loop that applies the commands of its partitions, batch by batch.
 *
 *   take     what waits, up to the limits of a batch; no timer.
 *   apply    in one transaction (apply.ts).
 *   settle   outcomes go to those who wait.
 *
 * When a batch fails:
 *   transient        repeated whole, with backoff; commands that nobody was
 *                    told of are refused when the tries are used up, and those
 *                    on disk go on being tried.
 *   culprits known   repeated without them.
 *   culprit unknown  split in half, until the command that breaks it is alone.
 *   alone            judged (judgement.ts): parked for a retry, or dead-lettered.
 *   storage failed   the app fails; nothing is guessed, the next start recovers.
 *
 * Order: a command never passes another of its key. Whoever comes after a
 * parked command is parked behind it (blocked-keys.ts).
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Entry, Ledger, StoredOutcome } from '../contracts/ledger.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import type { Admission } from './admission.ts'
import { Appender } from './appender.ts'
import { type AppliedBatch, applyBatch, CulpritError, type Failure } from './apply.ts'
import { BlockedKeys } from './blocked-keys.ts'
import { fatal, type Judged, judge, recordOfFailures, transient } from './judgement.ts'
import type { Limits } from './options.ts'
import type { Ticket } from './ticket.ts'
import { Window } from './window.ts'

export interface LaneContext {
  readonly app: string
  readonly lane: number
  readonly lanes: number
  readonly ledger: Ledger
  readonly limits: Limits
  readonly admission: Admission
  readonly position: () => number
  /** The ticket for a command that was read from disk: the one that somebody waits on, or a new one. */
  readonly adopt: (entry: Entry) => Ticket
  /** The ticket has its end, or lives on disk alone: forget it. */
  readonly forget: (ticket: Ticket) => void
  /** Somebody waits for a forgotten ticket: let it follow the command of its id. */
  readonly attach: (ticket: Ticket) => void
  /** Effects that must come before the outcomes go out, such as raised cache floors. */
  readonly beforeOutcomes: (batch: AppliedBatch) => Promise<void> | void
  readonly fail: (error: HeadraceError) => void
}

export class Lane {
  readonly #context: LaneContext
  readonly #window: Window
  readonly #appender: Appender
  readonly #blocked: BlockedKeys
  readonly #hurried = new Set<string>()
  readonly #stopControl = new AbortController()
  #wake: Deferred<void> = deferred()
  /** Commands in the window that are not on disk. */
  #unqueued = 0
  #running: Promise<void> | null = null
  #settling: Promise<void> = Promise.resolve()

  constructor(context: LaneContext) {
    this.#context = context
    this.#window = new Window(context.limits)
    this.#blocked = new BlockedKeys((key) => {
      this.#hurried.add(key)
      this.#wake.resolve()
    })
    this.#appender = new Appender(context.app, context.ledger, {
      appended: (tickets) => this.#onAppended(tickets),
      conflicting: (ticket, known, digest) => void this.#onConflict(ticket, known, digest).catch((error: unknown) => ticket.refuse(error)),
      refused: (tickets, error) => this.#onAppendRefused(tickets, error),
    })
  }

  /** Commands of this lane in memory that are not on disk; those on disk are counted by the door. */
  get unqueued(): number {
    return this.#unqueued
  }

  /** Whether `count` more commands of a blocked key may wait. Throws 'key-blocked'. */
  checkKey(key: string): void {
    const state = this.#blocked.get(key)
    if (state !== undefined && state.parked >= this.#context.limits.keyParkedMax) {
      throw new HeadraceError('key-blocked', `${state.parked} commands wait behind the key ${JSON.stringify(key)}, which a failed command blocks; keyParkedMax is ${this.#context.limits.keyParkedMax}. Redrive or drop the dead letter: headrace dlq ls.`, { retryAfterMs: 1_000 })
    }
  }

  offer(ticket: Ticket): void {
    if (this.#window.offer(ticket)) {
      ticket.unqueued = true
      this.#unqueued += 1
      this.#wake.resolve()
    } else {
      ticket.place = 'disk'
      this.#appender.add(ticket)
    }
  }

  persist(ticket: Ticket): void {
    if (ticket.place === 'window' && !ticket.entry.queued) this.#appender.add(ticket)
  }

  /** Wakes a blocked key, after a redrive or a drop. */
  hurry(key: string, partition: number): void {
    this.#blocked.hurry(key, partition)
  }

  start(blocked: readonly { readonly key: string; readonly partition: number; readonly retryAt: number | null; readonly parked: number }[], spilled: boolean): void {
    for (const { key, partition, retryAt, parked } of blocked) this.#blocked.wait(key, partition, retryAt, parked)
    this.#window.spilled = spilled
    this.#running = this.#loop().catch((error: unknown) => this.#context.fail(HeadraceError.is(error) ? error : new HeadraceError('internal', `The lane ended: ${String(error)}`, { cause: error })))
  }

  /** Applies what is in memory alone, leaves what is on disk, and ends. */
  async stop(): Promise<void> {
    this.#blocked.stop()
    this.#stopControl.abort()
    this.#appender.whenIdle(() => this.#wake.resolve())
    this.#wake.resolve()
    await this.#running
    await this.#settling
  }

  async #loop(): Promise<void> {
    const stopped = this.#stopControl.signal
    while (!stopped.aborted || this.#unqueued > 0 || this.#appender.pending > 0) {
      if (!stopped.aborted) {
        await this.#wakeKeys()
        await this.#refill()
      }
      const taken = this.#window.take()
      if (taken.length === 0) {
        await this.#wake.promise
        this.#wake = deferred()
        // The requests that arrived in the same turn of the event loop join the batch.
        await new Promise(setImmediate)
        continue
      }
      for (const ticket of taken) {
        this.#steady(ticket)
        ticket.place = 'batch'
      }
      await this.#process(taken, [])
    }
  }

  async #wakeKeys(): Promise<void> {
    for (const key of this.#hurried) {
      if (this.#window.length >= this.#context.limits.windowCommandsMax) return
      this.#hurried.delete(key)
      if (!this.#blocked.mayDrain(key)) continue
      const { entries, more } = await this.#context.ledger.unblock(key, this.#context.limits.batchCommandsMax)
      const wakening = this.#blocked.drain(key, entries.length, more)
      const tickets = entries.map((entry) => this.#context.adopt(entry))
      for (const ticket of tickets) ticket.wakening = wakening
      this.#window.pushFront(tickets)
      this.#context.admission.parked -= entries.length
    }
  }

  async #refill(): Promise<void> {
    const room = this.#window.room()
    if (room === 0) return
    const { lane, lanes, ledger } = this.#context
    const entries = await ledger.read({ after: this.#window.last, limit: room, bytesMax: this.#window.bytesFree, lane, lanes })
    for (const entry of entries) this.#window.pushBack(this.#context.adopt(entry))
    if (entries.length === 0 && this.#appender.pending === 0) this.#window.spilled = false
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
          failed = [...failed, ...error.failures]
          tickets = tickets.filter((ticket) => !culprits.has(ticket))
          tell('headrace:retry', () => ({ app: this.#context.app, commands: culprits.size, way: 'alone', error: error.failures[0]?.error }))
        } else if (HeadraceError.is(error) && fatal.includes(error.code)) {
          throw error
        } else if (HeadraceError.is(error) && transient.includes(error.code)) {
          attempt += 1
          tickets = await this.#waitForStorage(tickets, attempt, error)
        } else if (ready.length === 1) {
          failed = [...failed, { ticket: ready[0] as Ticket, error }]
          tickets = held
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

  /** Commands whose key must wait are held; so is whoever comes after a command that failed and is not given up. */
  #separate(tickets: readonly Ticket[], failed: readonly Failure[]): { ready: Ticket[]; held: Ticket[] } {
    const waiting = new Map<string, number>()
    for (const { ticket, error } of failed) {
      if (judge(ticket, error, this.#context.limits).verdict !== 'skip') waiting.set(ticket.key, Math.min(ticket.entry.position, waiting.get(ticket.key) ?? Number.POSITIVE_INFINITY))
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
        limits,
        position: this.#context.position,
        mustWait: (ticket, error) => judge(ticket, error, limits).verdict !== 'skip',
        extra: (failures, toPark) => {
          judged = [...failed, ...failures].map(({ ticket, error }) => judge(ticket, error, limits))
          parked = toPark
          return recordOfFailures(judged, toPark)
        },
      },
      ready,
      held,
    )
    const ms = performance.now() - startedAt
    if (ready.length > 0) admission.served(ready.length, ms)
    await this.#context.beforeOutcomes(batch)
    tell('headrace:batch', () => ({ app, commands: ready.length, ms, ...batch.times, waitMs: startedAt - Math.min(startedAt, ...ready.map(({ takenAt }) => takenAt)) }))
    for (const [ticket] of batch.outcomes) this.#leave(ticket)
    for (const verdict of judged) this.#afterJudgement(verdict)
    for (const ticket of parked) this.#afterParking(ticket)
    for (const [ticket, { digest }] of batch.elsewhere) this.#stepAside(ticket, digest)
    this.#settling = this.#settleSoon(batch)
  }

  /**
   * Outcomes go out one turn of the event loop later: by then the next batch is
   * on its way to the storage thread, and the callers' own work runs beside it.
   */
  async #settleSoon(batch: AppliedBatch): Promise<void> {
    await new Promise(setImmediate)
    for (const [ticket, outcome] of batch.outcomes) this.#settle(ticket, outcome, batch.repeated.has(ticket))
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
    tell('headrace:outcome', () => ({ app, command: ticket.entry.command, status: outcome.status, code: outcome.status === 'committed' ? null : codeIn(outcome.body), ms: performance.now() - ticket.takenAt, repeated }))
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
   * tried until it is found so.
   */
  async #waitForStorage(tickets: readonly Ticket[], attempt: number, error: HeadraceError): Promise<readonly Ticket[]> {
    const { app, limits, forget } = this.#context
    tell('headrace:retry', () => ({ app, commands: tickets.length, way: 'whole', error }))
    const stopping = this.#stopControl.signal.aborted
    if (error.details?.['decided'] === true) {
      await pause(backoffMs(attempt - 1, limits.retryBaseMs, limits.retryMaxMs))
      return tickets
    }
    if (attempt <= limits.batchRetriesMax && !stopping) {
      await pause(backoffMs(attempt - 1, limits.retryBaseMs, limits.retryMaxMs), this.#stopControl.signal)
      return tickets
    }
    for (const ticket of tickets) {
      if (ticket.entry.queued) continue
      ticket.refuse(new HeadraceError(error.code, error.message, { retryAfterMs: limits.retryMaxMs, cause: error }))
      forget(ticket)
    }
    const queued = tickets.filter((ticket) => ticket.entry.queued)
    if (stopping) return []
    if (queued.length > 0) await pause(limits.retryMaxMs, this.#stopControl.signal)
    return queued
  }

  #onAppended(tickets: readonly Ticket[]): void {
    const { admission, forget } = this.#context
    for (const ticket of tickets) {
      admission.queued += 1
      admission.queuedBytes += ticket.entry.input.length
      this.#steady(ticket)
      ticket.appended()
      if (ticket.place === 'disk' && !ticket.awaited) forget(ticket)
    }
    this.#wake.resolve()
  }

  /** Another command with this id is on disk. A ticket in the window meets it in its batch; a spilled one stands for it. */
  async #onConflict(ticket: Ticket, known: 'queued' | 'decided', digest: string): Promise<void> {
    const { ledger, forget } = this.#context
    if (digest !== ticket.entry.digest) {
      this.#steady(ticket)
      ticket.refuse(idReused(ticket))
      forget(ticket)
      return
    }
    ticket.appended()
    if (ticket.place !== 'disk' || known === 'queued') return
    const outcome = (await ledger.outcomes([ticket.entry.id])).get(ticket.entry.id)
    if (outcome === undefined) return
    ticket.settle(outcome)
    forget(ticket)
  }

  #onAppendRefused(tickets: readonly Ticket[], error: HeadraceError): void {
    for (const ticket of tickets) {
      if (ticket.place === 'batch' || ticket.settled) continue
      this.#steady(ticket)
      ticket.refuse(error)
      this.#context.forget(ticket)
    }
    this.#wake.resolve()
    if (fatal.includes(error.code)) this.#context.fail(error)
  }

  /** The command has left the window, or is on disk: a stop need not wait for it there any more. */
  #steady(ticket: Ticket): void {
    if (!ticket.unqueued) return
    ticket.unqueued = false
    this.#unqueued -= 1
  }
}

function idReused(ticket: Ticket): HeadraceError {
  return new HeadraceError('id-reused', `The id ${ticket.id} of command '${ticket.entry.command}' was used before with another input. Use a new id for a new command.`)
}

function codeIn(body: string): string | null {
  return (JSON.parse(body) as { code?: string }).code ?? null
}
