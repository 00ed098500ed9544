import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { createHttpClient, type HttpCall, type HttpClient, type HttpClientOptions } from './client.ts'

const closers: (() => Promise<unknown>)[] = []
afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()))
})

interface Seen {
  readonly method: string | undefined
  readonly url: string | undefined
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

async function service(
  answer: (request: Seen, response: ServerResponse, count: number) => void,
): Promise<{ origin: string; seen: Seen[] }> {
  const seen: Seen[] = []
  const server: Server = createServer((request, response) => {
    let body = ''
    request.on('data', (part: Buffer) => (body += part.toString()))
    request.on('end', () => {
      const call = { method: request.method, url: request.url, headers: request.headers, body }
      seen.push(call)
      answer(call, response, seen.length)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  closers.push(() => {
    server.closeAllConnections()
    return new Promise((resolve) => server.close(resolve))
  })
  return { origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen }
}

function client(origin: string, options: Partial<HttpClientOptions> = {}): HttpClient {
  const made = createHttpClient({ allow: [origin], timeoutMs: 2_000, retryBaseMs: 1, retryMaxMs: 5, ...options })
  closers.push(() => made.close())
  return made
}

const json = (response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void => {
  response.writeHead(status, { 'content-type': 'application/json', ...headers })
  response.end(JSON.stringify(body))
}

const call = (url: string, more: Partial<HttpCall> = {}): HttpCall => ({
  url,
  body: { amount: 5 },
  gid: 'shop_1',
  branch: 'wallet',
  operation: 'try',
  attempt: 1,
  idempotencyKey: 'shop_1:wallet:try',
  ...more,
})

describe('a call of a service', () => {
  it('says which transaction, branch, operation and attempt it is, and brings back JSON', async () => {
    const { origin, seen } = await service((_, response) => json(response, 200, { held: true }))
    const http = client(origin, { headers: { authorization: 'Bearer x' } })
    expect(await http.call(call(`${origin}/wallet?a=1`, { attempt: 3, headers: { 'x-trace': 't' } }))).toEqual({
      status: 200,
      body: { held: true },
    })
    expect(seen).toHaveLength(1)
    expect(seen[0]).toMatchObject({ method: 'POST', url: '/wallet?a=1', body: '{"amount":5}' })
    expect(seen[0]?.headers).toMatchObject({
      'headrace-gid': 'shop_1',
      'headrace-branch': 'wallet',
      'headrace-operation': 'try',
      'headrace-attempt': '3',
      'idempotency-key': 'shop_1:wallet:try',
      'content-type': 'application/json',
      'authorization': 'Bearer x',
      'x-trace': 't',
    })
  })

  it('takes an empty answer for null', async () => {
    const { origin } = await service((_, response) => response.writeHead(204).end())
    expect(await client(origin).call(call(origin))).toEqual({ status: 204, body: null })
  })

  it.each(['http://127.0.0.1:1/', 'https://example.com/', 'file:///etc/passwd', '//example.com/', 'not a url', ''])(
    'goes to no origin that is not allowed: %s',
    async (url) => {
      const { origin, seen } = await service((_, response) => json(response, 200, {}))
      await expect(client(origin).call(call(url))).rejects.toMatchObject({ code: 'service-forbidden' })
      expect(seen).toEqual([])
    },
  )

  it('is not led astray by what was pasted into the URL', async () => {
    const { origin, seen } = await service((_, response) => json(response, 200, {}))
    const host = origin.slice('http://'.length)
    for (const url of [`http://${host}@example.com/`, `http://${host}.example.com/`, `http://user:secret@${host}/`, `https://${host}/`])
      await expect(client(origin).call(call(url)), url).rejects.toMatchObject({ code: 'service-forbidden' })
    expect(seen).toEqual([])
  })

  it.each([301, 302, 303, 307, 308, 304])('refuses a redirect (%i), and does not follow it', async (status) => {
    const secret = await service((_, response) => json(response, 200, { secret: true }))
    const { origin, seen } = await service((_, response) => json(response, status, {}, { location: secret.origin }))
    // Not even to an origin that is allowed.
    const http = client(origin, { allow: [origin, secret.origin] })
    await expect(http.call(call(origin))).rejects.toMatchObject({ code: 'service-answer', details: { status } })
    expect([seen.length, secret.seen.length]).toEqual([1, 0])
  })

  it('reads no more of an answer than its bound', async () => {
    let sent = 0
    const { origin } = await service((_, response) => {
      response.writeHead(200, { 'content-type': 'application/json' })
      const part = Buffer.alloc(16_384, 0x20)
      const more = (): void => {
        while (sent < 500_000_000 && !response.destroyed) {
          sent += part.length
          if (!response.write(part)) return void response.once('drain', more)
        }
      }
      more()
    })
    await expect(client(origin, { answerBytesMax: 100_000 }).call(call(origin))).rejects.toMatchObject({ code: 'service-answer' })
    expect(sent).toBeLessThan(50_000_000)
  })

  it('waits no longer than its bound, for the head and for a body that drips', async () => {
    const { origin } = await service(({ url }, response) => {
      if (url === '/silent') return
      response.writeHead(200, { 'content-type': 'application/json' })
      const drip = setInterval(() => response.write(' '), 10)
      response.on('close', () => clearInterval(drip))
    })
    const http = client(origin, { timeoutMs: 100, retriesMax: 0 })
    for (const path of ['/silent', '/drip'])
      await expect(http.call(call(`${origin}${path}`)), path).rejects.toMatchObject({
        code: 'service-failed',
        message: expect.stringContaining('100 ms') as string,
      })
  })

  it('is called again after failures that may pass, counting attempts, and never after a no', async () => {
    const { origin, seen } = await service((_, response, count) => {
      if (count === 1) return void response.destroy()
      if (count === 2) return json(response, 503, {}, { 'retry-after': '0' })
      if (count === 3) return json(response, 429, {})
      return json(response, 200, { ok: true })
    })
    expect(await client(origin).call(call(origin))).toEqual({ status: 200, body: { ok: true } })
    expect(seen.map(({ headers }) => headers['headrace-attempt'])).toEqual(['1', '2', '3', '4'])
    expect(new Set(seen.map(({ headers }) => headers['idempotency-key'])).size).toBe(1)

    const refusing = await service((_, response) => json(response, 422, { code: 'poor' }))
    await expect(client(refusing.origin).call(call(refusing.origin))).rejects.toMatchObject({
      code: 'service-refused',
      details: { status: 422, code: 'poor' },
    })
    expect(refusing.seen).toHaveLength(1)
  })

  it('gives up after its retries, and at once when its caller does', async () => {
    const { origin, seen } = await service((_, response) => json(response, 500, {}))
    await expect(client(origin, { retriesMax: 2 }).call(call(origin))).rejects.toMatchObject({ code: 'service-failed' })
    expect(seen).toHaveLength(3)
    const slow = await service(() => undefined)
    const leave = new AbortController()
    const waiting = client(slow.origin).call(call(slow.origin, { signal: leave.signal }))
    setTimeout(() => leave.abort(new Error('enough')), 20)
    await expect(waiting).rejects.toMatchObject({ code: 'service-failed', message: expect.stringContaining('given up') as string })
    expect(slow.seen.length).toBeLessThan(2)
  })

  it.each([
    ['no JSON', 'text/html', '<p>hello</p>'],
    ['no type', '', '{}'],
    ['half a document', 'application/json', '{"a":'],
    ['too deep', 'application/json', '['.repeat(40) + ']'.repeat(40)],
  ])('refuses an answer that is not acceptable: %s', async (_, type, body) => {
    const { origin } = await service((__, response) => {
      response.writeHead(200, type === '' ? {} : { 'content-type': type })
      response.end(body)
    })
    await expect(client(origin).call(call(origin))).rejects.toMatchObject({ code: 'service-answer' })
  })

  it('bounds its own body, and the calls that wait', async () => {
    const { origin } = await service(() => undefined)
    const http = client(origin, { requestBytesMax: 100, callsMax: 1, waitersMax: 0, timeoutMs: 200, retriesMax: 0 })
    await expect(http.call(call(origin, { body: 'x'.repeat(200) }))).rejects.toMatchObject({ code: 'input-invalid' })
    const first = http.call(call(origin))
    first.catch(() => undefined)
    await expect(http.call(call(origin))).rejects.toMatchObject({ code: 'overloaded' })
    await expect(first).rejects.toMatchObject({ code: 'service-failed' })
    await http.close()
    await expect(http.call(call(origin))).rejects.toMatchObject({ code: 'stopping' })
  })

  it('lets nobody set the headers that it sets itself', async () => {
    const { origin, seen } = await service((_, response) => json(response, 200, {}))
    await expect(client(origin, { retriesMax: 0 }).call(call(origin, { headers: { 'Headrace-Gid': 'other' } }))).rejects.toMatchObject({
      code: 'option-invalid',
    })
    expect(seen).toEqual([])
    expect(() => createHttpClient({ allow: [origin], headers: { Host: 'x' } })).toThrow('host')
  })

  it.each([[[]], [['example.com']], [['https://example.com/path']], [['ftp://example.com']], [['*']]])(
    'refuses a list that is none: %j',
    (allow) => {
      expect(() => createHttpClient({ allow })).toThrow(expect.objectContaining({ code: 'option-invalid' }) as Error)
    },
  )
})
