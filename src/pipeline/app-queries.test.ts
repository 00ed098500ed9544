import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { codeOf, errorOf, Gates, heard, started, temporaryFolder } from '../../test/support/apps.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { accept, type AnyQuery, type App, type AppOptions, command, defineApp, query } from '../index.ts'

const store = sqlite('store', { schema: 'create table if not exists t (id text primary key not null, n integer not null)' })
const databases = { store }
const put = command('thing.put', {
  input: z.object({ id: z.string(), n: z.number() }),
  key: ({ id }) => id,
  databases,
  run: async ({ input, databases }) => accept(await databases.store.upsertMany('t', 'id', [input])),
})

async function appOf(queries: readonly AnyQuery[], options: AppOptions = {}): Promise<App> {
  return started(defineApp({ name: 'asking', commands: [put], queries, dataDir: temporaryFolder(), ...options }))
}

describe('a query', () => {
  it('sees what was committed before it, and nothing that is not', async () => {
    const gates = new Gates()
    const slow = command('thing.slow', {
      input: z.object({ id: z.string() }),
      key: ({ id }) => id,
      databases,
      run: async ({ input, databases }) => {
        await databases.store.insertMany('t', [{ ...input, n: 99 }])
        await gates.pass('slow')
        return accept()
      },
    })
    const get = query('thing.get', {
      input: z.object({ id: z.string() }),
      databases,
      load: async ({ id }, { store }) => (await store.selectIn<{ n: number }>('t', 'id', [id]))[0]?.n ?? null,
    })
    const app = await started(defineApp({ name: 'asking', commands: [put, slow], queries: [get], dataDir: temporaryFolder() }))
    await app.submit(put, { id: 'a', n: 1 })
    expect(await app.query(get, { id: 'a' })).toBe(1)
    const writing = app.submit(slow, { id: 'b' })
    await gates.reached('slow')
    expect(await app.query(get, { id: 'b' })).toBeNull()
    gates.open('slow')
    await writing
    expect(await app.query(get, { id: 'b' })).toBe(99)
    expect(await app.gateway.ask('thing.get', { id: 'b' })).toBe('99')
  })

  it.each([
    ['insert into t values (1, 1)'],
    ['update t set n = 0'],
    ['delete from t'],
    ['/* harmless */ with x as (select 1) delete from t'],
  ])('cannot write: %s', async (text) => {
    const write = query('thing.write', {
      input: z.object({}),
      databases,
      load: (_input, { store }) => store.sql(Object.assign([text], { raw: [text] })),
    })
    const app = await appOf([write])
    await app.submit(put, { id: 'a', n: 1 })
    expect(await codeOf(app.query(write, {}))).toBe('statement-refused')
  })

  it('whose input does not fit is refused', async () => {
    const get = query('thing.get', { input: z.object({ id: z.string() }), load: ({ id }) => id })
    const app = await appOf([get])
    expect(await codeOf(app.query(get, { id: 7 } as never))).toBe('input-invalid')
    const error = await errorOf(app.gateway.ask('thing.got', {}))
    expect(error.code).toBe('query-unknown')
    expect(error.message).toContain("did you mean 'thing.get'?")
  })

  it('that throws says so, without taking anything with it', async () => {
    const broken = query('query.broken', {
      input: z.object({}),
      load: () => {
        throw new Error('no')
      },
    })
    const bad = query('query.bad', { input: z.object({}), databases, load: (_input, { store }) => store.sql`select * from nowhere` })
    const app = await appOf([broken, bad])
    const events = heard('headrace:query')
    expect(await codeOf(app.query(broken, {}))).toBe('query-failed')
    expect(await codeOf(app.query(bad, {}))).toBe('sql-failed')
    expect(events.map(({ ok }) => ok)).toEqual([false, false])
  })

  it('that does not end is given up after its time', async () => {
    const hang = query('query.hang', { input: z.object({}), timeoutMs: 20, load: () => new Promise<never>(() => undefined) })
    const app = await appOf([hang])
    expect(await codeOf(app.query(hang, {}))).toBe('query-timeout')
  })

  it('past queriesMax is refused at once, also while the caller of an earlier one has left', async () => {
    const gates = new Gates()
    const wait = query('query.wait', { input: z.object({ gate: z.string() }), load: ({ gate }) => gates.pass(gate) })
    const app = await appOf([wait], { queriesMax: 2 })
    const gone = new AbortController()
    const first = codeOf(app.query(wait, { gate: 'a' }, { signal: gone.signal }))
    const second = app.query(wait, { gate: 'b' })
    await Promise.all([gates.reached('a'), gates.reached('b')])
    expect(await codeOf(app.query(wait, { gate: 'c' }))).toBe('overloaded')
    gone.abort()
    expect(await first).toBe('wait-aborted')
    // It still runs.
    expect(await codeOf(app.query(wait, { gate: 'c' }))).toBe('overloaded')
    gates.open('a')
    gates.open('b')
    gates.open('c')
    await second
    expect(await codeOf(app.query(wait, { gate: 'c' }))).toBe('nothing')
  })
})

describe('a caller who left before it began', () => {
  it('hears so at once, and what fails behind him later harms nobody', async () => {
    const gates = new Gates()
    const fails = query('query.fails', {
      input: z.object({}),
      load: async () => {
        await gates.pass('fail')
        throw new Error('later')
      },
    })
    const app = await appOf([fails])
    const events = heard('headrace:query')
    expect(await codeOf(app.query(fails, {}, { signal: AbortSignal.abort() }))).toBe('wait-aborted')
    gates.open('fail')
    while (events.length === 0) await new Promise(setImmediate)
  })
})

describe('a query with a key', () => {
  it('is read once, until a command that names its key has changed what it read', async () => {
    let loads = 0
    const cached = query('thing.cached', {
      input: z.object({ id: z.string() }),
      key: ({ id }) => `thing:${id}`,
      databases,
      load: async ({ id }, { store }) => {
        loads += 1
        return (await store.selectIn<{ n: number }>('t', 'id', [id]))[0]?.n ?? null
      },
    })
    const change = command('thing.change', {
      input: z.object({ id: z.string(), n: z.number() }),
      key: ({ id }) => id,
      databases,
      invalidates: ({ id }) => [`thing:${id}`],
      run: async ({ input, databases }) => accept(await databases.store.upsertMany('t', 'id', [input])),
    })
    const app = await started(defineApp({ name: 'asking', commands: [change], queries: [cached], dataDir: temporaryFolder() }))
    for (let n = 1; n <= 20; n++) {
      await app.submit(change, { id: 'a', n })
      // Never one older than what was just acknowledged.
      expect(await Promise.all([app.query(cached, { id: 'a' }), app.query(cached, { id: 'a' })])).toEqual([n, n])
    }
    expect(loads).toBe(20)
    expect(await app.query(cached, { id: 'a' })).toBe(20)
    expect(loads).toBe(20)
  })
})
