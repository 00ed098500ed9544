/** POST /commands/:name with application/x-ndjson: what bounds it, and how it ends early. */
import { describe, expect, test } from 'vitest'
import { bulk, countingShop, gaugeOf, ndjson } from './bulk-client.ts'
import { call, post, startShop } from './fixture.ts'
import { chunk, postHead, rawClient } from './raw.ts'

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
