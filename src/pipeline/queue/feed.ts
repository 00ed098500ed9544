/**
 * The write path on a queue on a server: RabbitMQ, PostgreSQL, or a SQLite file
 * of its own.
 *
 *   door ──> intake ──> queue on a server ──> partition feeds ──> lanes
 *
 * Every command goes through the queue, so that those of other senders keep
 * their place among those of callers over HTTP. A command is accepted when the
 * queue has it; it takes its position when it is delivered; it is acknowledged
 * when the commit with its outcome is on disk. Retries, blocked keys and dead
 * letters of commands that were accepted are kept in the journal, as without a
 * queue. What is no command at all goes to the dead letters of the queue.
 */
import { tell } from '../../contracts/diagnostics.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Entry } from '../../contracts/ledger.ts'
import type { QueueEngine, QueueMessage, QueueTopic } from '../../contracts/queue.ts'
import { hash32 } from '../../std/hash.ts'
import type { Admission } from '../admission.ts'
import type { AnyCommand } from '../command.ts'
import { keyOf } from '../key.ts'
import type { Lane } from '../lane.ts'
import type { Limits } from '../options.ts'
import type { Delivery, Ticket } from '../ticket.ts'
import { validInput } from '../validate.ts'
import { Intake } from './intake.ts'
import { arrivedCommand, commandGroup, commandTopic } from './message.ts'
import { PartitionFeed } from './partition-feed.ts'

export interface FeedContext {
  readonly app: string
  readonly limits: Limits
  readonly commands: ReadonlyMap<string, AnyCommand>
  readonly admission: Admission
  readonly laneOf: (partition: number) => Lane
  /** The next position of this process. */
  readonly nextPosition: () => number
  /** The ticket of a command that was delivered. */
  readonly deliver: (entry: Entry) => Ticket
  /** The ticket that waits for this command to be delivered. */
  readonly awaited: (id: string, digest: string) => Ticket | undefined
  readonly forget: (ticket: Ticket) => void
  /** The queue had a message of this id before: the command may be decided. */
  readonly settleKnown: (ticket: Ticket) => void
}

/** Between two looks at the depth of the queue, in milliseconds; and how many times as long as a look took at least. */
const depthEveryMs = 500
const depthPauseTimes = 10

export class CommandFeed {
  readonly intake: Intake
  readonly #context: FeedContext
  readonly #topic: QueueTopic
  readonly #partitions: PartitionFeed[]
  #depthTimer: NodeJS.Timeout
  /** Whoever holds partitions that are asked for here has been told of. */
  #heldTold = false
  #closed = false
  #lookedAt = Number.NEGATIVE_INFINITY
  #oldestPublishedAt: number | null = null

  /** Makes the topic, and begins to deliver. Throws what the engine refuses with. */
  static async open(engine: QueueEngine, context: FeedContext): Promise<CommandFeed> {
    const { app, limits } = context
    const topic = await engine.declare({
      name: commandTopic(app),
      partitions: limits.partitions,
      groups: [commandGroup],
      messagesMax: limits.queuedCommandsMax,
    })
    const feed = new CommandFeed(topic, !engine.capabilities.leases, context)
    await feed.#look()
    return feed
  }

  private constructor(topic: QueueTopic, needsEpoch: boolean, context: FeedContext) {
    this.#topic = topic
    this.#context = context
    const { app, admission, forget, limits } = context
    this.intake = new Intake(topic, limits, {
      kept: (ticket, duplicate) => {
        admission.inQueue += ticket.place === 'disk' ? 1 : 0
        ticket.appended()
        if (duplicate) context.settleKnown(ticket)
        else if (ticket.place === 'disk' && !ticket.awaited) forget(ticket)
      },
      refused: (ticket, error) => {
        // Delivered all the same: then its batch answers.
        if (ticket.place !== 'disk' || ticket.settled) return
        ticket.refuse(error)
        forget(ticket)
      },
    })
    this.#partitions = Array.from({ length: limits.partitions }, (_, partition) => {
      const lane = context.laneOf(partition)
      return new PartitionFeed({
        app,
        topic,
        needsEpoch,
        partition,
        ttlMs: limits.queueLeaseTtlMs,
        retryBaseMs: limits.retryBaseMs,
        retryMaxMs: limits.retryMaxMs,
        room: () => lane.room,
        whenRoomy: (callback) => lane.whenRoomy(callback),
        admit: (message, delivery) => this.#admit(message, delivery),
        onHeld: () => this.#held(),
        answeredAt: () => this.#lookedAt,
      })
    })
    this.#depthTimer = setTimeout(() => void this.#looks(), depthEveryMs).unref()
  }

  /** When the oldest message that waits was published, as of the last look; null when none waits or the engine cannot tell. */
  get oldestPublishedAt(): number | null {
    return this.#oldestPublishedAt
  }

  /** Whether an id that neither the ledger nor a ticket knows may wait in the queue. */
  mayHold(scopedId: string): boolean {
    return this.intake.has(scopedId) || !this.#partitions.every((partition) => partition.settledSince(0) !== null)
  }

  /** Whether no message can come again whose outcome is older than `retentionMs`: then outcomes may be dropped. */
  mayDropOutcomes(retentionMs: number): boolean {
    const now = performance.now()
    return this.#partitions.every((partition) => {
      const since = partition.settledSince(now)
      return since !== null && now - since < retentionMs
    })
  }

  /** Takes nothing more from the queue. What was taken goes on. */
  stop(): void {
    for (const partition of this.#partitions) partition.stop()
  }

  /** Acknowledges what is done, and gives the partitions back. */
  async close(): Promise<void> {
    clearTimeout(this.#depthTimer)
    this.#closed = true
    await Promise.all([this.intake.close(), ...this.#partitions.map((partition) => partition.close())])
  }

  /** Checks a message, and puts its command into its lane. Commands of callers here were checked at the door. */
  async #admit(message: QueueMessage, delivery: Delivery): Promise<HeadraceError | null> {
    const { limits, nextPosition, laneOf, deliver, awaited, admission } = this.#context
    try {
      const arrived = arrivedCommand(message, limits)
      this.intake.delivered(arrived.id)
      const waiting = awaited(arrived.id, arrived.digest)
      const key = waiting?.key ?? (await this.#keyOf(arrived.command, arrived.input))
      const partition = hash32(key) % limits.partitions
      if (partition !== message.partition) return await this.#forward(message, key, partition, delivery)
      admission.inQueue = Math.max(0, admission.inQueue - 1)
      const ticket = deliver({ ...arrived, position: nextPosition(), partition, key, attempts: 0, queued: false })
      ticket.delivery = delivery
      laneOf(partition).feed(ticket)
      return null
    } catch (error) {
      return HeadraceError.is(error) ? error : new HeadraceError('message-invalid', String(error), { cause: error })
    }
  }

  async #keyOf(name: string, input: string): Promise<string> {
    const command = this.#context.commands.get(name)
    if (command === undefined) throw new HeadraceError('command-unknown', `The app has no command '${name}'.`)
    const value = await validInput(command, JSON.parse(input), this.#context.limits.handlerTimeoutMs)
    return keyOf(command, value)
  }

  /** Its sender did not know the key: it belongs into another partition, and is done here once it is there. */
  async #forward(message: QueueMessage, key: string, partition: number, delivery: Delivery): Promise<null> {
    const { id, headers, body, publishedAt } = message
    await this.intake.forward({ partition, key, id, headers, body, publishedAt, availableAt: null })
    delivery.end()
    return null
  }

  async #looks(): Promise<void> {
    const startedAt = performance.now()
    await this.#look()
    if (this.#closed) return
    const pauseMs = Math.max(depthEveryMs, (performance.now() - startedAt) * depthPauseTimes)
    this.#depthTimer = setTimeout(() => void this.#looks(), pauseMs).unref()
  }

  /** How much waits, for the door. */
  async #look(): Promise<void> {
    const askedAt = performance.now()
    try {
      const counts = await this.#topic.counts(commandGroup)
      let depth = 0
      let oldest = Number.POSITIVE_INFINITY
      for (const each of counts) {
        depth += each.depth
        oldest = Math.min(oldest, each.oldestPublishedAt ?? Number.POSITIVE_INFINITY)
      }
      const undone = this.#partitions.reduce((sum, partition) => sum + partition.undone, 0)
      this.#context.admission.inQueue = Math.max(0, depth - undone)
      this.#oldestPublishedAt = Number.isFinite(oldest) ? oldest : null
      this.#lookedAt = askedAt
    } catch {
      // The last answer stands; that the server is away is told by those who take and publish.
    }
  }

  #held(): void {
    if (this.#heldTold) return
    this.#heldTold = true
    tell('headrace:notice', () => ({
      app: this.#context.app,
      level: 'warn',
      message: `Partitions of the topic '${this.#topic.name}' are held by another process, or by one that died a moment ago. They are asked for until they are free.`,
    }))
  }
}
