/** The life of a server: start, graceful close, and what it does when it cannot. */
import { createServer as createTcpServer } from 'node:net'
import { describe, expect, test } from 'vitest'
import { closeOnSignals, createServer, serve } from '../../src/server/index.ts'
import { deferred } from '../../src/std/deferred.ts'
import { afterTest, call, post, shop, startShop, temporaryFolder } from './fixture.ts'
import { listeningUrl, memoryLog } from './memory-log.ts'
import { chunk, postHead, rawClient } from './raw.ts'

const key = { 'idempotency-key': 'k1' }

describe('closing', () => {
  test('finishes the requests in flight, stops the app, and is listening no more', async () => {
    const { url, server, app, gates } = await startShop()
    const waiting = post(`${url}/commands/gate.pass`, { gate: 'g' }, key)
    await gates.reached('g')
    const closing = server.close()
    gates.open('g')
    expect((await waiting).json).toMatchObject({ status: 'committed', result: { passed: 'g' } })
    await closing
    expect((await app.status()).state).toBe('stopped')
    await expect(fetch(`${url}/livez`)).rejects.toThrow()
  })

  test('refuses at once what comes after it began, and says it on /readyz', async () => {
    const { url, server, gates } = await startShop()
    // Both connections have begun a request, so they are not idle.
    const command = await rawClient(url)
    const ready = await rawClient(url)
    const body = '{"gate":"late"}'
    command.send(
      postHead('/commands/gate.pass', {
        'content-type': 'application/json',
        'content-length': String(body.length),
        'idempotency-key': 'k2',
      }),
    )
    ready.send('GET /readyz HTTP/1.1\r\nhost: a\r\n')
    const waiting = post(`${url}/commands/gate.pass`, { gate: 'g' }, key)
    await gates.reached('g')
    const closing = server.close()
    command.send(body)
    ready.send('\r\n')
    expect(await command.until(/\}$/)).toMatch(/^HTTP\/1\.1 503 (?=.*retry-after: 1)(?=.*connection: close).*"code":"stopping"/is)
    expect(await ready.until(/\}$/)).toMatch(/^HTTP\/1\.1 503 .*"code":"stopping"/s)
    gates.open('g')
    expect((await waiting).status).toBe(200)
    await closing
  })

  test('with drainDelayMs says so on /readyz first, and still takes commands until then', async () => {
    const { url, server } = await startShop({ server: { drainDelayMs: 1_000 } })
    const closing = server.close()
    expect((await call(`${url}/readyz`)).json['code']).toBe('stopping')
    expect((await post(`${url}/commands/echo.any`, 1, key)).json).toMatchObject({ status: 'committed' })
    await closing
    await expect(fetch(`${url}/livez`)).rejects.toThrow()
  })

  test('does not wait for idle connections, nor for those that came to rest while it closed', async () => {
    const { url, server, gates } = await startShop()
    const idle = await rawClient(url)
    idle.send('GET /livez HTTP/1.1\r\nhost: a\r\n\r\n')
    await idle.until(/alive/)
    const silent = await rawClient(url)
    const busy = await rawClient(url)
    const body = '{"gate":"g"}'
    busy.send(
      `${postHead('/commands/gate.pass', { 'content-type': 'application/json', 'content-length': String(body.length), 'idempotency-key': 'k1' })}${body}`,
    )
    await gates.reached('g')
    for (const client of [idle, silent, busy]) client.socket.on('end', () => client.socket.end())
    const closing = server.close()
    await Promise.all([idle.closed, silent.closed])
    gates.open('g')
    await closing
    await busy.closed
    expect(busy.received).toContain('"status":"committed"')
  })

  test('ends within its bound when a command never ends and a client never does: both get an answer or a close', async () => {
    const { url, server, gates } = await startShop({ app: { stopTimeoutMs: 400, handlerTimeoutMs: 100 } })
    const stuck = await rawClient(url)
    stuck.send(postHead('/commands/echo.any', { 'content-type': 'application/json', 'content-length': '100', 'idempotency-key': 'k2' }))
    const waiting = post(`${url}/commands/gate.pass`, { gate: 'never' }, key)
    await gates.reached('never')
    const startedAt = performance.now()
    await server.close()
    expect(performance.now() - startedAt).toBeLessThan(2 * 400 + 2_000)
    const answer = await waiting
    expect([answer.status, answer.json['code']]).toEqual([503, 'stopping'])
    stuck.socket.on('end', () => stuck.socket.end())
    await stuck.closed
    expect(stuck.received).toBe('')
    gates.open('never')
  })

  test('twice is closing once', async () => {
    const { server } = await startShop()
    const [one, two] = [server.close(), server.close()]
    expect(one).toBe(two)
    await one
  })

  test('in the middle of a bulk request keeps every answer it owes', async () => {
    const { url, server, app } = await startShop()
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { 'content-type': 'application/x-ndjson', 'transfer-encoding': 'chunked' }))
    let sent = 0
    const sending = setInterval(() => {
      for (let n = 0; n < 20; n++) client.send(chunk(`{"id":"k${sent++}","input":1}\n`))
    }, 1)
    client.socket.on('end', () => client.socket.end())
    await client.until(/"id":"k40"/)
    await server.close()
    await client.closed
    clearInterval(sending)
    const answered = [...client.received.matchAll(/"id":"k(\d+)","command":"echo.any","status":"committed"/g)].map(([, n]) => Number(n))
    expect(answered).toEqual(Array.from({ length: answered.length }, (_, n) => n))
    expect(client.received).toMatch(new RegExp(`"code":"stopping".*"line":${answered.length + 1}\\b`))
    expect((await app.status()).state).toBe('stopped')
  })
})

describe('starting', () => {
  test('on a port that is in use fails with the port and what to do, and leaves nothing open', async () => {
    const other = createTcpServer()
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
    afterTest(() => new Promise((resolve) => other.close(resolve)))
    const { port } = other.address() as { port: number }
    const app = shop({ dataDir: await temporaryFolder() })
    await expect(serve(app, { port, logLevel: 'silent' })).rejects.toMatchObject({
      code: 'listen-failed',
      message: expect.stringContaining(`127.0.0.1:${port}`),
    })
    expect((await app.status()).state).toBe('new')
  })

  test('with an app that cannot start fails with its error, and is listening no more', async () => {
    const dataDir = await temporaryFolder()
    const first = await startShop({ app: { dataDir } })
    const second = shop({ dataDir })
    const { log, lines } = memoryLog()
    await expect(serve(second, { port: 0, logger: log })).rejects.toMatchObject({ code: 'data-in-use' })
    const url = listeningUrl(lines)
    expect(url).not.toBe(first.url)
    await expect(fetch(`${url}/livez`)).rejects.toThrow()
    expect((await call(`${first.url}/livez`)).status).toBe(200)
  })

  test('with an app that is started already serves it', async () => {
    const app = shop({ dataDir: await temporaryFolder() })
    await app.start()
    const server = await serve(app, { port: 0, logLevel: 'silent' })
    afterTest(() => server.close())
    expect((await call(`${server.url}/readyz`)).status).toBe(200)
  })

  test('with an option that nobody knows is refused', async () => {
    const app = shop({ dataDir: await temporaryFolder() })
    await expect(serve(app, { prt: 1 } as never)).rejects.toMatchObject({ code: 'option-unknown' })
  })
})

test('createServer gives a Fastify instance that the user may extend', async () => {
  const app = shop({ dataDir: await temporaryFolder() })
  await app.start()
  afterTest(() => app.stop())
  const server = createServer(app, { logLevel: 'silent' })
  server.get('/mine', async () => ({ mine: true }))
  server.get('/refused', async () => {
    throw Object.assign(new Error('not you'), { statusCode: 403 })
  })
  server.get('/broken', async () => {
    throw new Error('secret')
  })
  const url = await server.listen({ host: '127.0.0.1', port: 0 })
  afterTest(() => server.close())
  expect((await call(`${url}/mine`)).json).toEqual({ mine: true })
  expect((await post(`${url}/commands/echo.any`, 1, key)).json).toMatchObject({ result: 1 })
  expect((await call(`${url}/refused`)).json).toEqual({
    type: 'about:blank',
    title: 'Forbidden',
    status: 403,
    detail: 'not you',
    code: 'refused',
  })
  const broken = await call(`${url}/broken`)
  expect([broken.status, broken.json['code'], broken.text.includes('secret')]).toEqual([500, 'internal', false])
})

describe('signals', () => {
  test('SIGTERM closes and then ends with 0; a second one ends at once with 1', async () => {
    const closed = deferred<void>()
    const codes: number[] = []
    const ended = deferred<void>()
    const stop = closeOnSignals({ close: () => closed.promise }, (code) => {
      codes.push(code)
      if (codes.length === 2) ended.resolve()
    })
    afterTest(async () => stop())
    process.emit('SIGTERM', 'SIGTERM')
    expect(codes).toEqual([])
    process.emit('SIGTERM', 'SIGTERM')
    expect(codes).toEqual([1])
    closed.resolve()
    await ended.promise
    expect(codes).toEqual([1, 0])
  })

  test('a close that fails ends with 1', async () => {
    const ended = deferred<number>()
    const stop = closeOnSignals({ close: () => Promise.reject(new Error('no')) }, ended.resolve)
    afterTest(async () => stop())
    process.emit('SIGINT', 'SIGINT')
    expect(await ended.promise).toBe(1)
  })
})
