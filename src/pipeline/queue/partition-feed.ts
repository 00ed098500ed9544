/**
 * One partition of the queue on a server: its lease, what is delivered, and what
 * is acknowledged.
 *
 *   lease   one holder at a time; asked for again while another one has it.
 *   take    as much as the lane has room for, in order, into the lane.
 *   end     a command is done when the commit that holds its outcome, or parks
 *           it, is on disk. What is done is acknowledged up to the first that is not.
 *
 * What must hold:
 * - Nothing is acknowledged before its commit, and nothing is ever requeued: a
 *   retry waits in the journal, in its place.
 * - The order of delivery is the order of positions.
 * - A message that comes again is recognised by the id of its command, as long
 *   as its outcome is kept. So outcomes are kept until nothing before them can
 *   come again: see `settledSince`.
 *
 * No harm is done by two holders: who commits is decided by the journal and by
 * the fences of the databases.
 */
import { tell } from '../../contracts/diagnostics.ts'
import type { HeadraceError } from '../../contracts/errors.ts'
import type { QueueLease, QueueMessage, QueueTopic } from '../../contracts/queue.ts'
import { endsLease, keepLease } from '../../queue/keep-lease.ts'
import { Progress } from '../../queue/progress.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { crashPoint } from '../../std/crash-point.ts'
import type { Delivery } from '../ticket.ts'
import { commandGroup } from './message.ts'

export interface PartitionContext {
  readonly app: string
  readonly topic: QueueTopic
  /** The engine makes no epochs of its own. */
  readonly needsEpoch: boolean
  readonly partition: number
  readonly ttlMs: number
  readonly retryBaseMs: number
  readonly retryMaxMs: number
  /** Room for commands in the lane: messages, now. */
  readonly room: () => number
  /** Calls back once when there may be room, unless the function that it returns was called. */
  readonly whenRoomy: (callback: () => void) => () => void
  /** Puts a message into its lane. The answer, when it is not null, is why it cannot be a command. */
  readonly admit: (message: QueueMessage, delivery: Delivery) => Promise<HeadraceError | null>
  readonly onHeld: (partition: number) => void
  /** When the question was asked that the engine answered last, on the monotonic clock. */
  readonly answeredAt: () => number
}

/** How long one take waits for messages, in milliseconds; then it is asked again. */
const takeWaitMs = 5_000
/** The same, while it is not known whether messages of an earlier lease come again. */
const settlingWaitMs = 100
/** Messages and bytes of one take. */
const takeMessagesMax = 512
const takeBytesMax = 1024 ** 2
/** Messages between the first that is not done and the newest. */
const undoneMax = 10_000
/** Longest wait of `close` for commands that were taken to be acknowledged, in milliseconds. The lanes have ended theirs before. */
const drainMsMax = 1_000
/** How long `close` waits between two looks, in milliseconds. */
const drainLookMs = 5
/** Between two looks for a lease that somebody else has, in milliseconds. */
const heldPauseMs = 500

interface Turn {
  readonly lease: QueueLease
  readonly progress: Progress
  readonly over: AbortController
  delivered: number
  /** Since when nothing was delivered; null after a message. */
  emptySince: number | null
  acknowledged: number
  acknowledging: Promise<void> | null
  /** When the oldest command that is done and not acknowledged was done; null when there is none. */
  doneSince: number | null
}

export class PartitionFeed {
  readonly #context: PartitionContext
  readonly #stop = new AbortController()
  readonly #close = new AbortController()
  readonly #running: Promise<void>
  #turn: Turn | null = null
  #epoch = 1
  #settled = false

  constructor(context: PartitionContext) {
    this.#context = context
    this.#running = this.#run()
  }

  /** Messages that were taken and are not done. */
  get undone(): number {
    return this.#turn?.progress.span ?? 0
  }

  /**
   * Since when, on the monotonic clock, everything that was done before is
   * acknowledged; null while messages of an earlier lease may still come again.
   */
  settledSince(now: number): number | null {
    if (this.#turn === null || !this.#settled) return null
    return this.#turn.doneSince ?? now
  }

  /** Takes nothing more. */
  stop(): void {
    this.#stop.abort()
  }

  /** Acknowledges what is done, and gives the lease back. */
  async close(): Promise<void> {
    this.stop()
    const timer = setTimeout(() => this.#close.abort(), drainMsMax)
    await this.#running
    clearTimeout(timer)
  }

  async #run(): Promise<void> {
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      try {
        const lease = await this.#lease()
        if (lease === null) {
          await pause(heldPauseMs, this.#stop.signal)
          continue
        }
        failures = 0
        await this.#consume(lease)
      } catch (error) {
        failures += 1
        if (failures === 2) this.#note('warn', `The queue cannot be read: ${messageOf(error)}`)
        await pause(backoffMs(failures - 1, this.#context.retryBaseMs, this.#context.retryMaxMs), this.#stop.signal)
      }
    }
  }

  async #lease(): Promise<QueueLease | null> {
    const { topic, partition, ttlMs, needsEpoch, onHeld } = this.#context
    const answer = await topic.lease({ group: commandGroup, partition, ttlMs, ...(needsEpoch ? { epoch: this.#epoch } : {}) })
    if (answer.state === 'granted') {
      this.#epoch = answer.lease.epoch + 1
      return answer.lease
    }
    if (answer.state === 'fenced') {
      this.#epoch = answer.epoch + 1
      return this.#lease()
    }
    onHeld(partition)
    return null
  }

  async #consume(lease: QueueLease): Promise<void> {
    const over = new AbortController()
    const turn: Turn = {
      lease,
      progress: new Progress(),
      over,
      delivered: 0,
      emptySince: null,
      acknowledged: 0,
      acknowledging: null,
      doneSince: null,
    }
    this.#turn = turn
    this.#settled = false
    const lose = (): void => over.abort()
    lease.lost.addEventListener('abort', lose)
    const beat = keepLease(lease, this.#context.ttlMs, lose)
    try {
      if (!lease.lost.aborted) await this.#take(turn)
      // Graceful: those who wait get their outcomes before the lanes have stopped.
      await this.#drained(turn)
      if (!over.signal.aborted) await lease.release().catch(() => undefined)
    } finally {
      beat.stop()
      lease.lost.removeEventListener('abort', lose)
      over.abort()
      this.#turn = null
      this.#settled = false
    }
  }

  async #take(turn: Turn): Promise<void> {
    const { room, retryBaseMs, retryMaxMs } = this.#context
    const ended = AbortSignal.any([this.#stop.signal, turn.over.signal])
    for (let failures = 0; !ended.aborted; ) {
      const free = Math.min(room(), takeMessagesMax, undoneMax - turn.progress.span)
      if (free <= 0) {
        await this.#untilRoomy(ended)
        continue
      }
      try {
        const waitMs = this.#settled ? takeWaitMs : settlingWaitMs
        const messages = await turn.lease.take({ messagesMax: free, bytesMax: takeBytesMax, waitMs, signal: ended })
        failures = 0
        if (ended.aborted) return
        this.#judge(turn, messages.length)
        for (const message of messages) await this.#admit(turn, message)
        crashPoint('queue.delivered')
      } catch (error) {
        if (endsLease(error)) return turn.over.abort()
        await pause(backoffMs(failures++, retryBaseMs, retryMaxMs), ended)
      }
    }
  }

  /**
   * Whether what an earlier lease had taken and not acknowledged has all come
   * again. It comes first, and there is at most `undoneMax` of it; and when
   * nothing comes, although the engine has answered since, nothing is left.
   */
  #judge(turn: Turn, taken: number): void {
    if (this.#settled) return
    turn.delivered += taken
    const now = performance.now()
    if (taken > 0) turn.emptySince = null
    else turn.emptySince ??= now
    const quiet = taken === 0 && turn.emptySince !== null && this.#context.answeredAt() > turn.emptySince
    this.#settled = quiet || turn.delivered > undoneMax
  }

  #untilRoomy(ended: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        ended.removeEventListener('abort', done)
        forget()
        resolve()
      }
      const forget = this.#context.whenRoomy(done)
      ended.addEventListener('abort', done)
      if (ended.aborted) done()
    })
  }

  async #admit(turn: Turn, message: QueueMessage): Promise<void> {
    turn.progress.begin(message.position)
    let ended = false
    const end = (refusal?: HeadraceError): void => {
      if (ended || turn.over.signal.aborted) return
      ended = true
      if (refusal === undefined) return this.#done(turn, message.position)
      void this.#bury(turn, message, refusal)
    }
    const refusal = await this.#context.admit(message, { end })
    if (refusal !== null) end(refusal)
  }

  /** Tries until the letter is durable, or the lease over. */
  async #bury(turn: Turn, message: QueueMessage, refusal: HeadraceError): Promise<void> {
    const { app, retryBaseMs, retryMaxMs } = this.#context
    tell('headrace:notice', () => ({
      app,
      level: 'warn',
      message: `A message of the queue is no command, and was put into the dead letters: ${refusal.message}`,
      details: { id: message.id, code: refusal.code },
    }))
    for (let failures = 0; !turn.over.signal.aborted; ) {
      try {
        await turn.lease.bury(message, { code: refusal.code, message: refusal.message, attempts: 1 })
        return this.#done(turn, message.position)
      } catch (error) {
        if (endsLease(error)) return turn.over.abort()
        await pause(backoffMs(failures++, retryBaseMs, retryMaxMs), turn.over.signal)
      }
    }
  }

  #done(turn: Turn, position: number): void {
    if (turn.over.signal.aborted) return
    turn.doneSince ??= performance.now()
    if (turn.progress.finish(position)) turn.acknowledging ??= this.#acknowledge(turn)
  }

  /** One call at a time: what is done meanwhile goes with the next. */
  async #acknowledge(turn: Turn): Promise<void> {
    const { retryBaseMs, retryMaxMs } = this.#context
    // What else this turn of the event loop ends goes with it.
    await new Promise(setImmediate)
    for (let failures = 0; turn.acknowledged < turn.progress.reached && !turn.over.signal.aborted; ) {
      const position = turn.progress.reached
      const since = performance.now()
      try {
        crashPoint('queue.before-acknowledge')
        await turn.lease.acknowledge(position)
        crashPoint('queue.after-acknowledge')
        turn.acknowledged = position
        turn.doneSince = turn.progress.reached > position || turn.progress.span > 0 ? since : null
        failures = 0
      } catch (error) {
        if (endsLease(error)) turn.over.abort()
        else await pause(backoffMs(failures++, retryBaseMs, retryMaxMs), turn.over.signal)
      }
    }
    turn.acknowledging = null
  }

  /** Until nothing that was taken is open, or the lease is over. */
  async #drained(turn: Turn): Promise<void> {
    const over = AbortSignal.any([turn.over.signal, this.#close.signal])
    while ((turn.progress.span > 0 || turn.acknowledging !== null) && !over.aborted) await pause(drainLookMs, over)
  }

  #note(level: 'warn' | 'error', message: string): void {
    const { app, partition } = this.#context
    tell('headrace:notice', () => ({ app, level, message, details: { partition } }))
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
