/** GET /outcomes/:command/:id, once and by server-sent events. */
import { describe, expect, test } from 'vitest'
import { busyLane, call, post, startShop } from './fixture.ts'
import { type RawClient, rawClient } from './raw.ts'

const events = { accept: 'text/event-stream' }

async function eventStream(url: string, path: string, headers: Record<string, string> = {}): Promise<RawClient> {
  const client = await rawClient(url)
  const more = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`)
  client.send(`GET ${path} HTTP/1.1\r\nhost: a\r\naccept: text/event-stream\r\nconnection: close\r\n${more.join('')}\r\n`)
  client.socket.on('end', () => client.socket.end())
  return client
}

describe('an outcome', () => {
  test('that is decided is answered with 200 and the stored bytes, whatever it is', async () => {
    const { url } = await startShop()
    const committed = await post(`${url}/commands/echo.any`, { a: 'ü' }, { 'idempotency-key': 'k1' })
    const rejected = await post(`${url}/commands/stock.buy`, { sku: 'none' }, { 'idempotency-key': 'k1' })
    const failed = await post(`${url}/commands/boom.now`, { secret: 's' }, { 'idempotency-key': 'k1' })
    for (const [command, { text }, status] of [
      ['echo.any', committed, 'committed'],
      ['stock.buy', rejected, 'rejected'],
      ['boom.now', failed, 'failed'],
    ] as const) {
      const answer = await call(`${url}/outcomes/${command}/k1`)
      expect([answer.status, answer.text, answer.headers.get('headrace-status')]).toEqual([200, text, status])
      expect(answer.headers.get('cache-control')).toBe('no-store')
    }
  })

  test('that is not known yet is answered with 202', async () => {
    const served = await startShop()
    const free = await busyLane(served)
    await post(`${served.url}/commands/echo.any`, 1, { 'idempotency-key': 'k1', prefer: 'respond-async' })
    const answer = await call(`${served.url}/outcomes/echo.any/k1`)
    expect([answer.status, answer.json, answer.headers.get('retry-after')]).toEqual([
      202,
      { id: 'k1', command: 'echo.any', status: 'pending' },
      '1',
    ])
    await free()
  })

  test('of an id that was never accepted is answered with 404', async () => {
    const { url } = await startShop()
    for (const headers of [{}, events]) {
      const answer = await call(`${url}/outcomes/echo.any/never`, { headers })
      expect([answer.status, answer.json['code']]).toEqual([404, 'outcome-unknown'])
    }
    expect((await call(`${url}/outcomes/no.such/never`)).json['code']).toBe('command-unknown')
    expect((await call(`${url}/outcomes/echo.any/`)).json['code']).toBe('id-invalid')
  })

  test('belongs to its tenant', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k1', 'headrace-tenant': 'acme' })
    expect((await call(`${url}/outcomes/echo.any/k1`)).status).toBe(404)
    expect((await call(`${url}/outcomes/echo.any/k1`, { headers: { 'headrace-tenant': 'acme' } })).status).toBe(200)
  })

  test('answers HEAD like GET, without the body', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k1' })
    const answer = await call(`${url}/outcomes/echo.any/k1`, { method: 'HEAD', headers: events })
    expect([answer.status, answer.text, answer.headers.get('headrace-status')]).toEqual([200, '', 'committed'])
  })
})

describe('an event stream', () => {
  test('sends the outcome when it is decided, byte for byte, and ends', async () => {
    const served = await startShop({ server: { heartbeatMs: 20 } })
    const free = await busyLane(served)
    await post(`${served.url}/commands/echo.any`, { a: 'ü' }, { 'idempotency-key': 'k1', prefer: 'respond-async' })
    const client = await eventStream(served.url, '/outcomes/echo.any/k1')
    expect(await client.until(/: waiting\n\n/)).toMatch(/^HTTP\/1\.1 200 .*content-type: text\/event-stream/s)
    expect(client.received).not.toContain('event:')
    await free()
    await client.closed
    const stored = (await call(`${served.url}/outcomes/echo.any/k1`)).text
    expect(client.received).toContain(`event: outcome\nid: outcome\ndata: ${stored}\n\n`)
  })

  test('for an outcome that is decided already sends it at once, whatever Last-Event-ID says', async () => {
    const { url } = await startShop()
    const { text } = await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k1' })
    for (const last of ['7', '', 'x"y']) {
      const answer = await call(`${url}/outcomes/echo.any/k1`, { headers: { ...events, 'last-event-id': last } })
      expect(answer.text).toContain(`event: outcome\nid: outcome\ndata: ${text}\n\n`)
    }
  })

  test('that is opened again after the outcome is told to stop', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k1' })
    expect((await call(`${url}/outcomes/echo.any/k1`, { headers: { ...events, 'last-event-id': 'outcome' } })).status).toBe(204)
  })

  test('ends as pending when its time is up', async () => {
    const served = await startShop({ server: { eventStreamMsMax: 50 } })
    const free = await busyLane(served)
    await post(`${served.url}/commands/echo.any`, 1, { 'idempotency-key': 'k1', prefer: 'respond-async' })
    const answer = await call(`${served.url}/outcomes/echo.any/k1`, { headers: events })
    expect(answer.text).toContain('event: pending\ndata: {"id":"k1","command":"echo.any","status":"pending"}\n\n')
    await free()
  })

  test('past the allowed number is refused with 429, and one that ended, or whose client has gone, makes room', async () => {
    const served = await startShop({ server: { eventStreamsMax: 1, heartbeatMs: 10 } })
    const free = await busyLane(served)
    await post(`${served.url}/commands/echo.any`, 1, { 'idempotency-key': 'k1', prefer: 'respond-async' })
    const first = await eventStream(served.url, '/outcomes/echo.any/k1')
    await first.until(/: waiting/)
    const refused = await call(`${served.url}/outcomes/echo.any/k1`, { headers: events })
    expect([refused.status, refused.json['code'], refused.headers.get('retry-after')]).toEqual([429, 'streams-full', '1'])
    first.socket.resetAndDestroy()
    let second = await eventStream(served.url, '/outcomes/echo.any/k1')
    while (/ 429 /.test(await second.until(/\r\n\r\n/))) second = await eventStream(served.url, '/outcomes/echo.any/k1')
    await free()
    await second.until(/event: outcome/)
  })

  test('ends when the node stops, so that the client asks elsewhere', async () => {
    const served = await startShop()
    const free = await busyLane(served)
    await post(`${served.url}/commands/echo.any`, 1, { 'idempotency-key': 'k1', prefer: 'respond-async' })
    const client = await eventStream(served.url, '/outcomes/echo.any/k1')
    await client.until(/retry: 1000/)
    const closing = served.server.close()
    await client.until(/event: pending/)
    await free()
    await closing
  })
})
