/**
 * The door: whether one more command may come in. Looks at what waits, not at
 * how long answers take, since a batch makes answers slower on purpose.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { Limits } from './options.ts'

/** Weight of the newest batch in the averages. */
const newestWeight = 0.2
/** Least and longest pause that a refused caller is told, in milliseconds. */
const retryAfterMinMs = 1_000
const retryAfterMaxMs = 60_000

export class Admission {
  readonly #limits: Limits
  /** Commands in memory that somebody waits for. */
  inFlight = 0
  /** Commands on disk, or on their way there. */
  queued = 0
  queuedBytes = 0
  /** Commands in a queue on a server that were not delivered yet, about. */
  inQueue = 0
  /** Events that wait to be published. */
  events = 0
  /** Those of the commands on disk that wait for their key, and delay nobody else. */
  parked = 0
  /** Milliseconds of a batch, whatever its size; null until the first. */
  #batchMs: number | null = null
  /** Milliseconds of a command in a batch that was at least half full; null until the first. */
  #commandMs: number | null = null

  constructor(limits: Limits) {
    this.#limits = limits
  }

  /** Tells of a batch that took `ms` from begin to commit. */
  served(commands: number, ms: number): void {
    this.#batchMs = averaged(this.#batchMs, ms)
    if (commands * 2 >= this.#limits.batchCommandsMax) this.#commandMs = averaged(this.#commandMs, ms / commands)
  }

  /**
   * The wait that a new command would meet, with `unqueued` others in memory
   * alone, in milliseconds. A batch costs nearly the same for one command as
   * for a hundred, so the rate of small batches says nothing of what full ones
   * will do: until one was seen, every batch is taken to be full.
   */
  expectedWaitMs(unqueued: number): number {
    const waiting = Math.max(0, this.queued - this.parked + this.inQueue + unqueued)
    if (this.#commandMs !== null) return waiting * this.#commandMs
    return Math.ceil(waiting / this.#limits.batchCommandsMax) * (this.#batchMs ?? 0)
  }

  /** Throws 'overloaded', 'queue-full' or 'queue-slow', each with a pause; returns when the command may come in. */
  admit(unqueued: number, bytes: number): void {
    const { inFlightMax, queuedCommandsMax, queuedBytesMax, queueWaitMsMax, eventsMax } = this.#limits
    const waitMs = this.expectedWaitMs(unqueued)
    const retryAfterMs = Math.min(retryAfterMaxMs, Math.max(retryAfterMinMs, waitMs / 2))
    if (this.inFlight >= inFlightMax) {
      throw new HeadraceError(
        'overloaded',
        `${this.inFlight} commands are in flight; inFlightMax is ${inFlightMax}. Send the command again after the pause.`,
        { retryAfterMs },
      )
    }
    const queued = this.queued + this.inQueue
    if (queued >= queuedCommandsMax || this.queuedBytes + bytes > queuedBytesMax) {
      throw new HeadraceError(
        'queue-full',
        `${queued} commands (${this.queuedBytes} bytes on disk) wait in the queue; queuedCommandsMax is ${queuedCommandsMax}, queuedBytesMax ${queuedBytesMax}. Send the command again after the pause.`,
        { retryAfterMs },
      )
    }
    if (this.events >= eventsMax) {
      throw new HeadraceError(
        'queue-full',
        `${this.events} events wait to be published; eventsMax is ${eventsMax}. Look at the queue that they go to, and send the command again after the pause.`,
        { retryAfterMs },
      )
    }
    if (waitMs > queueWaitMsMax) {
      throw new HeadraceError(
        'queue-slow',
        `A new command would wait about ${Math.round(waitMs / 1000)} s; queueWaitMsMax is ${queueWaitMsMax} ms. Send the command again after the pause.`,
        { retryAfterMs },
      )
    }
  }
}

function averaged(average: number | null, newest: number): number {
  return average === null ? newest : average * (1 - newestWeight) + newest * newestWeight
}
