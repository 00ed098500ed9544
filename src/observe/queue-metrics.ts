/**
 * What happens on the message queues of the process, and how deep they are.
 * They belong to the process, not to an app: whatever queue is open in it is
 * counted.
 *
 * Depths are asked for at each scrape, within a bound of time. What an engine
 * did not answer is left out, and counted: an old number would look like a queue
 * that stands still.
 */
import { Gauge, type Registry } from 'prom-client'
import { listen, tell } from '../contracts/diagnostics.ts'
import type { GroupCounts, PartitionCounts } from '../contracts/queue.ts'
import { Counters, Histograms, seriesMax } from './series.ts'

/** How long a scrape waits for the depths of an engine, in milliseconds. */
const lookTimeoutMsDefault = 1_000

/** The depths behind one series. */
type Depths = Pick<PartitionCounts, 'depth' | 'delayed' | 'dead' | 'oldestPublishedAt'>

interface PartitionSeries extends Depths {
  readonly labels: { readonly engine: string; readonly topic: string; readonly group: string; readonly partition: string }
}

interface GroupSeries {
  readonly labels: { readonly engine: string; readonly topic: string; readonly group: string }
  readonly paused: boolean
  readonly leased: number
}

interface Look {
  readonly partitions: readonly PartitionSeries[]
  readonly groups: readonly GroupSeries[]
}

export function listenToQueues(
  registry: Registry,
  durations: readonly number[],
  lookTimeoutMs: number = lookTimeoutMsDefault,
): (() => void)[] {
  const failures = new Counters(
    registry,
    'headrace_queue_look_failures_total',
    'Scrapes for which an engine did not tell the depths of its queues in time.',
    ['engine'],
  )
  showDepths(registry, () => askQueues(lookTimeoutMs, (engine) => failures.add(1, engine)))
  return [listenToPublishers(registry, durations), listenToConsumers(registry, durations)]
}

function listenToPublishers(registry: Registry, durations: readonly number[]): () => void {
  const published = new Counters(registry, 'headrace_queue_published_messages_total', 'Messages that were published and are durable.', [
    'topic',
  ])
  const duplicates = new Counters(registry, 'headrace_queue_duplicate_messages_total', 'Those of them whose id waited already.', ['topic'])
  const refused = new Counters(registry, 'headrace_queue_refused_messages_total', 'Messages that publishers were refused, by code.', [
    'topic',
    'code',
  ])
  const time = new Histograms(
    registry,
    'headrace_queue_publish_duration_seconds',
    'Time from publish to durable, of the oldest message of each call to the engine.',
    ['topic'],
    durations,
  )
  return listen('headrace:queue-publish', ({ topic, event, messages, duplicates: known, waitMs, code }) => {
    if (event === 'refused') refused.add(messages, topic, code ?? 'unknown')
    else {
      published.add(messages, topic)
      if (known > 0) duplicates.add(known, topic)
    }
    if (waitMs !== null) time.observe(waitMs / 1_000, topic)
  })
}

function listenToConsumers(registry: Registry, durations: readonly number[]): () => void {
  const labels = ['topic', 'group']
  const handled = new Counters(registry, 'headrace_queue_handled_messages_total', 'Messages that handlers have done.', labels)
  const retried = new Counters(registry, 'headrace_queue_retried_messages_total', 'Tries that failed and are repeated, by code.', [
    ...labels,
    'code',
  ])
  const dead = new Counters(registry, 'headrace_queue_dead_messages_total', 'Messages that became dead letters, by code.', [
    ...labels,
    'code',
  ])
  const leases = new Counters(registry, 'headrace_queue_leases_total', 'Partitions that consumers got (leased) and lost.', [
    ...labels,
    'event',
  ])
  const time = new Histograms(
    registry,
    'headrace_queue_delivery_seconds',
    'Time from published to done, of the oldest message of each call of a handler.',
    labels,
    durations,
  )
  return listen('headrace:queue', ({ topic, group, event, messages, waitMs, code }) => {
    if (event === 'handled') handled.add(messages, topic, group)
    else if (event === 'retried') retried.add(messages, topic, group, code ?? 'unknown')
    else if (event === 'dead') dead.add(messages, topic, group, code ?? 'unknown')
    else leases.add(1, topic, group, event)
    if (waitMs !== null) time.observe(waitMs / 1_000, topic, group)
  })
}

/** Gauges that are asked for together: one look answers them all. */
function showDepths(registry: Registry, ask: () => Promise<Look>): void {
  let asking: Promise<Look> | null = null
  const look = (): Promise<Look> => {
    asking ??= ask().finally(() => {
      asking = null
    })
    return asking
  }
  const gauge = (name: string, help: string, labelNames: readonly string[], fill: (gauge: Gauge, look: Look) => void): Gauge =>
    new Gauge({
      name,
      help,
      labelNames,
      registers: [registry],
      async collect() {
        const seen = await look()
        this.reset()
        fill(this, seen)
      },
    })
  const perPartition = (name: string, help: string, read: (depths: Depths) => number | null): Gauge =>
    gauge(name, help, ['engine', 'topic', 'group', 'partition'], (target, { partitions }) => {
      for (const series of partitions) {
        const value = read(series)
        if (value !== null) target.set(series.labels, value)
      }
    })
  const perGroup = (name: string, help: string, read: (group: GroupSeries) => number): Gauge =>
    gauge(name, help, ['engine', 'topic', 'group'], (target, { groups }) => {
      for (const series of groups) target.set(series.labels, read(series))
    })

  perPartition('headrace_queue_depth_messages', 'Messages that are not acknowledged.', ({ depth }) => depth)
  perPartition('headrace_queue_delayed_messages', 'Messages that are not yet due.', ({ delayed }) => delayed)
  perPartition('headrace_queue_dead_letters', 'Dead letters that wait for an operator.', ({ dead }) => dead)
  perPartition(
    'headrace_queue_oldest_age_seconds',
    'Age of the oldest message that is not acknowledged; 0 when none waits, left out when the engine cannot tell.',
    ({ depth, oldestPublishedAt }) =>
      oldestPublishedAt !== null ? Math.max(0, Date.now() - oldestPublishedAt) / 1_000 : depth === 0 ? 0 : null,
  )
  perGroup('headrace_queue_leased_partitions', 'Partitions that a consumer has, in whichever process.', ({ leased }) => leased)
  perGroup('headrace_queue_paused', '1 while the group is paused.', ({ paused }) => (paused ? 1 : 0))
}

async function askQueues(timeoutMs: number, failed: (engine: string) => void): Promise<Look> {
  const answers: Promise<readonly (readonly [string, GroupCounts])[]>[] = []
  tell('headrace:queue-look', () => ({
    add(engine, answer) {
      answers.push(
        within(timeoutMs, answer).then(
          (groups) => groups.map((group) => [engine, group] as const),
          () => {
            failed(engine)
            return []
          },
        ),
      )
    },
  }))
  return seriesOf((await Promise.all(answers)).flat())
}

/** Past `seriesMax` partitions a group is one series; past `seriesMax` groups the rest is left out. */
function seriesOf(found: readonly (readonly [string, GroupCounts])[]): Look {
  // Two queues of a process may share an engine and a topic: they tell the same.
  const known = new Map(found.map(([engine, counts]) => [[engine, counts.topic, counts.group].join(' '), [engine, counts] as const]))
  const groups = [...known.values()].slice(0, seriesMax)
  const whole = groups.reduce((sum, [, { partitions }]) => sum + partitions.length, 0) > seriesMax
  return {
    partitions: groups.flatMap(([engine, { topic, group, partitions }]) => {
      const labels = { engine, topic, group }
      if (whole) return [{ labels: { ...labels, partition: 'all' }, ...together(partitions) }]
      return partitions.map((counts) => ({ ...counts, labels: { ...labels, partition: String(counts.partition) } }))
    }),
    groups: groups.map(([engine, { topic, group, paused, partitions }]) => ({
      labels: { engine, topic, group },
      paused,
      leased: partitions.filter(({ leased }) => leased).length,
    })),
  }
}

function together(partitions: readonly PartitionCounts[]): Depths {
  const sum = (read: (counts: PartitionCounts) => number): number => partitions.reduce((total, counts) => total + read(counts), 0)
  const published = partitions.flatMap(({ oldestPublishedAt }) => (oldestPublishedAt === null ? [] : [oldestPublishedAt]))
  return {
    depth: sum(({ depth }) => depth),
    delayed: sum(({ delayed }) => delayed),
    dead: sum(({ dead }) => dead),
    oldestPublishedAt: published.length === 0 ? null : Math.min(...published),
  }
}

async function within<T>(ms: number, answer: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms)
  })
  try {
    return await Promise.race([answer, late])
  } finally {
    clearTimeout(timer)
  }
}
