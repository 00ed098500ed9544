/**
 * The queue in a SQLite file, as synchronous steps. Each runs inside a
 * transaction that its caller begins and commits (`queue.ts`), and checks all
 * that may refuse it before it writes: a step that throws one of our errors has
 * written nothing.
 *
 * A topic is a log for each partition, in which every group has its place. What
 * all groups have acknowledged is deleted.
 *
 * Leases run on the monotonic clock of the machine, which all its processes
 * share and nobody can set; one that begins in the future is from before the
 * machine was started again. Epochs go on from the wall clock, in microseconds.
 */
import type { DatabaseSyncInstance } from '@photostructure/sqlite'
import {
  type Appended,
  type DeadLetterQuery,
  type DeadMessage,
  type DeathReason,
  groupUnknown,
  type LeaseOptions,
  type MessageHeaders,
  type NewMessage,
  partitionsDiffer,
  type PartitionCounts,
  type QueueMessage,
  reasonCharactersMax,
  type TopicOptions,
} from '../../contracts/queue.ts'
import { type QueueStatements, queueStatements } from './queue-statements.ts'

export interface TopicRow {
  readonly n: number
  readonly name: string
  readonly partitions: number
  readonly messages_max: number
}

interface PlaceRow {
  readonly acked: number
  readonly epoch: number
  readonly held: number
  readonly from_us: number
  readonly ttl_us: number
  /** JSON: positions up to `acked` that are not done, in order. */
  readonly open: string
}

interface MessageRow {
  readonly partition: number
  readonly position: number
  readonly id: string
  readonly key: string
  readonly headers: string
  readonly body: string
  readonly published_at: number
  readonly available_at: number | null
  readonly redriven: number
  readonly malformed?: string | null
}

interface DeadRow extends MessageRow {
  readonly n: number
  readonly origin: number
  readonly code: string
  readonly reason: string
  readonly attempts: number
  readonly died_at: number
}

export type LeaseStep =
  | { readonly state: 'granted'; readonly epoch: number; readonly acked: number; readonly open: number[] }
  | { readonly state: 'held'; readonly endsInMs: number }
  | { readonly state: 'fenced'; readonly epoch: number }

/** A lease as the file knows it: good while nobody has taken the partition since. */
export interface Held {
  readonly topic: TopicRow
  readonly group: string
  readonly partition: number
  readonly epoch: number
}

/** Delayed messages that one step moves to their place in the order. */
const promotedMax = 1_000

export class QueueStore {
  readonly #sql: QueueStatements

  constructor(database: DatabaseSyncInstance) {
    this.#sql = Object.fromEntries(Object.entries(queueStatements).map(([name, text]) => [name, database.prepare(text)])) as QueueStatements
  }

  topic(name: string): TopicRow | null {
    return (this.#sql.topicByName.get(name) as TopicRow | undefined) ?? null
  }

  topics(): string[] {
    return (this.#sql.topics.all() as { name: string }[]).map(({ name }) => name)
  }

  declare({ name, partitions, groups, messagesMax }: TopicOptions): TopicRow {
    const known = this.topic(name)
    if (known !== null && known.partitions !== partitions) throw partitionsDiffer(name, known.partitions, partitions)
    if (known === null) {
      this.#sql.addTopic.run(name, partitions, messagesMax)
      const { n } = this.topic(name) as TopicRow
      for (let partition = 0; partition < partitions; partition++) this.#sql.addPart.run(n, partition)
    } else if (known.messages_max !== messagesMax) this.#sql.setMax.run(known.n, messagesMax)
    const topic = this.topic(name) as TopicRow
    for (const group of groups) {
      const first = this.groups(topic).length === 0
      if (this.#sql.addGroup.run(topic.n, group).changes) this.#sql.addPlaces.run(topic.n, group, first ? 1 : 0)
    }
    return topic
  }

  groups(topic: TopicRow): string[] {
    return (this.#sql.groups.all(topic.n) as { name: string }[]).map(({ name }) => name)
  }

  /** Throws 'topic-unknown'. */
  isPaused(topic: TopicRow, group: string): boolean {
    const row = this.#sql.group.get(topic.n, group) as { paused: number } | undefined
    if (row === undefined) throw groupUnknown(topic.name, group)
    return row.paused === 1
  }

  setPaused(topic: TopicRow, group: string, paused: boolean): void {
    this.isPaused(topic, group)
    this.#sql.setPaused.run(topic.n, group, paused ? 1 : 0)
  }

  append(topic: TopicRow, messagesMax: number, messages: readonly NewMessage[], now: number): Appended[] {
    const parts = new Map<number, { next: number; delayed: number; readonly slowest: number; full: boolean }>()
    const answers = messages.map((message): Appended => {
      const { partition, id, availableAt } = message
      let part = parts.get(partition)
      if (part === undefined) {
        const row = this.#sql.part.get(topic.n, partition) as { next: number; floor: number; delayed: number; slowest: number | null }
        part = { next: row.next, delayed: row.delayed, slowest: row.slowest ?? row.floor, full: false }
        parts.set(partition, part)
      }
      if (part.delayed > 0 && this.#sql.isLate.get(topic.n, partition, id) !== undefined) return { state: 'duplicate' }
      const late = availableAt !== null && availableAt > now
      if (part.full || part.next - 1 - part.slowest + part.delayed >= messagesMax) {
        if (this.#sql.isThere.get(topic.n, partition, id) !== undefined) return { state: 'duplicate' }
        part.full = true
        return { state: 'full' }
      }
      if (late) {
        if (this.#sql.isThere.get(topic.n, partition, id) !== undefined) return { state: 'duplicate' }
        this.#sql.putLate.run(topic.n, partition, ...fieldsOf(message))
        part.delayed += 1
        return { state: 'kept', position: null }
      }
      if (!this.#sql.put.run(topic.n, partition, part.next, ...fieldsOf(message)).changes) return { state: 'duplicate' }
      part.next += 1
      return { state: 'kept', position: part.next - 1 }
    })
    for (const [partition, { next, delayed }] of parts) this.#sql.setPart.run(topic.n, partition, next, delayed)
    return answers
  }

  /** When the next delayed message is due; null when there is none. */
  nextDue(topic: TopicRow, partition: number): number | null {
    return (this.#sql.nextDue.get(topic.n, partition) as { at: number | null }).at
  }

  /** Gives delayed messages that are due their place in the order. */
  promote(topic: TopicRow, partition: number, now: number): void {
    const due = this.#sql.due.all(topic.n, partition, now, promotedMax) as (MessageRow & { n: number })[]
    if (due.length === 0) return
    let { next, delayed } = this.#sql.part.get(topic.n, partition) as { next: number; delayed: number }
    for (const row of due) {
      this.#sql.dropLate.run(row.n)
      delayed -= 1
      const { id, key, headers, body, published_at, available_at } = row
      if (this.#sql.put.run(topic.n, partition, next, id, key, headers, body, published_at, available_at).changes) next += 1
    }
    this.#sql.setPart.run(topic.n, partition, next, delayed)
  }

  lease(topic: TopicRow, { group, partition, ttlMs, epoch }: LeaseOptions): LeaseStep {
    const place = this.#place(topic, group, partition)
    const now = nowUs()
    if (epoch !== undefined && epoch < place.epoch) return { state: 'fenced', epoch: place.epoch }
    const leftUs = place.held === 1 && place.from_us <= now ? place.from_us + place.ttl_us - now : 0
    if (epoch === undefined && leftUs > 0) return { state: 'held', endsInMs: leftUs / 1_000 }
    const granted = epoch ?? Math.max(place.epoch + 1, wallUs())
    this.#sql.hold.run(topic.n, partition, group, granted, now, ttlMs * 1_000)
    return { state: 'granted', epoch: granted, acked: place.acked, open: openOf(place) }
  }

  holds({ topic, group, partition, epoch }: Held): boolean {
    const place = this.#place(topic, group, partition)
    return place.epoch === epoch && place.held === 1
  }

  extend({ topic, group, partition, epoch }: Held, ttlMs: number): boolean {
    return Number(this.#sql.extend.run(topic.n, partition, group, epoch, nowUs(), ttlMs * 1_000).changes) === 1
  }

  release({ topic, group, partition, epoch }: Held): void {
    this.#sql.letGo.run(topic.n, partition, group, epoch)
  }

  acknowledge({ topic, group, partition }: Held, position: number, open: readonly number[]): void {
    this.#moveOn(topic, group, partition, position, open)
  }

  /** Messages at these positions, as many as fit; those that are gone are left out. */
  readOpen(topic: TopicRow, partition: number, open: readonly number[], messagesMax: number, bytesMax: number): QueueMessage[] {
    const messages: QueueMessage[] = []
    let bytes = 0
    for (const position of open) {
      if (messages.length >= messagesMax) break
      const row = this.#sql.readAt.get(topic.n, partition, position) as MessageRow | undefined
      if (row === undefined) continue
      bytes += Buffer.byteLength(row.body)
      if (messages.length > 0 && bytes > bytesMax) break
      messages.push(messageOf(row))
    }
    return messages
  }

  read(topic: TopicRow, group: string, partition: number, after: number, messagesMax: number, bytesMax: number): QueueMessage[] {
    const messages: QueueMessage[] = []
    let bytes = 0
    for (const row of this.#sql.read.iterate(topic.n, partition, after, group, messagesMax) as Iterable<MessageRow>) {
      bytes += Buffer.byteLength(row.body)
      if (messages.length > 0 && bytes > bytesMax) break
      messages.push(messageOf(row))
    }
    return messages
  }

  /** The next messages of a group that nobody has acknowledged. */
  peek(topic: TopicRow, group: string, partition: number, limit: number): QueueMessage[] {
    const place = this.#place(topic, group, partition)
    const open = this.readOpen(topic, partition, openOf(place), limit, Number.MAX_SAFE_INTEGER)
    const left = limit - open.length
    return left > 0 ? [...open, ...this.read(topic, group, partition, place.acked, left, Number.MAX_SAFE_INTEGER)] : open
  }

  bury({ topic, group, partition }: Held, message: QueueMessage, reason: DeathReason, now: number): void {
    const { origin } = (this.#sql.origin.get(topic.n, partition, message.position) as { origin: number } | undefined) ?? {
      origin: message.position,
    }
    this.#sql.bury.run(
      topic.n,
      partition,
      group,
      message.position,
      ...fieldsOf(message),
      message.redriven,
      origin,
      message.malformed,
      reason.code,
      reason.message.slice(0, reasonCharactersMax),
      reason.attempts,
      now,
    )
  }

  deadLetters(topic: TopicRow, { group, after = '0', limit }: DeadLetterQuery): DeadMessage[] {
    this.isPaused(topic, group)
    return (this.#sql.dead.all(topic.n, group, Number(after), limit) as DeadRow[]).map((row) => ({
      letter: String(row.n),
      message: messageOf(row),
      reason: { code: row.code, message: row.reason, attempts: row.attempts },
      diedAt: row.died_at,
    }))
  }

  redrive(topic: TopicRow, group: string, letters: readonly string[] | undefined, limit: number): number {
    this.isPaused(topic, group)
    const rows =
      letters === undefined
        ? (this.#sql.deadFirst.all(topic.n, group, limit) as DeadRow[])
        : letters.flatMap((letter) => (this.#sql.deadOne.get(topic.n, group, Number(letter)) as DeadRow | undefined) ?? [])
    const inOrder = [...new Map(rows.map((row) => [row.n, row])).values()].sort((a, b) => a.partition - b.partition || a.origin - b.origin)
    const first = inOrder.slice(0, limit)
    for (const row of first) {
      const { partition, id, key, headers, body, published_at, available_at, redriven, origin } = row
      const { next, delayed } = this.#sql.part.get(topic.n, partition) as { next: number; delayed: number }
      const fields = [id, key, headers, body, published_at, available_at] as const
      this.#sql.putAgain.run(topic.n, partition, next, ...fields, redriven + 1, origin, group)
      this.#sql.setPart.run(topic.n, partition, next + 1, delayed)
      this.#sql.dropDead.run(topic.n, group, row.n)
    }
    return first.length
  }

  drop(topic: TopicRow, group: string, letters: readonly string[]): number {
    this.isPaused(topic, group)
    return letters.reduce((dropped, letter) => dropped + Number(this.#sql.dropDead.run(topic.n, group, Number(letter)).changes), 0)
  }

  purge(topic: TopicRow, group: string): number {
    this.isPaused(topic, group)
    let purged = 0
    for (let partition = 0; partition < topic.partitions; partition++) {
      const { next } = this.#sql.part.get(topic.n, partition) as { next: number }
      const place = this.#place(topic, group, partition)
      purged += this.#depth(topic, group, partition, next, place)
      this.#moveOn(topic, group, partition, next - 1, [])
    }
    return purged
  }

  counts(topic: TopicRow, group: string): PartitionCounts[] {
    this.isPaused(topic, group)
    return Array.from({ length: topic.partitions }, (_, partition) => {
      const place = this.#place(topic, group, partition)
      const { acked, epoch } = place
      const { next, delayed } = this.#sql.part.get(topic.n, partition) as { next: number; delayed: number }
      const [first] = openOf(place)
      const oldest = (
        first === undefined ? this.#sql.oldest.get(topic.n, partition, acked, group) : this.#sql.readAt.get(topic.n, partition, first)
      ) as { published_at: number } | undefined
      return {
        partition,
        depth: this.#depth(topic, group, partition, next, place),
        delayed,
        dead: (this.#sql.deadCount.get(topic.n, partition, group) as { n: number }).n,
        oldestPublishedAt: oldest?.published_at ?? null,
        acknowledged: acked,
        epoch,
        leased: this.#sql.isLive.get(topic.n, partition, group, nowUs()) !== undefined,
      }
    })
  }

  /** Positions have no holes, so what waits need not be counted, but for what is redriven to other groups. */
  #depth(topic: TopicRow, group: string, partition: number, next: number, place: PlaceRow): number {
    const { acked } = place
    return openOf(place).length + next - 1 - acked - (this.#sql.others.get(topic.n, partition, acked, group) as { n: number }).n
  }

  /** Moves a group on; what all groups have done is deleted. Messages that are open, here or further on, stay. */
  #moveOn(topic: TopicRow, group: string, partition: number, position: number, open: readonly number[]): void {
    const { next, floor } = this.#sql.part.get(topic.n, partition) as { next: number; floor: number }
    const before = openOf(this.#place(topic, group, partition))
    const left = JSON.stringify([...open, ...before.filter((each) => each > position)])
    if (!this.#sql.ack.run(topic.n, partition, group, Math.min(position, next - 1), left).changes) return
    const { slowest } = this.#sql.part.get(topic.n, partition) as { slowest: number }
    if (slowest <= floor && before.length === 0) return
    this.#sql.trim.run(topic.n, partition, slowest)
    if (slowest > floor) this.#sql.setFloor.run(topic.n, partition, slowest)
  }

  #place(topic: TopicRow, group: string, partition: number): PlaceRow {
    const place = this.#sql.place.get(topic.n, partition, group) as PlaceRow | undefined
    if (place === undefined) throw groupUnknown(topic.name, group)
    return place
  }
}

function fieldsOf({
  id,
  key,
  headers,
  body,
  publishedAt,
  availableAt,
}: NewMessage): [string, string, string, string, number, number | null] {
  return [id, key, JSON.stringify(headers), body, publishedAt, availableAt]
}

function messageOf(row: MessageRow): QueueMessage {
  return {
    partition: row.partition,
    position: row.position,
    key: row.key,
    id: row.id,
    headers: JSON.parse(row.headers) as MessageHeaders,
    body: row.body,
    publishedAt: row.published_at,
    availableAt: row.available_at,
    redriven: row.redriven,
    malformed: row.malformed ?? null,
  }
}

const openOf = ({ open }: PlaceRow): number[] => (open === '[]' ? [] : (JSON.parse(open) as number[]))

const nowUs = (): number => Number(process.hrtime.bigint() / 1_000n)
const wallUs = (): number => Math.floor((performance.timeOrigin + performance.now()) * 1_000)
