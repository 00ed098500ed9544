import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Finding } from '../../src/contracts/participant.ts'
import { mysql } from '../../src/drivers/mysql/index.ts'
import { postgres } from '../../src/drivers/postgres/index.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../../src/testing/servers/index.ts'
import { createCoordinator } from '../../src/transaction/index.ts'
import { appText, as, askPassword, killedAt, onMysql, onPostgres } from './databases.ts'
import { flashSale, headrace, onlyDocument, post, startNode, temporaryFolder } from './headrace.ts'

const missing = serverMissing('postgres') ?? serverMissing('mariadb')
const secret = 'geh3im'

interface Migration {
  readonly ok: boolean
  readonly databases: readonly {
    readonly name: string
    readonly reached: boolean
    readonly migrated: boolean | null
    readonly error: { readonly code: string; readonly message: string } | null
    readonly findings: readonly Finding[]
  }[]
  readonly skipped: readonly { readonly name: string; readonly engine: string }[]
}

/** The SQL that a page of the documentation says is enough, for another account and database. */
function documentedGrants(page: string, heading: string): string {
  const text = readFileSync(fileURLToPath(new URL(`../../docs/${page}`, import.meta.url)), 'utf8')
  const [, sql = ''] = /```sql\n([\s\S]*?)```/.exec(text.slice(text.indexOf(heading))) ?? []
  if (sql === '') throw new Error(`docs/${page} has no SQL under ${heading}`)
  return sql
}

describe.skipIf(missing !== null)(`headrace migrate${missing === null ? '' : ` (${missing})`}`, () => {
  const folder = temporaryFolder()
  const file = join(folder.path, 'app.ts')
  let pg: Server
  let maria: Server
  let environment: { STOCK_URL: string; WALLET_URL: string }

  beforeAll(async () => {
    writeFileSync(file, appText)
    ;[pg, maria] = await Promise.all([startPostgres(), startMariadb()])
    environment = { STOCK_URL: pg.url, WALLET_URL: maria.url }
  })
  afterAll(async () => {
    await Promise.all([pg?.stop(), maria?.stop()])
    folder.drop()
  })

  const migrate = (args: readonly string[], more: Partial<typeof environment> = {}) =>
    headrace(['migrate', file, ...args], { environment: { ...environment, ...more } })

  it('prints the SQL without connecting to anything, and changes nothing', async () => {
    const away = { STOCK_URL: 'postgres://u@127.0.0.1:1/x', WALLET_URL: 'mysql://u@127.0.0.1:1/x' }
    const printed = await migrate(['--print'], away)
    expect(printed.code).toBe(0)
    for (const words of ['-- stock (postgres)', '-- wallet (mysql)', 'headrace_branch', 'create table if not exists account'])
      expect(printed.stdout).toContain(words)
    expect(printed.stderr).toContain('log  SQLite: left out')
    const { databases } = onlyDocument<{ databases: { name: string; sql: string }[] }>(
      await migrate(['--print', '--json', '--only', 'wallet']),
    )
    expect(databases.map(({ name }) => name)).toEqual(['wallet'])
    expect((await onMysql(maria.url, 'show tables')).length).toBe(0)
    expect(await onPostgres(pg.url, "select from pg_tables where tablename like 'headrace%'")).toEqual([])
  })

  it('says what is missing, makes it, and a second time changes nothing', async () => {
    const before = await migrate(['--check', '--json'])
    expect(before.code).toBe(1)
    const found = onlyDocument<Migration>(before)
    expect(found.databases.map(({ migrated }) => migrated)).toEqual([null, null])
    for (const { findings } of found.databases) expect(findings[0]).toMatchObject({ name: 'tables', level: 'error' })

    for (const time of ['first', 'second']) {
      const done = await migrate(['--json'])
      expect(done.code, `${time}: ${done.stderr}`).toBe(0)
      const { ok, databases, skipped } = onlyDocument<Migration>(done)
      expect({ ok, skipped, migrated: databases.map(({ name, migrated }) => [name, migrated]) }).toEqual({
        ok: true,
        skipped: [{ name: 'log', engine: 'sqlite' }],
        migrated: [
          ['stock', true],
          ['wallet', true],
        ],
      })
      // The schema of the app as well, and what is in it stays.
      const insert = "insert into account (name, balance) values ('kept', 1)"
      if (time === 'first') await Promise.all([onPostgres(pg.url, insert), onMysql(maria.url, insert)])
    }
    expect((await onPostgres(pg.url, 'select name from account')).length).toBe(1)
    expect((await onMysql(maria.url, 'select name from account')).length).toBe(1)

    const person = await migrate(['--check'])
    expect(person.code).toBe(0)
    expect(person.stdout).toMatch(/stock {2}postgres at 127\.0\.0\.1:\d+\/postgres\n {2}✓/)
    expect(person.stdout).toContain('All well.')
  })

  it('makes with --print and a client of SQL what it makes itself', async () => {
    await onPostgres(pg.url, 'create database printed')
    await onMysql(maria.url, 'create database printed')
    const urls = { STOCK_URL: pg.url.replace(/[^/]+$/, 'printed'), WALLET_URL: maria.url.replace(/[^/]+$/, 'printed') }
    const { databases } = onlyDocument<{ databases: { sql: string }[] }>(await migrate(['--print', '--json'], urls))
    await onPostgres(urls.STOCK_URL, databases[0]?.sql ?? '')
    await onMysql(urls.WALLET_URL, databases[1]?.sql ?? '')
    expect((await migrate(['--check'], urls)).code).toBe(0)
  })

  it('never prints a password: not a wrong one, not one in a wrong place', async () => {
    await onPostgres(pg.url, `create role locked login password 'right'`)
    await askPassword(pg, 'locked')
    await onMysql(maria.url, `create user locked@'%' identified by 'right'`)
    const wrong = { STOCK_URL: as(pg.url, 'locked', secret), WALLET_URL: as(maria.url, 'locked', secret) }
    for (const args of [[], ['--check']]) {
      const refused = await migrate([...args, '--json'], wrong)
      expect(refused.code).toBe(3)
      expect(refused.stdout + refused.stderr).not.toContain(secret)
      for (const { reached, error } of onlyDocument<Migration>(refused).databases) {
        expect(reached).toBe(false)
        expect(error?.message).toMatch(/password/i)
      }
    }
    const url = `postgres://locked:${secret}@127.0.0.1:1/x`
    for (const args of [
      [url],
      ['--url', url],
      ['--url', `stock=${url}`, '--ulr', url],
      ['--only', 'x', '--url', `stock=${url}`],
      ['app.ts', url],
    ]) {
      for (const json of [[], ['--json']]) {
        const ended = await headrace(['migrate', ...args, ...json])
        expect(ended.code, args.join(' ')).toBe(2)
        expect(ended.stdout + ended.stderr, args.join(' ')).not.toContain(secret)
      }
    }
    expect((await headrace(['tx', url])).stderr).not.toContain(secret)
  })

  it('goes on with the others when one is away, and ends in bounded time with 3', async () => {
    const startedAt = performance.now()
    maria.pause()
    const ended = await migrate(['--json'])
    maria.resume()
    expect(ended.code).toBe(3)
    const { ok, databases } = onlyDocument<Migration>(ended)
    expect(ok).toBe(false)
    expect(databases).toMatchObject([
      { name: 'stock', reached: true, migrated: true, error: null },
      { name: 'wallet', reached: false, migrated: false, error: { code: 'engine-unavailable' } },
    ])
    expect(performance.now() - startedAt).toBeLessThan(30_000)
  })

  it('takes the url of an account that may create tables, and the schema from the app', async () => {
    await onPostgres(pg.url, 'create database other')
    const other = pg.url.replace(/[^/]+$/, 'other')
    const ended = await migrate(['--url', `stock=${other}`, '--only', 'stock'], { STOCK_URL: 'postgres://u@127.0.0.1:1/x' })
    expect(ended.code, ended.stderr).toBe(0)
    expect(await onPostgres(other, 'select name from account')).toEqual([])
    const alone = await headrace(['migrate', '--url', `a=${other}`, '--url', `b=${maria.url}`, '--json'])
    expect(onlyDocument<Migration>(alone)).toMatchObject({ ok: true, databases: [{ name: 'a' }, { name: 'b' }] })
  })

  it('takes a file that exports databases and no app', async () => {
    const exported = join(folder.path, 'exported.ts')
    writeFileSync(
      exported,
      "import { postgres } from 'headrace/postgres'\nexport const stock = postgres('stock', { url: process.env.STOCK_URL! })",
    )
    const ended = await headrace(['migrate', exported, '--json'], { environment })
    expect(onlyDocument<Migration>(ended)).toMatchObject({ ok: true, databases: [{ name: 'stock', migrated: true }] })
  })

  it('has nothing to do for an app on SQLite files, and says so', async () => {
    const ended = await headrace(['migrate', flashSale, '--check'])
    expect(ended.code).toBe(0)
    expect(ended.stdout).toContain('stock  SQLite: left out')
    expect(ended.stdout).toContain('no database on a server')
  })

  it('lets an account with the documented rights do all but migrate', async () => {
    await onPostgres(pg.url, 'create database shop')
    const owner = pg.url.replace(/[^/]+$/, 'shop')
    await onMysql(maria.url, 'create database shop')
    const root = maria.url.replace(/[^/]+$/, 'shop')
    expect((await migrate([], { STOCK_URL: owner, WALLET_URL: root })).code).toBe(0)
    const grants = documentedGrants('postgres.md', '## Tables and rights')
    await onPostgres(
      owner,
      'create role shop login',
      ...['account', 'entry'].map((table) => grants.replaceAll('your_table', table)),
      "insert into account values ('x', 100)",
    )
    // The second line is for MySQL 8 alone; MariaDB does not know the right.
    const [grant = ''] = documentedGrants('mysql.md', '## Set-up and rights').split('-- MySQL 8')
    await onMysql(root, "create user 'app'@'%' identified by 'app'", grant, "insert into account values ('x', 100)")
    const urls = { STOCK_URL: as(owner, 'shop', ''), WALLET_URL: as(root, 'app', 'app') }

    const refused = onlyDocument<Migration>(await migrate(['--json'], { STOCK_URL: urls.STOCK_URL, WALLET_URL: urls.WALLET_URL }))
    expect(refused.databases.map(({ reached, migrated }) => ({ reached, migrated }))).toContainEqual({ reached: true, migrated: false })
    const checked = await migrate(['--check', '--json'], urls)
    expect(checked.code, checked.stderr).toBe(0)

    await using coordinator = await createCoordinator({
      deployment: 'crash',
      databases: [postgres('stock', { url: urls.STOCK_URL }), mysql('wallet', { url: urls.WALLET_URL })],
      graceMs: 0,
      recovery: false,
    })
    await coordinator.transaction({ databases: ['stock', 'wallet'] }, async (tx) => {
      await tx.database('stock').addMany('account', 'name', [{ name: 'x', balance: -1 }])
      await tx.database('wallet').addMany('account', 'name', [{ name: 'x', balance: 1 }])
      await tx.database('stock').selectIn('account', 'name', ['x'])
    })
    await coordinator.site.participant('stock').raise([{ deployment: 'crash', partition: 0, epoch: 1 }])
    await coordinator.site.participant('wallet').raise([{ deployment: 'crash', partition: 0, epoch: 1 }])
    // What a crash leaves is seen and ended with the same rights.
    for (const [number, point] of ['transaction.before-decision', 'transaction.after-decision'].entries()) {
      await killedAt(point, number, { stock: urls.STOCK_URL, wallet: urls.WALLET_URL })
      const seen = await headrace(['tx', 'ls', file, '--json'], { environment: urls })
      expect(seen.code, seen.stderr).toBe(1)
      await coordinator.recover()
      expect((await headrace(['tx', 'ls', file], { environment: urls })).code).toBe(0)
    }
  })

  it('releases databases whose data directory is gone, and not while that left something prepared', async () => {
    const [first, second] = [join(folder.path, 'first'), join(folder.path, 'second')]
    const node = await startNode(file, first, [], { environment })
    expect(await post(node.url, 'move', 'm1', {})).toMatchObject({ body: { status: 'committed' } })
    await node.stop()
    const claimed = await headrace(['start', file, '--data', second, '--port', '0', '--json'], { environment })
    expect(claimed.code).toBe(3)
    expect(claimed.stdout).toContain('database-claimed')

    expect((await migrate(['--release', '--json'])).code).toBe(2)
    const crashing = await startNode(file, first, [], {
      environment: { ...environment, HEADRACE_CRASH_POINT: 'transaction.after-decision:1' },
    })
    await post(crashing.url, 'move', 'm2', {}).catch(() => undefined)
    await crashing.ended
    const refused = await migrate(['--release', '--yes', '--json'])
    expect(refused.code).toBe(1)
    expect(onlyDocument(refused)).toMatchObject({ error: { code: 'release-refused' } })
    await (await startNode(file, first, [], { environment })).stop()

    const released = await migrate(['--release', '--yes', '--json'])
    expect(released.code, released.stderr).toBe(0)
    expect(onlyDocument(released)).toMatchObject({
      databases: [
        { name: 'stock', released: true },
        { name: 'wallet', released: true },
      ],
    })
    const other = await startNode(file, second, [], { environment })
    expect(await post(other.url, 'move', 'm3', {})).toMatchObject({ body: { status: 'committed' } })
    expect((await other.stop()).code).toBe(0)
    expect(existsSync(join(second, 'journal.sqlite'))).toBe(true)
  })

  it.each([
    [[], 'Which databases?'],
    [['--url', 'postgres://127.0.0.1/x'], 'name of the database in front'],
    [['--url', 'a=redis://127.0.0.1'], 'none of a database'],
    [['--url', 'a=postgres://127.0.0.1/x', '--only', 'b'], "no database 'b'"],
    [['--url', 'A b=postgres://127.0.0.1/x'], 'not valid'],
    [['--url', 'a=mysql://127.0.0.1'], 'names no database'],
    [['nowhere.ts'], 'no file'],
    [['--url', 'a=postgres://127.0.0.1/x', '--release'], 'file of the app'],
  ])('ends with 2 for %j', async (args, words) => {
    const ended = await headrace(['migrate', ...args])
    expect(ended.code, ended.stderr).toBe(2)
    expect(ended.stderr).toContain(words)
  })
})
