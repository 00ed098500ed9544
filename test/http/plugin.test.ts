/** The app inside a server that the user already has. */
import { fastify as createFastify, type FastifyInstance } from 'fastify'
import { describe, expect, test } from 'vitest'
import type { App } from '../../src/index.ts'
import { headrace, type HeadraceOptions } from '../../src/server/index.ts'
import { afterTest, call, post, shop, temporaryFolder } from './fixture.ts'

const key = { 'idempotency-key': 'k1' }

async function startedShop(): Promise<App> {
  const app = shop({ dataDir: await temporaryFolder() })
  await app.start()
  afterTest(() => app.stop())
  return app
}

/** A server of the user with a life of its own: routes, parsers, hooks, error and not-found answers. */
async function userServer(options: Partial<HeadraceOptions> & { readonly app: App }): Promise<{ url: string; server: FastifyInstance }> {
  const server = createFastify()
  server.removeAllContentTypeParsers()
  server.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, text, done) => done(null, { mine: String(text) }))
  server.addHook('onRequest', async (request, reply) => {
    reply.header('x-user', 'was here')
    if (request.headers['authorization'] === 'wrong') throw Object.assign(new Error('who are you'), { statusCode: 401 })
  })
  server.setErrorHandler((error: Error & { statusCode?: number }, _request, reply) =>
    reply.code(error.statusCode ?? 500).send({ mine: error.message }),
  )
  server.setNotFoundHandler((_request, reply) => reply.code(404).send({ mine: 'not here' }))
  server.get('/', async () => ({ mine: 'root' }))
  server.get('/livez', async () => ({ mine: 'alive' }))
  server.post('/mine', async (request) => request.body)
  await server.register(headrace, options)
  const url = await server.listen({ host: '127.0.0.1', port: 0 })
  afterTest(() => server.close())
  return { url, server }
}

describe('the plugin under a prefix', () => {
  test('serves all routes there, and Location leads back', async () => {
    const { url } = await userServer({ app: await startedShop(), prefix: '/hr' })
    await post(`${url}/hr/commands/stock.fill`, { sku: 'a', left: 3 }, { 'idempotency-key': 'fill' })
    expect((await post(`${url}/hr/commands/stock.buy`, { sku: 'a' }, key)).json).toMatchObject({ status: 'committed' })
    const later = await post(`${url}/hr/commands/stock.buy`, { sku: 'a' }, { 'idempotency-key': 'x'.repeat(128), prefer: 'respond-async' })
    expect(later.headers.get('location')).toBe(`/hr/outcomes/stock.buy/${'x'.repeat(128)}`)
    const outcome = await call(`${url}${later.headers.get('location')}`, { headers: { accept: 'text/event-stream' } })
    expect(outcome.text).toContain('"status":"committed"')
    expect((await call(`${url}/hr/queries/stock.left?sku=a`)).text).toBe('1')
    const bulk = await call(`${url}/hr/commands/stock.buy`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: '{"id":"b1","input":{"sku":"a"}}\n{',
    })
    expect(
      bulk.text
        .split('\n')
        .slice(0, 2)
        .map((line) => (JSON.parse(line) as { status: unknown }).status),
    ).toEqual(['committed', 400])
    expect((await call(`${url}/hr/readyz`)).status).toBe(200)
    expect((await call(`${url}/hr/livez`)).json).toEqual({ status: 'alive' })
    expect((await call(`${url}/hr/metrics`)).text).toContain('headrace_ready 1')
    expect((await call(`${url}/hr/openapi.json`)).json).toMatchObject({ servers: [{ url: '/hr' }] })
    expect((await call(`${url}/hr`)).json['commands']).toContain('POST /hr/commands/stock.buy')
  })

  test('leaves the rest of the server as it was', async () => {
    const { url } = await userServer({ app: await startedShop(), prefix: '/hr' })
    expect((await call(`${url}/`)).json).toEqual({ mine: 'root' })
    expect((await call(`${url}/livez`)).json).toEqual({ mine: 'alive' })
    expect((await post(`${url}/mine`, '{"a":1}')).json).toEqual({ mine: '{"a":1}' })
    expect((await call(`${url}/nowhere`)).json).toEqual({ mine: 'not here' })
    expect((await call(`${url}/mine`, { method: 'POST', headers: { 'content-type': 'application/x-ndjson' }, body: '{}' })).status).toBe(
      415,
    )
  })

  test('answers its own errors with problems, and leaves those of the user to the user', async () => {
    const { url } = await userServer({ app: await startedShop(), prefix: '/hr', bodyBytesMax: 1_000 })
    expect((await post(`${url}/hr/commands/stock.buy`, '{', key)).json['code']).toBe('body-not-json')
    expect((await post(`${url}/hr/commands/stock.buy`, `"${'x'.repeat(2_000)}"`, key)).json['code']).toBe('body-too-large')
    expect((await call(`${url}/hr/nowhere`)).json['code']).toBe('route-unknown')
    expect((await call(`${url}/hr/commands/stock.buy`)).json['code']).toBe('method-not-allowed')
    const refused = await post(`${url}/hr/commands/stock.buy`, { sku: 'a' }, { ...key, authorization: 'wrong' })
    expect([refused.status, refused.json]).toEqual([401, { mine: 'who are you' }])
  })

  test('runs behind the hooks of the server', async () => {
    const { url } = await userServer({ app: await startedShop(), prefix: '/hr' })
    for (const path of ['/hr/livez', '/hr/nowhere']) expect((await call(`${url}${path}`)).headers.get('x-user')).toBe('was here')
    const bulk = await call(`${url}/hr/commands/echo.any`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: '{"id":"b1","input":1}',
    })
    expect(bulk.headers.get('x-user')).toBe('was here')
  })

  test('may be there twice, for two apps', async () => {
    const server = createFastify()
    const [one, two] = [await startedShop(), await startedShop()]
    await server.register(headrace, { app: one, prefix: '/one' })
    await server.register(headrace, { app: two, prefix: '/two' })
    const url = await server.listen({ host: '127.0.0.1', port: 0 })
    afterTest(() => server.close())
    const answers = await Promise.all(
      ['one', 'two'].map((name) => post(`${url}/${name}/commands/echo.any`, name, { ...key, 'content-type': 'application/json' })),
    )
    expect(answers.map(({ status }) => status)).toEqual([400, 400])
    await Promise.all(['one', 'two'].map((name) => post(`${url}/${name}/commands/echo.any`, JSON.stringify(name), key)))
    expect((await call(`${url}/one/outcomes/echo.any/k1`)).json).toMatchObject({ result: 'one' })
    expect((await call(`${url}/two/outcomes/echo.any/k1`)).json).toMatchObject({ result: 'two' })
  })
})

test('without a prefix, the root and unknown paths stay those of the server', async () => {
  const server = createFastify()
  server.get('/', async () => ({ mine: 'root' }))
  await server.register(headrace, { app: await startedShop() })
  const url = await server.listen({ host: '127.0.0.1', port: 0 })
  afterTest(() => server.close())
  expect((await call(`${url}/`)).json).toEqual({ mine: 'root' })
  expect((await call(`${url}/nowhere`)).json).toMatchObject({ statusCode: 404 })
  expect((await post(`${url}/commands/echo.any`, 1, key)).json).toMatchObject({ result: 1 })
})

test('an unknown option is refused when the plugin is registered', async () => {
  const server = createFastify()
  server.register(headrace, { app: await startedShop(), prefix: '/hr', bodyByteMax: 1 } as never)
  await expect(server.ready()).rejects.toMatchObject({ code: 'option-unknown' })
})

test('when the server closes, streams end, and the app goes on', async () => {
  const app = await startedShop()
  const { url, server } = await userServer({ app, prefix: '/hr' })
  await post(`${url}/hr/commands/echo.any`, 1, key)
  await server.close()
  expect((await app.status()).state).toBe('ready')
  expect((await app.gateway.outcomeState('echo.any', 'default', 'k1')).state).toBe('done')
})
