/**
 * What the queue part, and the write path, ask of an engine that keeps messages.
 *
 * A *topic* is a set of partitions. The key of a message decides its partition:
 * `hash32(key) % partitions` of std/hash, in our own client and never in the broker. Each *group* of
 * consumers gets every message that is appended after the group was declared.
 *
 * What must hold on every engine:
 *
 * - `append` resolves when its messages are durable: fsync, commit, or the
 *   confirm of a quorum. An append that rejects may have kept any of them; the
 *   caller appends them again under their ids, in order.
 * - Messages of a partition are delivered in the order in which they were
 *   appended; those of one call in the order given.
 * - One lease per group and partition at a time, with an epoch that is higher
 *   than that of every lease before, over restarts too. A lease that was taken
 *   over can neither take nor acknowledge nor bury: 'lease-lost'.
 * - The first `take` of a lease begins after the last acknowledged position of
 *   the group, and misses nothing that is not acknowledged.
 * - Acknowledgement is by position: all up to it, but for those that are named
 *   as not done where the engine can (`gaps`). Nothing is ever requeued; who
 *   wants to try again keeps the message and tries.
 * - Positions of a group and partition strictly grow in the order of delivery,
 *   over leases too.
 * - Every call ends within a bound of the driver, and no error carries a password.
 *
 * What an engine cannot do itself is a flag of `QueueCapabilities`. The queue
 * part makes it good where that is possible, and refuses it otherwise.
 */
import { HeadraceError } from './errors.ts'

export interface QueueCapabilities {
  /**
   * The engine grants leases and makes their epochs. Without it (RabbitMQ: a
   * single active consumer has no fencing) every lease needs an epoch from
   * outside, such as the token of a lock, and a holder that is still connected
   * cannot be pushed out: the next one is 'held' until its connection ends.
   */
  readonly leases: boolean
  /**
   * A message keeps its position when it is delivered again, and `append`
   * answers it. Without it (RabbitMQ shows none) positions still grow, also
   * over leases, but only the id tells that a message is the same.
   */
  readonly stablePositions: boolean
  /** Holds messages until their `availableAt`. Without it the queue part holds them in a companion engine. */
  readonly delays: boolean
  /** An id that still waits in its partition is not appended twice. Without it a repeated append is delivered twice. */
  readonly dedupes: boolean
  /** `messagesMax` is exact, and once a message of a call is refused, so are the later ones of its partition. Without it the bound is near, and a refusal may leave a gap. */
  readonly exactBounds: boolean
  /** `open` knows topics that were declared by others, and `topics` lists them. Without it each process declares what it uses. */
  readonly remembersTopics: boolean
  /** `setPaused` reaches every consumer of a group. Without it a consumer is paused in its own process only. */
  readonly pauses: boolean
  /** `acknowledge` leaves messages out that are not done. Without it the acknowledged position waits for the first of them. */
  readonly gaps: boolean
}

/** Attributes of CloudEvents (`type`, `source`, `subject` …), `traceparent`, and others: short texts by lower-case name. */
export type MessageHeaders = Readonly<Record<string, string>>

export interface NewMessage {
  /** `hash32(key) % partitions`. */
  readonly partition: number
  /** What orders it: messages with one key keep their order. '' is a key like any other. */
  readonly key: string
  /** Names the message for good: a message that is sent again keeps its id. */
  readonly id: string
  readonly headers: MessageHeaders
  /** Text; JSON where the queue part wrote it. Storable in every database (no zero character, well-formed). */
  readonly body: string
  /** Milliseconds since 1970, on the clock of the producer. */
  readonly publishedAt: number
  /** Milliseconds since 1970 before which nobody gets it; null or past for at once. It takes its place in the order when it is due. */
  readonly availableAt: number | null
}

export interface QueueMessage extends NewMessage {
  readonly position: number
  /** How often it came back from the dead letters. */
  readonly redriven: number
  /** Why it cannot be a message of ours, when somebody else wrote it badly; null otherwise. The consumer buries it with this reason. */
  readonly malformed: string | null
}

/** What became of one message of an `append`, in the order given. */
export type Appended =
  /** Durable. `position` is null without `stablePositions`, and while the message is delayed. */
  | { readonly state: 'kept'; readonly position: number | null }
  /** The id waits already; nothing was added. */
  | { readonly state: 'duplicate' }
  /** The partition holds `messagesMax`; nothing was added. */
  | { readonly state: 'full' }

export interface TopicOptions {
  readonly name: string
  /** Fixed when the topic is made; another number is refused ('topic-differs'). */
  readonly partitions: number
  /** Groups that must exist; those that exist already stay. */
  readonly groups: readonly string[]
  /** Messages that one partition holds for its slowest group, delayed ones included; past it 'full'. A repeated declaration sets it anew. */
  readonly messagesMax: number
}

export interface LeaseOptions {
  readonly group: string
  readonly partition: number
  /** How long the lease lasts unless it is extended. */
  readonly ttlMs: number
  /**
   * The epoch of a lock that the caller holds. It takes the partition over at
   * once from a lower epoch (see `leases`), and is refused below a higher one. Without it the
   * engine makes the epoch, when nobody holds the lease ('queue-unsupported'
   * where it has no leases).
   */
  readonly epoch?: number
}

export type LeaseAnswer =
  | { readonly state: 'granted'; readonly lease: QueueLease }
  /** Somebody else holds it, for `endsInMs` unless they extend it. */
  | { readonly state: 'held'; readonly endsInMs: number }
  /** The epoch given is lower than one that was seen. */
  | { readonly state: 'fenced'; readonly epoch: number }

export interface TakeOptions {
  /** Messages in the batch. */
  readonly messagesMax: number
  /** Bytes of bodies in the batch; the first message counts always. */
  readonly bytesMax: number
  /** How long to wait for the first message; 0 does not wait. Then the batch is empty. */
  readonly waitMs: number
  /** Ends the waiting; the batch is then empty. */
  readonly signal?: AbortSignal
}

export interface DeathReason {
  /** A code for programs, such as 'handler-failed' or 'message-malformed'. */
  readonly code: string
  /** For people. At most `reasonCharactersMax`. */
  readonly message: string
  /** How often it was tried. */
  readonly attempts: number
}

/** The right to consume one partition of one group. */
export interface QueueLease {
  readonly group: string
  readonly partition: number
  readonly epoch: number
  /**
   * Aborts as soon as the driver knows that the lease is gone (a lost
   * connection that carries it, a takeover that it noticed). It may be gone
   * before that: the database of the handler decides.
   */
  readonly lost: AbortSignal
  /** The messages after the last one taken, in order. One call at a time. Rejects with 'lease-lost'. */
  take(options: TakeOptions): Promise<QueueMessage[]>
  /**
   * Where the engine has `gaps`: how many messages may be done behind one that
   * is not before they are worth an `acknowledge` around it.
   */
  readonly gapsAfter?: number
  /**
   * All up to this position are done, but for `open` (in order; only with
   * `gaps`), those of an earlier `open` included. A lower position than before
   * takes nothing back. Resolves when the next lease would begin with what is
   * open, and go on after the highest position.
   */
  acknowledge(position: number, open?: readonly number[]): Promise<void>
  /** Puts a message that was taken into the dead letters of the group, durably, and once per position. It stays to be acknowledged. */
  bury(message: QueueMessage, reason: DeathReason): Promise<void>
  /** Lets the lease last `ttlMs` from now; false when it is gone. */
  extend(): Promise<boolean>
  /** Gives the partition to whoever asks next. */
  release(): Promise<void>
}

/** A dead letter of a group. */
export interface DeadMessage {
  /** Names the letter, for `redrive` and `drop`. */
  readonly letter: string
  readonly message: QueueMessage
  readonly reason: DeathReason
  /** Milliseconds since 1970. */
  readonly diedAt: number
}

export interface DeadLetterQuery {
  readonly group: string
  /** Letters after this one, in the order in which they died. */
  readonly after?: string
  readonly limit: number
}

export interface PartitionCounts {
  readonly partition: number
  /** Messages that are not acknowledged; delayed ones not included. */
  readonly depth: number
  /** Messages that are not yet due. */
  readonly delayed: number
  readonly dead: number
  /** When the oldest message that is not acknowledged was published, in milliseconds since 1970; null when none waits or the engine cannot tell. */
  readonly oldestPublishedAt: number | null
  /** The last acknowledged position; 0 before the first. */
  readonly acknowledged: number
  /** The epoch of the newest lease; 0 before the first. */
  readonly epoch: number
  /** True while somebody holds the lease. */
  readonly leased: boolean
}

/** Depth and age of a topic, as one group sees it. */
export interface GroupCounts {
  readonly topic: string
  readonly group: string
  readonly paused: boolean
  /** In order of partition. */
  readonly partitions: readonly PartitionCounts[]
}

export interface QueueTopic {
  readonly name: string
  readonly partitions: number
  /** Keeps messages durably, in the order given. The answers stand in the same order. */
  append(messages: readonly NewMessage[]): Promise<Appended[]>
  lease(options: LeaseOptions): Promise<LeaseAnswer>
  groups(): Promise<string[]>
  /** Depth and age of every partition, as the group sees it, in order of partition. */
  counts(group: string): Promise<PartitionCounts[]>
  /** The next messages of a partition, without taking them. */
  peek(group: string, partition: number, limit: number): Promise<QueueMessage[]>
  deadLetters(query: DeadLetterQuery): Promise<DeadMessage[]>
  /**
   * Appends dead letters for their group alone, in the order in which they were
   * appended first, and takes them out of the dead letters: those named, or
   * else the first `limit`. Of those named it takes the first `limit` in that order. Returns how many.
   */
  redrive(options: { readonly group: string; readonly letters?: readonly string[]; readonly limit: number }): Promise<number>
  /** Gives dead letters up. Returns how many there were. */
  drop(options: { readonly group: string; readonly letters: readonly string[] }): Promise<number>
  /** Acknowledges all that waits for a group, whoever holds its leases. Returns how many. Delayed messages and dead letters stay. */
  purge(group: string): Promise<number>
  /** While it is paused, `take` of the group gives nothing. It outlives restarts. */
  setPaused(group: string, paused: boolean): Promise<void>
  isPaused(group: string): Promise<boolean>
}

export interface QueueEngine {
  /** 'sqlite', 'postgres', 'rabbitmq'. */
  readonly engine: string
  readonly capabilities: QueueCapabilities
  /** Makes a topic, or opens it and adds the groups that are new. A new group begins with the next message. */
  declare(options: TopicOptions): Promise<QueueTopic>
  /** Opens a topic that was declared before, here or elsewhere: 'topic-unknown'. */
  open(name: string): Promise<QueueTopic>
  /** Names of the topics, sorted. */
  topics(): Promise<string[]>
  /**
   * Where `open` knows only what this process declared: opens a topic that
   * another one declared, with some of its groups, by looking. Makes nothing.
   * 'topic-unknown'.
   */
  find?(name: string, groups: readonly string[]): Promise<QueueTopic>
  /** Closes the client; calls under way may fail. Leases run out by themselves. */
  close(): Promise<void>
}

/** Longest key, in bytes of UTF-8. */
export const messageKeyBytesMax = 512
/** Longest id: visible ASCII. */
export const messageIdCharactersMax = 128
/** Highest bound that a user may set for one body, in bytes. */
export const messageBytesLimit = 16 * 1024 ** 2
/** Names and values of all headers together, in bytes. */
export const headerBytesMax = 16 * 1024
export const reasonCharactersMax = 1_000
export const partitionsLimit = 1_024
/** Highest bound of a partition, in messages. */
export const messagesMaxLimit = 1_000_000_000
export const groupsLimit = 64
export const leaseTtlMsMin = 100
export const leaseTtlMsMax = 3_600_000

const topicPattern = /^[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*$/

/** Names of topics and groups: up to 64 lower-case letters and digits, with dots, dashes or underscores between them. Throws 'topic-invalid'. */
export function checkQueueName(what: 'topic' | 'group', name: unknown): asserts name is string {
  if (typeof name === 'string' && name.length <= 64 && topicPattern.test(name)) return
  throw new HeadraceError(
    'topic-invalid',
    `The ${what} name ${JSON.stringify(name)} is not valid: use up to 64 lower-case letters and digits, with dots, dashes or underscores between them.`,
  )
}

/** What every driver checks of a declaration. Throws 'topic-invalid' and 'option-invalid'. */
export function checkTopic({ name, partitions, groups, messagesMax }: TopicOptions): void {
  checkQueueName('topic', name)
  whole(`partitions of topic '${name}'`, partitions, partitionsLimit)
  whole(`messagesMax of topic '${name}'`, messagesMax, messagesMaxLimit)
  if (groups.length > groupsLimit)
    throw new HeadraceError('topic-invalid', `The topic '${name}' has ${groups.length} groups; at most ${groupsLimit} are possible.`)
  for (const group of groups) checkQueueName('group', group)
}

export const topicUnknown = (name: string): HeadraceError =>
  new HeadraceError('topic-unknown', `There is no topic '${name}'. Declare it first, with its number of partitions.`, {
    details: { topic: name },
  })

export const groupUnknown = (topic: string, group: string): HeadraceError =>
  new HeadraceError('topic-unknown', `The topic '${topic}' has no group '${group}'. Declare the topic with it.`, {
    details: { topic, group },
  })

export const partitionsDiffer = (name: string, known: number, asked: number): HeadraceError =>
  new HeadraceError(
    'topic-differs',
    `The topic '${name}' has ${known} partitions, not ${asked}. Declare it with ${known}, or use a topic of another name.`,
    { details: { topic: name, partitions: known } },
  )

export const queueLeaseLost = (topic: string, group: string, partition: number): HeadraceError =>
  new HeadraceError(
    'lease-lost',
    `The lease of partition ${partition} of topic '${topic}' for group '${group}' is over. Stop working on its messages: another consumer has them.`,
    { details: { topic, group, partition } },
  )

function whole(name: string, value: number, max: number): void {
  if (Number.isSafeInteger(value) && value >= 1 && value <= max) return
  throw new HeadraceError('option-invalid', `${name} must be a whole number from 1 to ${max}, not ${String(value)}.`, {
    details: { option: name },
  })
}
