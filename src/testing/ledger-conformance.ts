/**
 * What every ledger promises (contracts/ledger.ts), as tests. A driver's test
 * gives the way to make stores and to open ledgers on them, and the runner it
 * lives in:
 *
 *   ledgerConformance({ describe, it }, 'sqlite', { create })
 */
import assert from 'node:assert/strict'
import { HeadraceError } from '../contracts/errors.ts'
import type { Ledger, Transaction } from '../contracts/ledger.ts'
import { databaseConformance } from './database-conformance.ts'
import {
  both,
  codeOf,
  commitOf,
  deadOf,
  entryOf,
  everything,
  type LedgerHarness,
  none,
  type OnStore,
  outcomeOf,
  recordOf,
} from './ledger-harness.ts'
import { ledgerModel } from './ledger-model.ts'
import type { TestRunner } from './lock-conformance.ts'

export type { LedgerHarness, LedgerStore, OpenLedgerOptions } from './ledger-harness.ts'

const positions = (entries: readonly { readonly position: number }[]): number[] => entries.map(({ position }) => position)

async function itemsOf(ledger: Ledger, database: string): Promise<[unknown, unknown][]> {
  return (await ledger.reader(database).sql<{ id: string; n: number }>`select id, n from item order by id`).map(({ id, n }) => [
    id,
    Number(n),
  ])
}

export function ledgerConformance({ describe, it }: TestRunner, engine: string, harness: LedgerHarness): void {
  const onStore: OnStore = (name, run) =>
    it(name, async () => {
      const store = await harness.create()
      const opened: Ledger[] = []
      try {
        await run(async (options) => {
          const ledger = await store.open(options)
          opened.push(ledger)
          return ledger
        })
      } finally {
        for (const ledger of opened) await ledger.close().catch(() => undefined)
        await store.remove()
      }
    })

  describe(`the queue of a ledger (${engine})`, () => {
    onStore('keeps commands in order of position, and over a restart', async (open) => {
      const ledger = await open()
      const entries = [1, 2, 3, 5, 9].map((position) => entryOf(position, { key: `k${position % 2}` }))
      assert.deepEqual(await ledger.append(entries.slice(0, 3)), [])
      assert.deepEqual(await ledger.append(entries.slice(3)), [])
      assert.deepEqual(await ledger.read(everything), entries)
      await ledger.close()
      const again = await open()
      assert.deepEqual(await again.read(everything), entries)
      assert.deepEqual(await again.counts(), {
        queued: 5,
        queuedBytes: entries.reduce((sum, { input }) => sum + input.length, 0),
        parked: 0,
        outcomes: 0,
        dead: 0,
        blockedKeys: 0,
        events: 0,
        oldestAcceptedAt: entries[0]?.acceptedAt,
      })
    })

    onStore('keeps the events of a commit, in order, until they are forgotten, over a restart too', async (open) => {
      const event = (name: string) => ({ topic: 'placed', key: 'a', id: name, headers: '{}', body: `"${name}"`, at: 1 })
      const nothing = { outcomes: [], done: [], parked: [], blocked: [], dead: [] }
      const first = await open()
      for (const [position, names] of [['one', 'two'], ['three']].entries()) {
        const transaction = await first.begin([], { queued: [], arriving: [] })
        await transaction.commit({ ...nothing, position: position + 1, events: names.map(event) })
      }
      const left = await first.begin([], { queued: [], arriving: [] })
      await left.abort()
      await first.close()
      const second = await open()
      const events = await second.events(10)
      assert.deepEqual(
        events.map(({ n, ...rest }) => rest),
        ['one', 'two', 'three'].map(event),
      )
      assert.equal((await second.events(1)).length, 1)
      assert.equal((await second.counts()).events, 3)
      await second.forgetEvents(events[1]?.n ?? 0)
      assert.deepEqual(
        (await second.events(10)).map(({ id }) => id),
        ['three'],
      )
      assert.equal((await second.counts()).events, 1)
    })

    onStore('is read from a position on, up to a number and a size, for one lane', async (open) => {
      const ledger = await open()
      await ledger.append(Array.from({ length: 20 }, (_, index) => entryOf(index + 1, { input: 'x'.repeat(10) })))
      assert.deepEqual(positions(await ledger.read({ ...everything, after: 17 })), [18, 19, 20])
      assert.deepEqual(positions(await ledger.read({ ...everything, limit: 2 })), [1, 2])
      assert.deepEqual(positions(await ledger.read({ ...everything, bytesMax: 35 })), [1, 2, 3])
      // One that is larger than the size comes all the same, or nothing ever would.
      assert.deepEqual(positions(await ledger.read({ ...everything, bytesMax: 1 })), [1])
      assert.deepEqual(positions(await ledger.read({ ...everything, lane: 1, lanes: 3 })), [1, 4, 7, 9, 12, 15, 17, 20])
      assert.deepEqual(await ledger.read({ ...everything, after: 20 }), [])
    })

    onStore('does not keep an id twice, and says where the first one is', async (open) => {
      const ledger = await open()
      await ledger.append([entryOf(1, { id: 'a' })])
      await commitOf(ledger, { outcomes: [outcomeOf(entryOf(2, { id: 'b' }))] })
      const conflicts = await ledger.append([
        entryOf(3, { id: 'a', digest: 'other' }),
        entryOf(4, { id: 'c' }),
        entryOf(5, { id: 'b' }),
        entryOf(6, { id: 'c' }),
      ])
      assert.deepEqual(conflicts, [
        { id: 'a', known: 'queued', digest: 'digest-1' },
        { id: 'b', known: 'decided', digest: 'digest-2' },
        { id: 'c', known: 'queued', digest: 'digest-4' },
      ])
      assert.deepEqual(positions(await ledger.read(everything)), [1, 4])
      assert.deepEqual(await ledger.pending('c'), { id: 'c', digest: 'digest-4', position: 4 })
      assert.equal(await ledger.pending('b'), null)
      assert.equal(await ledger.pending('never'), null)
    })

    onStore('gives out positions above all that it has seen, over a restart', async (open) => {
      const ledger = await open()
      assert.equal(ledger.firstPosition, 1)
      await ledger.append([entryOf(7)])
      await commitOf(ledger, { position: 40 })
      await ledger.append([entryOf(12)])
      await ledger.close()
      assert.equal((await open()).firstPosition, 41)
    })

    onStore('keeps texts as they are', async (open) => {
      const ledger = await open()
      const odd = entryOf(1, {
        key: 'it\'s / 日本 🦜\n"',
        tenant: 'a_b-c.d',
        id: 'x/y/!"#$%&\'()*~',
        input: JSON.stringify({ text: '\u0000\ud800 日本 🦜 \\ \u2028', list: [1, null] }),
      })
      await ledger.append([odd])
      assert.deepEqual(await ledger.read(everything), [odd])
      await ledger.close()
      assert.deepEqual(await (await open()).read(everything), [odd])
    })

    onStore('belongs to one owner at a time', async (open) => {
      const first = await open()
      const held = await first.begin(['left'], none)
      await held.database('left').insertMany('item', [{ id: 'a', n: 1, note: null }])
      const second = await open().catch((error: unknown) => {
        assert.equal(HeadraceError.is(error) && error.code, 'data-in-use')
        return null
      })
      // Either nobody else may open it, or the first may not commit any more.
      assert.equal(await codeOf(held.commit(recordOf({ outcomes: [outcomeOf(entryOf(1))] }))), second === null ? 'nothing' : 'fenced')
    })

    onStore('keeps the number of partitions that it was made with', async (open) => {
      const ledger = await open({ partitions: 8 })
      assert.equal(ledger.partitions, 8)
      await ledger.close()
      assert.equal(await codeOf(open({ partitions: 16 })), 'data-partitions')
      assert.equal((await open({ partitions: 8 })).partitions, 8)
    })
  })

  describe(`a transaction of a ledger (${engine})`, () => {
    onStore('makes its record and the changes on all its databases true at once', async (open) => {
      const ledger = await open()
      await ledger.append([entryOf(1), entryOf(2)])
      const transaction = await ledger.begin(both, { queued: ['id-1'], arriving: [] })
      await transaction.database('left').insertMany('item', [{ id: 'a', n: 1, note: null }])
      await transaction.database('right').insertMany('item', [{ id: 'b', n: 2, note: null }])
      assert.deepEqual([await itemsOf(ledger, 'left'), await itemsOf(ledger, 'right'), (await ledger.outcomes(['id-1'])).size], [[], [], 0])
      await transaction.commit(recordOf({ position: 2, outcomes: [outcomeOf(entryOf(1))], done: [entryOf(1)] }))
      const check = async (now: Ledger): Promise<void> => {
        assert.deepEqual([await itemsOf(now, 'left'), await itemsOf(now, 'right')], [[['a', 1]], [['b', 2]]])
        assert.equal((await now.outcomes(['id-1', 'id-2'])).get('id-1')?.body, '{"id":"id-1","status":"committed"}')
        assert.deepEqual(positions(await now.read(everything)), [2])
      }
      await check(ledger)
      await ledger.close()
      await check(await open())
    })

    onStore('that is aborted leaves nothing', async (open) => {
      const ledger = await open()
      await ledger.append([entryOf(1)])
      const transaction = await ledger.begin(both, none)
      for (const name of both) await transaction.database(name).insertMany('item', [{ id: 'a', n: 1, note: null }])
      await transaction.abort()
      assert.deepEqual([await itemsOf(ledger, 'left'), await itemsOf(ledger, 'right')], [[], []])
      assert.deepEqual(positions(await ledger.read(everything)), [1])
    })

    onStore('knows which of its ids are decided, and which arriving ones are queued', async (open) => {
      const ledger = await open()
      const outcome = outcomeOf(entryOf(1))
      await commitOf(ledger, { outcomes: [outcome] })
      await ledger.append([entryOf(2), entryOf(3)])
      const transaction = await ledger.begin([], { queued: ['id-1', 'id-2'], arriving: ['id-3', 'id-4'] })
      assert.deepEqual([...transaction.known], [['id-1', outcome]])
      assert.deepEqual([...transaction.queued], [['id-3', { id: 'id-3', digest: 'digest-3', position: 3 }]])
      await transaction.abort()
    })

    onStore('undoes what came after a savepoint, on all its databases, and nothing else', async (open) => {
      const ledger = await open()
      const transaction = await ledger.begin(both, none)
      const put = async (id: string): Promise<void> => {
        for (const name of both) await transaction.database(name).insertMany('item', [{ id, n: 1, note: null }])
      }
      for (const [id, kept] of [
        ['a', true],
        ['b', false],
        ['c', true],
        ['d', false],
      ] as const) {
        await transaction.savepoint()
        await put(id)
        await (kept ? transaction.releaseSavepoint() : transaction.rollbackToSavepoint())
      }
      await transaction.commit(recordOf({}))
      for (const name of both)
        assert.deepEqual(await itemsOf(ledger, name), [
          ['a', 1],
          ['c', 1],
        ])
    })

    onStore('with a statement that failed cannot commit, even if nobody looked', async (open) => {
      const ledger = await open()
      const transaction = await ledger.begin(both, none)
      const left = transaction.database('left')
      await left.insertMany('item', [{ id: 'a', n: 1, note: null }])
      assert.notEqual(await codeOf(left.insertMany('item', [{ id: 'a', n: 2, note: null }])), 'nothing')
      await codeOf(transaction.database('right').insertMany('item', [{ id: 'b', n: 1, note: null }]))
      assert.notEqual(await codeOf(transaction.commit(recordOf({ outcomes: [outcomeOf(entryOf(1))] }))), 'nothing')
      assert.deepEqual([await itemsOf(ledger, 'left'), await itemsOf(ledger, 'right'), (await ledger.outcomes(['id-1'])).size], [[], [], 0])
    })

    onStore('goes on after a failed statement whose savepoint was rolled back', async (open) => {
      const ledger = await open()
      const transaction = await ledger.begin(both, none)
      const left = transaction.database('left')
      await left.insertMany('item', [{ id: 'a', n: 1, note: null }])
      await transaction.savepoint()
      await codeOf(left.insertMany('item', [{ id: 'a', n: 2, note: null }]))
      assert.notEqual(await codeOf(transaction.releaseSavepoint()), 'nothing')
      await transaction.rollbackToSavepoint()
      await left.insertMany('item', [{ id: 'b', n: 3, note: null }])
      await transaction.commit(recordOf({}))
      assert.deepEqual(await itemsOf(ledger, 'left'), [
        ['a', 1],
        ['b', 3],
      ])
    })

    onStore('refuses its handles after its end', async (open) => {
      const ledger = await open()
      const ends: ((transaction: Transaction) => Promise<unknown>)[] = [
        (transaction) => transaction.commit(recordOf({})),
        (transaction) => transaction.abort(),
      ]
      for (const end of ends) {
        const transaction = await ledger.begin(['left'], none)
        const left = transaction.database('left')
        await end(transaction)
        assert.equal(await codeOf(left.insertMany('item', [{ id: 'late', n: 1, note: null }])), 'transaction-closed')
        assert.equal(await codeOf(left.sql`select 1`), 'transaction-closed')
        assert.equal(await codeOf(left.selectIn('item', 'id', ['a'])), 'transaction-closed')
        assert.equal(await codeOf(transaction.commit(recordOf({}))), 'transaction-closed')
      }
      assert.deepEqual(await itemsOf(ledger, 'left'), [])
    })

    const takesTurns = harness.takesTurns ?? true
    onStore(`${takesTurns ? 'takes turns' : 'loses nothing beside another'} on the same database`, async (open) => {
      const ledger = await open()
      const first = await ledger.begin(['left'], none)
      const other = await ledger.begin(['right'], none)
      let begun = false
      const second = ledger.begin(both, none).then((transaction) => {
        begun = true
        return transaction
      })
      await other.database('right').insertMany('item', [{ id: 'a', n: 1, note: null }])
      await other.commit(recordOf({}))
      if (takesTurns) assert.equal(begun, false)
      await first.database('left').insertMany('item', [{ id: 'a', n: 1, note: null }])
      await first.commit(recordOf({}))
      const last = await second
      for (const name of both) await last.database(name).addMany('item', 'id', [{ id: 'a', n: 1 }])
      await last.commit(recordOf({}))
      for (const name of both) assert.deepEqual(await itemsOf(ledger, name), [['a', 2]])
    })

    onStore('gives a number that grows with every commit that changed a database', async (open) => {
      const ledger = await open()
      const versions: number[] = []
      for (let n = 0; n < 3; n++) {
        const transaction = await ledger.begin(['left'], none)
        await transaction.database('left').upsertMany('item', 'id', [{ id: 'a', n, note: null }])
        versions.push(await transaction.commit(recordOf({})))
      }
      assert.ok((versions[0] as number) < (versions[1] as number) && (versions[1] as number) < (versions[2] as number))
      await ledger.close()
      const again = await open()
      const transaction = await again.begin(['left'], none)
      await transaction.database('left').addMany('item', 'id', [{ id: 'a', n: 1 }])
      assert.ok((await transaction.commit(recordOf({}))) > (versions[2] as number))
    })
  })

  describe(`parked commands and dead letters of a ledger (${engine})`, () => {
    onStore('wait under their own positions, and come back in order', async (open) => {
      const ledger = await open()
      await ledger.append([entryOf(1), entryOf(2), entryOf(3, { key: 'other' })])
      // One was queued, one was only in memory.
      await commitOf(ledger, {
        position: 4,
        parked: [entryOf(2), { ...entryOf(1), attempts: 1 }, entryOf(4, { queued: false })],
        blocked: [{ key: 'k', partition: 1, retryAt: 1_234 }],
      })
      assert.deepEqual(positions(await ledger.read(everything)), [3])
      assert.deepEqual(await ledger.blockedKeys(), [{ key: 'k', partition: 1, retryAt: 1_234, parked: 3 }])
      assert.equal((await ledger.counts()).parked, 3)
      assert.equal((await ledger.counts()).queued, 4)
      const first = await ledger.unblock('k', 2)
      assert.deepEqual(
        [first.entries.map(({ position, attempts }) => [position, attempts]), first.more],
        [
          [
            [1, 1],
            [2, 0],
          ],
          true,
        ],
      )
      assert.deepEqual(positions(await ledger.read(everything)), [1, 2, 3])
      const rest = await ledger.unblock('k', 2)
      assert.deepEqual([positions(rest.entries), rest.more], [[4], false])
      assert.deepEqual(await ledger.blockedKeys(), [])
      assert.deepEqual(await ledger.unblock('k', 2), { entries: [], more: false })
    })

    onStore('do not pass one another over a restart, when some had come back and were not done', async (open) => {
      const ledger = await open()
      await ledger.append([1, 2, 3, 4, 5].map((position) => entryOf(position, position === 4 ? { key: 'other' } : {})))
      await commitOf(ledger, {
        parked: [1, 2, 3, 5].map((position) => entryOf(position)),
        blocked: [{ key: 'k', partition: 1, retryAt: null }],
      })
      await ledger.unblock('k', 2)
      await ledger.close()
      const again = await open()
      assert.deepEqual(positions(await again.read(everything)), [4])
      const [blocked] = await again.blockedKeys()
      assert.equal(blocked?.parked, 4)
      assert.deepEqual(positions((await again.unblock('k', 100)).entries), [1, 2, 3, 5])
    })

    onStore('are kept with all that is known of them, in order, over a restart', async (open) => {
      const ledger = await open()
      const letters = [3, 1, 2].map((position) => deadOf(entryOf(position), position === 2))
      await commitOf(ledger, {
        position: 3,
        dead: letters,
        outcomes: letters.map(({ position }) => outcomeOf(entryOf(position), 'failed')),
      })
      const expected = [1, 2, 3].map((position) => {
        const { digest: _digest, ...letter } = deadOf(entryOf(position), position === 2)
        return letter
      })
      await ledger.close()
      const again = await open()
      assert.deepEqual(await again.deadLetters({ limit: 10 }), expected)
      assert.deepEqual(positions(await again.deadLetters({ after: 1, limit: 1 })), [2])
      assert.deepEqual(await again.deadLetter(3), expected[2])
      assert.equal(await again.deadLetter(9), null)
      assert.equal((await again.counts()).dead, 3)
    })

    onStore('come back by a redrive ahead of those they hold, and their outcome is forgotten', async (open) => {
      const ledger = await open()
      const dead = deadOf(entryOf(1, { attempts: 3 }), true)
      await commitOf(ledger, {
        position: 2,
        dead: [dead],
        outcomes: [outcomeOf(entryOf(1), 'failed')],
        parked: [entryOf(2, { queued: false })],
        blocked: [{ key: 'k', partition: 1, retryAt: null }],
      })
      assert.deepEqual(await ledger.redrive(1), { key: 'k', partition: 1 })
      assert.equal(await ledger.redrive(1), null)
      assert.deepEqual([(await ledger.outcomes(['id-1'])).size, await ledger.deadLetter(1)], [0, null])
      assert.deepEqual(await ledger.pending('id-1'), { id: 'id-1', digest: 'digest-1', position: 1 })
      const [blocked] = await ledger.blockedKeys()
      assert.equal(blocked?.parked, 2)
      assert.notEqual(blocked?.retryAt, null)
      assert.deepEqual(
        (await ledger.unblock('k', 10)).entries.map(({ position, attempts }) => [position, attempts]),
        [
          [1, 0],
          [2, 0],
        ],
      )
    })

    onStore('that are dropped keep their outcome, and let their key go when no other holds it', async (open) => {
      const ledger = await open()
      const letters = [1, 2, 3].map((position) => deadOf(entryOf(position), position !== 3))
      await commitOf(ledger, {
        position: 3,
        dead: letters,
        outcomes: letters.map(({ position }) => outcomeOf(entryOf(position), 'failed')),
        blocked: [{ key: 'k', partition: 1, retryAt: null }],
      })
      assert.deepEqual(await ledger.drop(1), { key: 'k', partition: 1, blocked: false })
      assert.equal((await ledger.blockedKeys())[0]?.retryAt, null)
      assert.deepEqual(await ledger.drop(2), { key: 'k', partition: 2, blocked: true })
      assert.notEqual((await ledger.blockedKeys())[0]?.retryAt, null)
      assert.deepEqual(await ledger.drop(3), { key: 'k', partition: 3, blocked: false })
      assert.equal(await ledger.drop(3), null)
      assert.equal((await ledger.outcomes(['id-1', 'id-2', 'id-3'])).size, 3)
    })
  })

  describe(`the outcomes of a ledger (${engine})`, () => {
    onStore('come back byte for byte, and only those that were asked for', async (open) => {
      const ledger = await open()
      const bodies = ['{"a":"日本 🦜 \\u0000"}', '{}', `{"long":"${'x'.repeat(50_000)}"}`]
      const outcomes = bodies.map((body, index) => ({ ...outcomeOf(entryOf(index + 1)), body }))
      await commitOf(ledger, { outcomes })
      await ledger.close()
      const again = await open()
      const found = await again.outcomes(['id-3', 'id-1', 'never'])
      assert.deepEqual([found.get('id-1'), found.get('id-3'), found.size], [outcomes[0], outcomes[2], 2])
    })

    onStore('are dropped past their retention, oldest first, and no others', async (open) => {
      const ledger = await open({ outcomeRetentionMs: 60_000 })
      const now = Date.now()
      await commitOf(ledger, {
        outcomes: [
          outcomeOf(entryOf(1), 'committed', now - 120_000),
          outcomeOf(entryOf(2), 'rejected', now - 61_000),
          outcomeOf(entryOf(3), 'committed', now),
        ],
      })
      let dropped = 0
      for (let more = await ledger.prune(); more > 0; more = await ledger.prune()) dropped += more
      assert.equal(dropped, 2)
      assert.deepEqual([...(await ledger.outcomes(['id-1', 'id-2', 'id-3'])).keys()], ['id-3'])
    })

    onStore('are kept up to a number, the newest of them', async (open) => {
      const ledger = await open({ outcomesMax: 1_000 })
      const count = 7_500
      await commitOf(ledger, { outcomes: Array.from({ length: count }, (_, index) => outcomeOf(entryOf(index + 1))) })
      for (let more = await ledger.prune(); more > 0; more = await ledger.prune()) assert.ok(more > 0)
      assert.equal((await ledger.counts()).outcomes, 1_000)
      const [oldest, newest, gone] = [`id-${count - 999}`, `id-${count}`, `id-${count - 1_000}`]
      assert.deepEqual([...(await ledger.outcomes([oldest, newest, gone])).keys()].sort(), [oldest, newest].sort())
    })
  })

  databaseConformance({ describe }, engine, onStore)
  ledgerModel({ describe }, engine, onStore)
}
