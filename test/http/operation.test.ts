/** Queries, health, metrics, and what a node tells of itself. */
import { describe, expect, test } from 'vitest'
import { serve } from '../../src/server/index.ts'
import { deferred } from '../../src/std/deferred.ts'
import { afterTest, call, post, shop, startShop, temporaryFolder } from './fixture.ts'
import { listeningUrl, memoryLog } from './memory-log.ts'

describe('a query', () => {
  test('takes its input from the query string, a repeated parameter as an array', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a b/ü', left: 3 }, { 'idempotency-key': 'fill' })
    const answer = await call(`${url}/queries/stock.left?sku=${encodeURIComponent('a b/ü')}&least=2`)
    expect([answer.status, answer.text, answer.headers.get('content-type')]).toEqual([200, '3', 'application/json; charset=utf-8'])
    expect((await call(`${url}/queries/stock.many?sku=a&sku=b`)).text).toBe('2')
    expect((await call(`${url}/queries/stock.left?sku=none`)).text).toBe('null')
  })

  test('with an input that does not fit is told which parameter is wrong', async () => {
    const { url } = await startShop()
    const answer = await call(`${url}/queries/stock.left?sku=a&least=x`)
    expect([answer.status, answer.json['code']]).toEqual([400, 'input-invalid'])
    expect(answer.json['issues']).toMatchObject([{ path: 'least' }])
    expect((await call(`${url}/queries/stock.left?sku=a&__proto__=x`)).json['code']).toBe('parameter-invalid')
  })
})

describe('/readyz and /livez', () => {
  test('a node that has started is both', async () => {
    const { url } = await startShop()
    expect((await call(`${url}/livez`)).json).toEqual({ status: 'alive' })
    expect((await call(`${url}/readyz`)).json).toEqual({ status: 'ready' })
    expect((await call(`${url}/readyz`, { method: 'HEAD' })).status).toBe(200)
  })

  test('a node that is still starting is alive, and says why it is not ready', async () => {
    const app = shop({ dataDir: await temporaryFolder() })
    const hold = deferred<void>()
    const starting = deferred<void>()
    const slow = new Proxy(app, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target)
        if (name !== 'start') return typeof value === 'function' ? value.bind(target) : value
        return async () => {
          starting.resolve()
          await hold.promise
          await target.start()
        }
      },
    })
    const { log, lines } = memoryLog()
    const serving = serve(slow, { port: 0, logger: log })
    await starting.promise
    const url = listeningUrl(lines)
    expect((await call(`${url}/livez`)).status).toBe(200)
    const ready = await call(`${url}/readyz`)
    expect([ready.status, ready.json['code'], ready.headers.get('retry-after')]).toEqual([503, 'not-ready', '1'])
    expect((await call(`${url}/metrics`)).text).toContain('\nheadrace_ready 0\n')
    expect((await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k' })).status).toBe(503)
    hold.resolve()
    const server = await serving
    afterTest(() => server.close())
    expect((await call(`${url}/readyz`)).status).toBe(200)
    expect((await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k' })).status).toBe(200)
  })

  test('a node whose state hangs is not ready after statusTimeoutMs, and looks once for all who ask', async () => {
    const app = shop({ dataDir: await temporaryFolder() })
    let looks = 0
    let hang = false
    const hanging = new Proxy(app, {
      get(target, name) {
        const value: unknown = Reflect.get(target, name, target)
        if (name !== 'status') return typeof value === 'function' ? value.bind(target) : value
        return () => {
          if (!hang) return target.status()
          looks += 1
          return new Promise(() => {})
        }
      },
    })
    const server = await serve(hanging, { port: 0, logLevel: 'silent', statusTimeoutMs: 50 })
    afterTest(() => server.close())
    hang = true
    const answers = await Promise.all(Array.from({ length: 5 }, () => call(`${server.url}/readyz`)))
    expect(answers.map(({ json }) => json['code'])).toEqual(Array.from({ length: 5 }, () => 'not-ready'))
    expect(looks).toBe(1)
    expect((await call(`${server.url}/metrics`)).status).toBe(200)
  })
})

describe('/metrics', () => {
  test('counts what was asked and answered, and tells the state of the node', async () => {
    const { url } = await startShop()
    await post(`${url}/commands/stock.fill`, { sku: 'a', left: 1 }, { 'idempotency-key': 'fill' })
    for (const key of ['k1', 'k2', 'k2']) await post(`${url}/commands/stock.buy`, { sku: 'a' }, { 'idempotency-key': key })
    await post(`${url}/commands/boom.now`, { secret: 's' }, { 'idempotency-key': 'k' })
    await call(`${url}/queries/stock.left?sku=a`)
    const answer = await call(`${url}/metrics`)
    expect(answer.headers.get('content-type')).toContain('text/plain; version=0.0.4')
    const lines = answer.text.split('\n')
    expect(lines).toContain('headrace_ready 1')
    expect(lines).toContain('headrace_outcomes_total{command="stock.buy",status="committed"} 1')
    expect(lines).toContain('headrace_rejections_total{command="stock.buy",code="sold-out"} 2')
    expect(lines).toContain('headrace_repeated_outcomes_total{command="stock.buy"} 1')
    expect(lines).toContain('headrace_dead_lettered_commands_total{command="boom.now",code="handler-failed"} 1')
    expect(lines).toContain('headrace_dead_letters 1')
    expect(lines).toContain('headrace_query_duration_seconds_count{query="stock.left",ok="true"} 1')
    expect(lines).toContain('headrace_in_flight_commands 0')
    expect(answer.text).toMatch(/^process_resident_memory_bytes \d+/m)
    expect(answer.text).toMatch(/^headrace_batch_phase_duration_seconds_bucket\{phase="commit",le="0.01"\} \d+/m)
  })
})

test('the root tells what there is', async () => {
  const { url } = await startShop()
  const { json } = await call(`${url}/`)
  expect(json['commands']).toContain('POST /commands/stock.buy')
  expect(json['queries']).toContain('GET /queries/stock.left')
})
