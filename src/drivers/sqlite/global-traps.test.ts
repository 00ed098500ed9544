/** What SQLite does that would surprise a coordinator, each as a promise of the participant. */
import { chmodSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { HeadraceError } from '../../contracts/errors.ts'
import type { LedgerOptions } from '../../contracts/ledger.ts'
import type { Branch, BranchStart, Participant } from '../../contracts/participant.ts'
import { sqlite } from './database.ts'
import { openSqliteLedger } from './ledger.ts'

const schema = `
  create table if not exists item (id text primary key not null, n integer not null);
  create table if not exists free (n integer);
  create table if not exists child (id text primary key not null, parent text references item (id) deferrable initially deferred);`

let folder: string
const opened: Participant[] = []
const others: DatabaseSyncInstance[] = []
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'headrace-traps-'))
})
afterEach(async () => {
  await Promise.all(opened.splice(0).map((participant) => participant.close()))
  for (const other of others.splice(0)) other.close()
  rmSync(folder, { recursive: true, force: true })
})

let names = 0
const newGid = (): string => `trap_${names++}`
const path = (): string => join(folder, 'shop.sqlite')

async function open(name = 'shop', options: { readonly file?: string; readonly schema?: string } = {}): Promise<Participant> {
  const participant = await sqlite(name, { file: path(), schema, ...options }).connect()
  opened.push(participant)
  return participant
}

/** Another program on the file. */
function other(file = path()): DatabaseSyncInstance {
  const database = new DatabaseSync(file)
  others.push(database)
  return database
}

const begin = (participant: Participant, given: Partial<BranchStart> = {}): Promise<Branch> =>
  participant.begin({ gid: newGid(), statementTimeoutMs: 2_000, ...given })

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
const ids = async (participant: Participant): Promise<unknown[]> =>
  (await participant.reader.sql`select id from item order by id`).map(({ id }) => id)
const add = (branch: Branch, id: string, n = 1): Promise<number> => branch.database.insertMany('item', [{ id, n }])

describe('a SQLite file of a coordinator keeps what it says it keeps', () => {
  it('commits with a log and an fsync each, whatever the file was set to before', async () => {
    const before = other()
    before.exec('pragma journal_mode = delete; create table old (n integer primary key)')
    before.close()
    others.pop()
    const one = await open()
    const branch = await begin(one)
    const client = branch.client as DatabaseSyncInstance
    expect(client.prepare('pragma journal_mode').get()).toEqual({ journal_mode: 'wal' })
    // 2 is FULL: with NORMAL a power cut takes acknowledged commits.
    expect(client.prepare('pragma synchronous').get()).toEqual({ synchronous: 2 })
    expect(client.prepare('pragma foreign_keys').get()).toEqual({ foreign_keys: 1 })
    await branch.abort()
  })

  it('brings a log that was left behind into the file, on disk, before anything in it is answered', async () => {
    const first = await open()
    const branch = await begin(first)
    await add(branch, 'a')
    await branch.commit()
    // Another program keeps the log from going away with its last user.
    const keeper = other()
    keeper.prepare('select 1 from item').get()
    await first.close()
    await open()
    // The file without its log.
    copyFileSync(path(), join(folder, 'alone.sqlite'))
    expect(other(join(folder, 'alone.sqlite')).prepare('select id from item').all()).toEqual([{ id: 'a' }])
  })

  it('takes a deferred constraint that fails in the commit as a refusal, not as a riddle', async () => {
    const one = await open()
    const branch = await begin(one)
    await branch.database.insertMany('child', [{ id: 'c', parent: 'nobody' }])
    expect(await codeOf(branch.commit())).toBe('sql-failed')
    expect(await one.marker(branch.gid)).toBe(null)
    expect(await one.reader.sql`select * from child`).toEqual([])
    const next = await begin(one)
    await add(next, 'a')
    await next.commit()
    expect(await ids(one)).toEqual(['a'])
  })

  it('runs nothing outside of the transaction when SQLite has undone it whole', async () => {
    const one = await open('shop', {
      schema: `${schema}; create trigger if not exists guard before insert on item when new.n < 0 begin select raise(rollback, 'no'); end;`,
    })
    for (const undo of ['insert or rollback', 'a trigger'] as const) {
      const branch = await begin(one)
      await add(branch, 'kept?')
      await branch.savepoint()
      const failing =
        undo === 'a trigger' ? add(branch, 'x', -1) : branch.database.sql`insert or rollback into item (id, n) values ('kept?', 2)`
      expect(await codeOf(failing), undo).toBe('sql-failed')
      // The savepoint is gone with the transaction: this would be true at once, and alone.
      expect((await refusal(branch.rollbackToSavepoint())).message, undo).toContain('can only be undone')
      expect(await codeOf(add(branch, 'alone')), undo).toBe('sql-failed')
      expect(await codeOf(branch.commit()), undo).toBe('sql-failed')
      await branch.abort()
      expect(await ids(one), undo).toEqual([])
    }
  })

  it('commits nothing under a marker when the transaction was ended through the raw client', async () => {
    const one = await open()
    const branch = await begin(one)
    ;(branch.client as DatabaseSyncInstance).exec('rollback')
    expect(await codeOf(add(branch, 'alone'))).toBe('transaction-closed')
    expect(await codeOf(branch.commit())).toBe('transaction-closed')
    expect(await one.marker(branch.gid)).toBe(null)
    expect(await ids(one)).toEqual([])
  })

  it('leaves nothing of a transaction for which the disk is full, and goes on when there is room', async () => {
    const one = await open()
    const branch = await begin(one)
    const client = branch.client as DatabaseSyncInstance
    const { page_count: pages } = client.prepare('pragma page_count').get() as { page_count: number }
    client.exec(`pragma max_page_count = ${pages + 2}`)
    await add(branch, 'small')
    expect(await codeOf(branch.database.sql`insert into item (id, n) values (${'x'.repeat(100_000)}, 1)`)).toBe('disk-full')
    expect(await codeOf(branch.commit())).toBe('disk-full')
    client.exec('pragma max_page_count = 1000000')
    await branch.abort()
    expect(await ids(one)).toEqual([])
    const next = await begin(one)
    await add(next, 'a')
    await next.commit()
    expect(await ids(one)).toEqual(['a'])
  })

  it('takes tables without a primary key: it commits in the file itself and redoes nothing', async () => {
    const one = await open()
    const branch = await begin(one)
    await branch.database.insertMany('free', [{ n: 1 }, { n: 1 }])
    await branch.commit()
    expect(await one.reader.sql`select n from free`).toHaveLength(2)
  })

  it('cannot prepare, says so, and can only be undone then', async () => {
    const one = await open()
    expect(one.canPrepare).toBe(false)
    expect(one.canDecide).toBe(true)
    const branch = await begin(one)
    await add(branch, 'a')
    expect(await codeOf(branch.prepare())).toBe('prepare-unavailable')
    expect(await codeOf(branch.commit())).toBe('prepare-unavailable')
    await branch.abort()
    expect(await ids(one)).toEqual([])
    expect(await one.prepared('')).toEqual([])
    expect(await codeOf(one.commitPrepared(branch.gid))).toBe('transaction-heuristic')
    await one.rollbackPrepared(branch.gid)
    expect(await one.marker(branch.gid)).toBe('aborted')
  })
})

describe('a SQLite file of a coordinator has one writer at a time', () => {
  it('gives writers of this process their turn in the order in which they came', async () => {
    const [one, two] = [await open(), await open('again')]
    const order: string[] = []
    const first = await begin(one)
    const waiting = ['a', 'b', 'c', 'd'].map(async (id, index) => {
      const branch = await begin(index % 2 === 0 ? one : two)
      order.push(id)
      await add(branch, id)
      await branch.commit()
    })
    await first.abort()
    await Promise.all(waiting)
    expect(order).toEqual(['a', 'b', 'c', 'd'])
  })

  it('refuses a writer that has waited too long, or is given up, and gives the turn to the next', async () => {
    const one = await open()
    const holder = await begin(one)
    const late = codeOf(begin(one, { statementTimeoutMs: 30 }))
    const given = new AbortController()
    const leaving = codeOf(begin(one, { signal: given.signal }))
    const patient = begin(one)
    // All of them stand in line by then.
    await new Promise(setImmediate)
    given.abort()
    expect(await leaving).toBe('wait-aborted')
    expect(await late).toBe('sql-busy')
    await holder.abort()
    const branch = await patient
    await add(branch, 'a')
    await branch.commit()
    expect(await ids(one)).toEqual(['a'])
  })

  it('waits for another process without holding up this one, and not for ever', async () => {
    const one = await open()
    const stranger = other()
    stranger.exec('begin immediate')
    const began = performance.now()
    let longest = 0
    let last = began
    let turns = 0
    let watching = true
    const watch = (): void => {
      const now = performance.now()
      longest = Math.max(longest, now - last)
      last = now
      turns += 1
      if (watching) setTimeout(watch, 1)
    }
    watch()
    expect(await codeOf(begin(one, { statementTimeoutMs: 400 }))).toBe('sql-busy')
    watching = false
    expect(performance.now() - began).toBeGreaterThan(350)
    expect(turns).toBeGreaterThan(20)
    // A busy_timeout of the same length would have stopped every timer for all of it.
    expect(longest).toBeLessThan(300)
    const waiting = begin(one)
    stranger.exec('commit')
    await (await waiting).abort()
  })

  it('tells whoever asks after a branch that is still open to come again, and then how it ended', async () => {
    const [one, two] = [await open(), await open()]
    const branch = await begin(one)
    await add(branch, 'a')
    const asked = await refusal(two.settle(branch.gid))
    expect([asked.code, asked.retryable]).toEqual(['sql-busy', true])
    await branch.abort()
    expect(await two.settle(branch.gid)).toBe('aborted')
    const again = await begin(one, { gid: branch.gid })
    await add(again, 'a')
    expect(await codeOf(again.commit())).toBe('gid-taken')
    expect(await ids(one)).toEqual([])
  })

  it('refuses a transaction that uses it under two names at once, instead of waiting for itself', async () => {
    const [one, two] = [await open(), await open('again')]
    const branch = await begin(one)
    const began = performance.now()
    expect(await codeOf(begin(two, { gid: branch.gid, statementTimeoutMs: 60_000 }))).toBe('protocol-unavailable')
    expect(performance.now() - began).toBeLessThan(5_000)
    await branch.abort()
  })

  it('undoes what is open when it is closed, and lets others write', async () => {
    const [one, two] = [await open(), await open('again')]
    const branch = await begin(one)
    await add(branch, 'a')
    await one.close()
    expect(await codeOf(branch.commit())).toBe('transaction-closed')
    const next = await begin(two)
    await next.commit()
    expect(await ids(two)).toEqual([])
  })

  it('lets the event loop turn while many transactions follow each other', async () => {
    const one = await open()
    let turned = 0
    const turn = (): void => {
      turned += 1
      immediate = setImmediate(turn)
    }
    let immediate = setImmediate(turn)
    for (let n = 0; n < 200; n++) {
      const branch = await begin(one)
      await add(branch, `i${n}`)
      await branch.commit()
    }
    clearImmediate(immediate)
    expect(turned).toBeGreaterThan(3)
  })
})

describe('a SQLite file is of an app or of a coordinator', () => {
  const ledger = (file: string): Promise<{ close(): Promise<void> }> =>
    openSqliteLedger({
      app: 'shop',
      dataDir: join(folder, 'data'),
      partitions: 8,
      databases: [sqlite('shop', { file, schema: 'create table if not exists item (id text primary key not null, n integer not null)' })],
      outcomeRetentionMs: 60_000,
      outcomesMax: 1_000,
      thread: 'main',
      lanes: 1,
      databaseWaitMs: 0,
      statementTimeoutMs: 5_000,
    } satisfies LedgerOptions & { thread: 'main' })

  it('refuses a file that the journal of an app redoes', async () => {
    const app = await ledger(path())
    expect(await codeOf(sqlite('shop', { file: path() }).connect())).toBe('database-claimed')
    await app.close()
    const why = await refusal(sqlite('shop', { file: path() }).connect())
    expect(why.code).toBe('database-claimed')
    expect(why.message).toContain(path())
    expect(other().prepare("select name from sqlite_master where name like 'headrace%'").all()).toEqual([{ name: 'headrace_partition' }])
  })

  it('refuses an app the file in which a coordinator decides', async () => {
    const one = await open()
    const branch = await begin(one)
    await add(branch, 'a')
    await branch.commit()
    const why = await refusal(ledger(path()))
    expect(why.code).toBe('database-claimed')
    expect(why.message).toContain(path())
    expect(other().prepare("select name from sqlite_master where name = 'headrace_partition'").all()).toEqual([])
    expect(await ids(one)).toEqual(['a'])
  })

  it('gives the file to a coordinator when the app has let it go', async () => {
    await (await ledger(path())).close()
    other().exec('delete from headrace_partition')
    const one = await open()
    expect((await one.check()).filter(({ level }) => level === 'error')).toEqual([])
  })
})

describe('a SQLite file that cannot be used is refused in plain words', () => {
  it('needs a path', async () => {
    expect(await codeOf(sqlite('shop').connect())).toBe('option-invalid')
    for (const file of [':memory:', 'file:shop?mode=memory', 'a\0b'])
      expect(await codeOf(sqlite('shop', { file }).connect()), file).toBe('option-invalid')
  })

  it('makes the folder, and says which folder it cannot make', async () => {
    await open('shop', { file: join(folder, 'a', 'b', 'shop.sqlite') })
    expect(existsSync(join(folder, 'a', 'b', 'shop.sqlite'))).toBe(true)
    writeFileSync(join(folder, 'plain'), '')
    const why = await refusal(sqlite('shop', { file: join(folder, 'plain', 'shop.sqlite') }).connect())
    expect(why.code).toBe('data-unreadable')
    expect(why.message).toContain('plain')
  })

  it('is none of SQLite, or a folder', async () => {
    writeFileSync(path(), 'a text that is longer than the header of a database would be. '.repeat(20))
    expect(await codeOf(sqlite('shop', { file: path() }).connect())).toBe('data-corrupt')
    mkdirSync(join(folder, 'folder.sqlite'))
    expect(await codeOf(sqlite('shop', { file: join(folder, 'folder.sqlite') }).connect())).toBe('data-unreadable')
  })

  it.skipIf(process.getuid?.() === 0)('may not be written', async () => {
    await (await open()).close()
    chmodSync(path(), 0o400)
    expect(await codeOf(sqlite('shop', { file: path() }).connect())).toBe('data-unreadable')
  })

  it('has tables of a newer Headrace', async () => {
    await (await open()).close()
    other().exec("update headrace_meta set value = 99 where name = 'tables'")
    const why = await refusal(sqlite('shop', { file: path() }).connect())
    expect(why.code).toBe('tables-outdated')
    expect(why.message).toContain('99')
  })

  it('has a schema that is wrong, or leaves a transaction open', async () => {
    expect(await codeOf(sqlite('shop', { file: path(), schema: 'create tabel x' }).connect())).toBe('sql-failed')
    expect(await codeOf(sqlite('shop', { file: path(), schema: 'begin; create table x (n integer primary key)' }).connect())).toBe(
      'sql-failed',
    )
    const one = await open()
    expect(await one.reader.sql`select name from sqlite_master where name = 'x'`).toEqual([])
  })

  it('is set up once by many that come at the same time', async () => {
    const many = await Promise.all(Array.from({ length: 8 }, (_, n) => open(`n${n}`)))
    for (const [n, participant] of many.entries()) {
      const branch = await begin(participant)
      await add(branch, `i${n}`)
      await branch.commit()
    }
    expect(await ids(many[0] as Participant)).toHaveLength(8)
  })

  it('comes up later when somebody else holds it at the start', async () => {
    const stranger = other()
    stranger.exec('pragma journal_mode = wal; create table theirs (n integer primary key); begin immediate')
    const participant = await open()
    expect((await refusal(participant.raise([{ deployment: 'd', partition: 0, epoch: 1 }]))).retryable).toBe(true)
    stranger.exec('commit')
    await participant.raise([{ deployment: 'd', partition: 0, epoch: 1 }])
    expect((await participant.check()).filter(({ level }) => level === 'error')).toEqual([])
  })
})
