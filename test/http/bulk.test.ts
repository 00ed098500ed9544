/** POST /commands/:name with application/x-ndjson. */
import { describe, expect, test } from 'vitest'
import { type App, type Gateway } from '../../src/index.ts'
import { type CreateServerOptions, serve } from '../../src/server/index.ts'
import { deferred } from '../../src/std/deferred.ts'
import { afterTest, type Answer, busyLane, call, Gates, post, shop, startShop, temporaryFolder } from './fixture.ts'
import { chunk, postHead, rawClient } from './raw.ts'
import { delayDurable, withGateway } from './wrapped-app.ts'

const ndjson = { 'content-type': 'application/x-ndjson' }

type Line = Record<string, unknown>

function bulk(
  url: string,
  command: string,
  lines: readonly unknown[] | string,
  headers: Record<string, string> = {},
): Promise<Answer & { lines: Line[] }> {
  const body =
    typeof lines === 'string' ? lines : `${lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n')}\n`
  return call(`${url}/commands/${command}`, { method: 'POST', headers: { ...ndjson, ...headers }, body }).then((answer) => ({
    ...answer,
    lines: linesOf(answer.text),
  }))
}

function linesOf(text: string): Line[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line)
}

async function gaugeOf(url: string, name: string): Promise<number> {
  const { text } = await call(`${url}/metrics`)
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1])
}

/** Serves a shop whose gateway counts what it is asked to take. */
async function countingShop(
  options: {
    readonly app?: Parameters<typeof shop>[0]
    readonly server?: CreateServerOptions
    readonly change?: (app: App) => Partial<Gateway>
  } = {},
) {
  const gates = new Gates()
  const app = shop({ dataDir: await temporaryFolder(), gates, ...options.app })
  const taken: string[] = []
  const wrapped = withGateway(app, {
    take: (command, input, how) => {
      taken.push(how.id ?? '')
      return app.gateway.take(command, input, how)
    },
    ...options.change?.(app),
  })
  const server = await serve(wrapped, { port: 0, logLevel: 'silent', ...options.server })
  afterTest(() => server.close())
  return { app, gates, taken, url: server.url, server }
}

describe('a bulk request', () => {
  test('is answered line by line, in the same order, with the outcomes that single requests would get', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 700 }, { 'idempotency-key': 'fill' })
    const answer = await bulk(
      url,
      'stock.buy',
      Array.from({ length: 1_000 }, (_, n) => ({ id: `k${n}`, input: { sku: 'a' } })),
    )
    expect(answer.status).toBe(200)
    expect(answer.headers.get('content-type')).toMatch(/^application\/x-ndjson/)
    expect(answer.lines.map(({ id }) => id)).toEqual(Array.from({ length: 1_000 }, (_, n) => `k${n}`))
    expect(answer.lines.map(({ status }) => status)).toEqual([
      ...Array.from({ length: 700 }, () => 'committed'),
      ...Array.from({ length: 300 }, () => 'rejected'),
    ])
    expect(answer.text.split('\n')[7]).toBe((await call(`${url}/outcomes/stock.buy/k7`)).text)
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('0')
  })

  test('sent again gets the same bytes, and changes nothing', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 100 }, { 'idempotency-key': 'fill' })
    const lines = Array.from({ length: 40 }, (_, n) => ({ id: `k${n % 30}`, input: { sku: 'a' } }))
    const first = await bulk(url, 'stock.buy', lines)
    const again = await bulk(url, 'stock.buy', lines)
    expect(again.text).toBe(first.text)
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('70')
  })

  test('takes lines that end with CRLF, blank lines, and a last line without an end', async () => {
    const { url } = await startShop()
    const answer = await bulk(url, 'echo.any', '{"id":"a","input":"ü€"}\r\n\n  \r\n {"id":"b","input":2}')
    expect(answer.lines).toMatchObject([
      { id: 'a', result: 'ü€' },
      { id: 'b', result: 2 },
    ])
  })

  test('without a line is answered without a line', async () => {
    const { url } = await startShop()
    expect((await bulk(url, 'echo.any', '')).text).toBe('')
  })

  test('is answered while it is still being sent', async () => {
    const { url } = await startShop()
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { ...ndjson, 'transfer-encoding': 'chunked' }))
    for (let n = 0; n < 3; n++) {
      client.send(chunk(`{"id":"k${n}","input":${n}}\n{"id":"half`))
      await client.until(new RegExp(`"id":"k${n}"`))
      client.send(chunk(`${n}","input":0}\n`))
      await client.until(new RegExp(`"id":"half${n}"`))
    }
    client.send('0\r\n\r\n')
    await client.until(/\r\n0\r\n\r\n$/)
  })

  test('to an unknown command is refused as a whole', async () => {
    const { url } = await startShop()
    expect(await bulk(url, 'no.such', [{ id: 'a', input: 1 }])).toMatchObject({ status: 404, json: { code: 'command-unknown' } })
  })
})

describe('one broken line', () => {
  test.each([
    ['that is not JSON', '{"id":"x","input":', 'body-not-json', undefined],
    ['of a zero byte', '\u0000', 'body-not-json', undefined],
    ['that is no object', '[1]', 'parameter-invalid', undefined],
    ['without an id', '{"input":{"sku":"a"}}', 'id-missing', undefined],
    ['with an id that is none', '{"id":"a b","input":{"sku":"a"}}', 'id-invalid', undefined],
    ['with a number for an id', '{"id":7,"input":{"sku":"a"}}', 'id-invalid', undefined],
    ['without an input', '{"id":"x"}', 'body-missing', undefined],
    ['with an input that does not fit', '{"id":"x","input":{"sku":7}}', 'input-invalid', 'x'],
    ['with a tenant that is none', '{"id":"x","input":{"sku":"a"},"tenant":"a/b"}', 'tenant-invalid', 'x'],
    ['with __proto__', '{"id":"x","input":{"sku":"a","__proto__":{}}}', 'body-forbidden-key', undefined],
    ['that is too deep', `{"id":"x","input":${'['.repeat(40)}${']'.repeat(40)}}`, 'body-too-deep', undefined],
    ['that is too long', `{"id":"x","input":"${'x'.repeat(5_000)}"}`, 'line-too-long', undefined],
    ['with an id that another input had', '{"id":"before","input":{"sku":"b"}}', 'id-reused', 'before'],
  ])('%s fails alone, with its number', async (_what, broken, code, id) => {
    const { url } = await startShop({ server: { lineBytesMax: 4_096 } })
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 9 }, { 'idempotency-key': 'fill' })
    const good = (name: string): unknown => ({ id: name, input: { sku: 'a' } })
    const { lines } = await bulk(url, 'stock.buy', [good('before'), broken, good('after'), good('last')])
    expect(lines.map(({ status }) => status)).toEqual(['committed', lines[1]?.['status'], 'committed', 'committed'])
    expect(lines[1]).toMatchObject({ type: `urn:headrace:error:${code}`, code, line: 2 })
    expect(lines[1]?.['id']).toBe(id)
    expect(lines.map((line) => line['id'] ?? null)).toEqual(['before', id ?? null, 'after', 'last'])
  })
})

describe('the tenant of a line', () => {
  test('is that of the line, or of the request, and they must agree', async () => {
    const { url } = await startShop()
    await bulk(url, 'echo.any', [
      { id: 'a', input: 1, tenant: 't1' },
      { id: 'a', input: 2 },
    ])
    expect((await call(`${url}/outcomes/echo.any/a`, { headers: { 'headrace-tenant': 't1' } })).json).toMatchObject({ result: 1 })
    expect((await call(`${url}/outcomes/echo.any/a`)).json).toMatchObject({ result: 2 })
    const { lines } = await bulk(
      url,
      'echo.any',
      [
        { id: 'b', input: 3, tenant: 't2' },
        { id: 'b', input: 4 },
        { id: 'c', input: 5, tenant: 't3' },
      ],
      { 'headrace-tenant': 't3' },
    )
    expect(lines).toMatchObject([{ code: 'tenant-invalid', line: 1 }, { result: 4 }, { result: 5 }])
    expect((await call(`${url}/outcomes/echo.any/b`, { headers: { 'headrace-tenant': 't3' } })).json).toMatchObject({ result: 4 })
  })
})

describe('Prefer', () => {
  test('respond-async: every line is answered as pending once it is durable, and decided later', async () => {
    const served = await startShop()
    const free = await busyLane(served)
    const { lines, headers } = await bulk(served.url, 'echo.any', [{ id: 'a', input: 1 }, '{', { id: 'b', input: 2 }], {
      prefer: 'respond-async',
    })
    expect(headers.get('preference-applied')).toBe('respond-async')
    expect(lines).toMatchObject([
      { id: 'a', status: 'pending' },
      { code: 'body-not-json', line: 2 },
      { id: 'b', status: 'pending' },
    ])
    await free()
    const { text } = await call(`${served.url}/outcomes/echo.any/b`, { headers: { accept: 'text/event-stream' } })
    expect(text).toContain('"result":2')
  })

  test('respond-async: no line is answered before it is durable', async () => {
    const app = shop({ dataDir: await temporaryFolder() })
    const { wrapped, durableAsked, letDurable } = delayDurable(app)
    const server = await serve(wrapped, { port: 0, logLevel: 'silent' })
    afterTest(() => server.close())
    const client = await rawClient(server.url)
    client.send(postHead('/commands/echo.any', { ...ndjson, prefer: 'respond-async', 'transfer-encoding': 'chunked' }))
    client.send(chunk('{"id":"a","input":1}\n'))
    await durableAsked
    await call(`${server.url}/livez`)
    expect(client.received).not.toContain('pending')
    letDurable()
    await client.until(/"status":"pending"/)
  })

  test('wait: lines that have no outcome in time are answered as pending', async () => {
    const served = await startShop()
    const free = await busyLane(served)
    const { lines } = await bulk(
      served.url,
      'echo.any',
      [
        { id: 'a', input: 1 },
        { id: 'b', input: 2 },
      ],
      { prefer: 'wait=1' },
    )
    expect(lines).toMatchObject([
      { id: 'a', status: 'pending' },
      { id: 'b', status: 'pending' },
    ])
    await free()
  })
})

describe('back-pressure', () => {
  test('no more lines are taken than may be in flight, until earlier ones are answered', async () => {
    const { url, gates, taken } = await countingShop({ server: { bulkInFlightMax: 8 } })
    const answering = bulk(
      url,
      'gate.pass',
      Array.from({ length: 50 }, (_, n) => ({ id: `k${n}`, input: { gate: 'g' } })),
    )
    await gates.reached('g')
    for (let round = 0; round < 5; round++) await call(`${url}/livez`)
    expect(taken.length).toBe(8)
    gates.open('g')
    expect((await answering).lines.filter(({ status }) => status === 'committed')).toHaveLength(50)
  })

  test('no more bytes are taken than may be in flight', async () => {
    const { url, gates, taken } = await countingShop({ server: { bulkInFlightBytesMax: 10_000, lineBytesMax: 4_000 } })
    const answering = bulk(
      url,
      'gate.pass',
      Array.from({ length: 50 }, (_, n) => ({ id: `k${n}`, input: { gate: 'g', padding: 'x'.repeat(2_000) } })),
    )
    await gates.reached('g')
    for (let round = 0; round < 5; round++) await call(`${url}/livez`)
    expect(taken.length).toBe(5)
    gates.open('g')
    expect((await answering).lines.filter(({ status }) => status === 'committed')).toHaveLength(50)
  })

  test('a client that does not read its answers is not read from, and then given up', async () => {
    const { url, taken } = await countingShop({ server: { bulkIdleMs: 300 } })
    const client = await rawClient(url)
    client.socket.pause()
    client.send(postHead('/commands/echo.any', { ...ndjson, 'transfer-encoding': 'chunked' }))
    const lines = 4_000
    for (let n = 0; n < lines; n++) client.send(chunk(`{"id":"k${n}","input":"${'x'.repeat(20_000)}"}\n`))
    await client.closed
    expect(taken.length).toBeLessThan(lines)
    expect(await gaugeOf(url, 'headrace_http_bulk_requests')).toBe(0)
  })

  test('on an overloaded node, lines wait for room, and those of one key keep their order', async () => {
    const { url } = await startShop({ app: { inFlightMax: 3 } })
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 1_000 }, { 'idempotency-key': 'fill' })
    const send = (name: string) =>
      bulk(
        url,
        'stock.buy',
        Array.from({ length: 60 }, (_, n) => ({ id: `${name}${n}`, input: { sku: 'a' } })),
      )
    const answers = await Promise.all([send('a'), send('b'), send('c')])
    for (const { lines } of answers) {
      expect(lines.map(({ status }) => status)).toEqual(Array.from({ length: 60 }, () => 'committed'))
      const left = lines.map(({ result }) => (result as { left: number }).left)
      expect(left).toEqual([...left].sort((x, y) => y - x))
    }
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('820')
  })

  test('a line that finds no room in time fails with the reason, and does not end the request', async () => {
    const { url, gates } = await startShop({ app: { inFlightMax: 1 }, server: { bulkRetryMs: 50 } })
    const waiting = post(`${url}/commands/gate.pass`, { gate: 'g' }, { 'idempotency-key': 'k' })
    await gates.reached('g')
    const { lines } = await bulk(url, 'echo.any', [
      { id: 'a', input: 1 },
      { id: 'b', input: 2 },
    ])
    expect(lines).toMatchObject([
      { code: 'overloaded', line: 1, id: 'a' },
      { code: 'overloaded', line: 2, id: 'b' },
    ])
    gates.open('g')
    await waiting
  })

  test('more bulk requests than allowed are refused with 429', async () => {
    const { url } = await startShop({ server: { bulkRequestsMax: 1 } })
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { ...ndjson, 'transfer-encoding': 'chunked' }))
    client.send(chunk('{"id":"a","input":1}\n'))
    await client.until(/committed/)
    const refused = await bulk(url, 'echo.any', [{ id: 'b', input: 1 }])
    expect([refused.status, refused.json['code'], refused.headers.get('retry-after')]).toEqual([429, 'streams-full', '1'])
    client.send('0\r\n\r\n')
    await client.until(/\r\n0\r\n\r\n$/)
    expect((await bulk(url, 'echo.any', [{ id: 'b', input: 1 }])).status).toBe(200)
  })
})

describe('limits of size and time', () => {
  test('a request that says it is too large is refused as a whole', async () => {
    const { url } = await startShop({ server: { bulkBytesMax: 2_000, lineBytesMax: 1_000 } })
    const answer = await bulk(url, 'echo.any', [
      { id: 'a', input: 'x'.repeat(900) },
      { id: 'b', input: 'x'.repeat(900) },
      { id: 'c', input: 'x'.repeat(900) },
    ])
    expect([answer.status, answer.json['code']]).toEqual([413, 'body-too-large'])
  })

  test('a request that grows too large ends after the lines that were taken, with the reason', async () => {
    const { url, taken } = await countingShop({ server: { bulkBytesMax: 2_000, lineBytesMax: 1_000 } })
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { ...ndjson, 'transfer-encoding': 'chunked' }))
    for (let n = 0; n < 4; n++) {
      client.send(chunk(`{"id":"k${n}","input":"${'x'.repeat(900)}"}\n`))
      if (n < 2) await client.until(new RegExp(`"id":"k${n}"`))
    }
    client.socket.on('end', () => client.socket.end())
    await client.closed
    expect(client.received).toContain('"code":"body-too-large"')
    for (const id of taken) expect(client.received).toContain(`"id":"${id}","command":"echo.any","status":"committed"`)
    expect(taken.length).toBeLessThan(4)
  })

  test('takes longer than an ordinary request may, as long as lines come', async () => {
    const { url } = await startShop({ server: { headersTimeoutMs: 100, requestTimeoutMs: 150 } })
    const slow = await rawClient(url)
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { ...ndjson, 'transfer-encoding': 'chunked' }))
    client.send(chunk('{"id":"a","input":1}\n'))
    await client.until(/"id":"a"/)
    // An ordinary request that began later is given up, so the bulk request is past the limit too.
    slow.send(postHead('/commands/echo.any', { 'content-type': 'application/json', 'content-length': '9', 'idempotency-key': 'k' }))
    await slow.until(/request-timeout/)
    client.send(chunk('{"id":"b","input":2}\n'))
    await client.until(/"id":"b"/)
    client.send('0\r\n\r\n')
    await client.until(/\r\n0\r\n\r\n$/)
  })

  test('in which nothing arrives ends with the reason', async () => {
    const { url } = await startShop({ server: { bulkIdleMs: 100 } })
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { ...ndjson, 'transfer-encoding': 'chunked' }))
    client.send(chunk('{"id":"a","input":1}\n'))
    client.socket.on('end', () => client.socket.end())
    await client.closed
    expect(client.received).toMatch(/"id":"a".*"status":"committed".*"code":"request-timeout".*"line":2/s)
  })

  test('is read no longer than bulkMsMax, even when bytes keep coming', async () => {
    const { url } = await startShop({ server: { bulkMsMax: 200 } })
    const client = await rawClient(url)
    client.send(postHead('/commands/echo.any', { ...ndjson, 'transfer-encoding': 'chunked' }))
    const trickle = setInterval(() => client.send(chunk(' ')), 10)
    client.socket.on('end', () => client.socket.end())
    await client.closed
    clearInterval(trickle)
    expect(client.received).toContain('"code":"request-timeout"')
  })
})

describe('a client that has gone', () => {
  test('is not read from any more; lines that were taken go on, and the half line is not taken', async () => {
    const { url, gates, taken, app } = await countingShop()
    const client = await rawClient(url)
    client.send(postHead('/commands/gate.pass', { ...ndjson, 'transfer-encoding': 'chunked' }))
    client.send(chunk('{"id":"a","input":{"gate":"g"}}\n{"id":"half","input":{"gate":"g"}}'))
    await gates.reached('g')
    client.socket.resetAndDestroy()
    await client.closed
    while ((await gaugeOf(url, 'headrace_http_bulk_requests')) > 0);
    gates.open('g')
    const { text } = await call(`${url}/outcomes/gate.pass/a`, { headers: { accept: 'text/event-stream' } })
    expect(text).toContain('"status":"committed"')
    expect(taken).toEqual(['a'])
    expect((await app.status()).inFlight).toBe(0)
  })
})

describe('a node that stops', () => {
  test('answers the lines that were taken, then says where it stopped', async () => {
    const { url, gates, server } = await countingShop()
    const client = await rawClient(url)
    client.send(postHead('/commands/gate.pass', { ...ndjson, 'transfer-encoding': 'chunked' }))
    client.send(chunk('{"id":"a","input":{"gate":"g"}}\n{"id":"b","input":{"gate":"g"}}\n'))
    await gates.reached('g')
    client.socket.on('end', () => client.socket.end())
    const closing = server.close()
    gates.open('g')
    await closing
    await client.closed
    expect(client.received).toMatch(/"id":"a".*"committed".*"id":"b".*"committed".*"code":"stopping".*"line":3/s)
  })
})

test('ids of a bulk request are those of single requests', async () => {
  const { url } = await startShop()
  await post(`${url}/commands/stock.fill`, { sku: 'a', left: 5 }, { 'idempotency-key': 'fill' })
  const single = await post(`${url}/commands/stock.buy`, { sku: 'a' }, { 'idempotency-key': 'k' })
  const { text } = await bulk(url, 'stock.buy', [{ id: 'k', input: { sku: 'a' } }])
  expect(text).toBe(`${single.text}\n`)
})

test('a storage that fails fails the lines, not the process', async () => {
  const gone = deferred<void>()
  const { url } = await countingShop({
    change: (app) => ({
      take: async (command, input, how) => ({
        ...(await app.gateway.take(command, input, how)),
        durable: () => Promise.reject(new Error('EIO /data/journal')).finally(() => gone.resolve()),
      }),
    }),
  })
  const { lines, text } = await bulk(url, 'echo.any', [{ id: 'a', input: 1 }], { prefer: 'respond-async' })
  await gone.promise
  expect(lines).toMatchObject([{ code: 'internal', line: 1, id: 'a' }])
  expect(text).not.toContain('EIO')
})
