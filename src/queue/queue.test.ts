import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import { listen } from '../contracts/diagnostics.ts'
import type { HeadraceError } from '../contracts/errors.ts'
import type { QueueEngine } from '../contracts/queue.ts'
import { sqliteQueue } from '../drivers/sqlite/queue.ts'
import { type Deferred, deferred } from '../std/deferred.ts'
import { createRandom } from '../std/random.ts'
import { createQueue, type Delivery, type Queue, type QueueOptions, Unprocessable } from './index.ts'

const directory = mkdtempSync(join(tmpdir(), 'headrace-test-queue-'))
const file = join(directory, 'queue.sqlite')
const open = new Set<Queue>()
let names = 0
const topicName = (): string => `topic-${names++}`

function queueOf(options: Partial<QueueOptions> = {}): Queue {
  const queue = createQueue({ engine: sqliteQueue({ file }), ...options })
  open.add(queue)
  return queue
}

/** Collects what a handler sees, and lets a test wait until so many are there. */
class Seen<T = Delivery> {
  readonly all: T[] = []
  #count = 0
  #waiting: { readonly count: number; readonly reached: Deferred<void> }[] = []

  add(one: T): void {
    this.all.push(one)
    this.#count += 1
    for (const { count, reached } of this.#waiting) if (this.#count >= count) reached.resolve()
  }

  async reaches(count: number): Promise<T[]> {
    const reached = deferred<void>()
    this.#waiting.push({ count, reached })
    if (this.#count >= count) reached.resolve()
    await reached.promise
    return this.all
  }
}

const code = async (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'resolved',
    (error: unknown) => (error as HeadraceError).code ?? String(error),
  )

const fast = { retryBaseMs: 1, retryMaxMs: 4, leaseTtlMs: 2_000, leaseRetryMs: 20 } as const

afterEach(async () => {
  await Promise.all([...open].map((queue) => queue.close()))
  open.clear()
})
afterAll(() => rmSync(directory, { recursive: true }))

describe('publishing and consuming', () => {
  it('handles the messages of a key in order, and those of several keys side by side', async () => {
    const queue = queueOf()
    const topic = topicName()
    await queue.declare(topic, { partitions: 4 })
    const seen = new Seen<string>()
    let running = 0
    let most = 0
    const busy = new Set<string>()
    await queue.consumer.run<number>(
      topic,
      async ({ key, value }) => {
        expect(busy.has(key), `${key} runs twice at once`).toBe(false)
        busy.add(key)
        most = Math.max(most, ++running)
        await new Promise((resolve) => setImmediate(resolve))
        running -= 1
        busy.delete(key)
        seen.add(`${key}:${value}`)
      },
      { ...fast, concurrency: 5 },
    )
    const keys = ['a', 'b', 'c', 'd', 'e', 'f', 'g']
    await Promise.all(
      Array.from({ length: 210 }, (_, index) => queue.producer.publish(topic, Math.floor(index / 7), { key: keys[index % 7] as string })),
    )
    const all = await seen.reaches(210)
    for (const key of keys)
      expect(all.filter((each) => each.startsWith(`${key}:`))).toEqual(Array.from({ length: 30 }, (_, index) => `${key}:${index}`))
    expect(most).toBe(5)
  })

  it('gives the handler value, key, id, headers and position', async () => {
    const queue = queueOf()
    const topic = topicName()
    await queue.declare(topic, { groups: ['billing'] })
    const seen = new Seen()
    await queue.consumer.run(topic, (delivery) => seen.add(delivery), { group: 'billing' })
    const headers = { type: 'order.placed', source: '/shop', traceparent: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01' }
    expect(await queue.producer.publish(topic, { sku: 'a' }, { key: 'k', id: 'id-1', headers })).toEqual({ id: 'id-1', duplicate: false })
    const [delivery] = await seen.reaches(1)
    expect(delivery).toMatchObject({
      topic,
      group: 'billing',
      key: 'k',
      id: 'id-1',
      headers,
      value: { sku: 'a' },
      attempt: 1,
      redriven: 0,
      position: 1,
    })
    expect(delivery?.epoch).toBeGreaterThan(1e15)
  })

  it('publishes nothing twice under one id while it waits', async () => {
    const queue = queueOf()
    const topic = topicName()
    const orders = await queue.declare(topic)
    await queue.producer.publish(topic, 1, { id: 'same' })
    expect(await queue.producer.publish(topic, 1, { id: 'same' })).toEqual({ id: 'same', duplicate: true })
    expect((await orders.counts()).reduce((sum, { depth }) => sum + depth, 0)).toBe(1)
  })

  it('gives batches to a batch handler, and tries a batch that fails message by message', async () => {
    const queue = queueOf()
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 1 })
    await Promise.all(Array.from({ length: 20 }, (_, index) => queue.producer.publish(topic, index, { key: `k${index % 4}` })))
    const sizes: number[] = []
    const done = new Seen<number>()
    const consumption = await queue.consumer.runBatch<number>(
      topic,
      async (deliveries) => {
        sizes.push(deliveries.length)
        if (deliveries.some(({ value }) => value === 6)) throw new Error('six')
        for (const { value } of deliveries) done.add(value)
      },
      { ...fast, batch: 20, concurrency: 1, retries: 1 },
    )
    const all = await done.reaches(19)
    expect(sizes[0]).toBe(20)
    expect(all.filter((value) => value % 4 === 1)).toEqual([1, 5, 9, 13, 17])
    expect(all).not.toContain(6)
    await expect.poll(() => consumption.stats().dead).toBe(1)
    expect((await orders.deadLetters())[0]?.message.body).toBe('6')
  })

  it('waits for room, or refuses, when a partition is full', async () => {
    const refusing = queueOf()
    const topic = topicName()
    await refusing.declare(topic, { partitions: 1, messagesMax: 3 })
    for (let index = 0; index < 3; index++) await refusing.producer.publish(topic, index)
    expect(await code(refusing.producer.publish(topic, 3))).toBe('queue-full')
    // One message in a call, so that others wait behind one that is refused.
    const waiting = queueOf({ onFull: 'wait', retryBaseMs: 1, retryMaxMs: 2, appendMessagesMax: 1 })
    const published = [3, 4, 5, 6].map((value) => waiting.producer.publish(topic, value))
    const stop = new AbortController()
    const given = waiting.producer.publish(topic, 99, { signal: stop.signal })
    stop.abort(new Error('enough'))
    await expect(given).rejects.toThrow('enough')
    const seen = new Seen<number>()
    await refusing.consumer.run<number>(topic, ({ value }) => seen.add(value), fast)
    expect(await seen.reaches(7)).toEqual([0, 1, 2, 3, 4, 5, 6])
    await Promise.all(published)
  })

  it('bounds what is on its way', async () => {
    const queue = queueOf({ inFlightMax: 2 })
    const topic = topicName()
    await queue.declare(topic)
    const codes = await Promise.all([1, 2, 3].map((value) => code(queue.producer.publish(topic, value))))
    expect(codes).toEqual(['resolved', 'resolved', 'overloaded'])
    const patient = queueOf({ inFlightMax: 2, onFull: 'wait', publishersMax: 1 })
    const all = await Promise.all([1, 2, 3, 4].map((value) => code(patient.producer.publish(topic, value))))
    expect(all).toEqual(['resolved', 'resolved', 'resolved', 'overloaded'])
  })
})

describe('failures', () => {
  it('tries a message again in its place, and lets other keys go on meanwhile', async () => {
    const queue = queueOf()
    const topic = topicName()
    await queue.declare(topic, { partitions: 1 })
    const seen = new Seen<string>()
    const consumption = await queue.consumer.run<number>(
      topic,
      async ({ key, value }) => {
        if (key === 'bad' && value === 0 && seen.all.length < 20) throw new Error('not yet')
        seen.add(`${key}:${value}`)
      },
      { ...fast, retries: 1_000 },
    )
    for (let index = 0; index < 20; index++) {
      await queue.producer.publish(topic, index, { key: 'bad' })
      await queue.producer.publish(topic, index, { key: 'good' })
    }
    const all = await seen.reaches(40)
    // All of the good key went by while the first of the bad one failed.
    expect(all.slice(0, 20)).toEqual(Array.from({ length: 20 }, (_, index) => `good:${index}`))
    expect(all.slice(20)).toEqual(Array.from({ length: 20 }, (_, index) => `bad:${index}`))
    await expect.poll(() => consumption.stats()).toMatchObject({ handled: 40, dead: 0 })
    expect(consumption.stats().retried).toBeGreaterThan(0)
  })

  it('acknowledges around a key that fails: another consumer gets that one alone', async () => {
    const queue = queueOf()
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 1 })
    const others = 6_000
    await queue.producer.publish(topic, 'fails', { key: 'fails' })
    await Promise.all(Array.from({ length: others }, (_, index) => queue.producer.publish(topic, index, { key: `k${index % 50}` })))
    const first = await queue.consumer.run(
      topic,
      ({ key }) => {
        if (key === 'fails') throw new Error('no')
      },
      { ...fast, retries: 1_000 },
    )
    // Without closing: a crash would give no more than this again.
    await expect.poll(async () => (await orders.counts())[0]?.acknowledged, { timeout: 10_000 }).toBeGreaterThanOrEqual(5_000)
    await expect.poll(() => first.stats().handled, { timeout: 10_000 }).toBe(others)
    await first.close()
    expect((await orders.counts())[0]).toMatchObject({ depth: 1, acknowledged: others + 1 })
    const seen = new Seen<unknown>()
    await queue.consumer.run(topic, ({ value }) => seen.add(value), fast)
    await queue.producer.publish(topic, 'next', { key: 'fails' })
    expect(await seen.reaches(2)).toEqual(['fails', 'next'])
    await expect.poll(async () => (await orders.counts())[0]?.depth).toBe(0)
  })

  it('makes a dead letter of what fails too often, with reason and attempts, and redrives in order', async () => {
    const queue = queueOf()
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 1 })
    let broken = true
    const seen = new Seen<number>()
    const tries = new Map<number, number>()
    const consumption = await queue.consumer.run<number>(
      topic,
      ({ value }) => {
        tries.set(value, (tries.get(value) ?? 0) + 1)
        if (broken && value < 3) throw value === 2 ? new Unprocessable('never') : new TypeError(`no ${value}`)
        seen.add(value)
      },
      { ...fast, retries: 2 },
    )
    for (let value = 0; value < 6; value++) await queue.producer.publish(topic, value, { key: 'k' })
    expect(await seen.reaches(3)).toEqual([3, 4, 5])
    expect([...tries.entries()].slice(0, 3)).toEqual([
      [0, 3],
      [1, 3],
      [2, 1],
    ])
    await expect.poll(() => consumption.stats().dead).toBe(3)
    const letters = await orders.deadLetters()
    expect(letters.map(({ message, reason }) => [message.body, reason])).toEqual([
      ['0', { code: 'handler-failed', message: 'no 0', attempts: 3 }],
      ['1', { code: 'handler-failed', message: 'no 1', attempts: 3 }],
      ['2', { code: 'unprocessable', message: 'never', attempts: 1 }],
    ])
    broken = false
    expect(await orders.redrive()).toBe(3)
    expect(await seen.reaches(6)).toEqual([3, 4, 5, 0, 1, 2])
    expect(await orders.deadLetters()).toEqual([])
  })

  it('buries a message that is not JSON, and goes on', async () => {
    const engine = sqliteQueue({ file })
    const queue = queueOf({ engine })
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 1 })
    const raw = await engine.open(topic)
    const message = { key: '', partition: 0, headers: {}, publishedAt: Date.now(), availableAt: null }
    await raw.append([{ ...message, id: 'broken', body: '{"a":' }])
    await queue.producer.publish(topic, 'fine')
    const seen = new Seen()
    await queue.consumer.run(topic, (delivery) => seen.add(delivery), fast)
    expect((await seen.reaches(1))[0]?.value).toBe('fine')
    const [letter] = await orders.deadLetters()
    expect(letter?.reason.code).toBe('message-malformed')
    expect(letter?.message.body).toBe('{"a":')
  })

  it('counts a handler that does not end in time as failed, and tells it', async () => {
    const queue = queueOf()
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 1 })
    const told = deferred<string>()
    await queue.consumer.run(
      topic,
      ({ signal }) => new Promise(() => signal.addEventListener('abort', () => told.resolve((signal.reason as HeadraceError).code))),
      { ...fast, retries: 0, handlerTimeoutMs: 20 },
    )
    await queue.producer.publish(topic, 1)
    expect(await told.promise).toBe('handler-timeout')
    await expect.poll(async () => (await orders.deadLetters())[0]?.reason.code).toBe('handler-timeout')
  })

  it('holds no more than parkedMax messages behind failing keys', async () => {
    const queue = queueOf()
    const topic = topicName()
    await queue.declare(topic, { partitions: 1 })
    await Promise.all(Array.from({ length: 300 }, (_, index) => queue.producer.publish(topic, index, { key: 'bad' })))
    const consumption = await queue.consumer.run(
      topic,
      () => {
        throw new Error('always')
      },
      { ...fast, retryBaseMs: 60_000, retryMaxMs: 60_000, parkedMax: 50, prefetch: 10 },
    )
    await expect.poll(() => consumption.stats().partitions[0]?.parked ?? 0).toBeGreaterThanOrEqual(50)
    await queue.producer.publish(topic, 0, { key: 'bad' })
    expect(consumption.stats().partitions[0]?.parked).toBeLessThanOrEqual(60)
  })
})

describe('life of a consumer', () => {
  it('pauses and resumes, here and for the whole group', async () => {
    const queue = queueOf()
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 2 })
    const seen = new Seen<number>()
    const consumption = await queue.consumer.run<number>(topic, ({ value }) => seen.add(value), fast)
    await queue.producer.publish(topic, 1)
    await seen.reaches(1)
    consumption.pause()
    await queue.producer.publish(topic, 2)
    await expect.poll(() => consumption.stats().partitions.some(({ held }) => held === 1)).toBe(true)
    expect(seen.all).toEqual([1])
    consumption.resume()
    expect(await seen.reaches(2)).toEqual([1, 2])
    await orders.pause()
    await queue.producer.publish(topic, 3)
    expect(await orders.isPaused()).toBe(true)
    expect((await orders.counts()).reduce((sum, { depth }) => sum + depth, 0)).toBe(1)
    await orders.resume()
    expect(await seen.reaches(3)).toEqual([1, 2, 3])
  })

  it('drains: what runs is finished and acknowledged, what was not begun goes to the next consumer', async () => {
    const queue = queueOf()
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 1 })
    for (let value = 0; value < 5; value++) await queue.producer.publish(topic, value, { key: 'k' })
    const begun = deferred<void>()
    const gate = deferred<void>()
    const first: number[] = []
    const consumption = await queue.consumer.run<number>(
      topic,
      async ({ value }) => {
        if (value === 1) {
          begun.resolve()
          await gate.promise
        }
        first.push(value)
      },
      fast,
    )
    await begun.promise
    const closing = consumption.close()
    gate.resolve()
    await closing
    expect(first).toEqual([0, 1])
    expect((await orders.counts())[0]).toMatchObject({ depth: 3, acknowledged: 2, leased: false })
    const seen = new Seen<number>()
    await queue.consumer.run<number>(topic, ({ value }) => seen.add(value), fast)
    expect(await seen.reaches(3)).toEqual([2, 3, 4])
  })

  it('leaves a handler that does not end after drainTimeoutMs', async () => {
    const queue = queueOf()
    const topic = topicName()
    await queue.declare(topic, { partitions: 1 })
    const begun = deferred<void>()
    const aborted = deferred<void>()
    const consumption = await queue.consumer.run(
      topic,
      ({ signal }) => {
        signal.addEventListener('abort', () => aborted.resolve())
        begun.resolve()
        return aborted.promise.then(() => new Promise(() => {}))
      },
      { ...fast, drainTimeoutMs: 30 },
    )
    await queue.producer.publish(topic, 1)
    await begun.promise
    await consumption.close()
    await aborted.promise
  })

  it('takes over what a closed consumer had, and shares partitions by partitionsMax', async () => {
    const [a, b] = [queueOf(), queueOf()]
    const topic = topicName()
    await a.declare(topic, { partitions: 4 })
    const one = await a.consumer.run(topic, () => {}, { ...fast, partitionsMax: 2 })
    await expect.poll(() => one.stats().partitions.length).toBe(2)
    const two = await b.consumer.run(topic, () => {}, fast)
    await expect.poll(() => two.stats().partitions.length).toBe(2)
    const held = one.stats().partitions.map(({ partition, epoch }) => [partition, epoch] as const)
    await one.close()
    await expect.poll(() => two.stats().partitions.length).toBe(4)
    for (const [partition, epoch] of held)
      expect(two.stats().partitions.find((each) => each.partition === partition)?.epoch).toBeGreaterThan(epoch)
  })

  it('stops its handlers when its lease was taken over, and acknowledges nothing', async () => {
    const engine = sqliteQueue({ file })
    const queue = queueOf({ engine })
    const topic = topicName()
    const orders = await queue.declare(topic, { partitions: 1 })
    const begun = deferred<void>()
    const lost = deferred<string>()
    const consumption = await queue.consumer.run(
      topic,
      ({ signal }) =>
        new Promise<void>((resolve) => {
          begun.resolve()
          signal.addEventListener('abort', () => {
            lost.resolve((signal.reason as HeadraceError).code)
            resolve()
          })
        }),
      { ...fast, leaseTtlMs: 300 },
    )
    await queue.producer.publish(topic, 1)
    await begun.promise
    const raw = await engine.open(topic)
    const answer = await raw.lease({ group: 'default', partition: 0, ttlMs: 60_000, epoch: Date.now() * 1_000 + 60_000_000 })
    expect(answer.state).toBe('granted')
    expect(await lost.promise).toBe('lease-lost')
    expect(consumption.stats().lost).toBe(1)
    expect((await orders.counts())[0]).toMatchObject({ depth: 1, acknowledged: 0 })
  })
})

describe('what a consumer tells of itself', () => {
  it('is each partition that it gets, and each message that is handled, tried again, and given up', async () => {
    const queue = queueOf()
    const topic = topicName()
    await queue.declare(topic, { partitions: 1 })
    const told: string[] = []
    const stop = listen('headrace:queue', ({ topic: of, event, messages, code: why, waitMs }) => {
      if (of === topic) told.push(`${event} ${messages} ${why} ${waitMs === null ? '-' : waitMs >= 0}`)
    })
    try {
      const consumption = await queue.consumer.run<string>(
        topic,
        ({ value }) => {
          if (value === 'bad') throw new Error('no')
        },
        { ...fast, retries: 1 },
      )
      await queue.producer.publish(topic, 'good')
      await queue.producer.publish(topic, 'bad')
      await expect.poll(() => consumption.stats().dead).toBe(1)
      expect(told).toEqual(['leased 0 null -', 'handled 1 null true', 'retried 1 handler-failed -', 'dead 1 handler-failed -'])
    } finally {
      stop()
    }
  })
})

describe('delays', () => {
  it('delivers a delayed message when it is due, and schedules by date', async () => {
    const queue = queueOf()
    const topic = topicName()
    await queue.declare(topic)
    const seen = new Seen<{ readonly value: string; readonly at: number }>()
    await queue.consumer.run<string>(topic, ({ value }) => seen.add({ value, at: Date.now() }), fast)
    await queue.producer.publish(topic, 'past', { at: new Date(Date.now() - 60_000) })
    const start = Date.now()
    await queue.producer.publish(topic, 'later', { delay: 900 })
    await queue.producer.publish(topic, 'at', { at: new Date(start + 450) })
    await queue.producer.publish(topic, 'now')
    const all = await seen.reaches(4)
    expect(all.map(({ value }) => value)).toEqual(['past', 'now', 'at', 'later'])
    expect(all[2]?.at).toBeGreaterThanOrEqual(start + 450)
    expect(all[3]?.at).toBeGreaterThanOrEqual(start + 900)
  })

  it('lets a companion hold them for an engine that cannot', async () => {
    const engine = sqliteQueue({ file })
    const without: QueueEngine = Object.create(engine, {
      capabilities: { value: { ...engine.capabilities, delays: false } },
    }) as QueueEngine
    for (const name of ['declare', 'open', 'topics', 'close'] as const)
      Object.defineProperty(without, name, { value: engine[name].bind(engine) })
    const queue = queueOf({ engine: without, companion: sqliteQueue({ file: join(directory, 'companion.sqlite') }) })
    const topic = topicName()
    await queue.declare(topic)
    const seen = new Seen()
    await queue.consumer.run(topic, (delivery) => seen.add(delivery), fast)
    const start = Date.now()
    await queue.producer.publish(topic, 'later', { delay: 100, id: 'x', key: 'k', headers: { type: 't' } })
    const [delivery] = await seen.reaches(1)
    expect(Date.now() - start).toBeGreaterThanOrEqual(95)
    expect(delivery).toMatchObject({ value: 'later', id: 'x', key: 'k', headers: { type: 't' } })
    const bare = queueOf({ engine: without })
    expect(await code(bare.producer.publish(topic, 'later', { delay: 100 }))).toBe('queue-unsupported')
  })
})

describe('bad input', () => {
  it('is refused with a code, before anything is kept', async () => {
    const queue = queueOf({ messageBytesMax: 1_000 })
    const topic = topicName()
    const orders = await queue.declare(topic)
    const cases: readonly (readonly [string, unknown, object])[] = [
      ['message-too-large', 'x'.repeat(1_001), {}],
      ['message-invalid', undefined, {}],
      ['message-invalid', () => {}, {}],
      ['message-invalid', 10n, {}],
      ['message-invalid', 1, { key: 'k'.repeat(513) }],
      ['message-invalid', 1, { key: 'a\0b' }],
      ['message-invalid', 1, { id: '' }],
      ['message-invalid', 1, { id: 'a b' }],
      ['message-invalid', 1, { id: 'x'.repeat(129) }],
      ['message-invalid', 1, { headers: { 'Bad Name': 'x' } }],
      ['message-invalid', 1, { headers: { x: 1 } }],
      ['message-invalid', 1, { headers: { x: 'y'.repeat(20_000) } }],
      ['message-invalid', 1, { delay: -1 }],
      ['message-invalid', 1, { delay: 1.5 }],
      ['message-invalid', 1, { delay: 1_700_000_000_000 }],
      ['message-invalid', 1, { at: new Date(Number.NaN) }],
      ['message-invalid', 1, { at: new Date(), delay: 1 }],
      ['option-unknown', 1, { kay: 'x' }],
    ]
    for (const [expected, value, options] of cases)
      expect(await code(queue.producer.publish(topic, value, options)), JSON.stringify(options)).toBe(expected)
    expect(await code(queue.producer.publish(topicName(), 1))).toBe('topic-unknown')
    expect(await code(queue.consumer.run(topicName(), () => {}))).toBe('topic-unknown')
    expect(await code(queue.consumer.run(topic, () => {}, { group: 'nobody' }))).toBe('topic-unknown')
    expect(await code(queue.consumer.run(topic, () => {}, { concurency: 1 } as object))).toBe('option-unknown')
    expect(await code(queue.consumer.run(topic, () => {}, { concurrency: 0 }))).toBe('option-invalid')
    expect(await code(queue.declare(topic, { partitions: 3 }))).toBe('topic-differs')
    expect(await code(queue.declare('No', {}))).toBe('topic-invalid')
    expect(await code(queue.declare(topicName(), { groups: [] }))).toBe('topic-invalid')
    expect(() => createQueue({} as never)).toThrow(/needs an engine/)
    expect(() => createQueue({ engine: queue.engine, onFul: 'wait' } as never)).toThrow(/did you mean 'onFull'/)
    expect((await orders.counts()).every(({ depth }) => depth === 0)).toBe(true)
    await queue.close()
    expect(await code(queue.producer.publish(topic, 1))).toBe('queue-closed')
  })
})

describe('order, under failures at random', () => {
  it('keeps the order of every key, loses nothing and buries only what always fails', async () => {
    const seed = Number(process.env['QUEUE_SEED'] ?? Date.now() % 1_000_000)
    const random = createRandom(seed)
    const again = `QUEUE_SEED=${seed} npx vitest run src/queue/queue.test.ts`
    const topic = topicName()
    const producer = queueOf({ onFull: 'wait' })
    await producer.declare(topic, { partitions: 3, messagesMax: 200 })
    const keys = Array.from({ length: 12 }, (_, index) => `key-${index}`)
    const poisoned = new Set<string>()
    const done = new Map<string, number[]>(keys.map((key) => [key, []]))
    const total = 600
    let handled = 0
    const finished = deferred<void>()
    const handler = async ({ key, value }: Delivery<number>): Promise<void> => {
      if (poisoned.has(`${key}:${value}`)) throw new Error('poisoned')
      if (random.chance(0.1)) throw new Error('now and then')
      if (random.chance(0.3)) await new Promise((resolve) => setImmediate(resolve))
      const seen = done.get(key) as number[]
      seen.push(value)
      handled += 1
      if (handled >= total - poisoned.size) finished.resolve()
    }
    const consumers = [queueOf(), queueOf()]
    const consume = (queue: Queue): ReturnType<Queue['consumer']['run']> =>
      queue.consumer.run(topic, handler as never, { ...fast, retries: 40, concurrency: 6, partitionsMax: 2 })
    const next = new Map(keys.map((key) => [key, 0]))
    const published: Promise<unknown>[] = []
    for (let index = 0; index < total; index++) {
      const key = random.pick(keys)
      const value = next.get(key) as number
      next.set(key, value + 1)
      if (random.chance(0.01)) poisoned.add(`${key}:${value}`)
      published.push(producer.producer.publish(topic, value, { key }))
    }
    let running = await Promise.all(consumers.map(consume))
    // A consumer that drains in the middle hands over.
    await running[0]?.close()
    running = [await consume(consumers[0] as Queue), running[1] as never]
    await Promise.all(published)
    await finished.promise
    const admin = await producer.topic(topic)
    await expect.poll(async () => (await admin.deadLetters({ limit: 1_000 })).length).toBe(poisoned.size)
    const dead = await admin.deadLetters({ limit: 1_000 })
    for (const key of keys) {
      const all = Array.from({ length: next.get(key) as number }, (_, value) => value)
      const buried = new Set(dead.filter(({ message }) => message.key === key).map(({ message }) => Number(message.body)))
      expect(new Set([...buried].map((value) => `${key}:${value}`)), again).toEqual(
        new Set([...poisoned].filter((each) => each.startsWith(`${key}:`))),
      )
      expect(done.get(key), again).toEqual(all.filter((value) => !buried.has(value)))
    }
  })
})
