import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Registry } from 'prom-client'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { listen } from '../contracts/diagnostics.ts'
import type { GroupCounts, PartitionCounts } from '../contracts/queue.ts'
import { sqliteQueue } from '../drivers/sqlite/index.ts'
import { createQueue, type Queue, Unprocessable } from '../queue/index.ts'
import { listenToQueues } from './queue-metrics.ts'
import { seriesMax } from './series.ts'

const folder = mkdtempSync(join(tmpdir(), 'headrace-queue-metrics-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const closers: (() => void | Promise<void>)[] = []
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close()
})

let files = 0
function opened(): Queue {
  const queue = createQueue({ engine: sqliteQueue({ file: join(folder, `${files++}.sqlite`) }), onError: () => {} })
  closers.push(() => queue.close())
  return queue
}

/** The value of a series in a scrape, by its name and labels; undefined when it is not there. */
type Scrape = (series: string) => number | undefined

function listening(lookTimeoutMs?: number): () => Promise<Scrape> {
  const registry = new Registry()
  closers.push(...listenToQueues(registry, [0.1, 1, 60], lookTimeoutMs))
  return async () => {
    const lines = (await registry.metrics()).split('\n')
    return (series) => {
      const line = lines.find((each) => each.startsWith(`${series} `))
      return line === undefined ? undefined : Number(line.slice(series.length + 1))
    }
  }
}

const partition = (fields: Partial<PartitionCounts>): PartitionCounts => ({
  partition: 0,
  depth: 0,
  delayed: 0,
  dead: 0,
  oldestPublishedAt: null,
  acknowledged: 0,
  epoch: 0,
  leased: false,
  ...fields,
})

const answers = (engine: string, answer: () => Promise<readonly GroupCounts[]>): void => {
  closers.push(listen('headrace:queue-look', ({ add }) => add(engine, answer())))
}

describe('what happens on queues is counted', () => {
  test('published, handled, tried again and dead, by topic and group, from a queue that runs', async () => {
    const scrape = listening()
    const queue = opened()
    await queue.declare('orders', { partitions: 2, groups: ['mail'] })
    const publish = (body: string, id: string) => queue.producer.publish('orders', body, { key: body, id })
    await Promise.all([publish('good', '1'), publish('shaky', '2'), publish('bad', '3')])
    await publish('good', '1')
    await expect(queue.producer.publish('orders', 'x', { id: 'y'.repeat(200) })).rejects.toMatchObject({ code: 'message-invalid' })
    const published = await scrape()
    expect(published('headrace_queue_published_messages_total{topic="orders"}')).toBe(4)
    expect(published('headrace_queue_duplicate_messages_total{topic="orders"}')).toBe(1)
    expect(published('headrace_queue_refused_messages_total{topic="orders",code="message-invalid"}')).toBe(1)
    expect(published('headrace_queue_publish_duration_seconds_count{topic="orders"}')).toBeGreaterThanOrEqual(2)

    let handled = 0
    const done = new Promise<void>((resolve) => {
      closers.push(
        listen('headrace:queue', ({ event }) => {
          if (event === 'handled' || event === 'dead') handled += 1
          if (handled === 3) resolve()
        }),
      )
    })
    await queue.consumer.run(
      'orders',
      ({ value, attempt }) => {
        if (value === 'bad') throw new Unprocessable('no')
        if (value === 'shaky' && attempt === 1) throw new Error('not yet')
      },
      { group: 'mail', retryBaseMs: 1 },
    )
    await done
    const consumed = await scrape()
    const of = 'topic="orders",group="mail"'
    expect(consumed(`headrace_queue_handled_messages_total{${of}}`)).toBe(2)
    expect(consumed(`headrace_queue_retried_messages_total{${of},code="handler-failed"}`)).toBe(1)
    expect(consumed(`headrace_queue_dead_messages_total{${of},code="unprocessable"}`)).toBe(1)
    expect(consumed(`headrace_queue_leases_total{${of},event="leased"}`)).toBe(2)
    expect(consumed(`headrace_queue_delivery_seconds_count{${of}}`)).toBe(2)
    expect(consumed(`headrace_queue_delivery_seconds_bucket{${of},le="60"}`)).toBe(2)
    expect(consumed(`headrace_queue_leased_partitions{engine="sqlite",${of}}`)).toBe(2)
  })

  test('a message that a full partition refuses, and no more than were kept', async () => {
    const scrape = listening()
    const queue = opened()
    await queue.declare('small', { partitions: 1, messagesMax: 2 })
    const results = await Promise.allSettled([1, 2, 3].map((value) => queue.producer.publish('small', value)))
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled', 'rejected'])
    const seen = await scrape()
    expect(seen('headrace_queue_published_messages_total{topic="small"}')).toBe(2)
    expect(seen('headrace_queue_refused_messages_total{topic="small",code="queue-full"}')).toBe(1)
  })
})

describe('depths are asked for at each scrape', () => {
  test('of every topic that an open queue uses, by group and partition; of none that is closed', async () => {
    const scrape = listening()
    const queue = opened()
    await queue.declare('orders', { partitions: 2, groups: ['a', 'b'] })
    const hourAgo = Date.now() - 3_600_000
    await queue.engine.open('orders').then((topic) =>
      topic.append(
        [0, 0, 1].map((where, index) => ({
          partition: where,
          key: '',
          id: `m${index}`,
          headers: {},
          body: '1',
          publishedAt: hourAgo,
          availableAt: null,
        })),
      ),
    )
    await queue.producer.publish('orders', 'later', { key: 'k', delay: 600_000 })
    await (await queue.topic('orders')).pause('b')
    const seen = await scrape()
    const at = (metric: string, group: string, where: number): number | undefined =>
      seen(`${metric}{engine="sqlite",topic="orders",group="${group}",partition="${where}"}`)
    expect([at('headrace_queue_depth_messages', 'a', 0), at('headrace_queue_depth_messages', 'b', 1)]).toEqual([2, 1])
    expect((at('headrace_queue_delayed_messages', 'a', 0) ?? 0) + (at('headrace_queue_delayed_messages', 'a', 1) ?? 0)).toBe(1)
    expect(at('headrace_queue_dead_letters', 'a', 0)).toBe(0)
    expect(at('headrace_queue_oldest_age_seconds', 'a', 0)).toBeGreaterThanOrEqual(3_600)
    expect(at('headrace_queue_oldest_age_seconds', 'a', 0)).toBeLessThan(3_660)
    expect(seen('headrace_queue_paused{engine="sqlite",topic="orders",group="b"}')).toBe(1)
    expect(seen('headrace_queue_paused{engine="sqlite",topic="orders",group="a"}')).toBe(0)

    await (await queue.topic('orders')).purge('a')
    expect((await scrape())('headrace_queue_depth_messages{engine="sqlite",topic="orders",group="a",partition="0"}')).toBe(0)
    await queue.close()
    expect((await scrape())('headrace_queue_depth_messages{engine="sqlite",topic="orders",group="a",partition="0"}')).toBeUndefined()
  })

  test('within a bound of time: what an engine does not answer is left out and counted, and the rest is there', async () => {
    const scrape = listening(30)
    const queue = opened()
    await queue.declare('orders', { partitions: 1 })
    answers('away', () => new Promise(() => {}))
    answers('broken', () => Promise.reject(new Error('gone')))
    const seen = await scrape()
    expect(seen('headrace_queue_depth_messages{engine="sqlite",topic="orders",group="default",partition="0"}')).toBe(0)
    const again = await scrape()
    expect(again('headrace_queue_look_failures_total{engine="away"}')).toBeGreaterThanOrEqual(1)
    expect(again('headrace_queue_look_failures_total{engine="broken"}')).toBeGreaterThanOrEqual(1)
    expect(again('headrace_queue_look_failures_total{engine="sqlite"}')).toBeUndefined()
  })

  test('once for all gauges of a scrape', async () => {
    const scrape = listening()
    let asked = 0
    answers('counting', async () => {
      asked += 1
      return []
    })
    await scrape()
    expect(asked).toBe(1)
    await scrape()
    expect(asked).toBe(2)
  })

  test('with a bounded number of series: past it a group is told as a whole', async () => {
    const scrape = listening()
    const many = Array.from({ length: seriesMax + 1 }, (_, index) =>
      partition({ partition: index, depth: 2, dead: 1, oldestPublishedAt: Date.now() - index * 1_000 }),
    )
    answers('big', async () => [{ topic: 't', group: 'g', paused: false, partitions: many }])
    const seen = await scrape()
    const all = 'engine="big",topic="t",group="g",partition="all"'
    expect(seen(`headrace_queue_depth_messages{${all}}`)).toBe(2 * (seriesMax + 1))
    expect(seen(`headrace_queue_dead_letters{${all}}`)).toBe(seriesMax + 1)
    expect(seen(`headrace_queue_oldest_age_seconds{${all}}`)).toBeGreaterThanOrEqual(seriesMax)
    expect(seen('headrace_queue_depth_messages{engine="big",topic="t",group="g",partition="0"}')).toBeUndefined()
  })

  test('with no age where messages wait and the engine cannot tell it', async () => {
    const scrape = listening()
    answers('blind', async () => [
      { topic: 't', group: 'g', paused: false, partitions: [partition({ depth: 3 }), partition({ partition: 1 })] },
    ])
    const seen = await scrape()
    expect(seen('headrace_queue_oldest_age_seconds{engine="blind",topic="t",group="g",partition="0"}')).toBeUndefined()
    expect(seen('headrace_queue_oldest_age_seconds{engine="blind",topic="t",group="g",partition="1"}')).toBe(0)
  })
})
