/** What PostgreSQL does that would surprise, each as a promise of the participant. */
import { inspect } from 'node:util'
import pg from 'pg'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Branch, Participant } from '../../contracts/participant.ts'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { postgres } from './database.ts'
import type { PostgresOptions } from './options.ts'

const missing = serverMissing('postgres')
const start = { statementTimeoutMs: 5_000 }
const schema = 'create table if not exists item (id text primary key not null, n bigint not null, note text)'

let names = 0
const newGid = (): string => `trap_${process.pid}_${Date.now().toString(36)}_${names++}`

async function refusal(running: Promise<unknown>): Promise<HeadraceError> {
  try {
    await running
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It was not refused.')
}

describe.skipIf(missing !== null)(`PostgreSQL's traps${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let admin: pg.Pool
  const opened: Participant[] = []
  const urlOf = (at: Server, database: string, account = 'postgres'): string => `postgres://${account}@127.0.0.1:${at.port}/${database}`
  const open = async (name: string, options: PostgresOptions): Promise<Participant> => {
    const participant = await postgres(name, { connectTimeoutMs: 2_000, ...options }).connect()
    opened.push(participant)
    return participant
  }
  const ready = async (options: Partial<PostgresOptions> = {}): Promise<Participant> => {
    const participant = await open('left', { url: urlOf(server, 'shop'), schema, ...options })
    await participant.migrate()
    return participant
  }

  beforeAll(async () => {
    server = await startPostgres({ maxPreparedTransactions: 2 })
    const first = new pg.Client({ connectionString: urlOf(server, 'postgres') })
    await first.connect()
    await first.query('create database shop')
    await first.query('create database other')
    await first.end()
    admin = new pg.Pool({ connectionString: urlOf(server, 'shop') })
    admin.on('error', () => {})
  })
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((participant) => participant.close()))
  })
  afterAll(async () => {
    await admin.end()
    await server.stop()
  })

  it('PREPARE TRANSACTION in a failed transaction answers ROLLBACK: the branch is not prepared', async () => {
    const one = await ready()
    const gid = newGid()
    const branch = await one.begin({ gid, ...start })
    const client = branch.client as pg.PoolClient
    await client.query("insert into item (id, n) values ('failed', 1)")
    // The failure is the client's own: Headrace did not see it.
    await expect(client.query('select nothing')).rejects.toThrow()
    expect((await refusal(branch.prepare())).code).toBe('sql-failed')
    expect(await one.prepared(gid)).toEqual([])
    expect(await one.marker(gid)).toBe(null)
    expect(await one.reader.selectIn('item', 'id', ['failed'])).toEqual([])
  })

  it('a transaction that was ended through the raw client is neither prepared nor committed under a marker', async () => {
    const one = await ready()
    for (const end of ['prepare', 'commit'] as const) {
      const gid = newGid()
      const branch = await one.begin({ gid, ...start })
      await (branch.client as pg.PoolClient).query('rollback')
      expect((await refusal(branch[end]())).code).toBe('transaction-closed')
      expect(await one.marker(gid)).toBe(null)
    }
  })

  it('an error of the marker keeps the statements after it from running', async () => {
    const one = await ready()
    const gid = newGid()
    const branch = await one.begin({ gid, ...start })
    await branch.database.insertMany('item', [{ id: gid, n: 1 }])
    await admin.query(`insert into headrace_branch (gid, participant, committed) values ('${gid}', 'left', false)`)
    expect((await refusal(branch.prepare())).code).toBe('gid-taken')
    expect((await admin.query('select from pg_prepared_xacts')).rowCount).toBe(0)
    expect(await one.reader.selectIn('item', 'id', [gid])).toEqual([])
  })

  it('as many prepared transactions as it may hold is back-pressure, and passes', async () => {
    const one = await ready()
    const gids = [newGid(), newGid(), newGid()]
    const branches: Branch[] = []
    for (const gid of gids) branches.push(await one.begin({ gid, ...start }))
    await branches[0]?.prepare()
    await branches[1]?.prepare()
    const error = await refusal(branches[2]?.prepare() ?? Promise.resolve())
    expect([error.code, error.retryable]).toEqual(['prepare-full', true])
    expect(error.message).toContain('max_prepared_transactions')
    await one.rollbackPrepared(gids[0] as string)
    const again = await one.begin({ gid: newGid(), ...start })
    await again.prepare()
    await one.commitPrepared(again.gid)
    await one.commitPrepared(gids[1] as string)
  })

  it('max_prepared_transactions = 0 is said before anything fails, and one phase goes on', { timeout: 60_000 }, async () => {
    await using zero = await startPostgres({ maxPreparedTransactions: 0 })
    const one = await open('left', { url: zero.url, schema })
    await one.migrate()
    expect(one.canPrepare).toBe(false)
    const finding = (await one.check()).find(({ name }) => name === 'prepare')
    expect(finding).toMatchObject({ level: 'error', remedy: expect.stringContaining('max_prepared_transactions') })
    const branch = await one.begin({ gid: newGid(), ...start })
    expect((await refusal(branch.prepare())).code).toBe('prepare-unavailable')
    const alone = await one.begin({ gid: newGid(), ...start })
    await alone.database.insertMany('item', [{ id: 'alone', n: 1 }])
    await alone.commit()
    expect(await one.reader.selectIn('item', 'id', ['alone'], { columns: ['n'] })).toEqual([{ n: 1 }])
    await one.close()
  })

  it('branches of two databases of one cluster under one gid and name do not meet', async () => {
    const left = await ready()
    const right = await open('right', { url: urlOf(server, 'other'), schema })
    await right.migrate()
    const gid = newGid()
    for (const one of [left, right]) {
      const branch = await one.begin({ gid, ...start })
      await branch.database.insertMany('item', [{ id: gid, n: 1 }])
      await branch.prepare()
    }
    // A namesake in another database sees nothing of it.
    const namesake = await open('left', { url: urlOf(server, 'other') })
    expect(await namesake.prepared(gid)).toEqual([])
    expect((await left.prepared(gid)).length).toBe(1)
    await right.rollbackPrepared(gid)
    await left.commitPrepared(gid)
    expect(await right.reader.selectIn('item', 'id', [gid])).toEqual([])
    expect((await left.reader.selectIn('item', 'id', [gid])).length).toBe(1)
  })

  it('a session with synchronous_commit = off commits on disk all the same', async () => {
    const one = await ready({ url: `${urlOf(server, 'shop')}?options=-c%20synchronous_commit%3Doff` })
    const branch = await one.begin({ gid: newGid(), ...start })
    const [row] = await branch.database.sql`select current_setting('synchronous_commit') as durability`
    expect(row).toEqual({ durability: 'on' })
    await branch.abort()
  })

  it('deferred constraints fail at the vote, and nothing is left', async () => {
    const one = await ready()
    await admin.query(
      'create table if not exists child (id text primary key, item text references item (id) deferrable initially deferred)',
    )
    for (const end of ['prepare', 'commit'] as const) {
      const gid = newGid()
      const branch = await one.begin({ gid, ...start })
      await branch.database.insertMany('child', [{ id: gid, item: 'nowhere' }])
      expect((await refusal(branch[end]())).code).toBe('sql-failed')
      expect(await one.marker(gid)).toBe(null)
      expect(await one.reader.selectIn('child', 'id', [gid])).toEqual([])
    }
  })

  it('a session that the server ends between statements ends nobody’s process, and its branch', async () => {
    const one = await ready()
    const gid = newGid()
    const branch = await one.begin({ gid, ...start })
    await branch.database.insertMany('item', [{ id: gid, n: 1 }])
    const [row] = await branch.database.sql`select pg_backend_pid() as pid`
    await admin.query('select pg_terminate_backend($1)', [row?.['pid']])
    expect((await refusal(branch.database.selectIn('item', 'id', [gid]))).code).toBe('engine-unavailable')
    expect(['engine-unavailable', 'transaction-unknown']).toContain((await refusal(branch.commit())).code)
    await branch.abort()
    expect(await one.settle(gid)).toBe('aborted')
    const next = await one.begin({ gid: newGid(), ...start })
    await next.commit()
  })

  it('deadlocks are conflicts that pass', async () => {
    const one = await ready()
    const [a, b] = [newGid(), newGid()]
    const fill = await one.begin({ gid: newGid(), ...start })
    await fill.database.insertMany('item', [
      { id: a, n: 0 },
      { id: b, n: 0 },
    ])
    await fill.commit()
    const branches = [await one.begin({ gid: newGid(), ...start }), await one.begin({ gid: newGid(), ...start })] as const
    await branches[0].database.addMany('item', 'id', [{ id: a, n: 1 }])
    await branches[1].database.addMany('item', 'id', [{ id: b, n: 1 }])
    const results = await Promise.allSettled([
      branches[0].database.addMany('item', 'id', [{ id: b, n: 1 }]),
      branches[1].database.addMany('item', 'id', [{ id: a, n: 1 }]),
    ])
    const failed = results.filter((result) => result.status === 'rejected').map(({ reason }) => reason as HeadraceError)
    expect(failed.map(({ code, retryable }) => [code, retryable])).toEqual([['sql-conflict', true]])
    await Promise.all(branches.map((branch) => branch.abort()))
  })

  it('a comment within a comment does not hide a COMMIT', async () => {
    const one = await ready()
    for (const attempt of [
      (branch: Branch) => branch.database.sql`/* /* */ */ commit`,
      (branch: Branch) => branch.database.sql`-- harmless
        ; rollback`,
      (branch: Branch) => branch.database.sql`prepare transaction 'x'`,
    ]) {
      const branch = await one.begin({ gid: newGid(), ...start })
      expect((await refusal(attempt(branch))).code).toBe('statement-refused')
      await branch.abort()
    }
    const branch = await one.begin({ gid: newGid(), ...start })
    expect((await refusal(branch.database.sql`select 1; commit`)).code).toBe('sql-failed')
    await branch.abort()
  })

  it('a call that is refused before it is sent is a vote to abort like any other', async () => {
    const one = await ready()
    const gid = newGid()
    const branch = await one.begin({ gid, ...start })
    await refusal(branch.database.insertMany('item', [{ id: gid, n: 1 }, { id: `${gid}b` }]))
    expect((await refusal(branch.database.insertMany('item', [{ id: gid, n: 1 }]))).code).toBe('sql-failed')
    expect((await refusal(branch.commit())).code).toBe('sql-failed')
    expect(await one.marker(gid)).toBe(null)
  })

  it('a signal ends the statement in the server too, not only the wait for it', async () => {
    const one = await ready()
    const id = newGid()
    const holder = await one.begin({ gid: newGid(), ...start })
    await holder.database.insertMany('item', [{ id, n: 1 }])
    const given = new AbortController()
    const waiter = await one.begin({ gid: newGid(), statementTimeoutMs: 15_000, signal: given.signal })
    const waiting = refusal(waiter.database.insertMany('item', [{ id, n: 1 }]))
    const blocked = async (): Promise<number | null> =>
      (await admin.query("select from pg_stat_activity where wait_event_type = 'Lock' and datname = 'shop'")).rowCount
    await expect.poll(blocked, { interval: 5 }).toBe(1)
    given.abort()
    expect((await waiting).code).toBe('wait-aborted')
    expect(await blocked()).toBe(0)
    await waiter.abort()
    await holder.abort()
  })

  it('types of columns are read anew when a table was changed', async () => {
    const one = await ready()
    await admin.query('drop table if exists shape; create table shape (id text primary key, v integer)')
    const first = await one.begin({ gid: newGid(), ...start })
    await first.database.insertMany('shape', [{ id: 'a', v: 1 }])
    await first.commit()
    await admin.query('drop table shape; create table shape (id text primary key, v text, tags text[], more integer)')
    const rows = [{ id: 'b', v: 'text', tags: '{x,"y z"}', more: 2 }]
    const second = await one.begin({ gid: newGid(), ...start })
    await refusal(second.database.insertMany('shape', rows))
    await second.abort()
    const third = await one.begin({ gid: newGid(), ...start })
    expect(await third.database.insertMany('shape', rows)).toBe(1)
    expect(await third.database.selectIn('shape', 'id', ['b'])).toEqual([{ id: 'b', v: 'text', tags: '{x,"y z"}', more: 2 }])
    await third.commit()
  })

  it('values come back as they went in, of whatever type', async () => {
    const one = await ready()
    await admin.query(
      'create table if not exists kinds (id integer primary key, t timestamp, z timestamptz, d date, b bytea, x boolean, f double precision, m numeric(30, 2), j jsonb, c char(3), v varchar(3))',
    )
    const at = new Date('2026-01-31T12:00:00.123Z')
    const row = {
      id: 1,
      t: at,
      z: at,
      d: '2026-01-31',
      b: Uint8Array.of(0, 34, 92, 255),
      x: true,
      f: 0.1,
      m: '12345678901234567890.10',
      j: '{"a": [1, "\\"x\\\\"]}',
      c: 'abc',
      v: 'é"\\',
    }
    const branch = await one.begin({ gid: newGid(), ...start })
    await branch.database.upsertMany('kinds', 'id', [row])
    expect(await branch.database.selectIn('kinds', 'id', [1])).toEqual([row])
    await branch.database.updateMany('kinds', 'id', [{ ...row, x: null, b: null }])
    expect(await branch.database.selectIn('kinds', 'id', [1])).toEqual([{ ...row, x: null, b: null }])
    expect((await refusal(branch.database.updateMany('kinds', 'id', [{ id: 1, v: 'too long' }]))).code).toBe('sql-failed')
    await branch.abort()
  })

  it('rows for one key count in their order, as one statement', async () => {
    const one = await ready()
    const branch = await one.begin({ gid: newGid(), ...start })
    const { database } = branch
    const id = newGid()
    expect(
      await database.upsertMany(
        'item',
        'id',
        [
          { id, n: 1, note: 'first' },
          { id, n: 2, note: 'last' },
        ],
        { add: ['n'] },
      ),
    ).toBe(2)
    expect(await database.selectIn('item', 'id', [id])).toEqual([{ id, n: 3, note: 'last' }])
    expect(
      await database.updateMany('item', 'id', [
        { id, n: 8, note: 'a' },
        { id, n: 9, note: null },
      ]),
    ).toBe(2)
    expect(await database.selectIn('item', 'id', [id])).toEqual([{ id, n: 9, note: null }])
    await branch.abort()
  })

  it('orphans of minutes are a warning, under whatever name', async () => {
    const one = await ready()
    const gid = newGid()
    const branch = await one.begin({ gid, ...start })
    await branch.prepare()
    expect((await one.check()).filter(({ name }) => name === 'orphans')).toEqual([])
    const { checkOrphans } = await import('./check.ts')
    expect((await admin.query(checkOrphans, [0])).rows[0]).toMatchObject({ number: 1, gid: `${gid}.left` })
    await one.rollbackPrepared(gid)
  })

  it('a full pool keeps nobody waiting for ever', async () => {
    const theirs = new pg.Pool({ connectionString: urlOf(server, 'shop'), max: 1 })
    const one = await open('left', { pool: theirs, connectTimeoutMs: 200 })
    const branch = await one.begin({ gid: newGid(), ...start })
    const error = await refusal(one.begin({ gid: newGid(), ...start }))
    expect([error.code, error.retryable]).toEqual(['engine-timeout', true])
    await branch.abort()
    // The one who gave up does not keep the connection that came for it.
    const next = await one.begin({ gid: newGid(), ...start })
    await next.abort()
    await one.close()
    expect((await theirs.query('select 1 as one')).rows).toEqual([{ one: 1 }])
    await theirs.end()
  })

  it('tables of another version are refused by name', async () => {
    const one = await ready()
    await admin.query("update headrace_meta set value = 99 where name = 'tables'")
    const other = await open('left', { url: urlOf(server, 'shop') })
    expect((await refusal(other.begin({ gid: newGid(), ...start }))).code).toBe('tables-outdated')
    expect((await other.check())[0]).toMatchObject({ level: 'error', name: 'tables' })
    await admin.query("update headrace_meta set value = 0 where name = 'tables'")
    expect((await refusal(other.begin({ gid: newGid(), ...start }))).code).toBe('tables-outdated')
    await one.migrate()
    await (await other.begin({ gid: newGid(), ...start })).abort()
  })

  describe('who may not', () => {
    const grants = (account: string): string => `
      grant select, insert, delete on headrace_branch, headrace_decision to ${account};
      grant select, insert, update on headrace_partition to ${account};
      grant select on headrace_meta to ${account};
      grant select, insert, update, delete on item to ${account}`

    it('the rights of the documentation are enough, and migrate needs more', async () => {
      await ready()
      await admin.query(`create role clerk login; ${grants('clerk')}`)
      const clerk = await open('left', { url: urlOf(server, 'shop', 'clerk'), schema })
      expect((await clerk.check()).filter(({ level }) => level === 'error')).toEqual([])
      const fences = [{ deployment: 'clerk', partition: 1, epoch: 2 }]
      const gid = newGid()
      await clerk.raise(fences)
      const branch = await clerk.begin({ gid, fences, ...start })
      await branch.database.upsertMany('item', 'id', [{ id: gid, n: 1 }])
      await branch.database.selectIn('item', 'id', [gid])
      await branch.prepare()
      await clerk.commitPrepared(gid)
      await clerk.rollbackPrepared(newGid())
      const home = newGid()
      const commit = await clerk.begin({ gid: home, ...start })
      await commit.commit({ gid: home, verdict: 'commit', participants: ['left'], decidedAt: 1 })
      await clerk.decideAbort(newGid(), [])
      await clerk.settle(newGid())
      await clerk.forget([gid, home])
      expect((await refusal(clerk.migrate())).code).toBe('engine-refused')
    })

    it('a missing right is named with the grant that gives it', async () => {
      await ready()
      await admin.query('create role guest login; grant select on headrace_meta, headrace_branch to guest')
      const guest = await open('left', { url: urlOf(server, 'shop', 'guest') })
      const finding = (await guest.check()).find(({ name }) => name === 'rights')
      expect(finding?.level).toBe('error')
      expect(finding?.remedy).toContain('GRANT INSERT ON headrace_branch')
      const branch = await guest.begin({ gid: newGid(), ...start })
      const error = await refusal(branch.commit())
      expect(error.code).toBe('engine-refused')
      expect(error.message).toContain('headrace_branch')
    })

    it('a prepared branch of another account is refused, and says so', async () => {
      const one = await ready()
      const gid = newGid()
      const branch = await one.begin({ gid, ...start })
      await branch.prepare()
      await admin.query('create role stranger login; grant select on headrace_branch to stranger')
      const stranger = await open('left', { url: urlOf(server, 'shop', 'stranger') })
      expect((await refusal(stranger.commitPrepared(gid))).code).toBe('engine-refused')
      await one.commitPrepared(gid)
    })

    it('a wrong password is refused, and never shown', { timeout: 60_000 }, async () => {
      await using strict = await startPostgres()
      const client = new pg.Client({ connectionString: strict.url })
      await client.connect()
      await client.query("create role locked login password 'right-one'")
      const [{ hba_file: file }] = (await client.query('show hba_file')).rows as [{ hba_file: string }]
      await client.end()
      const { writeFile } = await import('node:fs/promises')
      await writeFile(file, 'host all all 127.0.0.1/32 scram-sha-256\n')
      await strict.restart()
      const url = `postgres://locked:wrong-secret@127.0.0.1:${strict.port}/postgres`
      const handle = postgres('left', { url })
      const one = await handle.connect()
      const error = await refusal(one.begin({ gid: newGid(), ...start }))
      expect(error.code).toBe('engine-refused')
      const findings = await one.check()
      expect(findings[0]?.level).toBe('error')
      for (const shown of [inspect(error, { depth: 9 }), inspect(handle, { depth: 9 }), JSON.stringify([findings, handle])])
        expect(shown).not.toContain('wrong-secret')
      expect((await refusal((async () => postgres('left', { url: 'postgres://u:wrong-secret@[bad' }))())).message).not.toContain(
        'wrong-secret',
      )
      await one.close()
    })

    it('a wrong database and a server that is away are named', async () => {
      const lost = await open('left', { url: urlOf(server, 'nowhere') })
      const error = await refusal(lost.begin({ gid: newGid(), ...start }))
      expect(error.code).toBe('engine-refused')
      expect(error.message).toContain('nowhere')
      const away = await open('left', { url: 'postgres://postgres@127.0.0.1:1/shop' })
      const gone = await refusal(away.begin({ gid: newGid(), ...start }))
      expect([gone.code, gone.retryable]).toEqual(['engine-unavailable', true])
    })

    it('a read-only server is refused, and said by check', async () => {
      await ready()
      const one = await open('left', { url: `${urlOf(server, 'shop')}?options=-c%20default_transaction_read_only%3Don` })
      expect((await one.check())[0]).toMatchObject({ level: 'error', name: 'writable' })
      const branch = await one.begin({ gid: newGid(), ...start })
      expect((await refusal(branch.database.insertMany('item', [{ id: newGid(), n: 1 }]))).code).toBe('engine-refused')
      await branch.abort()
    })
  })
})

describe('postgres(name, options)', () => {
  const codeOf = async (make: () => unknown): Promise<string> => (await refusal((async () => make())())).code

  it('refuses what it does not know, with the nearest name', async () => {
    const error = await refusal((async () => postgres('left', { url: 'postgres://a/b', poolmax: 3 } as never))())
    expect([error.code, error.message]).toEqual(['option-unknown', expect.stringContaining("'poolMax'")])
    for (const make of [
      () => postgres('Left', { url: 'postgres://a/b' }),
      () => postgres('journal', { url: 'postgres://a/b' }),
      () => postgres('left', {}),
      () => postgres('left', { url: 'http://a/b' }),
      () => postgres('left', { url: 'postgres://a/b', pool: {} as never }),
      () => postgres('left', { url: 'postgres://a/b', poolMax: 0 }),
      () => postgres('left', { url: 'postgres://a/b', isolation: 'dirty' as never }),
      () => postgres('left', { url: 'postgres://a/b', schema: ' ' }),
    ])
      expect(await codeOf(make)).toBe('option-invalid')
  })

  it('gives a frozen handle that holds no connection', () => {
    const handle = postgres('left', { url: 'postgres://user:secret@db.example:5432/shop' })
    expect(Object.isFrozen(handle)).toBe(true)
    expect(handle).toMatchObject({ kind: 'database', name: 'left', engine: 'postgres' })
    expect(handle.options['url']).toBe('postgres://user:***@db.example:5432/shop')
  })
})
