/** What strangers send: each gets a stable code, a message that says what to do, and nothing is taken. */
import { request } from 'node:http'
import { describe, expect, test } from 'vitest'
import { errorTable } from '../../src/index.ts'
import { serve } from '../../src/server/index.ts'
import { afterTest, type Answer, call, post, shop, startShop, temporaryFolder } from './fixture.ts'
import { memoryLog } from './memory-log.ts'
import { chunk, postHead, rawClient } from './raw.ts'
import { withGateway } from './wrapped-app.ts'

const key = { 'idempotency-key': 'k1' }

function expectProblem(answer: Answer, status: number, code: keyof typeof errorTable): void {
  expect([answer.status, answer.json['code']]).toEqual([status, code])
  expect(answer.headers.get('content-type')).toMatch(/^application\/problem\+json/)
  expect(answer.json).toMatchObject({ type: `urn:headrace:error:${code}`, title: errorTable[code].title, status })
  expect(String(answer.json['detail'])).not.toBe('')
  expect(answer.text).not.toMatch(/node_modules|\bat .*:\d+:\d+/)
}

describe('a body', () => {
  test.each([
    ['that is not JSON', '{"sku":', 400, 'body-not-json'],
    ['that is empty', '', 400, 'body-missing'],
    ['of another shape', '{"sku":7}', 400, 'input-invalid'],
    ['of another type', '[]', 400, 'input-invalid'],
    ['that is null', 'null', 400, 'input-invalid'],
    ['with __proto__', '{"sku":"a","__proto__":{"quantity":1}}', 400, 'body-forbidden-key'],
    ['with constructor.prototype', '{"sku":"a","constructor":{"prototype":{"quantity":1}}}', 400, 'body-forbidden-key'],
    ['that is too deep', `{"sku":${'['.repeat(40)}${']'.repeat(40)}}`, 400, 'body-too-deep'],
    ['of a megabyte of brackets', '['.repeat(1024 * 1024 - 1), 400, 'body-too-deep'],
    ['that is too large', `"${'x'.repeat(1024 * 1024)}"`, 413, 'body-too-large'],
    ['larger than an input may be', `{"sku":"${'x'.repeat(300_000)}"}`, 413, 'body-too-large'],
  ] as const)('%s is refused', async (_what, body, status, code) => {
    const { url, app } = await startShop()
    expectProblem(await post(`${url}/commands/stock.buy`, body, key), status, code)
    expect((await app.gateway.outcomeState('stock.buy', 'default', 'k1')).state).toBe('unknown')
  })

  test('of the wrong shape is told which field is wrong', async () => {
    const { url } = await startShop()
    const { json } = await post(`${url}/commands/stock.buy`, { sku: 'a', quantity: 9 }, key)
    expect(json['issues']).toMatchObject([{ path: 'quantity' }])
  })

  test('that is missing is told so', async () => {
    const { url } = await startShop()
    expectProblem(await call(`${url}/commands/stock.buy`, { method: 'POST', headers: key }), 400, 'body-missing')
  })

  test('that is not UTF-8 is refused, not mended', async () => {
    const { url } = await startShop()
    const body = Buffer.concat([Buffer.from('{"sku":"'), Buffer.from([0xff]), Buffer.from('"}')])
    expectProblem(
      await call(`${url}/commands/stock.buy`, { method: 'POST', headers: { ...key, 'content-type': 'application/json' }, body }),
      400,
      'body-not-json',
    )
  })

  test.each(['application/x-www-form-urlencoded', 'text/plain', 'application/xml', 'nonsense'])(
    'of media type %s is refused',
    async (type) => {
      const { url } = await startShop()
      expectProblem(await post(`${url}/commands/stock.buy`, '{"sku":"a"}', { ...key, 'content-type': type }), 415, 'media-type-unsupported')
    },
  )

  test('that is compressed is refused by its name', async () => {
    const { url } = await startShop()
    expectProblem(await post(`${url}/commands/stock.buy`, 'x', { ...key, 'content-encoding': 'gzip' }), 415, 'media-type-unsupported')
  })

  test('that is larger than it said it would be, or grows past the limit unannounced, is refused', async () => {
    const { url } = await startShop({ server: { bodyBytesMax: 1_000 } })
    const client = await rawClient(url)
    client.send(
      postHead('/commands/stock.buy', { 'content-type': 'application/json', 'idempotency-key': 'k1', 'transfer-encoding': 'chunked' }),
    )
    client.send(chunk(`"${'x'.repeat(2_000)}`))
    expect(await client.until(/\r\n\r\n\{.*\}/)).toMatch(/^HTTP\/1\.1 413 .*"code":"body-too-large"/s)
  })
})

describe('an Idempotency-Key', () => {
  test.each([
    ['that is missing', {}, 'id-missing'],
    ['that is empty', { 'idempotency-key': '' }, 'id-invalid'],
    ['of 129 characters', { 'idempotency-key': 'x'.repeat(129) }, 'id-invalid'],
    ['with a space', { 'idempotency-key': 'a b' }, 'id-invalid'],
    ['with an open quotation', { 'idempotency-key': '"a' }, 'id-invalid'],
  ] as const)('%s is refused', async (_what, headers, code) => {
    const { url } = await startShop()
    expectProblem(await post(`${url}/commands/stock.buy`, { sku: 'a' }, headers as Record<string, string>), 400, code)
  })

  test('of 128 characters, any of them visible ASCII, works and is found again', async () => {
    const { url } = await startShop()
    const alphabet = Array.from({ length: 94 }, (_, index) => String.fromCharCode(0x21 + index)).join('')
    for (const id of ['x'.repeat(128), `k${alphabet}`, '%2F..%2F', '...', 'a//b', '/', '?', '%']) {
      const answer = await post(`${url}/commands/echo.any`, { id }, { 'idempotency-key': id, prefer: 'respond-async' })
      expect(answer.status, id).toBe(202)
      const place = new URL(answer.headers.get('location') ?? '', url).href
      const outcome = await call(place, { headers: { accept: 'text/event-stream' } })
      expect(outcome.text, id).toContain(`"id":${JSON.stringify(id)}`)
    }
  })
})

test('a tenant that is no plain name is refused', async () => {
  const { url } = await startShop()
  expectProblem(await post(`${url}/commands/stock.buy`, { sku: 'a' }, { ...key, 'headrace-tenant': 'a/b' }), 400, 'tenant-invalid')
  expectProblem(await call(`${url}/outcomes/stock.buy/k1`, { headers: { 'headrace-tenant': 'a b' } }), 400, 'tenant-invalid')
})

describe('a path', () => {
  test('of an unknown command or query is refused with the nearest name', async () => {
    const { url } = await startShop()
    const command = await post(`${url}/commands/stock.bye`, { sku: 'a' }, key)
    expectProblem(command, 404, 'command-unknown')
    expect(command.json['detail']).toContain("did you mean 'stock.buy'?")
    const query = await call(`${url}/queries/stock.lft`)
    expectProblem(query, 404, 'query-unknown')
    expect(query.json['detail']).toContain("did you mean 'stock.left'?")
    expectProblem(await post(`${url}/commands/__proto__`, { sku: 'a' }, key), 404, 'command-unknown')
  })

  test('that nobody knows is refused', async () => {
    const { url } = await startShop()
    expectProblem(await call(`${url}/nowhere?x=1`), 404, 'route-unknown')
    expectProblem(await post(`${url}/commands`, {}, key), 404, 'route-unknown')
  })

  test('that is no valid URL is refused', async () => {
    const { url } = await startShop()
    const client = await rawClient(url)
    client.send('GET /outcomes/stock.buy/%zz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n')
    expect(await client.until(/\r\n\r\n\{.*\}/)).toMatch(/^HTTP\/1\.1 400 .*problem\+json.*"code":"request-malformed"/s)
  })

  test.each([
    ['GET', '/commands/stock.buy', 'POST'],
    ['PUT', '/commands/stock.buy', 'POST'],
    ['DELETE', '/outcomes/stock.buy/k1', 'GET, HEAD'],
    ['POST', '/queries/stock.left', 'GET, HEAD'],
    ['POST', '/readyz', 'GET, HEAD'],
    ['PATCH', '/metrics', 'GET, HEAD'],
  ])('%s %s is refused with the methods that it has', async (method, path, allow) => {
    const { url } = await startShop()
    const answer = await call(`${url}${path}`, {
      method,
      ...(method === 'GET' ? {} : { body: '<x/>', headers: { 'content-type': 'text/xml' } }),
    })
    expectProblem(answer, 405, 'method-not-allowed')
    expect(answer.headers.get('allow')).toBe(allow)
  })

  test('tells its methods to who asks with OPTIONS', async () => {
    const { url } = await startShop()
    const answer = await call(`${url}/commands/stock.buy`, { method: 'OPTIONS' })
    expect([answer.status, answer.headers.get('allow')]).toEqual([204, 'POST'])
  })
})

describe('what is not HTTP', () => {
  test.each([
    ['nonsense', 'hello\r\n\r\n', 400, 'request-malformed'],
    [
      'a body of two lengths',
      'POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello',
      400,
      'request-malformed',
    ],
    [
      'a chunk size that is none',
      `${postHead('/commands/stock.buy', { 'transfer-encoding': 'chunked', 'content-type': 'application/json' })}zz\r\n`,
      400,
      'request-malformed',
    ],
    ['header fields past the limit', `GET / HTTP/1.1\r\nhost: a\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`, 431, 'headers-too-large'],
    ['a request without a host', 'GET /livez HTTP/1.1\r\n\r\n', 400, 'request-malformed'],
  ] as const)('%s is answered with a problem, and the connection ends', async (_what, text, status, code) => {
    const { url } = await startShop()
    const client = await rawClient(url)
    client.send(text)
    client.socket.on('end', () => client.socket.end())
    await client.closed
    expect(client.received).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `))
    if (client.received.includes('{')) expect(client.received).toContain(`"code":"${code}"`)
  })
})

describe('a slow client', () => {
  const timeouts = { headersTimeoutMs: 100, requestTimeoutMs: 200 }

  test('that does not end its header fields is answered with 408', async () => {
    const { url } = await startShop({ server: timeouts })
    const client = await rawClient(url)
    client.send('GET /livez HTTP/1.1\r\nhost: a\r\nx-slow: ')
    expect(await client.until(/\r\n\r\n\{.*\}/)).toMatch(/^HTTP\/1\.1 408 .*problem\+json.*"code":"request-timeout"/s)
    client.socket.end()
    await client.closed
  })

  test('that does not end its body is answered with 408, and nothing is taken', async () => {
    const { url, app } = await startShop({ server: timeouts })
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { 'content-type': 'application/json', 'content-length': '100', 'idempotency-key': 'k1' }))
    client.send('{"a":')
    expect(await client.until(/\r\n\r\n\{.*\}/)).toMatch(/^HTTP\/1\.1 408 .*"code":"request-timeout"/s)
    expect((await app.gateway.outcomeState('echo.any', 'default', 'k1')).state).toBe('unknown')
  })
})

describe('limits of connections', () => {
  test('more than the allowed number are closed, and the others go on', async () => {
    const { url } = await startShop({ server: { connectionsMax: 2 } })
    const kept = [await rawClient(url), await rawClient(url)]
    for (const client of kept) client.send('GET /livez HTTP/1.1\r\nhost: a\r\n\r\n')
    for (const client of kept) await client.until(/alive/)
    const dropped = await rawClient(url)
    dropped.send('GET /livez HTTP/1.1\r\nhost: a\r\n\r\n')
    dropped.socket.on('end', () => dropped.socket.end())
    await dropped.closed
    expect(dropped.received).toBe('')
    for (const client of kept) {
      client.received = ''
      client.send('GET /livez HTTP/1.1\r\nhost: a\r\n\r\n')
      await client.until(/alive/)
    }
  })

  test('kept-alive connections rest for 75 seconds, longer than balancers do', async () => {
    const { url } = await startShop()
    const headers = await new Promise<Record<string, unknown>>((resolve, reject) => {
      request(`${url}/livez`, { headers: { connection: 'keep-alive' } }, (response) => {
        response.resume()
        resolve(response.headers)
      })
        .on('error', reject)
        .end()
    })
    expect(headers['keep-alive']).toBe('timeout=75')
  })
})

describe('what went wrong inside', () => {
  test('is not told: a query that throws', async () => {
    const { url } = await startShop()
    const answer = await call(`${url}/queries/query.broken`)
    expectProblem(answer, 500, 'query-failed')
    expect(answer.text).not.toContain('hunter2')
  })

  test('is not told: a defect of our own, which goes to the log instead', async () => {
    const app = shop({ dataDir: await temporaryFolder() })
    const broken = withGateway(app, {
      take: () => Promise.reject(new TypeError('secret of the house')),
      ask: () => Promise.reject(new TypeError('secret of the house')),
      outcomeState: () => Promise.reject(new TypeError('secret of the house')),
    })
    const { log, lines } = memoryLog()
    const server = await serve(broken, { port: 0, logger: log })
    afterTest(() => server.close())
    for (const answer of [
      await post(`${server.url}/commands/echo.any`, 1, key),
      await call(`${server.url}/queries/stock.left?sku=a`),
      await call(`${server.url}/outcomes/echo.any/k`),
    ]) {
      expectProblem(answer, 500, 'internal')
      expect(answer.text).not.toContain('secret')
    }
    const errors = lines.filter(({ level }) => level === 'error')
    expect(errors).toHaveLength(3)
    expect(String((errors[0]?.fields['err'] as Error | undefined)?.cause)).toContain('secret of the house')
  })
})
