/**
 * Puts commands that callers send into the queue on a server.
 *
 * The queue part publishes them: in order per partition, batches as large as
 * what waits, repeated in order while the server is away, for `queueTimeoutMs`.
 * After that the caller is told, and nobody knows whether the queue has the
 * command: it may still be applied, once, under its id.
 */
import { type ErrorCode, HeadraceError } from '../../contracts/errors.ts'
import type { NewMessage, QueueTopic } from '../../contracts/queue.ts'
import { checkQueueLimits } from '../../queue/options.ts'
import { TopicProducer } from '../../queue/producer.ts'
import { hash53 } from '../../std/hash.ts'
import type { Limits } from '../options.ts'
import type { Ticket } from '../ticket.ts'
import { messageOf } from './message.ts'

export interface IntakeEvents {
  /** The queue has it. */
  kept(ticket: Ticket, duplicate: boolean): void
  refused(ticket: Ticket, error: HeadraceError): void
}

/** Errors that come before anything was sent. */
const untouched: readonly ErrorCode[] = ['overloaded', 'queue-full', 'queue-closed', 'message-too-large']

export class Intake {
  readonly #producer: TopicProducer
  readonly #events: IntakeEvents
  /** Hashes of the ids that the queue was given here and has not delivered yet. A few bytes each, at most `queuedCommandsMax`. */
  readonly #given = new Set<number>()

  constructor(topic: QueueTopic, limits: Limits, events: IntakeEvents) {
    const { queueTimeoutMs, inFlightMax, inputBytesMax, windowBytesMax } = limits
    this.#events = events
    this.#producer = new TopicProducer(
      topic,
      checkQueueLimits({
        inFlightMax,
        inFlightBytesMax: Math.max(windowBytesMax, inputBytesMax),
        publishTimeoutMs: queueTimeoutMs,
      }),
      'refuse',
    )
  }

  offer(ticket: Ticket): void {
    const hash = hash53(ticket.entry.id)
    this.#given.add(hash)
    this.#producer.publish(messageOf(ticket.entry)).then(
      ({ duplicate }) => this.#events.kept(ticket, duplicate),
      (error: unknown) => {
        const code = HeadraceError.is(error) ? error.code : 'internal'
        // What was sent may be there: its id stays known until it is delivered, or its caller sends it again.
        if (untouched.includes(code)) this.#given.delete(hash)
        this.#events.refused(ticket, refusalOf(ticket, error))
      },
    )
  }

  /** Puts a message into the partition of its key. */
  async forward(message: NewMessage): Promise<void> {
    await this.#producer.publish(message)
  }

  /** Whether the queue was given this id and has not delivered it. */
  has(scopedId: string): boolean {
    return this.#given.has(hash53(scopedId))
  }

  delivered(scopedId: string): void {
    this.#given.delete(hash53(scopedId))
  }

  /** Waits for what is on its way. */
  close(): Promise<void> {
    return this.#producer.close()
  }
}

function refusalOf(ticket: Ticket, error: unknown): HeadraceError {
  if (!HeadraceError.is(error)) return new HeadraceError('internal', undefined, { cause: error })
  if (untouched.includes(error.code)) return error
  return new HeadraceError(
    error.code,
    `The queue did not confirm command '${ticket.entry.command}' with id ${ticket.id}: ${error.message} It may have it, and then applies it. Send it again under the same id.`,
    { retryAfterMs: 1_000, cause: error },
  )
}
