/**
 * What inbox and outbox promise on every database, as tests. The harness gives
 * a database with a table `ledger (id text primary key, n integer)`, and the
 * tables of both.
 */
import assert from 'node:assert/strict'
import { HeadraceError } from '../contracts/errors.ts'
import type { QueueEngine } from '../contracts/queue.ts'
import { createInbox, type InboxEngine, type Transact } from '../queue/inbox.ts'
import type { Delivery } from '../queue/message.ts'
import { addToOutbox, startOutboxRelay } from '../queue/outbox.ts'
import { createQueue } from '../queue/queue.ts'
import { deferred } from '../std/deferred.ts'
import type { TestRunner } from './lock-conformance.ts'

export interface InboxHarness {
  readonly engine: InboxEngine
  /** A client of the database. */
  transact(): Transact
  queue(): Promise<QueueEngine>
  /** True when transactions of one client run side by side. */
  readonly concurrent: boolean
}

let names = 0
const newName = (): string => `inbox-${process.pid}-${Date.now().toString(36)}-${names++}`

const delivery = (fields: Partial<Delivery>): Delivery => ({
  topic: 't',
  group: 'g',
  partition: 0,
  position: 1,
  epoch: 1,
  id: 'id',
  key: 'k',
  headers: {},
  value: 1,
  body: '1',
  publishedAt: 0,
  attempt: 1,
  redriven: 0,
  signal: new AbortController().signal,
  ...fields,
})

const isFenced = (error: unknown): boolean => HeadraceError.is(error) && error.code === 'fenced'

export function inboxConformance({ describe, it }: TestRunner, name: string, harness: InboxHarness): void {
  const { engine } = harness
  const count = async (transact: Transact, id: string): Promise<number> => {
    const [row] = await transact((database) => database.selectIn('ledger', 'id', [id]))
    return Number(row?.['n'] ?? 0)
  }

  describe(`the inbox on ${name}`, () => {
    it('does the work of a message once, however often it is delivered', async () => {
      const transact = harness.transact()
      const topic = newName()
      const handle = createInbox({ engine, transact }).once(async ({ id }, database) => {
        await database.upsertMany('ledger', 'id', [{ id: `${topic}:${id}`, n: 1 }], { add: ['n'] })
      })
      for (const epoch of [5, 5, 6]) for (const id of ['a', 'b']) await handle(delivery({ topic, id, epoch }))
      // Another process, under a newer epoch.
      await createInbox({ engine, transact: harness.transact() }).once(() => assert.fail('done already'))(
        delivery({ topic, id: 'a', epoch: 7 }),
      )
      assert.equal(await count(transact, `${topic}:a`), 1)
      assert.equal(await count(transact, `${topic}:b`), 1)
    })

    it('remembers nothing of a handler that failed', async () => {
      const transact = harness.transact()
      const topic = newName()
      let fails = true
      const handle = createInbox({ engine, transact }).once(async ({ id }, database) => {
        await database.upsertMany('ledger', 'id', [{ id: `${topic}:${id}`, n: 1 }], { add: ['n'] })
        if (fails) throw new Error('not yet')
      })
      await assert.rejects(handle(delivery({ topic })), /not yet/)
      assert.equal(await count(transact, `${topic}:id`), 0)
      fails = false
      await handle(delivery({ topic }))
      assert.equal(await count(transact, `${topic}:id`), 1)
    })

    it('refuses an older consumer in the database, also in the middle of its batch', async () => {
      const [mine, theirs] = [harness.transact(), harness.transact()]
      const topic = newName()
      const old = createInbox({ engine, transact: mine })
      const add = (id: string) => async (_: Delivery, database: Parameters<Parameters<Transact>[0]>[0]) => {
        await database.upsertMany('ledger', 'id', [{ id: `${topic}:${id}`, n: 1 }], { add: ['n'] })
      }
      await old.once(add('1'))(delivery({ topic, id: '1', epoch: 10 }))
      await createInbox({ engine, transact: theirs }).once(add('2'))(delivery({ topic, id: '2', epoch: 11 }))
      await assert.rejects(old.once(add('3'))(delivery({ topic, id: '3', epoch: 10 })), isFenced)
      assert.equal(await count(theirs, `${topic}:3`), 0)
      // And one that comes late, with an inbox of its own that has claimed nothing.
      await assert.rejects(createInbox({ engine, transact: mine }).once(add('4'))(delivery({ topic, id: '4', epoch: 9 })), isFenced)
      assert.equal(await count(theirs, `${topic}:4`), 0)
    })

    if (harness.concurrent) {
      it('lets a takeover wait for a handler that is in the middle, and see what it did', async () => {
        const [mine, theirs] = [harness.transact(), harness.transact()]
        const topic = newName()
        const begun = deferred<void>()
        const gate = deferred<void>()
        const slow = createInbox({ engine, transact: mine }).once(async (_, database) => {
          begun.resolve()
          await gate.promise
          await database.upsertMany('ledger', 'id', [{ id: topic, n: 1 }], { add: ['n'] })
        })(delivery({ topic, epoch: 20 }))
        await begun.promise
        const next = createInbox({ engine, transact: theirs }).once(() => assert.fail('done already'))(delivery({ topic, epoch: 21 }))
        setTimeout(() => gate.resolve(), 50)
        await slow
        await next
        assert.equal(await count(theirs, topic), 1)
      })

      it('runs the handlers of one consumer side by side', async () => {
        const transact = harness.transact()
        const topic = newName()
        const both = deferred<void>()
        let running = 0
        const handle = createInbox({ engine, transact }).once(async () => {
          if (++running === 2) both.resolve()
          await both.promise
        })
        await Promise.all(['a', 'b'].map((id) => handle(delivery({ topic, id, epoch: 3 }))))
      })
    }

    it('gives a batch handler only what is not done, and forgets after the retention', async () => {
      const transact = harness.transact()
      const topic = newName()
      const inbox = createInbox({ engine, transact, retentionMs: 1_000 })
      const seen: string[][] = []
      const handle = inbox.onceBatch((fresh) => void seen.push(fresh.map(({ id }) => id)))
      await handle(['a', 'b'].map((id) => delivery({ topic, id })))
      await handle(['b', 'c', 'c'].map((id) => delivery({ topic, id })))
      await handle([delivery({ topic, id: 'a' })])
      assert.deepEqual(seen, [['a', 'b'], ['c']])
      await transact((database) => database.updateMany('message_inbox', 'mark', [{ mark: `${topic}/g/0/a`, at: 1 }]))
      assert.ok((await inbox.prune()) >= 1)
      await handle([delivery({ topic, id: 'a' })])
      assert.deepEqual(seen.at(-1), ['a'])
    })
  })

  describe(`the outbox on ${name}`, () => {
    const stage = async (run: (topic: string, queueEngine: QueueEngine, transact: Transact) => Promise<void>): Promise<void> => {
      const queueEngine = await harness.queue()
      const topic = newName()
      await queueEngine.declare({ name: topic, partitions: 2, groups: ['default'], messagesMax: 100_000 })
      try {
        await run(topic, queueEngine, harness.transact())
      } finally {
        await queueEngine.close()
      }
    }
    const depth = async (queueEngine: QueueEngine, topic: string): Promise<number> =>
      (await (await queueEngine.open(topic)).counts('default')).reduce((sum, each) => sum + each.depth, 0)
    const rows = (transact: Transact, topic: string): Promise<number> =>
      transact(async (database) => (await database.selectIn('message_outbox', 'topic', [topic])).length)

    it('publishes what was committed, in order per key, and nothing that was rolled back', () =>
      stage(async (topic, queueEngine, transact) => {
        for (let value = 0; value < 20; value++) {
          const key = `k${value % 2}`
          const adding = transact(async (database) => {
            await addToOutbox(database, [{ topic, message: value, key, headers: { type: 'x' } }])
            if (value % 5 === 4) throw new Error('changed my mind')
          })
          if (value % 5 === 4) await assert.rejects(adding, /changed my mind/)
          else await adding
        }
        const queue = createQueue({ engine: queueEngine })
        const seen: Delivery<number>[] = []
        const all = deferred<void>()
        await queue.consumer.run<number>(topic, (one) => {
          seen.push(one)
          if (seen.length === 16) all.resolve()
        })
        await using relay = startOutboxRelay({ engine: queueEngine, transact, batch: 3 })
        await all.promise
        const kept = Array.from({ length: 20 }, (_, value) => value).filter((value) => value % 5 !== 4)
        for (const odd of [0, 1])
          assert.deepEqual(
            seen.filter(({ key }) => key === `k${odd}`).map(({ value }) => value),
            kept.filter((value) => value % 2 === odd),
          )
        assert.deepEqual(seen[0]?.headers, { type: 'x' })
        await relay.close()
        assert.equal(await rows(transact, topic), 0)
        await queue.close()
      }))

    it('keeps a delayed message until it is due, and sets aside what has no topic', () =>
      stage(async (topic, queueEngine, transact) => {
        const missing = newName()
        const start = Date.now()
        await transact((database) =>
          addToOutbox(database, [
            { topic: missing, message: 0 },
            { topic, message: 'later', delay: 150 },
            { topic, message: 'now' },
          ]),
        )
        const told = deferred<string>()
        await using relay = startOutboxRelay({ engine: queueEngine, transact, onError: (error) => told.resolve(error.code) })
        assert.equal(await told.promise, 'topic-unknown')
        while (relay.published < 2) await new Promise((resolve) => setTimeout(resolve, 5))
        assert.ok(Date.now() - start >= 150, 'too early')
        assert.equal(await depth(queueEngine, topic), 2)
        assert.equal(await rows(transact, missing), 1)
        assert.equal(await rows(transact, topic), 0)
      }))

    it('publishes again under the same id what was durable but not dropped when a relay died', () =>
      stage(async (topic, queueEngine, transact) => {
        const [id] = await transact((database) => addToOutbox(database, [{ topic, message: 1, key: 'k' }]))
        const row = await transact((database) => database.selectIn('message_outbox', 'topic', [topic]))
        {
          await using relay = startOutboxRelay({ engine: queueEngine, transact })
          while (relay.published < 1) await new Promise((resolve) => setTimeout(resolve, 5))
        }
        // As a crash between the append and the drop leaves it.
        const [{ n: _, ...again } = {}] = row
        await transact((database) => database.insertMany('message_outbox', [again]))
        await using relay = startOutboxRelay({ engine: queueEngine, transact })
        while (relay.published < 1) await new Promise((resolve) => setTimeout(resolve, 5))
        const queueTopic = await queueEngine.open(topic)
        const both = (await Promise.all([0, 1].map((partition) => queueTopic.peek('default', partition, 10)))).flat()
        assert.ok(both.length >= 1 && both.every((one) => one.id === id))
      }))

    it('lets one relay work at a time, and the next one go on when it ends', () =>
      stage(async (topic, queueEngine, transact) => {
        const first = startOutboxRelay({ engine: queueEngine, transact })
        await transact((database) => addToOutbox(database, [{ topic, message: 1 }]))
        while (first.published < 1) await new Promise((resolve) => setTimeout(resolve, 5))
        await using second = startOutboxRelay({ engine: queueEngine, transact: harness.transact() })
        // Over several rounds of both.
        for (let value = 2; value <= 20; value++) {
          await transact((database) => addToOutbox(database, [{ topic, message: value }]))
          await new Promise((resolve) => setTimeout(resolve, 10))
        }
        while (first.published + second.published < 20) await new Promise((resolve) => setTimeout(resolve, 5))
        assert.equal(second.published, 0)
        await first.close()
        await transact((database) => addToOutbox(database, [{ topic, message: 21 }]))
        while (second.published < 1) await new Promise((resolve) => setTimeout(resolve, 5))
        assert.equal(await depth(queueEngine, topic), 21)
      }))
  })
}
