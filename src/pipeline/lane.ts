/**
 * A lane: the loop that applies the commands of its partitions, batch by batch.
 *
 *   wake     keys whose time has come give their parked commands back.
 *   refill   what has spilled is read back from disk.
 *   take     what waits, up to the limits of a batch; no timer.
 *   run      batch-runner.ts: one transaction, then outcomes.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { Entry, Ledger } from '../contracts/ledger.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import { Appender } from './appender.ts'
import { type BatchContext, BatchRunner, idReused } from './batch-runner.ts'
import { BlockedKeys } from './blocked-keys.ts'
import { fatal, transient } from './judgement.ts'
import type { Ticket } from './ticket.ts'
import { Window } from './window.ts'

export interface LaneContext extends BatchContext {
  readonly lane: number
  readonly lanes: number
  /** The ticket for a command that was read from disk: the one that somebody waits on, or a new one. */
  readonly adopt: (entry: Entry) => Ticket
  readonly fail: (error: HeadraceError) => void
}

export class Lane {
  readonly #context: LaneContext
  readonly #window: Window
  readonly #appender: Appender
  readonly #blocked: BlockedKeys
  readonly #batches: BatchRunner
  readonly #hurried = new Set<string>()
  readonly #stopControl = new AbortController()
  /** Who waits for room. */
  readonly #roomless = new Set<() => void>()
  #wake: Deferred<void> = deferred()
  /** Commands in the window that are not on disk. */
  #unqueued = 0
  #running: Promise<void> | null = null

  constructor(context: LaneContext) {
    this.#context = context
    this.#window = new Window(context.limits)
    this.#blocked = new BlockedKeys((key) => {
      this.#hurried.add(key)
      this.#wake.resolve()
    })
    this.#batches = new BatchRunner(context, this.#blocked, this.#stopControl.signal)
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
      throw new HeadraceError(
        'key-blocked',
        `${state.parked} commands wait behind the key ${JSON.stringify(key)}, which a failed command blocks; keyParkedMax is ${this.#context.limits.keyParkedMax}. Redrive or drop the dead letter: headrace dlq ls.`,
        { retryAfterMs: 1_000 },
      )
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

  /** Commands that may be fed now. None while the journal has commands that were accepted before. */
  get room(): number {
    return this.#window.spilled ? 0 : Math.max(0, this.#context.limits.windowCommandsMax - this.#window.length)
  }

  /** Calls back once when there may be room, unless the function that it returns was called. */
  whenRoomy(callback: () => void): () => void {
    this.#roomless.add(callback)
    return () => void this.#roomless.delete(callback)
  }

  /** Takes a command that the queue on a server delivered. It waits in memory, and that queue holds it. */
  feed(ticket: Ticket): void {
    ticket.unqueued = true
    this.#unqueued += 1
    this.#window.pushBack(ticket)
    this.#wake.resolve()
  }

  persist(ticket: Ticket): void {
    if (ticket.place === 'window' && !ticket.entry.queued) this.#appender.add(ticket)
  }

  /** Wakes a blocked key, after a redrive or a drop. */
  hurry(key: string, partition: number): void {
    this.#blocked.hurry(key, partition)
  }

  start(
    blocked: readonly { readonly key: string; readonly partition: number; readonly retryAt: number | null; readonly parked: number }[],
    spilled: boolean,
  ): void {
    for (const { key, partition, retryAt, parked } of blocked) this.#blocked.wait(key, partition, retryAt, parked)
    this.#window.spilled = spilled
    this.#running = this.#loop().catch((error: unknown) =>
      this.#context.fail(
        HeadraceError.is(error) ? error : new HeadraceError('internal', `The lane ended: ${String(error)}`, { cause: error }),
      ),
    )
  }

  /** Applies what is in memory alone, leaves what is on disk, and ends. */
  async stop(): Promise<void> {
    this.#blocked.stop()
    this.#stopControl.abort()
    this.#appender.whenIdle(() => this.#wake.resolve())
    this.#wake.resolve()
    await this.#running
    await this.#batches.settling
  }

  async #loop(): Promise<void> {
    const stopped = this.#stopControl.signal
    while (!stopped.aborted || this.#unqueued > 0 || this.#appender.pending > 0) {
      if (!stopped.aborted) {
        await this.#wakeKeys()
        await this.#refill()
      }
      await this.#batches.settledBefore
      const taken = this.#window.take()
      if (this.#roomless.size > 0) this.#tellRoom()
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
      await this.#batches.run(taken)
    }
  }

  #tellRoom(): void {
    if (this.room * 2 < this.#context.limits.windowCommandsMax) return
    const waiting = [...this.#roomless]
    this.#roomless.clear()
    for (const callback of waiting) callback()
  }

  async #wakeKeys(): Promise<void> {
    for (const key of this.#hurried) {
      if (this.#window.length >= this.#context.limits.windowCommandsMax) return
      this.#hurried.delete(key)
      if (!this.#blocked.mayDrain(key)) continue
      const woken = await this.#unblock(key)
      if (woken === null) continue
      const { entries, more } = woken
      const wakening = this.#blocked.drain(key, entries.length, more)
      const tickets = entries.map((entry) => this.#context.adopt(entry))
      for (const ticket of tickets) ticket.wakening = wakening
      this.#window.pushFront(tickets)
      this.#context.admission.parked -= entries.length
    }
  }

  /** Null when the storage cannot do it now: the key waits a little longer. */
  async #unblock(key: string): Promise<Awaited<ReturnType<Ledger['unblock']>> | null> {
    const { ledger, limits } = this.#context
    try {
      return await ledger.unblock(key, limits.batchCommandsMax)
    } catch (error) {
      if (!HeadraceError.is(error) || !transient.includes(error.code)) throw error
      this.#blocked.postpone(key, Date.now() + limits.retryMaxMs)
      return null
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
