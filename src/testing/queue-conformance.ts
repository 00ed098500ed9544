/**
 * What every queue engine promises, as tests. A driver's test gives the way to
 * open clients on one store, and the runner it lives in:
 *
 *   queueConformance({ describe, it }, 'postgres', { capabilities, open, crash })
 *
 * A promise that rests on a capability which the engine lacks shows as skipped.
 */
import assert from 'node:assert/strict'
import { HeadraceError, type ErrorCode } from '../contracts/errors.ts'
import type {
  Appended,
  LeaseOptions,
  NewMessage,
  QueueCapabilities,
  QueueEngine,
  QueueLease,
  QueueMessage,
  QueueTopic,
  TakeOptions,
} from '../contracts/queue.ts'
import { partitionOf } from '../queue/partition.ts'
import { pause } from '../std/backoff.ts'

export interface QueueHarness {
  readonly capabilities: QueueCapabilities
  /** Opens one more client, as another process would, on the same store. The suite closes it. */
  open(): Promise<QueueEngine>
  /** Ends a client without a word, as kill -9 ends a process: nothing is released. Resolves when the engine knows that its connection is gone. */
  crash(engine: QueueEngine): Promise<void>
}

export interface QueueRunner {
  readonly describe: (name: string, define: () => void) => void
  readonly it: { (name: string, run: () => Promise<void>): void; skip(name: string, run: () => Promise<void>): void }
}

const partitions = 4
const longTtlMs = 60_000
/** How long a message may take to one who waits for it, in milliseconds: a bound for the test, not a promise. */
const waitMs = 10_000
const all: TakeOptions = { messagesMax: 1_000, bytesMax: 64 * 1024 ** 2, waitMs }
const now: TakeOptions = { ...all, waitMs: 0 }

let names = 0
const newTopicName = (): string => `t${process.pid}-${Date.now().toString(36)}-${names++}`

let epochs = Date.now() * 1_000
/** An epoch from outside, as a lock gives them: higher than every one before. */
const nextEpoch = (): number => {
  epochs += 1
  return epochs
}

let ids = 0
function message(fields: Partial<NewMessage> = {}): NewMessage {
  const key = fields.key ?? 'k'
  return {
    key,
    partition: partitionOf(key, partitions),
    id: `m-${process.pid}-${ids++}`,
    headers: {},
    body: '{}',
    publishedAt: Date.now(),
    availableAt: null,
    ...fields,
  }
}

const numbered = (count: number, fields: Partial<NewMessage> = {}): NewMessage[] =>
  Array.from({ length: count }, (_, index) => message({ body: String(index), ...fields }))
const bodies = (messages: readonly NewMessage[]): string[] => messages.map(({ body }) => body)
const idsOf = (messages: readonly NewMessage[]): string[] => messages.map(({ id }) => id)
const states = (answers: readonly Appended[]): string[] => answers.map(({ state }) => state)
const codeIs =
  (...codes: readonly ErrorCode[]) =>
  (error: unknown) => {
    assert.ok(HeadraceError.is(error), String(error))
    assert.ok(codes.includes(error.code), `${error.code}: ${error.message}`)
    return true
  }
const home = partitionOf('k', partitions)
/** A key of another partition. */
const otherKey = Array.from({ length: 50 }, (_, index) => `o${index}`).find((key) => partitionOf(key, partitions) !== home) as string
const other = partitionOf(otherKey, partitions)

const reason = { code: 'handler-failed', message: 'it did not work', attempts: 3 }

export function queueConformance(runner: QueueRunner, name: string, harness: QueueHarness): void {
  const { describe } = runner
  const { capabilities } = harness

  interface Stage {
    readonly engine: QueueEngine
    readonly topic: QueueTopic
    /** One more client; closed by the suite. */
    another(): Promise<QueueEngine>
    /** The topic as another client sees it. */
    same(engine: QueueEngine): Promise<QueueTopic>
    /** Waits until the lease is granted. */
    lease(options?: Partial<LeaseOptions> & { readonly topic?: QueueTopic }): Promise<QueueLease>
  }

  const staged =
    (groups: readonly string[], run: (stage: Stage) => Promise<void>, messagesMax = 1_000_000) =>
    async (): Promise<void> => {
      const opened: QueueEngine[] = []
      const another = async (): Promise<QueueEngine> => {
        const engine = await harness.open()
        opened.push(engine)
        return engine
      }
      try {
        const engine = await another()
        const definition = { name: newTopicName(), partitions, groups, messagesMax }
        const topic = await engine.declare(definition)
        await run({
          engine,
          topic,
          another,
          same: (client) => client.declare(definition),
          lease: ({ topic: from = topic, ...options } = {}) => granted(from, options),
        })
      } finally {
        await Promise.all(opened.map((engine) => engine.close()))
      }
    }

  async function granted(topic: QueueTopic, options: Partial<LeaseOptions> = {}): Promise<QueueLease> {
    const deadline = performance.now() + waitMs
    for (;;) {
      const epoch = options.epoch ?? (capabilities.leases ? undefined : nextEpoch())
      const answer = await topic.lease({
        group: 'g',
        partition: home,
        ttlMs: longTtlMs,
        ...options,
        ...(epoch === undefined ? {} : { epoch }),
      })
      if (answer.state === 'granted') return answer.lease
      assert.equal(answer.state, 'held')
      assert.ok(performance.now() < deadline, `the lease was not granted within ${waitMs} ms`)
      await pause(20)
    }
  }

  /** Takes until `count` messages are there. */
  async function taken(lease: QueueLease, count: number): Promise<QueueMessage[]> {
    const messages: QueueMessage[] = []
    while (messages.length < count) {
      const batch = await lease.take(all)
      assert.ok(batch.length > 0, `only ${messages.length} of ${count} messages came within ${waitMs} ms`)
      messages.push(...batch)
    }
    return messages
  }

  const it = (promise: string, run: (stage: Stage) => Promise<void>, messagesMax?: number): void =>
    runner.it(promise, staged(['g'], run, messagesMax))
  const itIf = (can: boolean, promise: string, run: (stage: Stage) => Promise<void>, messagesMax?: number): void =>
    (can ? runner.it : runner.it.skip)(promise, staged(['g'], run, messagesMax))

  describe(`the queue engine ${name}`, () => {
    it('gives messages of a partition in the order of their append, with growing positions', async ({ topic, lease }) => {
      const sent = numbered(80)
      assert.deepEqual(new Set(states(await topic.append(sent.slice(0, 10)))), new Set(['kept']))
      for (const one of sent.slice(10, 20)) await topic.append([one])
      // Side by side, in one turn and in turns of their own: calls are kept in the order in which they were made.
      const calls = sent.slice(20, 30).map((one) => topic.append([one]))
      for (const one of sent.slice(30)) {
        await new Promise((resolve) => setImmediate(resolve))
        calls.push(topic.append([one]))
      }
      await Promise.all(calls)
      const got = await taken(await lease(), sent.length)
      assert.deepEqual(bodies(got), bodies(sent))
      const positions = got.map(({ position }) => position)
      assert.deepEqual(
        positions,
        [...new Set(positions)].sort((a, b) => a - b),
      )
    })

    it('gives back key, id, headers, body and times as they were', async ({ topic, lease }) => {
      const odd = 'käse "\'\\ \n\t\r 😀 \u2028 {}$1 %s'
      const sent = [
        message({
          body: JSON.stringify({ odd }),
          headers: { type: 'order.placed', traceparent: '00-ab', subject: odd },
          publishedAt: 1_700_000_000_123,
        }),
        message({ body: '' }),
        message({ body: 'x'.repeat(300_000) }),
        message({ id: '!"#$%&()*+,-./:;<=>?@[]^_`{|}~' }),
      ]
      await topic.append(sent)
      const reader = await lease()
      const got = await taken(reader, sent.length)
      await reader.acknowledge(got.at(-1)?.position ?? 0)
      await reader.release()
      for (const [index, { position, redriven, malformed, ...fields }] of got.entries()) {
        assert.deepEqual(fields, sent[index])
        assert.equal(redriven, 0)
        assert.equal(malformed, null)
        assert.ok(position > 0)
      }
      // Keys that look alike are other keys.
      for (const key of ['', ' ', 'Ä', 'A\u0308', 'a', 'A', 'k'.repeat(500)]) {
        const partition = partitionOf(key, partitions)
        await topic.append([message({ key })])
        const own = await lease({ partition })
        const [first] = await taken(own, 1)
        assert.equal(first?.key, key)
        await own.acknowledge(first?.position ?? 0)
        await own.release()
      }
    })

    it('keeps partitions apart', async ({ topic, lease }) => {
      const sent = [message({ key: 'k' }), message({ key: otherKey }), message({ key: 'k' })]
      await topic.append(sent)
      assert.deepEqual(idsOf(await taken(await lease(), 2)), [sent[0]?.id, sent[2]?.id])
      assert.deepEqual(idsOf(await taken(await lease({ partition: other }), 1)), [sent[1]?.id])
    })

    it('bounds a batch by messages and by bytes, and gives at least one', async ({ topic, lease }) => {
      await topic.append(numbered(10, { body: 'x'.repeat(1_000) }))
      const own = await lease()
      // An engine that is pushed to may give fewer than there are.
      const few = (await own.take({ ...all, messagesMax: 3 })).length
      assert.ok(few >= 1 && few <= 3, `${few} messages`)
      const some = await own.take({ ...all, bytesMax: 2_500 })
      assert.ok(some.length >= 1 && some.length <= 2, `${some.length} messages`)
      assert.equal((await own.take({ ...all, bytesMax: 1 })).length, 1)
      const rest = await taken(own, 10 - few - some.length - 1)
      assert.equal(rest.length, 10 - few - some.length - 1)
    })

    it('goes on after the last one taken, before anything is acknowledged', async ({ topic, lease }) => {
      const sent = numbered(6)
      await topic.append(sent)
      const own = await lease()
      const got: QueueMessage[] = []
      while (got.length < 6) got.push(...(await own.take({ ...all, messagesMax: 2 })))
      assert.deepEqual(bodies(got), bodies(sent))
      assert.deepEqual(await own.take(now), [])
    })

    it('wakes a consumer that waits when a message comes, and does not let it look now and then', async ({ lease, another, same }) => {
      const own = await lease()
      const there = await same(await another())
      const start = performance.now()
      for (let round = 0; round < 20; round++) {
        const next = own.take(all)
        // So that it waits.
        await pause(5)
        await there.append([message()])
        assert.equal((await next).length, 1)
      }
      const ms = performance.now() - start
      assert.ok(ms < 8_000, `20 messages took ${Math.round(ms)} ms`)
    })

    it('lets a take wait for the next message, from this client or another, for its time, or for its signal', async ({
      topic,
      lease,
      another,
      same,
    }) => {
      const own = await lease()
      const first = message()
      const waiting = own.take(all)
      await topic.append([first])
      assert.deepEqual(idsOf(await waiting), [first.id])
      const there = await same(await another())
      const second = message()
      const again = own.take(all)
      await there.append([second])
      assert.deepEqual(idsOf(await again), [second.id])
      assert.deepEqual(await own.take({ ...all, waitMs: 30 }), [])
      const stop = new AbortController()
      const stopped = own.take({ ...all, signal: stop.signal })
      stop.abort()
      assert.deepEqual(await stopped, [])
      assert.deepEqual(await own.take({ ...all, signal: stop.signal }), [])
      // What an ended take had asked for is not lost.
      const third = message()
      await topic.append([third])
      assert.deepEqual(idsOf(await taken(own, 1)), [third.id])
    })

    runner.it(
      'gives every message to each group, and to a new group from the next one on',
      staged(['g', 'h'], async ({ engine, topic, lease }) => {
        const sent = numbered(5)
        await topic.append(sent)
        const [g, h] = [await lease({ group: 'g' }), await lease({ group: 'h' })]
        assert.deepEqual(bodies(await taken(g, 5)), bodies(sent))
        const seen = await taken(h, 5)
        assert.deepEqual(bodies(seen), bodies(sent))
        await h.acknowledge(seen[4]?.position ?? 0)
        const wider = await engine.declare({ name: topic.name, partitions, groups: ['late'], messagesMax: 1_000 })
        assert.deepEqual(
          (await wider.groups()).filter((group) => group === 'late'),
          ['late'],
        )
        const next = message()
        await topic.append([next])
        assert.deepEqual(idsOf(await taken(await lease({ group: 'late' }), 1)), [next.id])
        assert.deepEqual(idsOf(await taken(h, 1)), [next.id])
        assert.deepEqual(idsOf(await taken(g, 1)), [next.id])
      }),
    )

    it('begins after the last acknowledged position, and gives the rest again in order', async ({ topic, lease }) => {
      const sent = numbered(10)
      await topic.append(sent)
      const first = await lease()
      const got = await taken(first, 10)
      await first.acknowledge(got[3]?.position ?? 0)
      // A lower position takes nothing back.
      await first.acknowledge(got[1]?.position ?? 0)
      await first.release()
      const second = await lease()
      const again = await taken(second, 6)
      assert.deepEqual(idsOf(again), idsOf(sent.slice(4)))
      if (capabilities.stablePositions) {
        assert.deepEqual(
          again.map(({ position }) => position),
          got.slice(4).map(({ position }) => position),
        )
      }
      assert.ok((again[0]?.position ?? 0) > (got[3]?.position ?? 0))
      await second.acknowledge(again[5]?.position ?? 0)
      await second.release()
      assert.deepEqual(await (await lease()).take(now), [])
    })

    itIf(
      capabilities.gaps,
      'keeps what is open for one group, when the others have acknowledged it, until it is purged',
      async ({ topic, engine, lease }) => {
        await engine.declare({ name: topic.name, partitions, groups: ['h'], messagesMax: 1_000_000 })
        await topic.append(numbered(6))
        const [g, h] = [await lease(), await lease({ group: 'h' })]
        const [mine, theirs] = [await taken(g, 6), await taken(h, 6)]
        await g.acknowledge(mine[5]?.position ?? 0, [mine[1]?.position ?? 0, mine[3]?.position ?? 0])
        await h.acknowledge(theirs[5]?.position ?? 0)
        await g.release()
        const again = await lease()
        assert.deepEqual(bodies(await taken(again, 2)), ['1', '3'])
        assert.equal(await topic.purge('g'), 2)
        if (capabilities.leases) await again.release()
        assert.equal((await topic.counts('g'))[home]?.depth, 0)
      },
    )

    itIf(
      capabilities.gaps,
      'leaves messages open behind the acknowledged position: the next lease begins with them, in order, after a crash too',
      async ({ topic, lease, another, same }) => {
        const sent = numbered(12)
        await topic.append(sent)
        const dying = await another()
        const first = await lease({ topic: await same(dying), ttlMs: 200 })
        const got = await taken(first, 12)
        const at = (index: number): number => got[index]?.position ?? 0
        await first.acknowledge(at(7), [at(2), at(4), at(5)])
        // What is named no more is done.
        await first.acknowledge(at(7), [at(2), at(5)])
        await harness.crash(dying)
        const second = await lease()
        const again = await taken(second, 6)
        assert.deepEqual(bodies(again), ['2', '5', '8', '9', '10', '11'])
        // What was open before and comes after the position stays open.
        await second.acknowledge(again[0]?.position ?? 0)
        await second.release()
        const third = await lease()
        const more = await taken(third, 5)
        assert.deepEqual(bodies(more), ['5', '8', '9', '10', '11'])
        await third.acknowledge(more[3]?.position ?? 0, [more[0]?.position ?? 0])
        const [counts, next] = [(await topic.counts('g'))[home], numbered(1, { body: 'next' })]
        assert.equal(counts?.depth, 2)
        if (capabilities.stablePositions) assert.equal(counts?.oldestPublishedAt, sent[5]?.publishedAt)
        if (capabilities.remembersTopics) assert.deepEqual(bodies(await topic.peek('g', home, 5)), ['5', '11'])
        await topic.append(next)
        if (capabilities.dedupes) assert.deepEqual(states(await topic.append([sent[5] as NewMessage])), ['duplicate'])
        await third.release()
        const fourth = await lease()
        const rest = await taken(fourth, 3)
        assert.deepEqual(bodies(rest), ['5', '11', 'next'])
        await fourth.acknowledge(rest[2]?.position ?? 0)
        await fourth.release()
        assert.deepEqual(await (await lease()).take(now), [])
        assert.equal((await topic.counts('g'))[home]?.depth, 0)
      },
    )

    it('gives a partition to one at a time, and the next one a higher epoch', async ({ lease, another, same }) => {
      const first = await lease()
      const there = await same(await another())
      if (capabilities.leases) {
        const answer = await there.lease({ group: 'g', partition: home, ttlMs: longTtlMs })
        assert.equal(answer.state, 'held')
        const { endsInMs } = answer as { endsInMs: number }
        assert.ok(endsInMs > 0 && endsInMs <= longTtlMs, `ends in ${endsInMs}`)
      }
      // Another partition, and another group's, are free.
      await lease({ topic: there, partition: other })
      await first.release()
      await assert.rejects(first.take(now), codeIs('lease-lost'))
      const second = await lease({ topic: there })
      assert.ok(second.epoch > first.epoch, `${second.epoch} after ${first.epoch}`)
    })

    itIf(
      capabilities.leases,
      'lets a lease run out, and refuses whatever its holder still tries',
      async ({ topic, lease, another, same }) => {
        const sent = numbered(4)
        await topic.append(sent)
        const old = await lease({ ttlMs: 150 })
        const got = await taken(old, 4)
        const there = await same(await another())
        const next = await lease({ topic: there })
        assert.ok(next.epoch > old.epoch)
        await assert.rejects(old.acknowledge(got[3]?.position ?? 0), codeIs('lease-lost'))
        await assert.rejects(old.take(now), codeIs('lease-lost'))
        await assert.rejects(old.bury(got[0] as QueueMessage, reason), codeIs('lease-lost'))
        assert.equal(await old.extend(), false)
        await old.release()
        assert.deepEqual(idsOf(await taken(next, 4)), idsOf(sent))
        assert.equal((await topic.deadLetters({ group: 'g', limit: 10 })).length, 0)
      },
    )

    itIf(capabilities.leases, 'keeps a lease that is extended', async ({ lease, topic, another, same }) => {
      const own = await lease({ ttlMs: 300 })
      const there = await same(await another())
      for (let round = 0; round < 6; round++) {
        await pause(100)
        assert.equal(await own.extend(), true)
        assert.equal((await there.lease({ group: 'g', partition: home, ttlMs: 300 })).state, 'held')
      }
      await topic.append([message()])
      assert.equal((await taken(own, 1)).length, 1)
    })

    itIf(
      capabilities.leases,
      'takes a partition over by a higher epoch from outside, and refuses a lower one',
      async ({ topic, another, same }) => {
        const epoch = nextEpoch()
        const old = await granted(topic, { epoch })
        const there = await same(await another())
        const newer = await granted(there, { epoch: epoch + 5 })
        assert.equal(newer.epoch, epoch + 5)
        await assert.rejects(old.take(now), codeIs('lease-lost'))
        const lower = await topic.lease({ group: 'g', partition: home, ttlMs: longTtlMs, epoch: epoch + 4 })
        assert.deepEqual(lower, { state: 'fenced', epoch: epoch + 5 })
        assert.deepEqual(await newer.take(now), [])
      },
    )

    runner.it(`asks for an epoch where the engine has no leases (${capabilities.leases ? 'it has' : 'it has none'})`, async () => {
      await staged(['g'], async ({ topic }) => {
        const asking = topic.lease({ group: 'g', partition: home, ttlMs: longTtlMs })
        if (capabilities.leases) assert.equal((await asking).state, 'granted')
        else await assert.rejects(asking, codeIs('queue-unsupported'))
      })()
    })

    it('gives everything again, and a higher epoch, when a consumer dies without a word', async ({ topic, another, same, lease }) => {
      const sent = numbered(5)
      await topic.append(sent)
      const doomed = await another()
      const dying = await lease({ topic: await same(doomed), ttlMs: 200 })
      const got = await taken(dying, 5)
      await dying.acknowledge(got[1]?.position ?? 0)
      await harness.crash(doomed)
      const next = await lease()
      assert.ok(next.epoch > dying.epoch)
      assert.deepEqual(idsOf(await taken(next, 3)), idsOf(sent.slice(2)))
    })

    it('keeps messages, groups and positions over the end of every client', async ({ engine, topic, lease }) => {
      const sent = numbered(6)
      await topic.append(sent)
      const first = await lease()
      const got = await taken(first, 6)
      await first.acknowledge(got[2]?.position ?? 0)
      await first.bury(got[0] as QueueMessage, reason)
      await first.release()
      await engine.close()
      const later = await harness.open()
      try {
        const again = capabilities.remembersTopics
          ? await later.open(topic.name)
          : await later.declare({ name: topic.name, partitions, groups: ['g'], messagesMax: 1_000_000 })
        assert.equal(again.partitions, partitions)
        assert.deepEqual(await again.groups(), ['g'])
        const next = await granted(again)
        assert.ok(next.epoch > first.epoch)
        assert.deepEqual(idsOf(await taken(next, 3)), idsOf(sent.slice(3)))
        assert.equal((await again.deadLetters({ group: 'g', limit: 10 })).length, 1)
      } finally {
        await later.close()
      }
    })

    it('keeps the order of each of several clients that append at once, and loses and doubles nothing', async ({
      topic,
      another,
      same,
      lease,
    }) => {
      const clients = [topic, ...(await Promise.all([0, 1].map(async () => same(await another()))))]
      await Promise.all(
        clients.map(async (client, number) => {
          for (let round = 0; round < 20; round++)
            await client.append(
              Array.from({ length: 5 }, (_, index) => message({ headers: { client: String(number) }, body: String(round * 5 + index) })),
            )
        }),
      )
      const got = await taken(await lease(), 300)
      assert.equal(new Set(idsOf(got)).size, 300)
      for (const [number] of clients.entries()) {
        const own = got.filter(({ headers }) => headers['client'] === String(number)).map(({ body }) => Number(body))
        assert.deepEqual(
          own,
          Array.from({ length: 100 }, (_, index) => index),
        )
      }
    })

    it('keeps dead letters with their reason, once, and gives them in pages', async ({ topic, lease }) => {
      const sent = numbered(4, { headers: { type: 'x' } })
      await topic.append(sent)
      const own = await lease()
      const got = await taken(own, 4)
      for (const one of got.slice(0, 3)) await own.bury(one, reason)
      await own.bury(got[1] as QueueMessage, reason)
      await own.acknowledge(got[3]?.position ?? 0)
      const first = await topic.deadLetters({ group: 'g', limit: 2 })
      const rest = await topic.deadLetters({ group: 'g', limit: 10, ...(first[1] === undefined ? {} : { after: first[1].letter }) })
      const letters = [...first, ...rest]
      assert.deepEqual(idsOf(letters.map((letter) => letter.message)), idsOf(sent.slice(0, 3)))
      assert.deepEqual(letters[0]?.reason, reason)
      assert.equal(letters[0]?.message.body, '0')
      assert.deepEqual(letters[0]?.message.headers, { type: 'x' })
      assert.ok(Math.abs((letters[0]?.diedAt ?? 0) - Date.now()) < 60_000)
      assert.deepEqual(await own.take(now), [])
    })

    runner.it(
      'gives dead letters back in order of their first append, to their group alone, and drops them',
      staged(['g', 'h'], async ({ topic, lease }) => {
        const sent = numbered(5)
        await topic.append(sent)
        const [g, h] = [await lease(), await lease({ group: 'h' })]
        const got = await taken(g, 5)
        const seen = await taken(h, 5)
        await h.acknowledge(seen[4]?.position ?? 0)
        for (const index of [3, 0, 4, 1]) await g.bury(got[index] as QueueMessage, reason)
        await g.acknowledge(got[4]?.position ?? 0)
        assert.equal((await topic.deadLetters({ group: 'h', limit: 10 })).length, 0)
        const letters = await topic.deadLetters({ group: 'g', limit: 10 })
        const letterOf = (body: string): string => letters.find((letter) => letter.message.body === body)?.letter as string
        assert.equal(await topic.drop({ group: 'g', letters: [letterOf('4')] }), 1)
        // 3 died before 1, and was appended after it.
        assert.equal(await topic.redrive({ group: 'g', letters: [letterOf('3'), letterOf('1')], limit: 1 }), 1)
        assert.equal(await topic.redrive({ group: 'g', letters: [letterOf('3'), letterOf('1')], limit: 10 }), 1)
        const again = await taken(g, 2)
        assert.deepEqual(bodies(again), ['1', '3'])
        assert.deepEqual(
          again.map(({ redriven, id }) => ({ redriven, id })),
          [1, 3].map((index) => ({ redriven: 1, id: sent[index]?.id })),
        )
        assert.ok((again[0]?.position ?? 0) > (got[4]?.position ?? 0))
        await g.bury(again[0] as QueueMessage, reason)
        assert.equal(await topic.redrive({ group: 'g', limit: 10 }), 2)
        const third = await taken(g, 2)
        assert.deepEqual(bodies(third), ['0', '1'])
        assert.deepEqual(
          third.map(({ redriven }) => redriven),
          [1, 2],
        )
        assert.equal((await topic.deadLetters({ group: 'g', limit: 10 })).length, 0)
        assert.equal(await topic.redrive({ group: 'g', limit: 10 }), 0)
        const last = message()
        await topic.append([last])
        assert.deepEqual(idsOf(await taken(h, 1)), [last.id])
      }),
    )

    itIf(capabilities.delays, 'holds a delayed message until it is due, and then gives it its place', async ({ topic, lease }) => {
      const dueAt = Date.now() + 800
      const late = [message({ body: 'late 1', availableAt: dueAt }), message({ body: 'late 2', availableAt: dueAt })]
      const sooner = message({ body: 'sooner', availableAt: dueAt - 200 })
      const past = message({ body: 'past', availableAt: 1 })
      const answers = await topic.append([...late, sooner, past])
      assert.deepEqual(states(answers), ['kept', 'kept', 'kept', 'kept'])
      const own = await lease()
      assert.deepEqual(bodies(await own.take(now)), ['past'])
      assert.equal((await topic.counts('g'))[home]?.delayed, 3)
      const rest = await taken(own, 3)
      assert.ok(Date.now() >= dueAt - 5, `${dueAt - Date.now()} ms early`)
      assert.deepEqual(bodies(rest), ['sooner', 'late 1', 'late 2'])
      assert.equal(rest[1]?.availableAt, dueAt)
      assert.equal((await topic.counts('g'))[home]?.delayed, 0)
    })

    it('keeps the order of append whatever the clocks of publishers say', async ({ topic, lease }) => {
      const years = 10 * 365 * 86_400_000
      const wrong = [Date.now() + years, 0, Date.now() - years, Date.now()]
      const sent = wrong.map((publishedAt, index) => message({ publishedAt, availableAt: index === 1 ? 1 : null }))
      assert.deepEqual(new Set(states(await topic.append(sent))), new Set(['kept']))
      const own = await lease()
      const got = await taken(own, sent.length)
      assert.deepEqual(idsOf(got), idsOf(sent))
      assert.deepEqual(
        got.map(({ publishedAt }) => publishedAt),
        wrong,
      )
      assert.equal((await topic.counts('g'))[home]?.oldestPublishedAt, wrong[0])
    })

    itIf(!capabilities.delays, 'refuses a delayed message that it cannot hold', async ({ topic }) => {
      await assert.rejects(topic.append([message({ availableAt: Date.now() + 60_000 })]), codeIs('queue-unsupported'))
    })

    itIf(capabilities.dedupes, 'does not append an id twice while it waits', async ({ topic, lease, another, same }) => {
      const [a, b] = numbered(2) as [NewMessage, NewMessage]
      assert.deepEqual(states(await topic.append([a, a])), ['kept', 'duplicate'])
      const there = await same(await another())
      assert.deepEqual(states(await there.append([a, b])), ['duplicate', 'kept'])
      const own = await lease()
      const got = await taken(own, 2)
      assert.deepEqual(idsOf(got), [a.id, b.id])
      assert.deepEqual(await own.take(now), [])
      if (!capabilities.delays) return
      const held = message({ availableAt: Date.now() + 60_000 })
      assert.deepEqual(states(await topic.append([held, held, { ...held, availableAt: null }])), ['kept', 'duplicate', 'duplicate'])
    })

    it('refuses what goes past the bound of a partition, and takes messages again when some are acknowledged', async ({ topic, lease }) => {
      const sent = numbered(14)
      const answers = await topic.append(sent)
      const kept = answers.filter(({ state }) => state === 'kept').length
      assert.ok(answers.every(({ state }) => state === 'kept' || state === 'full'))
      if (capabilities.exactBounds)
        assert.deepEqual(
          states(answers),
          sent.map((_, index) => (index < 10 ? 'kept' : 'full')),
        )
      else assert.ok(kept >= 10 && kept < 14, `${kept} kept of a bound of 10`)
      // Another partition has room.
      assert.deepEqual(states(await topic.append([message({ key: otherKey })])), ['kept'])
      const own = await lease()
      const got = await taken(own, kept)
      await own.acknowledge(got[kept - 1]?.position ?? 0)
      assert.deepEqual(states(await topic.append([message()])), ['kept'])
      assert.equal((await taken(own, 1)).length, 1)
    }, 10)

    it('counts depth, dead letters and the age of the oldest message', async ({ topic, lease, engine }) => {
      const empty = await topic.counts('g')
      assert.deepEqual(
        empty.map(({ partition }) => partition),
        [0, 1, 2, 3],
      )
      assert.ok(empty.every(({ depth, dead, delayed, leased }) => depth === 0 && dead === 0 && delayed === 0 && !leased))
      await topic.append([...numbered(3, { publishedAt: 1_700_000_000_000 }), message()])
      const own = await lease()
      const got = await taken(own, 4)
      await own.bury(got[0] as QueueMessage, reason)
      await own.acknowledge(got[2]?.position ?? 0)
      const counts = (await topic.counts('g'))[home]
      assert.equal(counts?.depth, 1)
      assert.equal(counts?.dead, 1)
      assert.equal(counts?.leased, true)
      assert.equal(counts?.epoch, own.epoch)
      assert.equal(counts?.acknowledged, got[2]?.position)
      assert.ok(counts?.oldestPublishedAt === null || (counts?.oldestPublishedAt ?? 0) > 1_700_000_000_000)
      if (capabilities.remembersTopics) assert.ok((await engine.topics()).includes(topic.name))
    })

    it('counts the dead letters of each partition as they come and go, whoever buries them', async ({ topic, lease, same, another }) => {
      await topic.append([message(), message({ key: otherKey })])
      const [own, its] = [await lease(), await lease({ partition: other, topic: await same(await another()) })]
      const dead = async (): Promise<number[]> => {
        const counts = await topic.counts('g')
        return [counts[home]?.dead ?? -1, counts[other]?.dead ?? -1]
      }
      await own.bury((await taken(own, 1))[0] as QueueMessage, reason)
      assert.deepEqual(await dead(), [1, 0])
      const [letter] = await topic.deadLetters({ group: 'g', limit: 1 })
      assert.equal(await topic.drop({ group: 'g', letters: [letter?.letter as string] }), 1)
      await its.bury((await taken(its, 1))[0] as QueueMessage, reason)
      assert.deepEqual(await dead(), [0, 1])
      assert.equal(await topic.redrive({ group: 'g', limit: 10 }), 1)
      assert.deepEqual(await dead(), [0, 0])
    })

    itIf(
      !capabilities.remembersTopics,
      'finds a topic that another process declared by looking at it, and makes nothing',
      async ({ topic, another }) => {
        await topic.append([message()])
        const there = await another()
        assert.ok(there.find !== undefined)
        const found = await there.find(topic.name, ['g'])
        assert.equal(found.partitions, partitions)
        assert.deepEqual(await found.groups(), ['g'])
        assert.equal((await found.counts('g'))[home]?.depth, 1)
        await assert.rejects(there.find(topic.name, ['g', 'nobody']), codeIs('topic-unknown'))
        const unknown = newTopicName()
        for (let tries = 0; tries < 2; tries++) await assert.rejects(there.find(unknown, ['g']), codeIs('topic-unknown'))
      },
    )

    it('shows what comes next without taking it', async ({ topic, lease }) => {
      const sent = numbered(3)
      await topic.append(sent)
      assert.deepEqual(idsOf(await topic.peek('g', home, 2)), idsOf(sent.slice(0, 2)))
      assert.deepEqual(await topic.peek('g', other, 2), [])
      assert.deepEqual(idsOf(await taken(await lease(), 3)), idsOf(sent))
    })

    it('leaves the order as it was, however often and however far somebody looks', async ({ topic, lease }) => {
      const sent = numbered(9)
      await topic.append(sent)
      for (const limit of [9, 2, 5, 1, 9]) assert.deepEqual(idsOf(await topic.peek('g', home, limit)), idsOf(sent.slice(0, limit)))
      const own = await lease()
      const got = await taken(own, 9)
      assert.deepEqual(idsOf(got), idsOf(sent))
      for (const one of got) await own.bury(one, reason)
      for (const limit of [9, 4, 1]) {
        const letters = await topic.deadLetters({ group: 'g', limit })
        assert.deepEqual(idsOf(letters.map((letter) => letter.message)), idsOf(sent.slice(0, limit)))
      }
    })

    runner.it(
      'purges what waits for one group, and nothing of another',
      staged(['g', 'h'], async ({ topic, lease }) => {
        await topic.append([...numbered(3), message({ key: otherKey })])
        assert.equal(await topic.purge('g'), 4)
        const next = message()
        await topic.append([next])
        assert.deepEqual(idsOf(await taken(await lease(), 1)), [next.id])
        assert.equal((await taken(await lease({ group: 'h' }), 4)).length, 4)
      }),
    )

    itIf(capabilities.pauses, 'gives nothing to a group that is paused, until it is resumed', async ({ topic, lease, another, same }) => {
      const own = await lease()
      const there = await same(await another())
      await there.setPaused('g', true)
      assert.equal(await topic.isPaused('g'), true)
      await topic.append([message()])
      assert.deepEqual(await own.take({ ...all, waitMs: 50 }), [])
      const waiting = own.take(all)
      await there.setPaused('g', false)
      assert.equal((await waiting).length, 1)
    })

    it('refuses another number of partitions, and topics and groups that nobody declared', async ({ engine, topic }) => {
      await assert.rejects(
        engine.declare({ name: topic.name, partitions: partitions + 1, groups: ['g'], messagesMax: 10 }),
        codeIs('topic-differs'),
      )
      await assert.rejects(engine.open(newTopicName()), codeIs('topic-unknown', 'queue-unsupported'))
      await assert.rejects(granted(topic, { group: 'nobody' }), codeIs('topic-unknown'))
      await assert.rejects(topic.counts('nobody'), codeIs('topic-unknown'))
      for (const bad of ['', 'UPPER', 'a b', '-a', `x${'y'.repeat(64)}`])
        await assert.rejects(engine.declare({ name: bad, partitions, groups: ['g'], messagesMax: 10 }), codeIs('topic-invalid'))
      await assert.rejects(engine.declare({ name: newTopicName(), partitions, groups: ['Bad'], messagesMax: 10 }), codeIs('topic-invalid'))
      for (const bad of [0, 1.5, 5_000])
        await assert.rejects(
          engine.declare({ name: newTopicName(), partitions: bad, groups: ['g'], messagesMax: 10 }),
          codeIs('option-invalid'),
        )
    })

    it('ends a waiting take, and refuses calls, when the client is closed', async ({ engine, topic, lease }) => {
      const own = await lease()
      const waiting = own.take(all).then(
        (batch) => batch.length,
        (error: unknown) => (error as HeadraceError).code,
      )
      await engine.close()
      await engine.close()
      assert.ok([0, 'queue-closed', 'lease-lost'].includes(await waiting))
      await assert.rejects(topic.append([message()]), codeIs('queue-closed'))
      await assert.rejects(engine.declare({ name: newTopicName(), partitions, groups: ['g'], messagesMax: 10 }), codeIs('queue-closed'))
    })
  })
}
