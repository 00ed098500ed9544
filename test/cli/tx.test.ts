import { createServer } from 'node:http'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { mysql } from '../../src/drivers/mysql/index.ts'
import { postgres } from '../../src/drivers/postgres/index.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../../src/testing/servers/index.ts'
import { type Doubt, homeTag } from '../../src/transaction/index.ts'
import { appText, killedAt, onMysql, onPostgres } from './databases.ts'
import { type Ended, headrace, onlyDocument, post, spawnHeadrace, startNode, temporaryFolder } from './headrace.ts'

const missing = serverMissing('postgres') ?? serverMissing('mariadb')

interface Listing {
  readonly doubts: readonly Doubt[]
  readonly away: readonly { readonly name: string; readonly message: string }[]
}

describe.skipIf(missing !== null)(`headrace tx${missing === null ? '' : ` (${missing})`}`, () => {
  const folder = temporaryFolder()
  const file = join(folder.path, 'app.ts')
  let pg: Server
  let maria: Server
  let environment: { STOCK_URL: string; WALLET_URL: string }
  let urls: string[]
  let number = 0

  beforeAll(async () => {
    writeFileSync(file, appText)
    ;[pg, maria] = await Promise.all([startPostgres(), startMariadb()])
    environment = { STOCK_URL: pg.url, WALLET_URL: maria.url }
    urls = ['--url', `stock=${pg.url}`, '--url', `wallet=${maria.url}`]
    expect((await headrace(['migrate', file], { environment })).code).toBe(0)
    const account = "insert into account values ('x', 100)"
    await Promise.all([onPostgres(pg.url, account), onMysql(maria.url, account)])
  })
  afterAll(async () => {
    await Promise.all([pg?.stop(), maria?.stop()])
    folder.drop()
  })
  afterEach(async () => {
    const { doubts } = await list()
    expect(doubts, 'each test leaves nothing in doubt').toEqual([])
  })

  const tx = (args: readonly string[]): Promise<Ended> => headrace(['tx', ...args], { environment, cwd: folder.path })
  const list = async (...args: readonly string[]): Promise<Listing & { code: number | null; text: string }> => {
    const ended = await tx(['ls', ...(args.length > 0 ? args : urls), '--json'])
    return { ...onlyDocument<Listing>(ended), code: ended.code, text: ended.stderr }
  }
  /** The only thing in doubt, left by a coordinator that was killed. */
  const leave = async (point: string): Promise<string> => {
    number += 1
    await killedAt(point, number, { stock: pg.url, wallet: maria.url })
    const { doubts } = await list()
    expect(doubts.length).toBe(1)
    return (doubts[0] as Doubt).gid
  }
  const balances = async (): Promise<number[]> => {
    const read = "select balance from account where name = 'x'"
    return [...(await onPostgres(pg.url, read)), ...(await onMysql(maria.url, read))].map((row) => Number(row['balance']))
  }

  it('says so when nothing is in doubt, with exit code 0', async () => {
    expect(await list()).toMatchObject({ code: 0, doubts: [], away: [] })
    const person = await tx(['ls', file])
    expect(person).toMatchObject({ code: 0, stdout: 'Nothing in doubt in stock, wallet.\n', stderr: '' })
  })

  it('lists what was never decided, shows the evidence, and undoes it when a person says so', async () => {
    const before = await balances()
    const gid = await leave('transaction.before-decision')
    const { code, doubts, text } = await list(file)
    expect(code).toBe(1)
    expect(doubts).toMatchObject([
      { gid, state: 'undecided', home: 'stock', decision: null, branches: [{ participant: 'wallet', state: 'prepared' }] },
    ])
    expect(text).toMatch(new RegExp(`${gid} +undecided +–? +– +wallet prepared\n +→ It was never decided`))
    const shown = await tx(['show', gid, file])
    expect(shown.code).toBe(0)
    for (const words of ['deployment crash, node work', 'wallet  prepared', `headrace tx resolve ${gid} abort`])
      expect(shown.stdout).toContain(words)
    expect(shown.stdout).not.toContain(`resolve ${gid} commit`)
    expect(onlyDocument(await tx(['show', gid, ...urls, '--json']))).toMatchObject({ gid, state: 'undecided' })

    const unasked = await tx(['resolve', gid, 'abort', file, '--json'])
    expect(unasked.code).toBe(2)
    expect(onlyDocument(unasked)).toMatchObject({ error: { code: 'confirmation-missing' } })
    const refused = await tx(['resolve', gid, 'commit', file, '--yes', '--json'])
    expect(refused.code).toBe(1)
    expect(onlyDocument(refused)).toMatchObject({
      error: { code: 'resolve-refused', message: expect.stringContaining('has no decision') as string },
    })
    expect((await tx(['resolve', gid, 'forget', file, '--yes'])).code).toBe(1)
    expect((await list()).doubts.length).toBe(1)

    const done = await tx(['resolve', gid, 'abort', file, '--yes', '--json'])
    expect(done.code, done.stderr).toBe(0)
    expect(onlyDocument(done)).toEqual({ gid, verdict: 'abort', resolved: true, left: null })
    expect(await balances()).toEqual(before)
  })

  it('lists what was decided and not finished, and ends it only as decided', async () => {
    const [stock = 0, wallet = 0] = await balances()
    const gid = await leave('transaction.after-decision')
    expect(await list()).toMatchObject({ code: 1, doubts: [{ state: 'unfinished', decision: { verdict: 'commit' } }] })
    expect(onlyDocument(await tx(['resolve', gid, 'abort', file, '--yes', '--json']))).toMatchObject({ error: { code: 'resolve-refused' } })
    const done = await tx(['resolve', gid, 'commit', file, '--yes'])
    expect(done.code, done.stderr).toBe(0)
    expect(done.stdout).toContain('wallet  committed')
    expect(await balances()).toEqual([stock - 1, wallet + 1])

    const ended = await tx(['show', gid, file])
    expect(ended.code).toBe(1)
    expect(ended.stderr).toContain('It has ended: stock has it committed, wallet has it committed.')
  })

  it('names what a person ended by hand, and forgets it when told to', async () => {
    const gid = await leave('transaction.after-decision')
    await onMysql(maria.url, `xa rollback '${gid}','wallet'`)
    const { code, doubts, text } = await list()
    expect(code).toBe(1)
    expect(doubts).toMatchObject([{ gid, state: 'heuristic', branches: [{ participant: 'wallet', state: 'gone' }] }])
    expect(text).toContain(`headrace tx resolve ${gid} forget`)
    expect((await tx(['show', gid, file])).stdout).toContain('ended by hand')
    expect((await tx(['resolve', gid, 'commit', file, '--yes'])).code).toBe(1)
    expect((await tx(['resolve', gid, 'forget', file, '--yes'])).code).toBe(0)
  })

  it('names the database that something waits for, in bounded time, with exit code 3', async () => {
    const gid = await leave('transaction.after-decision')
    const startedAt = performance.now()
    maria.pause()
    const away = await list(file)
    const person = await tx(['ls', file])
    maria.resume()
    expect(performance.now() - startedAt).toBeLessThan(30_000)
    expect(away).toMatchObject({ code: 3, away: [{ name: 'wallet' }] })
    // Decisions of earlier tests, which no node has dropped yet, may wait for it as well.
    expect(away.doubts).toContainEqual(expect.objectContaining({ gid, state: 'away' }))
    expect(person.code).toBe(3)
    expect(person.stdout).toContain('Waits for wallet')
    expect(person.stdout).toMatch(/not asked: MySQL 'wallet'/)
    expect((await tx(['resolve', gid, 'commit', file, '--yes'])).code).toBe(0)
  })

  it('lets a person decide while the database with the decision is away, and only then', async () => {
    const [stock = 0, wallet = 0] = await balances()
    const gid = await leave('transaction.after-decision')
    pg.pause()
    const away = await list(file)
    expect(away).toMatchObject({ code: 3, doubts: [{ gid, state: 'away', home: 'stock' }], away: [{ name: 'stock' }] })
    const shown = await tx(['show', gid, file])
    for (const verdict of ['commit', 'abort']) expect(shown.stdout).toContain(`headrace tx resolve ${gid} ${verdict}`)
    const done = await tx(['resolve', gid, 'commit', file, '--yes'])
    pg.resume()
    expect(done.code, done.stderr).toBe(0)
    expect(await balances()).toEqual([stock - 1, wallet + 1])
  })

  it('leaves alone what is decided in a database that was not given', async () => {
    const gid = await leave('transaction.before-decision')
    const only = ['--url', `wallet=${maria.url}`]
    expect(await list(...only)).toMatchObject({ code: 1, doubts: [{ gid, state: 'home-unknown', home: null }] })
    // Under another name it is another database.
    expect(await list('--url', `purse=${maria.url}`)).toMatchObject({ code: 0, doubts: [] })
    expect(await list(...urls, '--deployment', 'other')).toMatchObject({ code: 0, doubts: [] })
    expect((await tx(['resolve', gid, 'abort', ...only, '--yes'])).code).toBe(0)
  })

  it('ends a branch that a living session keeps to itself', async () => {
    const gid = `crash_n1_aaaaaaaa_${homeTag('stock')}_1`
    const keeper = await mysql('wallet', { url: maria.url }).connect()
    const branch = await keeper.begin({ gid, statementTimeoutMs: 5_000 })
    await branch.database.insertMany('entry', [{ id: gid, amount: 1 }])
    await branch.prepare()
    const done = await tx(['resolve', gid, 'abort', file, '--yes'])
    await keeper.close()
    expect(done.code, done.stderr).toBe(0)
    expect(await onMysql(maria.url, 'xa recover')).toEqual([])
    expect(await onMysql(maria.url, `select id from entry where id = '${gid}'`)).toEqual([])
  })

  it('does not list with --still-after what was only under way', async () => {
    const gid = `crash_n1_bbbbbbbb_${homeTag('stock')}_1`
    const own = await postgres('stock', { url: pg.url }).connect()
    const branch = await own.begin({ gid, statementTimeoutMs: 5_000 })
    await branch.database.insertMany('entry', [{ id: gid, amount: 1 }])
    await branch.prepare()
    expect(await list(...urls, '--still-after', '100ms')).toMatchObject({
      code: 1,
      doubts: [{ gid, state: 'undecided', since: expect.any(Number) as number }],
    })
    const looking = spawnHeadrace(['tx', 'ls', ...urls, '--still-after', '4s', '--json'])
    // The first look is under way once its session has asked for decisions twice: for their deployments, and for the site.
    const asked = "select from pg_stat_activity where application_name = 'headrace:stock:transactions' and query like '%headrace_decision%'"
    while ((await onPostgres(pg.url, asked)).length === 0) await new Promise((resolve) => setTimeout(resolve, 20))
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    await own.rollbackPrepared(gid)
    await own.forget([gid])
    await own.close()
    expect(onlyDocument<Listing>(await looking.ended).doubts).toEqual([])
  })

  it('reads what an app decided in its journal, beside a node that runs, and writes there only without one', async () => {
    const dataDir = join(folder.path, 'journal')
    const data = ['--data', dataDir]
    const crashing = await startNode(file, dataDir, [], {
      environment: { ...environment, HEADRACE_CRASH_POINT: 'transaction.after-decision:1' },
    })
    await post(crashing.url, 'move', 'm1', {}).catch(() => undefined)
    await crashing.ended
    const { code, doubts } = await list(file, ...data)
    expect(code).toBe(1)
    expect(doubts).toMatchObject([{ state: 'unfinished', home: 'journal', decision: { verdict: 'commit' } }])
    const { gid } = doubts[0] as Doubt
    expect((await list()).doubts).toMatchObject([{ gid, state: 'home-unknown' }])

    const [prepared] = await onPostgres(pg.url, 'select gid from pg_prepared_xacts')
    await onPostgres(pg.url, `rollback prepared '${String(prepared?.['gid'])}'`)
    // Not while the other branch is prepared: it would be undone, against the decision.
    expect((await tx(['resolve', gid, 'forget', file, ...data, '--yes'])).code).toBe(1)
    const node = await startNode(file, dataDir, [], { environment })
    expect((await list(file, ...data)).doubts).toMatchObject([{ gid, state: 'heuristic' }])
    const running = await tx(['resolve', gid, 'forget', file, ...data, '--yes', '--json'])
    expect(running.code).toBe(1)
    expect(onlyDocument(running)).toMatchObject({ error: { code: 'node-runs' } })
    expect(await post(node.url, 'move', 'm2', {})).toMatchObject({ body: { status: 'committed' } })

    const stats = await tx(['stats', '--url', node.url, '--json'])
    expect(stats.code, stats.stderr).toBe(0)
    expect(onlyDocument(stats)).toMatchObject({
      sets: [
        {
          databases: ['stock', 'wallet'],
          attempts: 1,
          commits: 1,
          transactions: 1,
          measuredTry: { share: 1 },
          predictedTry: 1,
          predicted: 1,
        },
      ],
      protocols: { 'two-phase': 1 },
    })
    expect((await tx(['stats', '--url', node.url])).stdout).toMatch(/stock \+ wallet +1 +100\.0 %/)
    const metrics = await (await fetch(`${node.url}/metrics`)).text()
    expect(metrics).toMatch(/headrace_transactions_in_doubt\{deployment="j[a-z0-9]+"\} 1/)

    await node.stop()
    const done = await tx(['resolve', gid, 'forget', file, ...data, '--yes'])
    expect(done.code, done.stderr).toBe(0)
    expect((await list(file, ...data)).doubts).toEqual([])
  })

  it('has no stats where no node of Headrace answers', async () => {
    expect((await tx(['stats', '--url', 'http://127.0.0.1:1'])).code).toBe(3)
    const server = createServer((_, response) => response.end('up 1\n')).listen(0, '127.0.0.1')
    await once(server, 'listening')
    const ended = await tx(['stats', '--url', `http://127.0.0.1:${(server.address() as AddressInfo).port}`, '--json'])
    server.close()
    expect(ended.code).toBe(1)
    expect(onlyDocument(ended)).toMatchObject({ error: { code: 'metrics-missing' } })
  })

  it('knows a gid that is in doubt from one that is not, and from what is none', async () => {
    const unknown = `crash_n1_cccccccc_${homeTag('stock')}_1`
    for (const args of [
      ['show', unknown],
      ['resolve', unknown, 'abort'],
    ]) {
      const ended = await tx([...args, ...urls, ...(args.length > 2 ? ['--yes'] : []), '--json'])
      expect(ended.code).toBe(1)
      expect(onlyDocument(ended)).toMatchObject({ error: { code: 'doubt-unknown' } })
    }
    expect((await tx(['show', "x'; drop table account", ...urls])).code).toBe(2)
    expect((await tx(['resolve', unknown, 'undo', ...urls])).code).toBe(2)
    expect((await tx(['ls'])).code).toBe(2)
    expect((await tx(['ls', '--url', `stock=${pg.url.replace('/postgres', '/nowhere')}`])).code).toBe(3)
  })
})
