/** POST /commands/:name with application/x-ndjson: what is answered. */
import { describe, expect, test } from 'vitest'
import { serve } from '../../src/server/index.ts'
import { deferred } from '../../src/std/deferred.ts'
import { bulk, countingShop, ndjson } from './bulk-client.ts'
import { afterTest, busyLane, call, post, shop, startShop, temporaryFolder } from './fixture.ts'
import { chunk, postHead, rawClient } from './raw.ts'
import { delayDurable } from './wrapped-app.ts'

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
