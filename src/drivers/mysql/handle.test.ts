/** The options of the handle, and what the server may refuse: passwords, rights, read-only, too many connections. */
import { inspect } from 'node:util'
import mysql2 from 'mysql2/promise'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Participant } from '../../contracts/participant.ts'
import { codeOf } from '../../testing/ledger-harness.ts'
import { freePort, type Server, serverMissing, startMariadb } from '../../testing/servers/index.ts'
import { loadDriver } from './driver.ts'
import { type MysqlOptions, mysql } from './handle.ts'

const missing = serverMissing('mariadb')
const secret = 'hunter2-secret'
let gids = 0
const newGid = (): string => `h_${gids++}`

async function refusal(running: Promise<unknown>): Promise<HeadraceError> {
  try {
    await running
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It was not refused.')
}

describe('the handle of MySQL', () => {
  const url = `mysql://shop:${secret}@127.0.0.1:3306/shop`

  it('is frozen, names the database, and shows no password', () => {
    const handle = mysql('wallet', { url })
    expect(handle).toMatchObject({
      kind: 'database',
      name: 'wallet',
      engine: 'mysql',
      options: { address: '127.0.0.1:3306/shop', poolMax: 10 },
    })
    expect(Object.isFrozen(handle) && Object.isFrozen(handle.options)).toBe(true)
    expect(JSON.stringify(handle) + inspect(handle, { depth: 9, showHidden: true })).not.toContain(secret)
  })

  it.each<[string, string, unknown, string]>([
    ['a name with capitals', 'Wallet', { url }, 'option-invalid'],
    ['no way to connect', 'wallet', {}, 'option-invalid'],
    ['an option that there is not', 'wallet', { url, poolmax: 1 }, 'option-unknown'],
    ['a url of something else', 'wallet', { url: `postgres://u:${secret}@h/d` }, 'option-invalid'],
    ['a url that is none', 'wallet', { url: secret }, 'option-invalid'],
    ['a url without a database', 'wallet', { url: `mysql://u:${secret}@h:1` }, 'option-invalid'],
    ['a pool of nothing', 'wallet', { url, poolMax: 0 }, 'option-invalid'],
    ['a time that is a text', 'wallet', { url, statementTimeoutMs: '5s' }, 'option-invalid'],
    ['an empty schema', 'wallet', { url, schema: '' }, 'option-invalid'],
    ['a pool that is none', 'wallet', { pool: {} }, 'option-invalid'],
  ])('is refused with %s, and the refusal shows no password', (_what, name, options, code) => {
    try {
      mysql(name, options as MysqlOptions)
      throw new Error('It was taken.')
    } catch (error) {
      expect(HeadraceError.is(error) && error.code).toBe(code)
      expect(inspect(error)).not.toContain(secret)
    }
  })

  it('refuses a pool that resets its connections, or has but one', async () => {
    for (const options of [{ resetOnRelease: true }, { connectionLimit: 1 }]) {
      const pool = mysql2.createPool({ uri: url, ...options } as mysql2.PoolOptions)
      expect(() => mysql('wallet', { pool })).toThrow(/reset|connectionLimit/)
      await pool.end()
    }
  })

  it('says which command installs the library when it is missing', async () => {
    const absent = 'mysql2-that-is-not-there/promise'
    const error = await refusal(loadDriver(() => import(/* @vite-ignore */ absent)))
    expect(error.message).toContain('npm install mysql2')
  })

  it('connects lazily: it resolves although the server is away, and calls fail in a bounded time', async () => {
    const port = await freePort()
    const participant = await mysql('wallet', { url: `mysql://u:${secret}@127.0.0.1:${port}/d`, connectTimeoutMs: 500 }).connect()
    const error = await refusal(participant.begin({ gid: newGid(), statementTimeoutMs: 500 }))
    expect([error.code, error.retryable]).toEqual(['engine-unavailable', true])
    expect(error.message).toContain(`127.0.0.1:${port}/d`)
    expect(inspect(error)).not.toContain(secret)
    expect((await participant.check())[0]).toMatchObject({ name: 'reachable', level: 'error' })
    await participant.close()
  })
})

describe.skipIf(missing !== null)(`what MariaDB refuses${missing === null ? '' : ` (${missing})`}`, { timeout: 30_000 }, () => {
  let server: Server
  let admin: mysql2.Connection
  const opened: Participant[] = []
  const open = async (
    user: string,
    { database = 'test', ...given }: Partial<MysqlOptions> & { database?: string } = {},
  ): Promise<Participant> => {
    const url = `mysql://${user}@127.0.0.1:${server.port}/${database}`
    const participant = await mysql('wallet', {
      url,
      schema: 'create table if not exists item (id varchar(50) primary key, n bigint)',
      connectTimeoutMs: 2_000,
      ...given,
    }).connect()
    opened.push(participant)
    return participant
  }
  const begin = (participant: Participant, gid = newGid()) => participant.begin({ gid, statementTimeoutMs: 2_000 })

  beforeAll(async () => {
    server = await startMariadb({ settings: { max_connections: 12 } })
    admin = await mysql2.createConnection({ uri: server.url, multipleStatements: true })
    await (await open('root')).migrate()
    await admin.query(`
      create user shop@'127.0.0.1' identified by '${secret}';
      grant select, insert, update, delete on test.* to shop@'127.0.0.1';
      create user reader@'127.0.0.1' identified by '${secret}';
      grant select on test.* to reader@'127.0.0.1'`)
  }, 60_000)
  afterEach(async () => {
    await Promise.all(opened.splice(0).map((participant) => participant.close()))
  })
  afterAll(async () => {
    admin?.destroy()
    await server?.stop()
  })

  it('nothing to an account with the least rights that the documentation names', async () => {
    const [one, other] = [await open(`shop:${secret}`, { poolMax: 2 }), await open(`shop:${secret}`, { poolMax: 2 })]
    expect((await one.check()).filter(({ level }) => level === 'error')).toEqual([])
    await one.raise([{ deployment: 'd', partition: 1, epoch: 1 }])
    const [kept, undone] = [newGid(), newGid()]
    for (const gid of [kept, undone]) {
      const branch = await one.begin({ gid, statementTimeoutMs: 2_000, fences: [{ deployment: 'd', partition: 1, epoch: 1 }] })
      await branch.database.upsertMany('item', 'id', [{ id: gid, n: 1 }])
      await branch.prepare()
      if (gid === kept) await one.commitPrepared(gid)
    }
    await one.close()
    expect((await other.prepared('h_')).map(({ gid }) => gid)).toEqual([undone])
    await other.rollbackPrepared(undone)
    const home = await begin(other)
    await home.commit({ gid: home.gid, verdict: 'commit', participants: ['wallet'], decidedAt: 1 })
    expect((await other.decision(home.gid))?.verdict).toBe('commit')
    await other.forget([home.gid, kept, undone])
    expect((await refusal(other.migrate())).code).toBe('engine-refused')
  })

  it('a wrong password, which is not printed', async () => {
    const one = await open(`shop:wrong-${secret}`)
    const error = await refusal(begin(one))
    expect(error.code).toBe('engine-refused')
    expect(error.message).toContain("'shop'@")
    const [finding] = await one.check()
    expect(finding).toMatchObject({ level: 'error' })
    expect(inspect(error, { depth: 9, showHidden: true }) + JSON.stringify(finding) + inspect(one, { depth: 4 })).not.toContain(secret)
  })

  it('a database that there is not, for every kind of account', async () => {
    for (const user of ['root', `shop:${secret}`]) {
      const error = await refusal((await open(user, { database: 'nosuch' })).marker(newGid()))
      expect(error.code).toBe('engine-refused')
      expect(error.message).toContain('nosuch')
    }
  })

  it('writes without the right, which it names', async () => {
    const one = await open(`reader:${secret}`)
    const branch = await begin(one)
    const error = await refusal(branch.database.insertMany('item', [{ id: 'a', n: 1 }]))
    expect([error.code, error.message]).toEqual(['engine-refused', expect.stringContaining('INSERT')])
    await branch.abort()
    const empty = await begin(one)
    expect(await codeOf(empty.commit())).toBe('engine-refused')
    await empty.abort()
    const errors = (await one.check()).filter(({ name, level }) => name === 'rights' && level === 'error')
    expect(errors.map(({ message }) => message).join()).toMatch(/INSERT.*headrace_branch/s)
  })

  it('writes while it is read-only, and takes them again afterwards', async () => {
    const one = await open(`shop:${secret}`)
    await admin.query('set global read_only = 1')
    try {
      const branch = await begin(one)
      expect(await codeOf(branch.database.insertMany('item', [{ id: newGid(), n: 1 }]))).toBe('engine-refused')
      expect(await codeOf(branch.prepare())).toBe('engine-refused')
      await branch.abort()
      expect((await one.check()).find(({ name }) => name === 'read-only')).toMatchObject({ level: 'error' })
    } finally {
      await admin.query('set global read_only = 0')
    }
    const branch = await begin(one)
    await branch.database.insertMany('item', [{ id: newGid(), n: 1 }])
    await branch.commit()
  })

  it('a connection when there are too many, for as long as that lasts', async () => {
    const one = await open(`shop:${secret}`)
    const crowd: mysql2.Connection[] = []
    try {
      for (;;) {
        try {
          crowd.push(await mysql2.createConnection(`mysql://shop:${secret}@127.0.0.1:${server.port}/test`))
        } catch (error) {
          expect((error as { errno: number }).errno).toBe(1040)
          break
        }
      }
      const error = await refusal(begin(one))
      expect([error.code, error.retryable]).toEqual(['engine-unavailable', true])
      expect(error.message).toMatch(/too many connections/i)
    } finally {
      for (const connection of crowd) connection.destroy()
    }
    for (;;) {
      try {
        await (await begin(one)).commit()
        return
      } catch (error) {
        if (!HeadraceError.is(error) || !error.retryable) throw error
      }
    }
  })

  it('waits no longer than it should for a connection of its own pool', async () => {
    const one = await open('root', { poolMax: 1, connectTimeoutMs: 200 })
    const holder = await begin(one)
    const error = await refusal(one.begin({ gid: newGid(), statementTimeoutMs: 100 }))
    expect([error.code, error.message]).toEqual(['engine-timeout', expect.stringContaining('poolMax')])
    const waiting = begin(one)
    await holder.commit()
    await (await waiting).commit()
  })
})
