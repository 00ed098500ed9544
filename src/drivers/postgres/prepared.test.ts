/** Statements that connections keep parsed, and several of them in one message, on a real PostgreSQL. */
import pg from 'pg'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { Branch, Participant } from '../../contracts/participant.ts'
import { codeOf } from '../../testing/ledger-harness.ts'
import { type Server, serverMissing, startPostgres } from '../../testing/servers/index.ts'
import { TcpProxy } from '../../testing/tcp-proxy.ts'
import { postgres } from './database.ts'
import type { PostgresOptions } from './options.ts'

const missing = serverMissing('postgres')
const schema = 'create table if not exists item (id text primary key not null, n bigint not null, note text)'

let names = 0
const newGid = (): string => `kept_${process.pid}_${Date.now().toString(36)}_${names++}`

describe.skipIf(missing !== null)(`statements of PostgreSQL that are kept parsed${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let proxy: TcpProxy
  let admin: pg.Pool
  const opened: Participant[] = []
  const urlAt = (port: number): string => server.url.replace(String(server.port), String(port))
  const open = async (options: PostgresOptions = { url: server.url }): Promise<Participant> => {
    const participant = await postgres('left', { connectTimeoutMs: 2_000, schema, ...options }).connect()
    opened.push(participant)
    return participant
  }
  const begin = (participant: Participant, gid = newGid()): Promise<Branch> => participant.begin({ gid, statementTimeoutMs: 5_000 })
  const numberOf = async (id: string): Promise<unknown> => (await admin.query('select n from item where id = $1', [id])).rows[0]?.n
  const kept = async (branch: Branch): Promise<number> => {
    const { rows } = await (branch.client as pg.PoolClient).query(
      "select count(*)::int as n from pg_prepared_statements where name like 'headrace_%'",
    )
    return rows[0].n
  }

  beforeAll(async () => {
    server = await startPostgres()
    proxy = await TcpProxy.to(server.port)
    admin = new pg.Pool({ connectionString: server.url })
    admin.on('error', () => {})
    await (await open()).migrate()
  })
  beforeEach(() => proxy.heal())
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((participant) => participant.close()))
  })
  afterAll(async () => {
    await admin.end()
    await proxy.close()
    await server.stop()
  })

  it('a changed table ends one transaction on each connection at most, as a conflict that passes', async () => {
    const one = await open({ url: server.url, poolMax: 3 })
    await admin.query('drop table if exists shape; create table shape (id text primary key, v integer)')
    const read = async (branch: Branch): Promise<unknown> => branch.database.sql`select * from shape where id = ${'a'}`
    const branches = [await begin(one), await begin(one), await begin(one)]
    for (const branch of branches) await read(branch)
    await Promise.all(branches.map((branch) => branch.commit()))

    await admin.query("alter table shape add column more integer; insert into shape values ('a', 1, 2)")
    const first = await begin(one)
    expect(await codeOf(read(first))).toBe('sql-conflict')
    await first.abort()
    // The plans of the other connections went with it.
    const again = [await begin(one), await begin(one), await begin(one)]
    for (const branch of again) expect(await read(branch)).toEqual([{ id: 'a', v: 1, more: 2 }])
    await Promise.all(again.map((branch) => branch.commit()))
  })

  it('a connection keeps as many as the option says, and the one used last longest', async () => {
    const one = await open({ url: server.url, poolMax: 1, preparedStatementsMax: 4 })
    const branch = await begin(one)
    for (let nth = 0; nth < 20; nth++) {
      await branch.database.sql([`select ${nth} as n`] as unknown as TemplateStringsArray)
      await branch.database.sql`select 'often' as n`
    }
    expect(await kept(branch)).toBeLessThanOrEqual(4)
    const { rows } = await (branch.client as pg.PoolClient).query(
      "select 1 from pg_prepared_statements where statement like 'select ''often''%'",
    )
    expect(rows.length).toBe(1)
    await branch.abort()
  })

  it('the option turns it off', async () => {
    const one = await open({ url: server.url, preparedStatementsMax: 0 })
    const branch = await begin(one)
    await branch.database.insertMany('item', [{ id: newGid(), n: 1 }])
    expect(await kept(branch)).toBe(0)
    await branch.commit()
  })

  it('a statement that fails the first time it is sent is sent whole again, wherever it failed', async () => {
    const one = await open({ url: server.url, poolMax: 1 })
    await admin.query('drop table if exists later')
    const id = newGid()
    const parsed = (branch: Branch, by: number): Promise<unknown> => branch.database.sql`select 1 / ${by}::int as n, ${id} as id`
    const unparsed = (branch: Branch): Promise<unknown> => branch.database.sql`select * from later where id = ${id}`
    for (const fails of [(branch: Branch) => parsed(branch, 0), unparsed]) {
      const branch = await begin(one)
      expect(await codeOf(fails(branch))).toBe('sql-failed')
      await branch.abort()
    }
    await admin.query('create table later (id text primary key)')
    const branch = await begin(one)
    expect(await parsed(branch, 1)).toEqual([{ n: 1, id }])
    expect(await unparsed(branch)).toEqual([])
    await branch.abort()
  })

  it('statements that somebody closed on the connection are a conflict that passes, and nothing runs without its BEGIN', async () => {
    const one = await open({ url: server.url, poolMax: 1 })
    const id = newGid()
    const warm = await begin(one)
    await warm.database.insertMany('item', [{ id: `${id}w`, n: 1 }])
    await (warm.client as pg.PoolClient).query('deallocate all')
    await warm.abort()
    const next = await begin(one)
    expect(await codeOf(next.database.insertMany('item', [{ id, n: 1 }]))).toBe('sql-conflict')
    await next.abort()
    expect(await numberOf(id)).toBeUndefined()
    const last = await begin(one)
    await last.database.insertMany('item', [{ id, n: 2 }])
    await last.commit()
    expect(await numberOf(id)).toBe('2')
  })

  it('what is sent through the raw client is part of the branch, also when nothing was sent before', async () => {
    const one = await open()
    const id = newGid()
    const branch = await begin(one)
    await (branch.client as pg.PoolClient).query('insert into item (id, n) values ($1, 1)', [id])
    await branch.abort()
    expect(await numberOf(id)).toBeUndefined()
  })

  it('a branch that sent nothing gives its connection back without a word', async () => {
    const one = await open({ url: server.url, poolMax: 1 })
    const used = await begin(one)
    const [row] = await used.database.sql`select pg_backend_pid() as pid`
    await used.abort()
    await (await begin(one)).abort()
    const next = await begin(one)
    expect(await next.database.sql`select pg_backend_pid() as pid`).toEqual([row])
    await next.abort()
  })

  it('times that differ from one transaction to the next are kept apart', async () => {
    const one = await open({ url: server.url, poolMax: 1 })
    for (const [statementTimeoutMs, shown] of [
      [5_000, '5s'],
      [300, '300ms'],
      [7_000, '7s'],
      [5_000, '5s'],
    ] as const) {
      const branch = await one.begin({ gid: newGid(), statementTimeoutMs })
      expect(await branch.database.sql`show statement_timeout`).toEqual([{ statement_timeout: shown }])
      await branch.abort()
    }
  })

  it('a pool of the user keeps its own times', async () => {
    const theirs = new pg.Pool({ connectionString: server.url, max: 1 })
    theirs.on('error', () => {})
    const one = await open({ pool: theirs })
    const branch = await begin(one)
    expect(await branch.database.sql`show statement_timeout`).toEqual([{ statement_timeout: '5s' }])
    await branch.commit()
    await one.close()
    expect((await theirs.query('show statement_timeout')).rows).toEqual([{ statement_timeout: '0' }])
    await theirs.end()
  })

  it('a client that takes one statement at a time does the same', async () => {
    class Single extends pg.Client {}
    Object.defineProperty(Single, 'Query', { value: undefined })
    const theirs = new pg.Pool({ connectionString: server.url, max: 2, Client: Single })
    theirs.on('error', () => {})
    const one = await open({ pool: theirs })
    const id = newGid()
    const branch = await begin(one)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    await branch.savepoint()
    expect(await codeOf(branch.database.insertMany('item', [{ id, n: 1 }]))).toBe('sql-failed')
    await branch.rollbackToSavepoint()
    expect(await branch.database.selectIn('item', 'id', [id], { columns: ['n'] })).toEqual([{ n: 1 }])
    await branch.prepare()
    await one.commitPrepared(branch.gid)
    expect(await numberOf(id)).toBe('1')
    await one.close()
    await theirs.end()
  })

  it('a connection lost with BEGIN and the first statement leaves nothing, and the branch says so', async () => {
    const one = await open({ url: urlAt(proxy.port), poolMax: 1 })
    await (await begin(one)).commit()
    const id = newGid()
    const branch = await begin(one)
    proxy.cut()
    expect(await codeOf(branch.database.insertMany('item', [{ id, n: 1 }]))).toBe('engine-unavailable')
    await branch.abort()
    proxy.heal()
    expect(await numberOf(id)).toBeUndefined()
    expect(await one.settle(branch.gid)).toBe('aborted')
  })

  it('a connection lost with the marker and COMMIT is unknown, and the marker tells', async () => {
    const one = await open({ url: urlAt(proxy.port), poolMax: 2 })
    const id = newGid()
    const branch = await begin(one)
    await branch.database.insertMany('item', [{ id, n: 1 }])
    // The answer is held back: what was sent arrives.
    proxy.hold('down')
    const answered = codeOf(branch.commit())
    await expect.poll(() => numberOf(id), { interval: 5 }).toBe('1')
    proxy.drop()
    expect(await answered).toBe('transaction-unknown')
    proxy.heal()
    expect(await one.settle(branch.gid)).toBe('committed')
  })
})
