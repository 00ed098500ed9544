/** What the verbs of a database mean on every engine (contracts/database.ts), as tests on the databases of a ledger. */
import assert from 'node:assert/strict'
import type { Database } from '../contracts/database.ts'
import type { Ledger } from '../contracts/ledger.ts'
import { codeOf, none, type OnStore, recordOf } from './ledger-harness.ts'
import type { TestRunner } from './lock-conformance.ts'

const item = (id: string, n: number | bigint, note: string | null = null) => ({ id, n, note })

export function databaseConformance({ describe }: Pick<TestRunner, 'describe'>, engine: string, onStore: OnStore): void {
  /** Runs the case in a transaction, commits it, and then reads. */
  const inTransaction = (
    name: string,
    write: (left: Database) => Promise<void>,
    read: (ledger: Ledger) => Promise<void> = async () => undefined,
  ): void =>
    onStore(name, async (open) => {
      const ledger = await open()
      const transaction = await ledger.begin(['left'], none)
      await write(transaction.database('left'))
      await transaction.commit(recordOf({}))
      await read(ledger)
    })
  const rows = async (ledger: Ledger): Promise<unknown[][]> =>
    (await ledger.reader('left').sql`select id, n, note from item order by id`).map(({ id, n, note }) => [id, n, note])

  describe(`the verbs of a database (${engine})`, () => {
    inTransaction(
      'insert, update, add, upsert and delete sets of rows, and count them',
      async (left) => {
        assert.equal(await left.insertMany('item', [item('a', 1), item('b', 2, 'two'), item('c', 3)]), 3)
        assert.equal(await left.insertMany('item', [item('a', 9), item('d', 4)], { onConflict: 'ignore' }), 1)
        assert.equal(
          await left.updateMany('item', 'id', [
            { id: 'a', note: 'one' },
            { note: null, id: 'b' },
            { id: 'none', note: 'x' },
          ]),
          2,
        )
        assert.equal(
          await left.addMany('item', 'id', [
            { id: 'a', n: 10 },
            { id: 'a', n: -3 },
            { id: 'none', n: 1 },
          ]),
          2,
        )
        assert.equal(await left.upsertMany('item', 'id', [item('c', 30, 'thirty'), item('e', 5)]), 2)
        assert.equal(await left.upsertMany('item', 'id', [item('e', 7, 'added')], { add: ['n'] }), 1)
        assert.equal(await left.deleteIn('item', 'id', ['b', 'none', 'b']), 1)
      },
      async (ledger) =>
        assert.deepEqual(await rows(ledger), [
          ['a', 8, 'one'],
          ['c', 30, 'thirty'],
          ['d', 4, null],
          ['e', 12, 'added'],
        ]),
    )

    inTransaction('find rows by sets of values, each value once', async (left) => {
      await left.insertMany('item', [item('a', 1), item('b', 2), item('c', 1)])
      assert.deepEqual((await left.selectIn('item', 'n', [1, 1, 7], { columns: ['id'] })).map(({ id }) => id).sort(), ['a', 'c'])
      assert.deepEqual(
        (await left.selectIn('item', 'id', ['b'])).map((row) => ({ ...row })),
        [item('b', 2)],
      )
      assert.deepEqual(await left.selectIn('item', 'note', [null]), [])
    })

    inTransaction('take keys of several columns', async (left) => {
      await left.upsertMany(
        'pair',
        ['a', 'b'],
        [
          { a: 'x', b: 1, n: 1 },
          { a: 'x', b: 2, n: 2 },
        ],
      )
      await left.upsertMany('pair', ['a', 'b'], [{ a: 'x', b: 2, n: 5 }], { add: ['n'] })
      assert.equal(await left.updateMany('pair', ['a', 'b'], [{ b: 1, a: 'x', n: 9 }]), 1)
      assert.deepEqual(
        (await left.sql`select a, b, n from pair order by b`).map(({ a, b, n }) => [a, b, n]),
        [
          ['x', 1, 9],
          ['x', 2, 7],
        ],
      )
    })

    inTransaction('do nothing for no rows', async (left) => {
      assert.deepEqual(
        await Promise.all([
          left.insertMany('item', []),
          left.updateMany('item', 'id', []),
          left.addMany('item', 'id', []),
          left.upsertMany('item', 'id', []),
          left.deleteIn('item', 'id', []),
          left.selectIn('item', 'id', []),
        ]),
        [0, 0, 0, 0, 0, []],
      )
    })

    inTransaction('keep integers beyond 2^53 to the last unit', async (left) => {
      const big = 2n ** 60n + 1n
      assert.deepEqual(
        (await left.sql`insert into item (id, n) values ('a', ${big}) returning n`).map(({ n }) => n),
        [big],
      )
      await left.addMany('item', 'id', [{ id: 'a', n: 2 }])
      assert.deepEqual(
        (await left.selectIn('item', 'id', ['a'], { columns: ['n'] })).map(({ n }) => n),
        [big + 2n],
      )
      assert.deepEqual(
        (await left.sql`select n from item where n = ${big + 2n}`).map(({ n }) => n),
        [big + 2n],
      )
    })

    inTransaction('bind values and never paste them', async (left) => {
      const hostile = "'); drop table item; -- 日本 🦜"
      await left.insertMany('item', [item('a', 1, hostile)])
      assert.deepEqual(
        (await left.sql`select note from item where note = ${hostile}`).map(({ note }) => note),
        [hostile],
      )
    })

    onStore('refuse what they cannot do as it is asked, and nothing of it happens', async (open) => {
      const ledger = await open()
      const cases: ((left: Database) => Promise<unknown>)[] = [
        (left) => left.insertMany('item', [item('a', 1), { id: 'b', n: 1 }]),
        (left) => left.insertMany('item', [{ id: 'a', n: undefined as never, note: null }]),
        (left) => left.updateMany('item', 'id', [{ n: 1 }]),
        (left) => left.insertMany('item; drop table item', [item('a', 1)]),
        (left) => left.insertMany('item', [{ 'id" ': 'a' }]),
        (left) => left.selectIn('item', 'id; --', ['a']),
        (left) => left.selectIn('item', 'nosuch', ['nosuch']),
        (left) => left.deleteIn('item', 'nosuch', ['nosuch']),
        (left) => left.insertMany('headrace_fence', [{ scope: 'x' }]),
        (left) => left.sql`delete from headrace_fence`,
        (left) => left.sql`commit`,
        (left) => left.sql`/* harmless */ rollback`,
        (left) => left.sql`drop table item`,
        (left) => left.sql`selec 1`,
      ]
      for (const [index, run] of cases.entries()) {
        const transaction = await ledger.begin(['left'], none)
        const code = await codeOf(run(transaction.database('left')))
        await transaction.abort()
        assert.ok(code === 'sql-failed' || code === 'statement-refused', `case ${index + 1}: ${code}`)
      }
      assert.deepEqual(await rows(ledger), [])
    })

    onStore('of a reader only read, and see only what is committed', async (open) => {
      const ledger = await open()
      assert.equal(await codeOf(ledger.reader('left').sql`insert into item (id, n) values ('a', 1)`), 'statement-refused')
      const transaction = await ledger.begin(['left'], none)
      await transaction.database('left').insertMany('item', [item('a', 1)])
      assert.deepEqual(await ledger.reader('left').selectIn('item', 'id', ['a']), [])
      await transaction.commit(recordOf({}))
      assert.deepEqual(
        (await ledger.reader('left').selectIn('item', 'id', ['a'])).map((row) => ({ ...row })),
        [item('a', 1)],
      )
    })
  })
}
