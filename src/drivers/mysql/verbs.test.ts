/** What the verbs mean on MariaDB beyond the shared suite: types, collations, duplicates, sizes, and statements that try to be two. */
import mysql2 from 'mysql2/promise'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Database, Row, SqlValue } from '../../contracts/database.ts'
import type { Branch, Participant } from '../../contracts/participant.ts'
import { codeOf } from '../../testing/ledger-harness.ts'
import { type Server, serverMissing, startMariadb } from '../../testing/servers/index.ts'
import { mysql } from './handle.ts'
import { literal, statementOf } from './statement.ts'
import { Tables } from './tables.ts'
import { Verbs } from './verbs.ts'

const missing = serverMissing('mariadb')
const schema = `
  create table item (id varchar(100) collate utf8mb4_bin primary key, n bigint not null, note longtext);
  create table folded (id varchar(100) collate utf8mb4_general_ci primary key, n bigint not null);
  create table latin (id varchar(100) character set latin1 collate latin1_swedish_ci primary key, n bigint not null);
  create table typed (id int primary key auto_increment, big bigint, price decimal(20,4), ratio double, at datetime(3), day date, picture blob, flag tinyint(1), j json);
  create table code (id int primary key, name varchar(20) unique, n int not null default 0);
  create table \`order\` (\`group\` varchar(20) primary key, \`select\` int);`

let gids = 0

for (const pool of ['its own pool', 'a pool of the user'] as const) {
  describe.skipIf(missing !== null)(
    `the verbs on MariaDB with ${pool}${missing === null ? '' : ` (${missing})`}`,
    { timeout: 30_000 },
    () => {
      let server: Server
      let admin: mysql2.Connection
      let theirs: mysql2.Pool | null = null
      let one: Participant

      beforeAll(async () => {
        server = await startMariadb({ settings: { max_allowed_packet: 1024 ** 2 } })
        admin = await mysql2.createConnection({ uri: server.url, multipleStatements: true })
        theirs = pool === 'its own pool' ? null : mysql2.createPool({ uri: server.url, connectionLimit: 8 })
        one = await mysql('shop', theirs === null ? { url: server.url, schema } : { pool: theirs, schema }).connect()
        await one.migrate()
      }, 60_000)
      afterAll(async () => {
        await one?.close()
        await theirs?.end()
        admin?.destroy()
        await server?.stop()
      })

      const begin = (): Promise<Branch> => one.begin({ gid: `v_${gids++}`, statementTimeoutMs: 10_000 })
      /** In a branch that is committed. */
      const within = async <T>(run: (database: Database) => Promise<T>): Promise<T> => {
        const branch = await begin()
        try {
          const result = await run(branch.database)
          await branch.commit()
          return result
        } finally {
          await branch.abort()
        }
      }
      const empty = (...tables: string[]): Promise<unknown> => admin.query(tables.map((table) => `delete from ${table}`).join('; '))
      const all = async (table: string, order = 'id'): Promise<Row[]> =>
        (await admin.query<mysql2.RowDataPacket[]>(`select * from ${table} order by ${order}`))[0]
      const asked = (text: string): TemplateStringsArray => Object.assign([text], { raw: [text] })

      it('compare a number with a text column as text: 0 is not every word', async () => {
        await empty('item')
        await within(async (database) => {
          await database.insertMany(
            'item',
            ['abc', '0', '1'].map((id) => ({ id, n: 1, note: null })),
          )
          expect(await database.selectIn('item', 'id', [0], { columns: ['id'] })).toEqual([{ id: '0' }])
          expect(await database.deleteIn('item', 'id', [0, 1n])).toBe(2)
          expect(await database.addMany('item', 'id', [{ id: 0, n: 5 }])).toBe(0)
        })
        expect((await all('item')).map(({ id }) => id)).toEqual(['abc'])
        for (const value of ['abc', '1 or 1=1', '', '0x10']) {
          const branch = await begin()
          expect(await codeOf(branch.database.selectIn('code', 'id', [value]))).toBe('sql-failed')
          await branch.abort()
        }
      })

      it('add every row of one key, in whatever case it is written, and find none beside it', async () => {
        await empty('folded', 'latin')
        for (const table of ['folded', 'latin']) {
          await within(async (database) => {
            await database.insertMany(table, [
              { id: 'Ana', n: 0 },
              { id: 'bob', n: 0 },
            ])
            await database.addMany(table, 'id', [
              { id: 'ana', n: 1 },
              { id: 'ANA', n: 10 },
              { id: 'aná', n: 100 },
              { id: 'bob', n: 1 },
            ])
          })
          expect((await all(table)).map(({ n }) => n)).toEqual([111, 1])
          await within((database) =>
            database.updateMany(table, 'id', [
              { id: 'ana', n: 1 },
              { id: 'ANA', n: 2 },
              { id: 'aNa', n: 3 },
            ]),
          )
          expect((await all(table)).map(({ n }) => n)).toEqual([3, 1])
        }
      })

      it('refuse a key that the character set of the column cannot hold, rather than take it for a question mark', async () => {
        await empty('latin')
        await within((database) => database.insertMany('latin', [{ id: '??', n: 0 }]))
        const branch = await begin()
        await branch.savepoint()
        expect(await codeOf(branch.database.selectIn('latin', 'id', ['日本']))).toBe('sql-failed')
        await branch.rollbackToSavepoint()
        expect(await codeOf(branch.database.addMany('latin', 'id', [{ id: '日本', n: 1 }]))).toBe('sql-failed')
        await branch.abort()
      })

      it('use the key of a table in any collation: a row beside those changed is not locked', async () => {
        await empty('item', 'folded', 'latin')
        const ids = Array.from({ length: 500 }, (_, index) => `k${index}`)
        for (const table of ['item', 'folded', 'latin']) {
          await within((database) =>
            database.insertMany(
              table,
              ids.map((id) => ({ id, n: 0, ...(table === 'item' ? { note: null } : {}) })),
            ),
          )
          await admin.query(`analyze table ${table}`)
          const [left, right] = [await begin(), await one.begin({ gid: `v_${gids++}`, statementTimeoutMs: 2_000 })]
          await left.database.addMany(table, 'id', [
            { id: 'k1', n: 1 },
            { id: 'k2', n: 1 },
            { id: 'k1', n: 1 },
          ])
          await left.database.updateMany(table, 'id', [{ id: 'k3', n: 7 }])
          expect(
            await right.database.addMany(table, 'id', [
              { id: 'k100', n: 1 },
              { id: 'k101', n: 1 },
            ]),
          ).toBe(2)
          await right.commit()
          await left.commit()
          expect((await all(table)).reduce((sum, { n }) => sum + Number(n), 0)).toBe(12)
        }
      })

      it('cost a bounded number of statements, whatever the number of rows', async () => {
        await empty('item')
        const count = 10_000
        const rows = Array.from({ length: count }, (_, index) => ({ id: `r${index}`, n: 1, note: `note ${index}` }))
        const branch = await begin()
        const statements = async (run: () => Promise<unknown>): Promise<number> => {
          const questions = async () =>
            Number((await branch.database.sql<{ Value: string }>`show session status like 'Questions'`)[0]?.Value)
          const before = await questions()
          await run()
          return (await questions()) - before
        }
        const bound = Math.ceil(count / 900) + 4
        const changes = rows.map(({ id }) => ({ id, n: 1 }))
        for (const run of [
          () => branch.database.insertMany('item', rows),
          () => branch.database.addMany('item', 'id', changes),
          () =>
            branch.database.updateMany(
              'item',
              'id',
              changes.map(({ id }) => ({ id, n: 5 })),
            ),
          () => branch.database.upsertMany('item', 'id', rows, { add: ['n'] }),
          () => branch.database.insertMany('item', rows, { onConflict: 'ignore' }),
          async () =>
            expect(
              (
                await branch.database.selectIn(
                  'item',
                  'id',
                  rows.map(({ id }) => id),
                )
              ).length,
            ).toBe(count),
        ])
          expect(await statements(run)).toBeLessThanOrEqual(bound)
        await branch.commit()
        const [row] = (await admin.query<mysql2.RowDataPacket[]>('select count(*) as c, sum(n) as s from item'))[0]
        expect([Number(row?.['c']), Number(row?.['s'])]).toEqual([count, 6 * count])
        expect(
          await within((database) =>
            database.deleteIn(
              'item',
              'id',
              rows.map(({ id }) => id),
            ),
          ),
        ).toBe(count)
      })

      it('leave a row that is there, count the new ones, and hide no other error behind that', async () => {
        await empty('item')
        expect(await within((database) => database.insertMany('item', [{ id: 'a', n: 1, note: null }]))).toBe(1)
        const again = await within((database) =>
          database.insertMany(
            'item',
            ['a', 'b', 'c', 'c'].map((id) => ({ id, n: 9, note: null })),
            { onConflict: 'ignore' },
          ),
        )
        expect(again).toBe(2)
        expect(
          await within((database) => database.upsertMany('item', ['id', 'n', 'note'].slice(0, 1), [{ id: 'a', n: 4, note: 'x' }])),
        ).toBe(1)
        for (const row of [
          { id: 'z', n: null, note: null },
          { id: 'x'.repeat(101), n: 1, note: null },
          { id: 'z', n: 2n ** 70n, note: null },
        ]) {
          const branch = await begin()
          expect(await codeOf(branch.database.insertMany('item', [row], { onConflict: 'ignore' }))).toBe('sql-failed')
          await branch.abort()
        }
        expect((await all('item')).map(({ id, n }) => [id, n])).toEqual([
          ['a', 4],
          ['b', 9],
          ['c', 9],
        ])
      })

      it('refuse an upsert under columns that are no unique key', async () => {
        const branch = await begin()
        expect(await codeOf(branch.database.upsertMany('item', 'note', [{ id: 'q', n: 1, note: 'x' }]))).toBe('sql-failed')
        await branch.abort()
        expect(
          await within((database) =>
            database.upsertMany(
              'code',
              'name',
              [
                { id: 1, name: 'a', n: 1 },
                { id: 1, name: 'a', n: 2 },
              ],
              { add: ['n'] },
            ),
          ),
        ).toBe(2)
        expect(await all('code')).toMatchObject([{ id: 1, name: 'a', n: 3 }])
      })

      it('keep values as they are: bigint, decimals, dates, bytes, JSON text', async () => {
        await empty('typed')
        const at = new Date('2026-03-29T01:30:00.123Z')
        const row = {
          id: 1,
          big: 2n ** 62n + 1n,
          price: '1234567890123456.7891',
          ratio: 0.1,
          at,
          day: '2026-03-29',
          picture: new Uint8Array([0, 255, 39, 92]),
          flag: true,
          j: '{"a":[1,"é"]}',
        }
        const [found] = await within(async (database) => {
          await database.insertMany('typed', [row])
          await database.addMany('typed', 'id', [
            { id: 1, big: 1, price: 0.0001, ratio: 0.2 },
            { id: 1, big: 1n, price: '0.0001', ratio: 0 },
          ])
          return database.selectIn('typed', 'at', [at])
        })
        expect(found).toEqual({ ...row, big: 2n ** 62n + 3n, price: '1234567890123456.7893', ratio: 0.1 + 0.2, flag: 1 })
        const [sums] = await one.reader.sql`select sum(big) as big, sum(flag) as flags, sum(price) as price, avg(flag) as mean from typed`
        expect(sums).toEqual({ big: 2n ** 62n + 3n, flags: 1, price: '1234567890123456.7893', mean: '1.0000' })
        const big = 2n ** 62n + 3n
        expect(
          await one.reader
            .sql`select id from typed where big = ${big} and at = ${at} and picture = ${row.picture} and big - ${1} = ${big - 1n}`,
        ).toEqual([{ id: 1 }])
      })

      it('refuse values that would be stored as something else', async () => {
        const bad: [string, SqlValue][] = [
          ['big', 'abc'],
          ['big', Number.NaN],
          ['ratio', Number.POSITIVE_INFINITY],
          ['at', 5],
          ['at', new Date(Number.NaN)],
          ['j', 'a\ud800'],
          ['big', new Date(0)],
          ['price', { a: 1 } as never],
        ]
        for (const [column, value] of bad) {
          const branch = await begin()
          expect(await codeOf(branch.database.insertMany('typed', [{ [column]: value }])), `${column} ${String(value)}`).toBe('sql-failed')
          await branch.abort()
        }
      })

      it('take names that are words of SQL', async () => {
        expect(
          await within((database) =>
            database.upsertMany('order', 'group', [
              { group: 'a', select: 1 },
              { group: 'a', select: 2 },
            ]),
          ),
        ).toBe(2)
        expect(await one.reader.selectIn('order', 'group', ['a'])).toEqual([{ group: 'a', select: 2 }])
      })

      it('say that a row is larger than the server takes, and the connection goes on', async () => {
        const branch = await begin()
        await branch.savepoint()
        expect(await codeOf(branch.database.insertMany('item', [{ id: 'huge', n: 1, note: 'x'.repeat(1024 ** 2) }]))).toBe('sql-failed')
        await branch.rollbackToSavepoint()
        const rows = Array.from({ length: 12 }, (_, index) => ({ id: `large${index}`, n: 1, note: '日'.repeat(100_000) }))
        expect(await branch.database.insertMany('item', rows)).toBe(12)
        await branch.abort()
      })

      it.each([
        'commit',
        'BEGIN',
        'start transaction',
        "xa end 'a'",
        '  \n\t commit',
        ';;commit',
        '-- a comment\ncommit',
        '# a comment\ncommit',
        '/* a comment */ rollback',
        '/*! commit */',
        '/*!50000 drop table item */',
        '/*M! drop table item */',
        'select 1 /*!, sleep(0) */',
        'select 1; delete from item',
        "insert into item (id, n) values ('q', 1); commit",
        "select 'a\\'; drop table item; -- ';drop table item",
        'set session sql_mode = 0',
        'lock tables item write',
        'truncate item',
        'alter table item add x int',
        "prepare s from 'commit'",
        'delete from headrace_branch',
        'select * from `Headrace_Decision`',
      ])('refuse a statement that is not for a handler: %j', async (text) => {
        await empty('item')
        const branch = await begin()
        expect(await codeOf(branch.database.sql(asked(text)))).toBe('statement-refused')
        await branch.abort()
        expect(await codeOf(one.reader.sql(asked(text)))).toBe('statement-refused')
        expect(await all('item')).toEqual([])
      })

      it.each([
        "insert into item (id, n) values ('a;b', 1);",
        "insert into item (id, n) values ('a;b', 1) ; ; ",
        "insert into item (id, n) values ('a;b', 1); -- done",
        'insert into item (id, n) values ("a;b", 1) # ; delete from item',
        "insert into item (id, n) values ('a;b', 1) /* ; */",
      ])('let a statement end as it likes: %j', async (text) => {
        await empty('item')
        await within((database) => database.sql(asked(text)))
        expect((await all('item')).map(({ id }) => id)).toEqual(['a;b'])
      })

      it('refuse a value inside quotes or a comment, where it could close them', async () => {
        const hostile = "x' or 1=1 -- "
        const branch = await begin()
        expect(await codeOf(branch.database.sql`select * from item where id = '${hostile}'`)).toBe('statement-refused')
        expect(await codeOf(branch.database.sql`select 1 /* ${'*/ drop table item'} */`)).toBe('statement-refused')
        expect(await codeOf(branch.database.sql`select 1 -- ${'\n drop table item'}`)).toBe('statement-refused')
        expect(await codeOf(branch.database.sql`select \`${'a'}\``)).toBe('statement-refused')
        await branch.abort()
        const [row] = await one.reader.sql`select ${hostile} as v, '?' as q, 5 -${-3} as m, ${"a\\'b\0"} as z`
        expect(row).toEqual({ v: hostile, q: '?', m: 8, z: "a\\'b\0" })
      })

      it('know what only reads: a function that may write counts as a write', async () => {
        const cases: [string, boolean][] = [
          ['select count(*), max(n) from item where id in (select id from item)', false],
          ['/* a */ select * from item', false],
          ['select nosuch.f(1)', true],
          ['select my_function(1)', true],
          ['select n from item for update', true],
          ['select @a := 1', true],
          ['with x as (select 1) select * from x', true],
          ['delete from item', true],
        ]
        for (const [text, wrote] of cases) {
          const branch = await begin()
          await branch.database.sql(asked(text)).catch(() => undefined)
          expect(branch.wrote, text).toBe(wrote)
          await branch.abort()
        }
      })

      it('work in the form for servers that have no lists of rows', async () => {
        await empty('item')
        const branch = await begin()
        const quote = (text: string): string => mysql2.escape(text)
        const verbs = new Verbs({
          name: 'shop',
          quote,
          tables: new Tables('shop', quote),
          mariadb: false,
          packetBytesMax: 1024 ** 2,
          onWrite: () => undefined,
        })
        const session = {
          foundRows: false,
          run: async (sql: string) => [(await (branch.client as mysql2.PoolConnection).query(sql))[0]],
        } as never
        const options = { timeoutMs: 5_000 }
        await branch.database.insertMany(
          'item',
          ['a', 'b'].map((id) => ({ id, n: 0, note: null })),
        )
        const rows = [
          { id: 'a', n: 1 },
          { id: 'b', n: 2 },
          { id: 'a', n: 3 },
          { id: 'none', n: 1 },
        ]
        expect(await verbs.run({ verb: 'addMany', table: 'item', key: ['id'], rows }, session, options)).toBe(3)
        expect(await branch.database.selectIn('item', 'id', ['a', 'b'], { columns: ['n'] })).toEqual([{ n: 4 }, { n: 2 }])
        await branch.abort()
      })
    },
  )
}

describe('a literal', () => {
  const quote = (text: string): string => `'${text}'`

  it('is an exact number, without an exponent that would make a double of it', () => {
    const cases: [SqlValue, string][] = [
      [1e21, '1000000000000000000000'],
      [1e-7, '0.0000001'],
      [-1.5e-7, '-0.00000015'],
      [0.1, '0.1'],
      [-0, '0'],
      [1e-300, '1e-300'],
      [2n ** 64n, '18446744073709551616'],
      [true, '1'],
      [null, 'null'],
      [new Uint8Array([1, 255]), "x'01ff'"],
    ]
    for (const [value, text] of cases) expect(literal(value, 'v', quote)).toBe(text)
  })

  it('stands between spaces, so that it grows together with nothing', () => {
    expect(statementOf(['select 1 -', ''], [-1], 'shop', quote).text).toBe('select 1 - -1 ')
  })
})
