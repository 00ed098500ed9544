/** What MySQL and MariaDB do that a participant must not fall for, each on a real MariaDB. */
import mysql2 from 'mysql2/promise'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Branch, BranchStart, Participant } from '../../contracts/participant.ts'
import { codeOf } from '../../testing/ledger-harness.ts'
import { type Server, serverMissing, startMariadb } from '../../testing/servers/index.ts'
import { TcpProxy } from '../../testing/tcp-proxy.ts'
import { type MysqlOptions, mysql } from './handle.ts'

const missing = serverMissing('mariadb')
const schema = `
  create table if not exists item (id varchar(100) collate utf8mb4_bin primary key, n bigint not null);
  create table if not exists scratch (id varchar(100) primary key, n bigint) engine=MyISAM;`

let names = 0
const newGid = (): string => `t_${process.pid}_${names++}`
const newId = (): string => `i-${names++}`

/** Again while the error says that it is worth it, as recovery does. */
async function insist<T>(call: () => Promise<T>, patienceMs = 8_000): Promise<T> {
  const started = performance.now()
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if (!HeadraceError.is(error) || !error.retryable || performance.now() - started > patienceMs) throw error
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
}

describe.skipIf(missing !== null)(`the traps of MariaDB${missing === null ? '' : ` (${missing})`}`, { timeout: 30_000 }, () => {
  let server: Server
  let proxy: TcpProxy
  let admin: mysql2.Connection
  const opened: Participant[] = []

  const open = async (given: Partial<MysqlOptions> & { proxied?: boolean; name?: string } = {}): Promise<Participant> => {
    const { proxied = false, name = 'wallet', ...options } = given
    const url = `mysql://root@127.0.0.1:${proxied ? proxy.port : server.port}/test`
    const participant = await mysql(name, { url, schema, connectTimeoutMs: 2_000, statementTimeoutMs: 5_000, ...options }).connect()
    opened.push(participant)
    return participant
  }
  const begin = (participant: Participant, gid = newGid(), given: Partial<BranchStart> = {}): Promise<Branch> =>
    participant.begin({ gid, statementTimeoutMs: 5_000, ...given })
  const add = async (participant: Participant, ...ids: string[]): Promise<void> => {
    const branch = await begin(participant)
    await branch.database.insertMany(
      'item',
      ids.map((id) => ({ id, n: 0 })),
    )
    await branch.commit()
  }
  const rows = async (text: string): Promise<Record<string, unknown>[]> => (await admin.query<mysql2.RowDataPacket[]>(text))[0]
  const numberOf = async (id: string): Promise<unknown> => (await rows(`select n from item where id = '${id}'`))[0]?.['n']
  const sessionOf = async (branch: Branch): Promise<number> => {
    const [row] = await branch.database.sql<{ id: number }>`select connection_id() as id`
    return row?.id ?? 0
  }

  beforeAll(async () => {
    server = await startMariadb()
    proxy = await TcpProxy.to(server.port)
    admin = await mysql2.createConnection({ uri: server.url, multipleStatements: true })
    await (await open()).migrate()
  }, 60_000)
  afterEach(async () => {
    proxy.heal()
    await Promise.all(opened.splice(0).map((participant) => participant.close()))
    for (const row of await rows('xa recover')) {
      const data = String(row['data'])
      const gid = data.slice(0, Number(row['gtrid_length']))
      await insistRaw(() => admin.query(`xa rollback '${gid}','${data.slice(gid.length)}'`))
    }
  })
  afterAll(async () => {
    admin?.destroy()
    await proxy?.close()
    await server?.stop()
  })

  it('a lock wait timeout undoes only the statement, and the server would prepare the rest: the branch refuses', async () => {
    const one = await open()
    const [first, locked] = [newId(), newId()]
    await add(one, first, locked)
    const holder = await begin(one)
    await holder.database.addMany('item', 'id', [{ id: locked, n: 1 }])
    for (const end of ['prepare', 'commit'] as const) {
      const gid = newGid()
      const waiter = await begin(one, gid, { statementTimeoutMs: 2_000 })
      await waiter.database.addMany('item', 'id', [{ id: first, n: 1 }])
      expect(await codeOf(waiter.database.addMany('item', 'id', [{ id: locked, n: 1 }]))).toBe('sql-busy')
      expect(await codeOf(waiter[end]())).toBe('sql-busy')
      await waiter.abort()
      expect(await numberOf(first)).toBe(0)
      expect(await one.marker(gid)).toBe(null)
    }
    await holder.commit()
    expect(await one.prepared('t_')).toEqual([])
  })

  it('a deadlock undoes the branch: no savepoint rescues it, it cannot be prepared, and its connection serves on', async () => {
    const one = await open({ poolMax: 2 })
    const [a, b] = [newId(), newId()]
    await add(one, a, b)
    const [left, right] = [await begin(one), await begin(one)]
    await left.savepoint()
    await right.savepoint()
    await left.database.addMany('item', 'id', [{ id: a, n: 1 }])
    await right.database.addMany('item', 'id', [{ id: b, n: 1 }])
    const ends = await Promise.all([
      codeOf(left.database.addMany('item', 'id', [{ id: b, n: 1 }])),
      codeOf(right.database.addMany('item', 'id', [{ id: a, n: 1 }])),
    ])
    expect([...ends].sort()).toEqual(['nothing', 'sql-conflict'])
    const [loser, winner] = ends[0] === 'nothing' ? [right, left] : [left, right]
    expect(await codeOf(loser.rollbackToSavepoint())).toBe('sql-conflict')
    expect(await codeOf(loser.database.insertMany('item', [{ id: newId(), n: 1 }]))).toBe('sql-conflict')
    expect(await codeOf(loser.prepare())).toBe('sql-conflict')
    await loser.abort()
    await winner.commit()
    expect([await numberOf(a), await numberOf(b)]).toEqual([1, 1])
    for (let n = 0; n < 4; n++) await add(one, newId())
  })

  it('while the session that prepared lives, another is told to come again, and then ends the branch', async () => {
    const [one, other] = [await open(), await open()]
    const [gid, id] = [newGid(), newId()]
    const branch = await begin(one, gid)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    await branch.prepare()
    expect(await codeOf(other.commitPrepared(gid))).toBe('sql-busy')
    expect(await codeOf(other.rollbackPrepared(gid))).toBe('sql-busy')
    expect(await other.marker(gid)).toBe(null)
    await one.close()
    await insist(() => other.commitPrepared(gid))
    expect(await numberOf(id)).toBe(1)
  })

  it('a process that stands still with a prepared branch is disconnected, and the branch ended within 5 seconds', async () => {
    const [one, other] = [await open({ proxied: true }), await open()]
    for (const end of ['commitPrepared', 'rollbackPrepared'] as const) {
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [{ id, n: 1 }])
      await branch.prepare()
      proxy.hold()
      await insist(() => other[end](gid), 5_000)
      expect(await numberOf(id)).toBe(end === 'commitPrepared' ? 1 : undefined)
      proxy.heal()
      // The one that stood still finds out, and agrees.
      await insist(() => one[end](gid))
    }
  })

  it('a session that hangs before its commit is disconnected by who settles the branch, and undone', async () => {
    const [one, other] = [await open({ proxied: true }), await open()]
    const [gid, id] = [newGid(), newId()]
    const branch = await begin(one, gid)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    // Its marker is written, and its session says nothing more.
    await (branch.client as mysql2.PoolConnection).query(
      `insert into headrace_branch (gid, participant, ending, session) values ('${gid}', 'wallet', 'committed', connection_id())`,
    )
    proxy.hold()
    expect(await codeOf(other.settle(gid))).toBe('sql-busy')
    expect(await insist(() => other.settle(gid))).toBe('aborted')
    proxy.heal()
    expect(await codeOf(branch.commit())).not.toBe('nothing')
    await branch.abort()
    expect(await numberOf(id)).toBe(undefined)
  })

  it('a branch that only read stays prepared when its connection ends, since it has its marker', async () => {
    const [one, other] = [await open(), await open()]
    const gid = newGid()
    const branch = await begin(one, gid)
    await branch.database.selectIn('item', 'id', ['x'])
    expect(branch.wrote).toBe(false)
    await branch.prepare()
    await one.close()
    expect((await insist(() => other.prepared(gid))).length).toBe(1)
    await insist(() => other.commitPrepared(gid))
    expect(await other.marker(gid)).toBe('committed')
  })

  it('the connection of a prepared branch is not reset, and serves the next branch', async () => {
    const one = await open({ poolMax: 1 })
    const sessions = new Set<number>()
    for (let n = 0; n < 5; n++) {
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      sessions.add(await sessionOf(branch))
      await branch.database.insertMany('item', [{ id, n: 1 }])
      await branch.prepare()
      await one.commitPrepared(gid)
      expect(await numberOf(id)).toBe(1)
    }
    expect(sessions.size).toBe(1)
  })

  it('prepared branches give their connections up when others need them, and are ended all the same', async () => {
    const one = await open({ poolMax: 2 })
    const gids = Array.from({ length: 5 }, newGid)
    for (const gid of gids) {
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [{ id: gid, n: 1 }])
      await branch.prepare()
    }
    expect((await one.prepared('t_')).length).toBe(5)
    for (const gid of gids) await insist(() => one.commitPrepared(gid))
    for (const gid of gids) expect(await numberOf(gid)).toBe(1)
  })

  it('KILL CONNECTION after XA PREPARE keeps the branch, and it is committed by another connection', async () => {
    const one = await open()
    const [gid, id] = [newGid(), newId()]
    const branch = await begin(one, gid)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    const session = await sessionOf(branch)
    await branch.prepare()
    await admin.query(`kill connection ${session}`)
    await insist(() => one.commitPrepared(gid))
    expect(await numberOf(id)).toBe(1)
  })

  it('KILL CONNECTION before it undoes the branch, and says so', async () => {
    const one = await open()
    const [gid, id] = [newGid(), newId()]
    const branch = await begin(one, gid)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    await admin.query(`kill connection ${await sessionOf(branch)}`)
    expect(await codeOf(branch.database.selectIn('item', 'id', [id]))).toBe('engine-unavailable')
    expect(await codeOf(branch.prepare())).toBe('engine-unavailable')
    await branch.abort()
    expect(await insist(() => one.settle(gid))).toBe('aborted')
    expect(await numberOf(id)).toBe(undefined)
  })

  it('a prepare whose answer is lost is undone by abort, and nothing stays prepared', async () => {
    const [one, other] = [await open({ proxied: true }), await open()]
    const [gid, id] = [newGid(), newId()]
    const branch = await begin(one, gid)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    proxy.hold('down')
    const preparing = codeOf(branch.prepare())
    while ((await other.prepared(gid)).length === 0) await new Promise((resolve) => setImmediate(resolve))
    proxy.drop()
    proxy.heal()
    expect(await preparing).toBe('engine-unavailable')
    await branch.abort()
    expect(await other.prepared(gid)).toEqual([])
    expect(await other.marker(gid)).toBe('aborted')
    expect(await numberOf(id)).toBe(undefined)
  })

  it('a gid that is open on the server already is taken', async () => {
    const [one, other] = [await open(), await open()]
    const gid = newGid()
    const id = newId()
    const branch = await begin(one, gid)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    const second = await begin(other, gid)
    const outside = newId()
    expect(await codeOf(second.database.insertMany('item', [{ id: outside, n: 1 }]))).toBe('gid-taken')
    expect(await codeOf(second.commit())).toBe('gid-taken')
    await second.abort()
    await branch.commit()
    expect(await numberOf(id)).toBe(1)
    // The statement went in one call with XA START, and did not run without it.
    expect(await numberOf(outside)).toBeUndefined()
  })

  it('whoever finds its gid taken does not undo the prepared branch of that gid', async () => {
    const [one, other] = [await open(), await open()]
    const [gid, id] = [newGid(), newId()]
    const branch = await begin(one, gid)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    await branch.prepare()
    // Without its session, anybody may end it.
    await one.close()
    const second = await begin(other, gid)
    expect(await codeOf(second.database.insertMany('item', [{ id: newId(), n: 1 }]))).toBe('gid-taken')
    await second.abort()
    await insist(() => other.commitPrepared(gid))
    expect(await numberOf(id)).toBe(1)
  })

  it('what is sent through the raw client is part of the branch, also when nothing was sent before', async () => {
    const one = await open()
    const [gid, id] = [newGid(), newId()]
    const branch = await begin(one, gid)
    await (branch.client as { query(text: string, values: unknown[]): Promise<unknown> }).query('insert into item (id, n) values (?, 1)', [
      id,
    ])
    await branch.abort()
    expect(await numberOf(id)).toBeUndefined()
  })

  it('a branch that finds its gid taken lets go of everything at once, before anybody aborts it', async () => {
    const [one, other] = [await open(), await open()]
    for (const end of ['commit', 'prepare'] as const) {
      const [gid, id] = [newGid(), newId()]
      await add(one, id)
      expect(await one.settle(gid)).toBe('aborted')
      const late = await begin(one, gid)
      await late.database.addMany('item', 'id', [{ id, n: 1 }])
      expect(await codeOf(late[end]())).toBe('gid-taken')
      await other.forget([gid])
      const next = await begin(other)
      await next.database.addMany('item', 'id', [{ id, n: 10 }])
      await next.commit()
      expect(await numberOf(id)).toBe(10)
      await late.abort()
    }
  })

  it('a missing row that is selected for update makes nobody wait who inserts beside it', async () => {
    const one = await open()
    const [a, b] = [newId(), newId()]
    const [left, right] = [await begin(one), await begin(one)]
    await left.database.selectIn('item', 'id', [a])
    await right.database.selectIn('item', 'id', [b])
    await left.database.insertMany('item', [{ id: a, n: 1 }])
    await right.database.insertMany('item', [{ id: b, n: 1 }])
    await left.commit()
    await right.commit()
  })

  it('a table that no transaction can undo is refused before anything is written to it', async () => {
    const one = await open()
    const writes: ((branch: Branch) => Promise<unknown>)[] = [
      ({ database }) => database.insertMany('scratch', [{ id: 'a', n: 1 }]),
      ({ database }) => database.updateMany('scratch', 'id', [{ id: 'a', n: 1 }]),
      ({ database }) => database.upsertMany('scratch', 'id', [{ id: 'a', n: 1 }]),
      ({ database }) => database.deleteIn('scratch', 'id', ['a']),
      ({ database }) => database.sql`insert into scratch (id) values ('a')`,
      ({ database }) => database.sql`/* so */ insert ignore into \`scratch\` (id) values ('a')`,
      ({ database }) => database.sql`update scratch set n = 1`,
      ({ database }) => database.sql`delete from scratch`,
      ({ database }) => database.sql`replace into scratch (id) values ('a')`,
    ]
    for (const write of writes) {
      const branch = await begin(one)
      expect(await codeOf(write(branch))).toBe('statement-refused')
      expect(await codeOf(branch.commit())).toBe('statement-refused')
      await branch.abort()
    }
    expect(await rows('select * from scratch')).toEqual([])
    const found = (await one.check()).find(({ name }) => name === 'engines')
    expect(found).toMatchObject({ level: 'error', message: expect.stringContaining('scratch (MyISAM)') })
  })

  it('tables of Headrace are InnoDB whatever the default of the server, and a newer version of them is left alone', async () => {
    await admin.query("set global default_storage_engine = 'MyISAM'; create database other")
    try {
      const other = await open({
        url: `mysql://root@127.0.0.1:${server.port}/other`,
        schema: 'create table if not exists t (id int primary key)',
      })
      await other.migrate()
      const engines = await rows(
        "select distinct engine from information_schema.tables where table_schema = 'other' and table_name like 'headrace%'",
      )
      expect(engines).toEqual([{ engine: 'InnoDB' }])
      await admin.query("update other.headrace_meta set value = '99'")
      expect(await codeOf(other.migrate())).toBe('tables-outdated')
      expect(await rows('select value from other.headrace_meta')).toEqual([{ value: '99' }])
      expect((await other.check())[0]).toMatchObject({ name: 'tables', level: 'error' })
    } finally {
      await admin.query("set global default_storage_engine = 'InnoDB'; drop database other")
    }
  })

  it('check tells of branches that stay prepared, and of settings that lose commits', async () => {
    const one = await open()
    await admin.query(
      "xa start 'someone','else'; insert into item values ('orphan', 1); xa end 'someone','else'; xa prepare 'someone','else'; set global innodb_flush_log_at_trx_commit = 2",
    )
    try {
      const findings = await one.check()
      expect(findings.find(({ name }) => name === 'prepared branches')).toMatchObject({
        level: 'warning',
        message: expect.stringContaining('someone (else)'),
      })
      expect(findings.find(({ name }) => name === 'durability')).toMatchObject({
        level: 'warning',
        message: expect.stringContaining('innodb_flush_log_at_trx_commit = 2'),
      })
      // Branches of others are never touched.
      expect(await one.prepared('')).toEqual([])
    } finally {
      await admin.query("set global innodb_flush_log_at_trx_commit = 1; xa rollback 'someone','else'")
    }
  })

  async function insistRaw(call: () => Promise<unknown>): Promise<void> {
    for (let tries = 0; tries < 500; tries++) {
      try {
        await call()
        return
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 10))
      }
    }
  }
})
