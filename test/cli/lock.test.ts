import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { LockEngine } from '../../src/contracts/lock.ts'
import { postgresLocks } from '../../src/drivers/postgres/index.ts'
import { redisLocks } from '../../src/drivers/redis/index.ts'
import { sqliteLocks } from '../../src/drivers/sqlite/index.ts'
import { createLocks, type LockListing } from '../../src/lock/index.ts'
import { type Server, serverMissing, startPostgres, startRedis } from '../../src/testing/servers/index.ts'
import { as, askPassword, onPostgres } from './databases.ts'
import { headrace, onlyDocument, temporaryFolder } from './headrace.ts'

const missing = serverMissing('redis') ?? serverMissing('postgres')
const secret = 'geh3im'

describe.skipIf(missing !== null)(`headrace lock${missing === null ? '' : ` (${missing})`}`, () => {
  const folder = temporaryFolder()
  const file = join(folder.path, 'locks.sqlite')
  let redis: Server
  let pg: Server

  beforeAll(async () => {
    ;[redis, pg] = await Promise.all([startRedis({ password: secret }), startPostgres()])
  })
  afterAll(async () => {
    await Promise.all([redis?.stop(), pg?.stop()])
    folder.drop()
  })

  const lock = (args: readonly string[], url: string, environment = {}) => headrace(['lock', ...args, '--url', url], { environment })
  const all = async (url: string): Promise<LockListing[]> => {
    const { code, stdout, stderr } = await lock(['ls', '--json'], url)
    expect(code, stderr).toBe(0)
    return stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as LockListing)
  }

  const engines: Record<string, { url(): string; open(url: string): LockEngine }> = {
    'Redis': { url: () => redis.url, open: (url) => redisLocks({ url }) },
    'PostgreSQL': { url: () => pg.url, open: (url) => postgresLocks({ url }) },
    'a SQLite file': { url: () => file, open: (path) => sqliteLocks({ file: path }) },
  }

  for (const [name, { url, open }] of Object.entries(engines)) {
    it(`lists, shows and breaks locks on ${name}: the holder hears of it, the next has a higher token`, async () => {
      const [holder, next] = [createLocks(open(url())), createLocks(open(url()))]
      try {
        // It listens once it has waited.
        const first = await holder.acquire('warm')
        const warm = holder.acquire('warm')
        await until(async () => (await holder.list()).some(({ waiting }) => waiting === 1))
        await first.release()
        await (await warm).release()

        const lease = await holder.acquire('sku:1', { ttlMs: 60_000 })
        const waiting = next.acquire('sku:1', { waitMs: 60_000 })
        const seats = await next.semaphore('seats', 3).acquire({ permits: 2 })
        await until(async () => (await holder.list()).some(({ waiting: count }) => count === 1))
        expect(await all(url())).toMatchObject([
          { key: 'seats', kind: 'semaphore', limit: 3, holders: [{ permits: 2 }] },
          { key: 'sku:1', kind: 'exclusive', waiting: 1, holders: [{ token: lease.token }] },
        ])
        const person = await lock(['ls'], url())
        expect(person.stdout).toMatch(new RegExp(`sku:1 +exclusive +\\S+:${process.pid} +${lease.token} +\\d+\\.\\d s +1\n`))
        expect(person.stdout).toMatch(/seats +semaphore of 3 +\S+ \(2\)/)
        expect((await lock(['ls', '--max', '1'], url())).stdout).toContain('1 lock, and more')
        const shown = onlyDocument<LockListing>(await lock(['show', 'sku:1', '--json'], url()))
        expect(shown).toMatchObject({ key: 'sku:1', holders: [{ token: lease.token }] })

        expect((await lock(['break', 'sku:1'], url())).code).toBe(2)
        expect((await lock(['break', 'sku:1', '--id', 'nobody/1', '--yes'], url())).code).toBe(1)
        expect(lease.held).toBe(true)
        const lost = new Promise((resolve) => lease.signal.addEventListener('abort', resolve, { once: true }))
        const broken = await lock(['break', 'sku:1', '--id', shown.holders[0]?.id ?? '', '--yes', '--json'], url())
        expect(broken.code, broken.stderr).toBe(0)
        expect(onlyDocument(broken)).toMatchObject({ key: 'sku:1', broken: 1, from: [{ token: lease.token }] })
        const startedAt = performance.now()
        await lost
        expect(lease.held).toBe(false)
        const taken = await waiting
        // Both were told: the next extension, and the end of the lease, are many times further away.
        expect(performance.now() - startedAt).toBeLessThan(5_000)
        expect(taken.token).toBeGreaterThan(lease.token)
        expect(await all(url())).toMatchObject([{ key: 'seats' }, { key: 'sku:1', waiting: 0, holders: [{ token: taken.token }] }])
        await taken.release()
        await seats.release()

        const unknown = await lock(['break', 'sku:1', '--yes', '--json'], url())
        expect(unknown.code).toBe(1)
        expect(onlyDocument(unknown)).toMatchObject({ error: { code: 'lock-unknown' } })
        expect((await lock(['show', 'nobody'], url())).code).toBe(1)
        expect((await lock(['ls'], url())).stdout).toBe('No lock is held or waited for.\n')
      } finally {
        await Promise.all([holder.close(), next.close()])
      }
    })
  }

  it('makes nothing where it only looks: no file, no table', async () => {
    const nowhere = join(folder.path, 'nowhere.sqlite')
    expect((await lock(['ls'], nowhere)).code).toBe(2)
    expect(existsSync(nowhere)).toBe(false)
    const other = join(folder.path, 'other.txt')
    writeFileSync(other, 'something else')
    expect((await lock(['ls'], other)).code).toBe(2)
    await onPostgres(pg.url, 'create database empty')
    const empty = pg.url.replace(/[^/]+$/, 'empty')
    const ended = await lock(['ls', '--json'], empty)
    expect(ended.code).toBe(1)
    expect(onlyDocument(ended)).toMatchObject({ error: { code: 'locks-missing' } })
    expect(await onPostgres(empty, "select from pg_class where relname like 'headrace%'")).toEqual([])
  })

  it('never prints a password, and ends with 3 when it is wrong', async () => {
    await onPostgres(pg.url, "create role locked login password 'right'")
    await askPassword(pg, 'locked')
    for (const url of [redis.url.replace(secret, 'wr0ng'), as(pg.url, 'locked', 'wr0ng')]) {
      for (const args of [['ls'], ['ls', '--json'], ['break', 'a', '--yes']]) {
        const ended = await lock(args, url)
        expect(ended.code, ended.stderr).toBe(3)
        expect(ended.stdout + ended.stderr).not.toContain('wr0ng')
      }
    }
    expect((await headrace(['lock', 'ls'], { environment: { HEADRACE_LOCK_URL: redis.url } })).code).toBe(0)
    expect((await headrace(['lock', 'ls', '--help'], { environment: { HEADRACE_LOCK_URL: redis.url } })).stdout).not.toContain(secret)
  })

  it('ends in bounded time with 3 when nothing answers, be it gone or paused', async () => {
    for (const url of ['redis://127.0.0.1:1', 'postgres://u@127.0.0.1:1/x']) expect((await lock(['ls'], url)).code).toBe(3)
    for (const server of [redis, pg]) {
      const startedAt = performance.now()
      server.pause()
      const ended = await lock(['ls'], server.url)
      server.resume()
      expect(ended.code, ended.stderr).toBe(3)
      expect(performance.now() - startedAt).toBeLessThan(20_000)
    }
  })

  it.each([
    [['ls'], 'Where are the locks?'],
    [['ls', '--url', 'mysql://root:geh3im@127.0.0.1/x'], 'no locks on mysql://'],
    [['ls', '--url', 'redis://127.0.0.1:6379', '--prefix', 'a b'], 'prefix'],
    [['show', '--url', 'redis://127.0.0.1:6379'], 'missing required argument'],
  ])('ends with 2 for %j', async (args, words) => {
    const ended = await headrace(['lock', ...args])
    expect(ended.code).toBe(2)
    expect(ended.stderr).toContain(words)
    expect(ended.stderr).not.toContain(secret)
  })
})

async function until(is: () => Promise<boolean>): Promise<void> {
  while (!(await is())) await new Promise((resolve) => setTimeout(resolve, 20))
}
