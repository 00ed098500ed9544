import { once } from 'node:events'
import { inspect } from 'node:util'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { HeadraceError } from '../../contracts/errors.ts'
import { type Server, serverMissing, startRedis } from '../../testing/servers/index.ts'
import { RedisConnection, type RedisConnectionOptions } from './connection.ts'

const missing = serverMissing('redis')
const password = 'open-sesame-4711'

async function failure(work: Promise<unknown>): Promise<HeadraceError> {
  const error = await work.then(
    () => new Error('it succeeded'),
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(HeadraceError)
  return error as HeadraceError
}

async function withConnection<T>(options: RedisConnectionOptions, use: (connection: RedisConnection) => Promise<T>): Promise<T> {
  const connection = new RedisConnection(options)
  try {
    return await use(connection)
  } finally {
    await connection.close()
  }
}

describe('the options of a Redis connection', () => {
  it('refuses what is not a Redis url, without repeating it', () => {
    for (const url of [`http://u:${password}@h`, `${password}@@`, `redis//${password}`]) {
      let error: unknown
      try {
        new RedisConnection({ url })
      } catch (reason) {
        error = reason
      }
      expect(HeadraceError.is(error) && error.code).toBe('option-invalid')
      expect(inspect(error, { depth: 9 })).not.toContain(password)
    }
  })

  it('refuses bounds that are none', () => {
    for (const timeoutMs of [0, -1, 1.5, Number.NaN, 1e9])
      expect(() => new RedisConnection({ timeoutMs })).toThrow(/timeoutMs must be a whole number/)
  })
})

describe.skipIf(missing !== null)(`a Redis connection${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  beforeAll(async () => {
    server = await startRedis({ password })
  })
  afterAll(() => server.stop())

  const ping = (connection: RedisConnection): Promise<string> => connection.call('a ping', (client) => client.ping())

  it('tells a wrong password apart, and never prints it', async () => {
    const wrong = 'wrong-sesame-0815'
    const url = server.url.replace(encodeURIComponent(password), wrong)
    const error = await withConnection({ url }, (connection) => failure(ping(connection)))
    expect(error.code).toBe('engine-refused')
    expect(error.message).toContain('password')
    expect(inspect(error, { depth: 9, showHidden: true })).not.toContain(wrong)
    const without = await withConnection({ url: `redis://127.0.0.1:${server.port}` }, (connection) => failure(ping(connection)))
    expect(without.code).toBe('engine-refused')
    await withConnection({ url: server.url }, async (connection) => {
      expect(inspect(connection, { depth: 9 })).not.toContain(password)
      expect(connection.address).not.toContain(password)
    })
  })

  it('bounds every call while the server is stopped, and goes on by itself afterwards', async () => {
    await withConnection({ url: server.url, timeoutMs: 150 }, async (connection) => {
      await ping(connection)
      server.pause()
      const start = performance.now()
      const errors = await Promise.all([failure(ping(connection)), failure(ping(connection))])
      expect(errors.map((error) => error.code)).toEqual(['engine-timeout', 'engine-timeout'])
      expect(performance.now() - start).toBeLessThan(1_000)
      server.resume()
      expect(await ping(connection)).toBe('PONG')
    })
  })

  it('answers at once when the server is gone, and connects again when it is back', async () => {
    await withConnection({ url: server.url, timeoutMs: 2_000 }, async (connection) => {
      await ping(connection)
      server.pause()
      const hanging = failure(ping(connection))
      await server.kill('SIGKILL')
      expect((await hanging).code).toBe('engine-unavailable')
      const start = performance.now()
      expect((await failure(ping(connection))).code).toBe('engine-unavailable')
      expect(performance.now() - start).toBeLessThan(1_900)
      await server.restart()
      await expect.poll(() => ping(connection).catch(() => 'not yet'), { timeout: 5_000, interval: 20 }).toBe('PONG')
    })
  })

  it('says what a refused call lacks: rights, scripts, a primary, memory', async () => {
    const admin = new Redis(server.url)
    await admin.call('acl', 'setuser', 'reader', 'on', '>pw', '~*', '+@read', '+ping', '+info', '+hello')
    const eval1 = (connection: RedisConnection): Promise<unknown> =>
      connection.call('running a script', (client) => client.eval('return 1', 0))
    const noRights = await withConnection({ url: `redis://reader:pw@127.0.0.1:${server.port}` }, (connection) => failure(eval1(connection)))
    expect([noRights.code, noRights.message]).toEqual(['engine-refused', expect.stringContaining('+eval')])
    await admin.call('replicaof', '127.0.0.1', '1')
    const replica = await withConnection({ url: server.url }, (connection) =>
      failure(connection.call('writing', (client) => client.set('a', '1'))),
    )
    expect([replica.code, replica.message]).toEqual(['engine-refused', expect.stringContaining('replica')])
    await admin.call('replicaof', 'no', 'one')
    await admin.config('SET', 'maxmemory', '1')
    const full = await withConnection({ url: server.url }, (connection) =>
      failure(connection.call('writing', (client) => client.set('a', '1'))),
    )
    expect([full.code, full.message]).toEqual(['engine-refused', expect.stringContaining('maxmemory')])
    await admin.config('SET', 'maxmemory', '0')
    const wrongType = await withConnection({ url: server.url }, async (connection) => {
      await connection.call('writing', (client) => client.set('text', '1'))
      return failure(connection.call('pushing', (client) => client.lpush('text', '1')))
    })
    expect(wrongType.code).toBe('engine-failed')
    admin.disconnect()
  })

  it('leaves a client of yours open, and closes its own subscribers', async () => {
    const client = new Redis(server.url)
    const connection = new RedisConnection({ client })
    const subscriber = connection.subscriber()
    await connection.within('subscribing', subscriber.subscribe('news'))
    const heard = once(subscriber, 'message')
    await connection.call('publishing', (own) => own.publish('news', 'one'))
    expect(await heard).toEqual(['news', 'one'])
    const ended = once(subscriber, 'end')
    await connection.close()
    await ended
    expect(await client.ping()).toBe('PONG')
    expect((await failure(ping(connection))).code).toBe('engine-unavailable')
    client.disconnect()
  })
})
