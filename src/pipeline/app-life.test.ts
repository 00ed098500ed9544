import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { codeOf, errorOf, heard, notes, started, temporaryFolder } from '../../test/support/apps.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { accept, command, defineApp, HeadraceError, query } from '../index.ts'

const put = command('thing.put', { input: z.object({ id: z.string() }), key: ({ id }) => id, run: () => accept() })

function refusal(action: () => unknown): { readonly code: string; readonly message: string } {
  try {
    action()
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It was not refused.')
}

describe('an app that is defined wrongly', () => {
  it('is refused for an option that does not exist, with the one that was meant', () => {
    const { code, message } = refusal(() => defineApp({ name: 'a', commands: [put], batchComandsMax: 5 } as never))
    expect(code).toBe('option-unknown')
    expect(message).toContain("did you mean 'batchCommandsMax'?")
  })

  it('is refused for two commands or two queries of one name', () => {
    expect(refusal(() => defineApp({ name: 'a', commands: [put, { ...put }] })).code).toBe('app-invalid')
    const ask = query('thing.get', { input: z.object({}), load: () => 1 })
    expect(refusal(() => defineApp({ name: 'a', commands: [], queries: [ask, { ...ask }] })).message).toContain(
      "Two queries are named 'thing.get'",
    )
  })

  it('is refused for two databases of one name, and not for one that is used twice', () => {
    const one = sqlite('store')
    const other = sqlite('store')
    const using = (name: string, store: typeof one) =>
      command(name, { input: z.object({}), key: () => 'k', databases: { store }, run: () => accept() })
    expect(refusal(() => defineApp({ name: 'a', commands: [using('a.a', one), using('a.b', other)] })).code).toBe('app-invalid')
    expect(defineApp({ name: 'a', commands: [using('a.a', one), using('a.b', one)] }).kind).toBe('headrace-app')
  })

  it('is refused for a name that is none', () => {
    for (const name of ['', 'Upper', 'with space', '-x', 'x'.repeat(65)])
      expect(refusal(() => defineApp({ name, commands: [] })).code).toBe('app-invalid')
  })

  it('is refused for two databases in one file, and for one in the file of the journal', async () => {
    const dataDir = temporaryFolder()
    const file = join(dataDir, 'shared.sqlite')
    const databases = { a: sqlite('a', { file }), b: sqlite('b', { file: join(dataDir, '.', 'shared.sqlite') }) }
    const both = command('both.put', { input: z.object({}), key: () => 'k', databases, run: () => accept() })
    expect(await codeOf(defineApp({ name: 'a', commands: [both], dataDir }).start())).toBe('app-invalid')
    const onJournal = command('bad.put', {
      input: z.object({}),
      key: () => 'k',
      databases: { a: sqlite('a', { file: join(dataDir, 'journal.sqlite') }) },
      run: () => accept(),
    })
    expect(await codeOf(defineApp({ name: 'a', commands: [onJournal], dataDir }).start())).toBe('app-invalid')
  })
})

describe('a data directory', () => {
  it('is owned by one app at a time; the other is told who has it, and can have it afterwards', async () => {
    const n = notes()
    await started(n.app)
    const other = notes({ dataDir: n.dataDir })
    const refused = await errorOf(other.app.start())
    expect(refused.code).toBe('data-in-use')
    expect(refused.message).toContain(`process ${process.pid}`)
    expect(await other.app.status()).toMatchObject({ state: 'failed', reason: refused.message })
    await n.app.stop()
    const third = notes({ dataDir: n.dataDir })
    await started(third.app)
  })

  it('keeps the number of partitions that it was made with', async () => {
    const dataDir = temporaryFolder()
    const n = notes({ dataDir, partitions: 8 })
    await started(n.app)
    await n.app.stop()
    const refused = await errorOf(notes({ dataDir, partitions: 16 }).app.start())
    expect(refused.code).toBe('data-partitions')
    expect(refused.message).toContain('8 partitions')
    await started(notes({ dataDir, partitions: 8 }).app)
  })

  it('that is a file, or cannot be made, is refused by name', async () => {
    const folder = temporaryFolder()
    writeFileSync(join(folder, 'file'), '')
    expect(await codeOf(notes({ dataDir: join(folder, 'file') }).app.start())).toBe('data-unreadable')
    expect(await codeOf(notes({ dataDir: join(folder, 'file', 'below') }).app.start())).toBe('data-unreadable')
  })

  it('is made when it is not there', async () => {
    const dataDir = join(temporaryFolder(), 'deep', 'below')
    const n = notes({ dataDir })
    await started(n.app)
    await n.app.submit(n.run, { key: 'a', value: 1 })
    expect(n.effects()).toHaveLength(1)
  })
})

describe('a database', () => {
  const using = (store: ReturnType<typeof sqlite>) =>
    command('store.put', { input: z.object({}), key: () => 'k', databases: { store }, run: () => accept() })

  it.each([
    ['a table without a primary key', 'create table if not exists t (a text)', 'table-without-key'],
    [
      'a foreign key that is checked only at the end',
      'create table if not exists p (id integer primary key); create table if not exists c (id integer primary key, p integer references p (id) deferrable initially deferred)',
      'constraint-deferred',
    ],
    ['a schema that is no SQL', 'create tabel t (a)', 'sql-failed'],
  ])('with %s is refused at start, by name', async (_what, schema, code) => {
    const dataDir = temporaryFolder()
    const refused = await errorOf(defineApp({ name: 'a', commands: [using(sqlite('store', { schema }))], dataDir }).start())
    expect(refused.code).toBe(code)
    expect(refused.message).toContain("'store'")
    // What was refused let go of the directory.
    await started(defineApp({ name: 'a', commands: [put], dataDir }))
  })

  it('may have a file of its own, and a folder that is not there yet', async () => {
    const dataDir = temporaryFolder()
    const file = join(dataDir, 'elsewhere', 'own.sqlite')
    const app = await started(
      defineApp({
        name: 'a',
        commands: [using(sqlite('store', { file, schema: 'create table if not exists t (id integer primary key)' }))],
        dataDir,
      }),
    )
    expect(await app.submit(using(sqlite('store')), {})).toMatchObject({ status: 'committed' })
  })

  it('that is no database is refused by name', async () => {
    const dataDir = temporaryFolder()
    mkdirSync(dataDir, { recursive: true })
    writeFileSync(join(dataDir, 'store.sqlite'), 'this is a text, and a long one, that no database would begin with'.repeat(100))
    const refused = await errorOf(defineApp({ name: 'a', commands: [using(sqlite('store'))], dataDir }).start())
    expect(refused.code).toBe('data-corrupt')
    expect(refused.message).toContain("'store'")
  })
})

describe('the life of an app', () => {
  it('takes nothing before its start, and starts once', async () => {
    const n = notes()
    expect(await codeOf(n.app.submit(n.run, { key: 'a', value: 1 }))).toBe('app-not-started')
    expect(await n.app.status()).toMatchObject({ state: 'new', counts: { queued: 0 } })
    await started(n.app)
    expect(await n.app.status()).toMatchObject({ state: 'ready', reason: null })
    expect(await codeOf(n.app.start())).toBe('app-invalid')
  })

  it('answers nothing after its stop, and says why', async () => {
    const ask = query('thing.get', { input: z.object({}), load: () => 1 })
    const app = await started(defineApp({ name: 'a', commands: [put], queries: [ask], dataDir: temporaryFolder() }))
    await app.stop()
    expect(await codeOf(app.submit(put, { id: 'x' }))).toBe('stopping')
    expect(await codeOf(app.query(ask, {}))).toBe('stopping')
    expect(await codeOf(app.deadLetters.list())).toBe('stopping')
    expect(await codeOf(app.gateway.outcomeState('thing.put', 'default', 'x'))).toBe('stopping')
    expect(await app.status()).toMatchObject({ state: 'stopped' })
  })

  it('stays stopped when a handler that outlived the stop comes to its end', async () => {
    const n = notes({ stopTimeoutMs: 20 })
    await started(n.app)
    const held = codeOf(n.app.submit(n.pass, { gate: 'late' }))
    await n.gates.reached('late')
    await n.app.stop()
    expect(await held).toBe('stopping')
    const notices = heard('headrace:notice')
    n.gates.open('late')
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate)
    expect((await n.app.status()).state).toBe('stopped')
    expect(notices).toEqual([])
  })

  it('tells what recovery found, what was applied and what came of each command', async () => {
    const recoveries = heard('headrace:recovery')
    const batches = heard('headrace:batch')
    const outcomes = heard('headrace:outcome')
    const n = notes({ does: ({ value }) => (value < 0 ? 'reject' : 'accept') })
    await started(n.app)
    await n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'x' })
    await n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'x' })
    await n.app.submit(n.run, { key: 'a', value: -1 })
    expect(recoveries).toEqual([{ app: 'notes', queued: 0, redone: 0, ms: expect.any(Number) }])
    expect(batches).toHaveLength(3)
    for (const batch of batches) expect(batch).toMatchObject({ app: 'notes', commands: 1, waitMs: expect.any(Number) })
    expect(outcomes).toMatchObject([
      { command: 'note.run', status: 'committed', code: null, repeated: false },
      { command: 'note.run', status: 'committed', code: null, repeated: true },
      { command: 'note.run', status: 'rejected', code: 'not-wanted', repeated: false },
    ])
  })
})
