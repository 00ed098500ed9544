/** POST /commands/:name with one document. */
import { describe, expect, test } from 'vitest'
import { serve } from '../../src/server/index.ts'
import { afterTest, busyLane, call, Gates, nextTaken, post, shop, startShop, temporaryFolder } from './fixture.ts'
import { delayDurable } from './wrapped-app.ts'

describe('the outcome of a command', () => {
  test('is answered with 200 when it was committed, and can be read from the database', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 3 }, { 'idempotency-key': 'fill' })
    const answer = await post(`${url}/commands/stock.buy`, { sku: 'a', quantity: 2 }, { 'idempotency-key': 'k1' })
    expect(answer.status).toBe(200)
    expect(answer.headers.get('content-type')).toMatch(/^application\/json/)
    expect(answer.headers.get('headrace-status')).toBe('committed')
    expect(answer.json).toMatchObject({ id: 'k1', command: 'stock.buy', status: 'committed', result: { left: 1 } })
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('1')
  })

  test('is answered with 200 when it was rejected, and nothing was changed', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 1 }, { 'idempotency-key': 'fill' })
    const answer = await post(`${url}/commands/stock.buy`, { sku: 'a', quantity: 2 }, { 'idempotency-key': 'k1' })
    expect([answer.status, answer.headers.get('headrace-status')]).toEqual([200, 'rejected'])
    expect(answer.json).toMatchObject({ id: 'k1', status: 'rejected', code: 'sold-out' })
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('1')
  })

  test('is answered with 500 when it failed in the code of the app', async () => {
    const { url } = await startShop()
    const answer = await post(`${url}/commands/boom.now`, { secret: 's' }, { 'idempotency-key': 'k1' })
    expect([answer.status, answer.headers.get('headrace-status')]).toEqual([500, 'failed'])
    expect(answer.json).toMatchObject({ id: 'k1', status: 'failed', code: 'handler-failed' })
  })
})

describe('a repeated Idempotency-Key', () => {
  test('gets the same bytes, quoted or bare, and changes nothing', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 9 }, { 'idempotency-key': 'fill' })
    const first = await post(`${url}/commands/stock.buy`, { sku: 'a' }, { 'idempotency-key': 'k1' })
    for (const key of ['k1', '"k1"', 'k1']) {
      const again = await post(`${url}/commands/stock.buy`, { sku: 'a' }, { 'idempotency-key': key })
      expect([again.status, again.text]).toEqual([first.status, first.text])
    }
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('8')
  })

  test('gets the same bytes of a failure', async () => {
    const { url } = await startShop()
    const first = await post(`${url}/commands/boom.now`, { secret: 's' }, { 'idempotency-key': 'k1' })
    const again = await post(`${url}/commands/boom.now`, { secret: 's' }, { 'idempotency-key': 'k1' })
    expect([again.status, again.text]).toEqual([500, first.text])
  })

  test('sent at the same time shares one outcome', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 50 }, { 'idempotency-key': 'fill' })
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => post(`${url}/commands/stock.buy`, { sku: 'a' }, { 'idempotency-key': 'k1' })),
    )
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1)
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('49')
  })

  test('with another input is refused with 422, in flight and afterwards', async () => {
    const { url, gates } = await startShop()
    const waiting = post(`${url}/commands/gate.pass`, { gate: 'g' }, { 'idempotency-key': 'k1' })
    await gates.reached('g')
    const inFlight = await post(`${url}/commands/gate.pass`, { gate: 'other' }, { 'idempotency-key': 'k1' })
    expect([inFlight.status, inFlight.json['code']]).toEqual([422, 'id-reused'])
    gates.open('g')
    await waiting
    const afterwards = await post(`${url}/commands/gate.pass`, { gate: 'other' }, { 'idempotency-key': 'k1' })
    expect([afterwards.status, afterwards.json['code']]).toEqual([422, 'id-reused'])
  })

  test('is another command for another tenant, and for another command', async () => {
    const { url } = await startShop()
    const answers = await Promise.all([
      post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k1' }),
      post(`${url}/commands/echo.any`, 2, { 'idempotency-key': 'k1', 'headrace-tenant': 'acme' }),
      post(`${url}/commands/stock.fill`, { sku: 'a', left: 1 }, { 'idempotency-key': 'k1' }),
    ])
    expect(answers.map(({ status, json }) => [status, json['result']])).toEqual([
      [200, 1],
      [200, 2],
      [200, null],
    ])
  })
})

describe('Prefer', () => {
  test('wait: answers 202 with the place of the outcome when the time is up, and the outcome is found there', async () => {
    const served = await startShop({ server: { waitMsDefault: 60_000 } })
    const { url } = served
    const free = await busyLane(served)
    const answer = await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k/1?#%&', prefer: 'wait=1' })
    expect(answer.status).toBe(202)
    expect(answer.json).toEqual({ id: 'k/1?#%&', command: 'echo.any', status: 'pending' })
    expect(answer.headers.get('preference-applied')).toBe('wait=1')
    expect(answer.headers.get('headrace-status')).toBe('pending')
    const place = new URL(answer.headers.get('location') ?? '', url).href
    expect((await call(place)).status).toBe(202)
    await free()
    const done = await call(place, { headers: { accept: 'text/event-stream' } })
    expect(done.text).toContain('event: outcome')
    expect((await call(place)).json).toMatchObject({ id: 'k/1?#%&', status: 'committed' })
  })

  test('wait: answers at once when the outcome is there sooner', async () => {
    const { url } = await startShop()
    const answer = await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k1', prefer: 'wait=30' })
    expect([answer.status, answer.headers.get('preference-applied')]).toEqual([200, 'wait=30'])
  })

  test('wait: longer than the server allows is cut, and the answer says so', async () => {
    const served = await startShop({ server: { waitMsMax: 1_000, waitMsDefault: 500 } })
    const free = await busyLane(served)
    const answer = await post(`${served.url}/commands/echo.any`, 1, { 'idempotency-key': 'k1', prefer: 'wait=3600' })
    expect([answer.status, answer.headers.get('preference-applied')]).toEqual([202, 'wait=1'])
    await free()
  })

  test('nothing: waits as long as the server is set to', async () => {
    const served = await startShop({ server: { waitMsDefault: 50 } })
    const free = await busyLane(served)
    const answer = await post(`${served.url}/commands/echo.any`, 1, { 'idempotency-key': 'k1' })
    expect([answer.status, answer.headers.get('preference-applied')]).toEqual([202, null])
    await free()
  })

  test('wait: a command whose batch is under way when the time is up is answered with its outcome, once it has one', async () => {
    const gates = new Gates()
    const { wrapped, durableAsked, letDurable } = delayDurable(shop({ dataDir: await temporaryFolder(), gates }))
    letDurable()
    const server = await serve(wrapped, { port: 0, logLevel: 'silent', waitMsDefault: 50 })
    afterTest(() => server.close())
    const waiting = post(`${server.url}/commands/gate.pass`, { gate: 'g' }, { 'idempotency-key': 'k1' })
    await gates.reached('g')
    await durableAsked
    gates.open('g')
    expect((await waiting).json).toMatchObject({ status: 'committed', result: { passed: 'g' } })
  })

  test('respond-async: answers 202 only after the command is durable, and it is then committed', async () => {
    const app = shop({ dataDir: await temporaryFolder(), gates: new Gates() })
    const { wrapped, durableAsked, letDurable } = delayDurable(app)
    const server = await serve(wrapped, { port: 0, logLevel: 'silent' })
    afterTest(() => server.close())
    let answered = false
    const answering = post(`${server.url}/commands/echo.any`, { n: 1 }, { 'idempotency-key': 'k1', prefer: 'respond-async' }).finally(
      () => {
        answered = true
      },
    )
    await durableAsked
    // A whole round trip later, there is still no answer.
    await call(`${server.url}/livez`)
    expect(answered).toBe(false)
    letDurable()
    const answer = await answering
    expect([answer.status, answer.headers.get('preference-applied'), answer.headers.get('location')]).toEqual([
      202,
      'respond-async',
      '/outcomes/echo.any/k1',
    ])
    const done = await call(`${server.url}/outcomes/echo.any/k1`, { headers: { accept: 'text/event-stream' } })
    expect(done.text).toContain('"status":"committed"')
  })

  test('respond-async, a hundred times: every command is decided once', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 500 }, { 'idempotency-key': 'fill' })
    const answers = await Promise.all(
      Array.from({ length: 100 }, (_, n) =>
        post(`${url}/commands/stock.buy`, { sku: 'a' }, { 'idempotency-key': `k${n}`, prefer: 'respond-async' }),
      ),
    )
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([202]))
    await Promise.all(
      answers.map(({ headers }) => call(new URL(headers.get('location') ?? '', url).href, { headers: { accept: 'text/event-stream' } })),
    )
    expect((await call(`${url}/queries/stock.left?sku=a`)).text).toBe('400')
  })
})

describe('a node that cannot take more', () => {
  test('answers 429 with Retry-After, before anything is written', async () => {
    const { url, gates, app } = await startShop({ app: { inFlightMax: 1 } })
    const waiting = post(`${url}/commands/gate.pass`, { gate: 'g' }, { 'idempotency-key': 'k1' })
    await gates.reached('g')
    const refused = await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k2' })
    expect([refused.status, refused.json['code']]).toEqual([429, 'overloaded'])
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    expect(refused.json['retryAfter']).toBe(Number(refused.headers.get('retry-after')))
    expect((await call(`${url}/outcomes/echo.any/k2`)).status).toBe(404)
    gates.open('g')
    expect((await waiting).status).toBe(200)
    expect((await app.status()).inFlight).toBe(0)
    expect((await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k2' })).status).toBe(200)
  })
})

describe('a client that has gone before the answer', () => {
  test('leaves its command to go on, and nothing behind', async () => {
    const served = await startShop()
    const { url, app } = served
    const free = await busyLane(served)
    const client = new AbortController()
    const taken = nextTaken(app, 'echo.any')
    const abandoned = fetch(`${url}/commands/echo.any`, {
      method: 'POST',
      signal: client.signal,
      headers: { 'content-type': 'application/json', 'idempotency-key': 'k2' },
      body: '"still done"',
    })
    await taken
    client.abort()
    await expect(abandoned).rejects.toThrow()
    await free()
    const outcome = await call(`${url}/outcomes/echo.any/k2`, { headers: { accept: 'text/event-stream' } })
    expect(outcome.text).toContain('"still done"')
    expect((await app.status()).inFlight).toBe(0)
  })
})
