import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DatabaseSyncInstance } from '@photostructure/sqlite'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Database, Row, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { readHandle, writeHandle } from './handle.ts'
import { openDatabase } from './open.ts'
import { Verbs } from './verbs.ts'

let folder: string
let file: DatabaseSyncInstance
let db: Database

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'headrace-verbs-'))
  file = openDatabase('shop', join(folder, 'shop.sqlite'), { synchronous: 'normal', cacheKiB: 1024 })
  file.exec(`
    create table item (sku text primary key not null, remaining integer, price real, picture blob, at text);
    create table part (a text not null, b integer not null, n integer not null default 0, note text, primary key (a, b)) without rowid;
    create table headrace_fence (scope text primary key not null)`)
  const verbs = new Verbs('shop', file)
  db = writeHandle(async (verb) => verbs.run(verb))
})

afterEach(() => {
  file.close()
  rmSync(folder, { recursive: true, force: true })
})

const items = (): Row[] => file.prepare('select sku, remaining from item order by sku').all() as Row[]
const parts = (): unknown[][] =>
  (file.prepare('select a, b, n, note from part order by a, b').all() as Row[]).map((row) => Object.values(row))

async function refusal(running: Promise<unknown>): Promise<HeadraceError> {
  try {
    await running
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It was not refused.')
}
const codeOf = async (running: Promise<unknown>): Promise<string> => (await refusal(running)).code

describe('insertMany', () => {
  it('inserts all rows and says how many', async () => {
    expect(
      await db.insertMany('item', [
        { sku: 'a', remaining: 1 },
        { remaining: 2, sku: 'b' },
      ]),
    ).toBe(2)
    expect(items()).toEqual([
      { sku: 'a', remaining: 1 },
      { sku: 'b', remaining: 2 },
    ])
  })

  it('fails when a key is there, or leaves the old row where it is told to', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: 1 }])
    expect(await codeOf(db.insertMany('item', [{ sku: 'a', remaining: 9 }]))).toBe('sql-failed')
    expect(
      await db.insertMany(
        'item',
        [
          { sku: 'a', remaining: 9 },
          { sku: 'b', remaining: 2 },
        ],
        { onConflict: 'ignore' },
      ),
    ).toBe(1)
    expect(items()).toEqual([
      { sku: 'a', remaining: 1 },
      { sku: 'b', remaining: 2 },
    ])
  })
})

describe('updateMany', () => {
  it('sets the other columns of the rows it finds, and counts them', async () => {
    await db.insertMany('part', [
      { a: 'x', b: 1 },
      { a: 'x', b: 2 },
      { a: 'y', b: 1 },
    ])
    expect(
      await db.updateMany(
        'part',
        ['a', 'b'],
        [
          { a: 'x', b: 1, n: 5, note: 'five' },
          { b: 1, note: null, a: 'y', n: 6 },
          { a: 'none', b: 1, n: 7, note: '' },
        ],
      ),
    ).toBe(2)
    expect(parts()).toEqual([
      ['x', 1, 5, 'five'],
      ['x', 2, 0, null],
      ['y', 1, 6, null],
    ])
  })

  it('changes every row that a partial key finds', async () => {
    await db.insertMany('part', [
      { a: 'x', b: 1 },
      { a: 'x', b: 2 },
      { a: 'y', b: 1 },
    ])
    expect(await db.updateMany('part', 'a', [{ a: 'x', n: 3 }])).toBe(2)
    expect(parts()).toEqual([
      ['x', 1, 3, null],
      ['x', 2, 3, null],
      ['y', 1, 0, null],
    ])
  })

  it('changes nothing when the rows have nothing but their key', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: 1 }])
    expect(await db.updateMany('item', 'sku', [{ sku: 'a' }])).toBe(0)
  })

  it('refuses a row without its key column', async () => {
    expect(await codeOf(db.updateMany('item', 'sku', [{ remaining: 1 }]))).toBe('sql-failed')
    expect((await refusal(db.addMany('item', 'sku', [{ remaining: 1 }]))).message).toContain("'sku'")
  })
})

describe('addMany', () => {
  it('adds to the other columns, one row after the other', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: 10 }])
    expect(
      await db.addMany('item', 'sku', [
        { sku: 'a', remaining: -3 },
        { sku: 'a', remaining: -2 },
        { sku: 'none', remaining: 1 },
      ]),
    ).toBe(2)
    expect(items()).toEqual([{ sku: 'a', remaining: 5 }])
  })

  it('adds beyond 2^53 without losing a unit', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: 2n ** 60n }])
    await db.addMany('item', 'sku', [
      { sku: 'a', remaining: 1 },
      { sku: 'a', remaining: 2n },
    ])
    expect(await db.selectIn('item', 'sku', ['a'], { columns: ['remaining'] })).toEqual([{ remaining: 2n ** 60n + 3n }])
  })
})

describe('upsertMany', () => {
  it('inserts what is not there, and sets the others', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: 1 }])
    expect(
      await db.upsertMany('item', 'sku', [
        { sku: 'a', remaining: 5 },
        { sku: 'b', remaining: 6 },
      ]),
    ).toBe(2)
    expect(items()).toEqual([
      { sku: 'a', remaining: 5 },
      { sku: 'b', remaining: 6 },
    ])
  })

  it('adds to the columns that it is told to add to', async () => {
    await db.upsertMany(
      'part',
      ['a', 'b'],
      [
        { a: 'x', b: 1, n: 5, note: 'one' },
        { a: 'x', b: 1, n: 7, note: 'two' },
      ],
      { add: ['n'] },
    )
    expect(parts()).toEqual([['x', 1, 12, 'two']])
  })

  it('leaves rows that are nothing but their key', async () => {
    expect(await db.upsertMany('item', 'sku', [{ sku: 'a' }, { sku: 'a' }])).toBe(1)
    expect(items()).toEqual([{ sku: 'a', remaining: null }])
  })
})

describe('selectIn and deleteIn', () => {
  beforeEach(
    async () =>
      void (await db.insertMany('part', [
        { a: 'x', b: 1 },
        { a: 'x', b: 2 },
        { a: 'y', b: 3 },
      ])),
  )

  it('find all rows of the values, in the columns asked for', async () => {
    expect(await db.selectIn('part', 'a', ['x', 'none'], { columns: ['b'] })).toEqual([{ b: 1 }, { b: 2 }])
    expect(await db.selectIn('part', 'a', ['y'])).toEqual([{ a: 'y', b: 3, n: 0, note: null }])
    expect(await db.deleteIn('part', 'a', ['x', 'none'])).toBe(2)
    expect(parts()).toEqual([['y', 3, 0, null]])
  })

  it('count a repeated value once, in whatever form it comes', async () => {
    expect(await db.selectIn('part', 'b', [1, 1, 1n, true])).toHaveLength(1)
    expect(await db.selectIn('part', 'a', ['x', 'y', 'x'])).toHaveLength(3)
    const day = new Date(0)
    await db.insertMany('item', [{ sku: 'a', at: day, picture: new Uint8Array([1, 2]) }])
    expect(await db.selectIn('item', 'at', [day, new Date(0), day.toISOString()])).toHaveLength(1)
    expect(await db.selectIn('item', 'picture', [new Uint8Array([1, 2]), Buffer.from([1, 2])])).toHaveLength(1)
    expect(await db.deleteIn('part', 'b', [1, 1n, true])).toBe(1)
  })

  it('find nothing for null, since null is not equal to anything', async () => {
    expect(await db.selectIn('part', 'note', [null])).toEqual([])
    expect(await db.deleteIn('part', 'note', [null])).toBe(0)
  })
})

describe('no rows at all', () => {
  it('cost nothing and change nothing', async () => {
    const verbs = writeHandle(() => Promise.reject(new Error('asked')))
    expect(
      await Promise.all([
        verbs.insertMany('item', []),
        verbs.updateMany('item', 'sku', []),
        verbs.addMany('item', 'sku', []),
        verbs.upsertMany('item', 'sku', []),
        verbs.deleteIn('item', 'sku', []),
        verbs.selectIn('item', 'sku', []),
      ]),
    ).toEqual([0, 0, 0, 0, 0, []])
    expect(await readHandle(() => Promise.reject(new Error('asked'))).selectIn('item', 'sku', [])).toEqual([])
  })
})

describe('rows that do not fit together', () => {
  it.each([
    ['one column too few', [{ sku: 'a', remaining: 1 }, { sku: 'b' }]],
    ['one column too many', [{ sku: 'a' }, { sku: 'b', remaining: 1 }]],
    [
      'another column',
      [
        { sku: 'a', remaining: 1 },
        { sku: 'b', price: 1 },
      ],
    ],
    ['an undefined value', [{ sku: 'a', remaining: undefined as never }]],
  ])('are refused: %s', async (_what, rows) => {
    expect(await codeOf(db.insertMany('item', rows as never))).toBe('sql-failed')
    expect(await codeOf(db.upsertMany('item', 'sku', rows as never))).toBe('sql-failed')
    expect(await codeOf(db.updateMany('item', 'sku', rows.map((row) => ({ at: null, ...row })) as never))).toBe('sql-failed')
  })
})

describe('values', () => {
  it('come back as they went in', async () => {
    const bytes = new Uint8Array([0, 255, 7])
    await db.insertMany('item', [{ sku: 'a', remaining: -5, price: 1.25, picture: bytes, at: 'text 日本 🦜' }])
    expect(await db.selectIn('item', 'sku', ['a'])).toEqual([{ sku: 'a', remaining: -5, price: 1.25, picture: bytes, at: 'text 日本 🦜' }])
  })

  it('true and false are 1 and 0, and a date is its ISO text', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: true, price: false, at: new Date(0) }])
    expect(await db.sql`select remaining, price, at from item where remaining = ${true} and at < ${new Date()}`).toEqual([
      { remaining: 1, price: 0, at: '1970-01-01T00:00:00.000Z' },
    ])
  })

  it('beyond 2^53 come as bigint, in select and in returning, and the others in the same row as numbers', async () => {
    const big = 2n ** 62n
    expect(await db.sql`insert into item (sku, remaining, price) values ('a', ${big}, 2.5) returning remaining, price, 7 as small`).toEqual(
      [{ remaining: big, price: 2.5, small: 7 }],
    )
    // Once: a repeated statement would have met its own row.
    expect(file.prepare('select count(*) as n from item').get()).toEqual({ n: 1 })
    expect(await db.sql`select remaining, 7 as small from item`).toEqual([{ remaining: big, small: 7 }])
    expect(await db.sql`with x as (select ${-big} as n) select n, 1 as one from x`).toEqual([{ n: -big, one: 1 }])
    expect(await db.selectIn('item', 'remaining', [big], { columns: ['sku'] })).toEqual([{ sku: 'a' }])
    expect(await db.sql`select 1 as n`).toEqual([{ n: 1 }])
  })

  it('survive a round trip whatever they are', async () => {
    const value: fc.Arbitrary<SqlValue> = fc.oneof(
      fc.string({ unit: 'grapheme' }).filter((text) => !text.includes('\0')),
      fc.integer(),
      fc.maxSafeInteger(),
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      // The driver takes numbers nearer to 0 than 2^-52 for 0.
      fc.double({ noNaN: true }).filter((n) => !Number.isInteger(n) && Math.abs(n) >= 2 ** -52),
      fc.uint8Array(),
      fc.constant(null),
    )
    await fc.assert(
      fc.asyncProperty(value, async (given) => {
        const [row] = await db.sql<{ v: SqlValue }>`select ${given} as v`
        const expected =
          typeof given === 'bigint' && given >= BigInt(Number.MIN_SAFE_INTEGER) && given <= BigInt(Number.MAX_SAFE_INTEGER)
            ? Number(given)
            : given
        expect(row?.v).toEqual(expected)
      }),
    )
  })

  it.each([
    ['a bigint that no integer of 64 bits holds', 2n ** 63n],
    ['a text with a zero character, at which SQLite would cut it', 'a\0b'],
    ['half a surrogate pair, which no UTF-8 can hold', 'a\ud800'],
    ['an object', { a: 1 }],
    ['a list', [1]],
    ['a function', () => 1],
    ['NaN, which would become null', Number.NaN],
    ['a date that is none', new Date(Number.NaN)],
  ])('are refused rather than changed: %s', async (_what, given) => {
    expect(await codeOf(db.insertMany('item', [{ sku: given as never }]))).toBe('sql-failed')
    expect(await codeOf(db.selectIn('item', 'sku', [given as never]))).toBe('sql-failed')
    expect(await codeOf(db.sql`select ${given as never} as v`)).toBe('sql-failed')
    expect(items()).toEqual([])
  })
})

describe('names', () => {
  const bad = ['item; drop table item', 'item"', "item'", 'main.item', '', '1item', 'it em', 'x'.repeat(129), '*']

  it('of tables that are not plain are refused', async () => {
    for (const name of bad) {
      for (const running of [
        db.insertMany(name, [{ sku: 'a' }]),
        db.updateMany(name, 'sku', [{ sku: 'a', remaining: 1 }]),
        db.addMany(name, 'sku', [{ sku: 'a', remaining: 1 }]),
        db.upsertMany(name, 'sku', [{ sku: 'a' }]),
        db.selectIn(name, 'sku', ['a']),
        db.deleteIn(name, 'sku', ['a']),
      ]) {
        expect(await codeOf(running)).toBe('sql-failed')
      }
    }
  })

  it('of columns that are not plain are refused', async () => {
    for (const name of bad) {
      for (const running of [
        db.insertMany('item', [{ [name]: 'a' }]),
        db.updateMany('item', 'sku', [{ sku: 'a', [name]: 1 }]),
        db.updateMany('item', name, [{ [name]: 'a', remaining: 1 }]),
        db.upsertMany('item', name, [{ [name]: 'a' }]),
        db.selectIn('item', name, ['a']),
        db.selectIn('item', 'sku', ['a'], { columns: [name] }),
        db.deleteIn('item', name, ['a']),
      ]) {
        expect(await codeOf(running)).toBe('sql-failed')
      }
    }
  })

  it('of columns that do not exist are refused, and never taken for a text', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: 1 }])
    expect(await codeOf(db.deleteIn('item', 'nosuch', ['nosuch']))).toBe('sql-failed')
    expect(await codeOf(db.selectIn('item', 'nosuch', ['nosuch']))).toBe('sql-failed')
    expect(items()).toHaveLength(1)
  })

  it('that are words of SQL are names all the same', async () => {
    file.exec('create table "order" ("group" text primary key not null, "select" integer)')
    await db.upsertMany('order', 'group', [{ group: 'a', select: 1 }])
    expect(await db.selectIn('order', 'group', ['a'])).toEqual([{ group: 'a', select: 1 }])
  })

  it('that belong to Headrace are refused, however they are written', async () => {
    for (const running of [
      db.insertMany('headrace_fence', [{ scope: 'x' }]),
      db.deleteIn('Headrace_Fence', 'scope', ['x']),
      db.selectIn('HEADRACE_FENCE', 'scope', ['x']),
      db.sql`delete from headrace_fence`,
      db.sql`update "HeadRace_fence" set scope = 'y'`,
    ]) {
      expect(await codeOf(running)).toBe('statement-refused')
    }
  })
})

describe('a statement', () => {
  it.each([
    'begin',
    'BEGIN IMMEDIATE',
    'commit',
    'end',
    'rollback',
    'savepoint x',
    'release x',
    "attach 'x' as y",
    'detach y',
    'pragma foreign_keys = off',
    'vacuum',
    'create table t (a)',
    'alter table item add column x',
    'drop table item',
    'reindex',
    'analyze',
    '  \n\t commit',
    ';;commit',
    '-- a comment\ncommit',
    '/* a comment */ commit',
    '/* one */ -- two\n /* three */;\n commit',
    '/**/commit',
  ])('that is not for a handler is refused: %j', async (text) => {
    expect(await codeOf(db.sql(Object.assign([text], { raw: [text] })))).toBe('statement-refused')
  })

  it.each([
    ['another one behind it', "insert into item (sku) values ('a'); insert into item (sku) values ('b')"],
    ['one behind a comment', "insert into item (sku) values ('a'); -- more\n delete from item"],
    ['one that ends the transaction behind it', "insert into item (sku) values ('a'); commit"],
  ])('with %s is refused, and none of it runs', async (_what, text) => {
    expect(await codeOf(db.sql(Object.assign([text], { raw: [text] })))).toBe('statement-refused')
    expect(items()).toEqual([])
  })

  it.each([
    "insert into item (sku) values ('a;b');",
    "insert into item (sku) values ('a;b') ; ; ",
    "insert into item (sku) values ('a;b'); -- done",
    "insert into item (sku) values ('a;b'); /* done */",
    "insert into item (sku) values ('a;b') -- ; delete from item",
  ])('may end as it likes: %j', async (text) => {
    await db.sql(Object.assign([text], { raw: [text] }))
    expect(items()).toEqual([{ sku: 'a;b', remaining: null }])
  })

  it('that is wrong, or empty, says which one it was', async () => {
    const wrong = await refusal(db.sql`selec 1`)
    expect(wrong.code).toBe('sql-failed')
    expect(wrong.message).toContain('selec 1')
    expect(wrong.message).toContain("'shop'")
    for (const empty of ['', '  ', '-- nothing', ';'])
      expect(await codeOf(db.sql(Object.assign([empty], { raw: [empty] })))).toBe('sql-failed')
  })

  it('binds its values and never pastes them', async () => {
    const hostile = "x'); drop table item; --"
    await db.sql`insert into item (sku) values (${hostile})`
    expect(items()).toEqual([{ sku: hostile, remaining: null }])
  })

  it('that meets a lock is worth another try, in every form', async () => {
    const other = openDatabase('shop', join(folder, 'shop.sqlite'), { synchronous: 'normal', cacheKiB: 1024 })
    other.exec('begin immediate')
    try {
      file.exec('pragma busy_timeout = 0')
      expect(await codeOf(db.sql`insert into item (sku) values ('a') returning sku`)).toBe('sql-busy')
      expect(await codeOf(db.sql`insert into item (sku) values ('a')`)).toBe('sql-busy')
      expect(await codeOf(db.insertMany('item', [{ sku: 'a' }]))).toBe('sql-busy')
    } finally {
      other.exec('rollback')
      other.close()
    }
  })

  it('of a thousand shapes still works: the oldest prepared ones go', async () => {
    await db.insertMany('item', [{ sku: 'a', remaining: 1 }])
    for (let shape = 0; shape < 1_000; shape++)
      expect(await db.sql(Object.assign([`select ${shape} as n`], { raw: [''] }))).toEqual([{ n: shape }])
    expect(await db.selectIn('item', 'sku', ['a'], { columns: ['remaining'] })).toEqual([{ remaining: 1 }])
  })
})
