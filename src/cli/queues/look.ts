/** How deep queues are, and how fast messages come and go: two looks, some time apart. */
import { HeadraceError } from '../../contracts/errors.ts'
import type { GroupCounts, PartitionCounts, QueueEngine, QueueTopic } from '../../contracts/queue.ts'

/** One look at the groups of topics. */
export interface Look {
  readonly groups: readonly SeenGroup[]
}

interface SeenGroup extends Omit<GroupCounts, 'paused'> {
  /** Null where the engine keeps no pauses. */
  readonly paused: boolean | null
  /** When it was counted, on the clock of `performance`. */
  readonly at: number
}

/** Messages a second; null where only one look was taken, or the engine does not tell. */
export interface Rates {
  /** Messages that took their place in the order. */
  readonly inPerSecond: number | null
  /** Messages that were acknowledged. */
  readonly outPerSecond: number | null
  /** How fast it grows; below zero it shrinks. */
  readonly growthPerSecond: number | null
}

export interface PartitionRow extends Rates {
  readonly topic: string
  readonly group: string
  readonly partition: number
  readonly paused: boolean | null
  readonly depth: number
  readonly delayed: number
  readonly dead: number
  /** Age of the oldest message that is not acknowledged; null when none waits, or the engine does not tell. */
  readonly oldestAgeMs: number | null
  readonly leased: boolean
  /** Of the newest lease; 0 before the first, or where the engine does not tell. */
  readonly epoch: number
}

export interface GroupRow extends Omit<PartitionRow, 'partition' | 'leased' | 'epoch'> {
  readonly partitions: number
  /** Partitions that a consumer has. */
  readonly leased: number
}

/** Partitions that are looked into to tell an age that the engine does not. */
const oldestLooksMax = 64

export async function look(engine: QueueEngine, topics: readonly QueueTopic[], only: readonly string[]): Promise<Look> {
  const groups: SeenGroup[] = []
  for (const topic of topics) {
    for (const group of await topic.groups()) {
      if (only.length > 0 && !only.includes(group)) continue
      const paused = engine.capabilities.pauses ? await topic.isPaused(group) : null
      const partitions = await topic.counts(group)
      groups.push({ topic: topic.name, group, paused, partitions, at: performance.now() })
    }
  }
  return { groups }
}

/**
 * Fills in the age of the oldest message where the counts have none: of
 * partitions that nobody consumes, by reading their first message.
 */
export async function withAges(topics: readonly QueueTopic[], { groups }: Look): Promise<Look> {
  let looks = 0
  const aged: SeenGroup[] = []
  for (const seen of groups) {
    const topic = topics.find(({ name }) => name === seen.topic) as QueueTopic
    const partitions: PartitionCounts[] = []
    for (const counts of seen.partitions) {
      const unknown = counts.depth > 0 && counts.oldestPublishedAt === null && !counts.leased && looks < oldestLooksMax
      if (unknown) looks += 1
      partitions.push(unknown ? { ...counts, oldestPublishedAt: await oldestOf(topic, seen.group, counts.partition) } : counts)
    }
    aged.push({ ...seen, partitions })
  }
  return { groups: aged }
}

async function oldestOf(topic: QueueTopic, group: string, partition: number): Promise<number | null> {
  try {
    return (await topic.peek(group, partition, 1))[0]?.publishedAt ?? null
  } catch (error) {
    // A consumer came meanwhile.
    if (HeadraceError.is(error) && error.code === 'queue-unsupported') return null
    throw error
  }
}

/** A row for each partition, with rates when there was a look before. */
export function partitionRows(engine: QueueEngine, now: Look, before: Look | null): PartitionRow[] {
  // Without positions of their own, acknowledgements of others cannot be seen.
  const positions = engine.capabilities.stablePositions
  return now.groups.flatMap(({ topic, group, paused, partitions, at }) => {
    const earlier = before?.groups.find((each) => each.topic === topic && each.group === group)
    return partitions.map(({ partition, depth, delayed, dead, oldestPublishedAt, leased, epoch, acknowledged }): PartitionRow => {
      const was = earlier?.partitions[partition]
      const seconds = earlier === undefined ? 0 : (at - earlier.at) / 1_000
      const per = (change: number): number => (seconds > 0 ? change / seconds : 0)
      const known = was !== undefined && seconds > 0
      const out = known && positions ? Math.max(0, acknowledged - was.acknowledged) : null
      return {
        topic,
        group,
        partition,
        paused,
        depth,
        delayed,
        dead,
        oldestAgeMs: oldestPublishedAt === null ? null : Math.max(0, Date.now() - oldestPublishedAt),
        leased,
        epoch,
        inPerSecond: out === null || was === undefined ? null : per(Math.max(0, depth - was.depth + out)),
        outPerSecond: out === null ? null : per(out),
        growthPerSecond: known ? per(depth - was.depth) : null,
      }
    })
  })
}

/** A row for each group, of the rows of its partitions. */
export function groupRows(rows: readonly PartitionRow[]): GroupRow[] {
  return grouped(rows).map((partitions): GroupRow => {
    const [{ topic, group, paused }] = partitions as [PartitionRow]
    const sum = (read: (row: PartitionRow) => number): number => partitions.reduce((total, row) => total + read(row), 0)
    const sumKnown = (read: (row: PartitionRow) => number | null): number | null =>
      partitions.some((row) => read(row) === null) ? null : sum((row) => read(row) ?? 0)
    const ages = partitions.flatMap(({ oldestAgeMs }) => (oldestAgeMs === null ? [] : [oldestAgeMs]))
    return {
      topic,
      group,
      partitions: partitions.length,
      paused,
      depth: sum(({ depth }) => depth),
      delayed: sum(({ delayed }) => delayed),
      dead: sum(({ dead }) => dead),
      oldestAgeMs: ages.length === 0 ? null : Math.max(...ages),
      leased: partitions.filter(({ leased }) => leased).length,
      inPerSecond: sumKnown(({ inPerSecond }) => inPerSecond),
      outPerSecond: sumKnown(({ outPerSecond }) => outPerSecond),
      growthPerSecond: sumKnown(({ growthPerSecond }) => growthPerSecond),
    }
  })
}

function grouped(rows: readonly PartitionRow[]): PartitionRow[][] {
  const groups = new Map<string, PartitionRow[]>()
  for (const row of rows) {
    const key = `${row.topic} ${row.group}`
    const known = groups.get(key)
    if (known === undefined) groups.set(key, [row])
    else known.push(row)
  }
  return [...groups.values()]
}
