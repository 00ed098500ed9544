/** GET /openapi.json: valid OpenAPI 3.1 that says what the server does. */
import { Validator } from '@seriousme/openapi-schema-validator'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { accept, command, defineApp, query } from '../../src/index.ts'
import { describeApp, inputSchema } from '../../src/server/openapi.ts'
import { call, post, startShop } from './fixture.ts'

interface Description {
  readonly paths: Record<
    string,
    Record<
      string,
      {
        parameters: { name?: string; $ref?: string; required?: boolean; schema?: unknown }[]
        requestBody?: { content: Record<string, { schema: { $ref: string } }> }
        responses: Record<string, unknown>
      }
    >
  >
  readonly components: { readonly schemas: Record<string, Record<string, unknown>> }
}

/** Everything that a reference of the document names. */
function resolve(document: unknown, ref: string): unknown {
  return ref
    .slice(2)
    .split('/')
    .reduce<unknown>(
      (value, part) => (value as Record<string, unknown> | undefined)?.[part.replaceAll('~1', '/').replaceAll('~0', '~')],
      document,
    )
}

function refsOf(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, child]) => (key === '$ref' && typeof child === 'string' ? [child] : refsOf(child)))
}

async function expectValid(document: unknown): Promise<void> {
  const { valid, errors } = await new Validator().validate(structuredClone(document) as Record<string, unknown>)
  expect(errors ?? []).toEqual([])
  expect(valid).toBe(true)
  for (const ref of refsOf(document)) expect(resolve(document, ref), ref).toBeDefined()
}

describe('/openapi.json', () => {
  test('is valid OpenAPI 3.1, and every reference leads somewhere', async () => {
    const { url } = await startShop()
    const answer = await call(`${url}/openapi.json`)
    expect(answer.status).toBe(200)
    await expectValid(answer.json)
  })

  test('has the schema of every command and the parameters of every query', async () => {
    const { url } = await startShop()
    const { paths, components } = (await call(`${url}/openapi.json`)).json as unknown as Description
    const buy = paths['/commands/stock.buy']?.['post']
    expect(buy?.requestBody?.content['application/json']?.schema.$ref).toBe('#/components/schemas/stock.buy.input')
    expect(components.schemas['stock.buy.input']).toMatchObject({
      type: 'object',
      properties: { sku: { type: 'string', maxLength: 64 }, quantity: { maximum: 5 } },
      required: ['sku'],
    })
    expect(Object.keys(buy?.requestBody?.content ?? {})).toContain('application/x-ndjson')
    expect(Object.keys(buy?.responses ?? {})).toEqual(
      expect.arrayContaining(['200', '202', '400', '413', '415', '422', '429', '500', '503']),
    )
    const left = paths['/queries/stock.left']?.['get']
    expect(left?.parameters).toMatchObject([
      { name: 'sku', required: true },
      { name: 'least', required: false },
    ])
  })

  test('names no route that the server does not have', async () => {
    const { url } = await startShop()
    const { paths } = (await call(`${url}/openapi.json`)).json as unknown as Description
    for (const [path, methods] of Object.entries(paths)) {
      for (const method of Object.keys(methods)) {
        const answer = await call(url + path.replace('{command}', 'echo.any').replace('{id}', 'none'), { method: method.toUpperCase() })
        expect([path, answer.json['code']]).not.toEqual([path, 'route-unknown'])
        expect(answer.status, path).not.toBe(405)
      }
    }
  })

  test('a problem and an outcome are what it says they are', async () => {
    const { url } = await startShop()
    const { components } = (await call(`${url}/openapi.json`)).json as unknown as Description
    const problem = (await call(`${url}/nowhere`)).json
    for (const name of (components.schemas['Problem']?.['required'] ?? []) as string[]) expect(problem).toHaveProperty(name)
    for (const name of Object.keys(problem)) expect(components.schemas['Problem']?.['properties']).toHaveProperty(name)
    const outcome = (await post(`${url}/commands/echo.any`, 1, { 'idempotency-key': 'k' })).json
    const [committed] = (components.schemas['Outcome']?.['oneOf'] ?? []) as { properties: object }[]
    expect(Object.keys(outcome).sort()).toEqual(Object.keys(committed?.properties ?? {}).sort())
  })
})

describe('schemas', () => {
  const node: z.ZodType = z.object({
    name: z.string(),
    get children() {
      return z.array(node)
    },
  })
  const app = defineApp({
    name: 'described',
    commands: [
      command('tree.grow', { input: node, key: () => 'k', run: () => accept() }),
      command('date.set', { input: z.object({ at: z.date() }), key: () => 'k', run: () => accept() }),
      command('plain.any', {
        input: { '~standard': { version: 1, vendor: 'none', validate: (value: unknown) => ({ value }) } },
        key: () => 'k',
        run: () => accept(),
      }),
    ],
    queries: [query('tree.find', { input: z.object({ shape: z.object({ inner: z.string() }).meta({ id: 'Shape' }) }), load: () => null })],
  })

  test('that refer to themselves do so from their new place', async () => {
    const document = describeApp(app, '/hr')
    await expectValid(document)
    const refs = refsOf((document['components'] as Description['components']).schemas['tree.grow.input'])
    expect(refs.length).toBeGreaterThan(0)
    for (const ref of refs) expect(ref).toMatch(/^#\/components\/schemas\/tree\.grow\.input/)
  })

  test('that cannot be said in JSON Schema, or come from a library that does not say, permit anything', () => {
    expect(inputSchema(z.object({ at: z.date() }))).toEqual({})
    const { components } = describeApp(app, '') as unknown as Description
    expect(components.schemas['date.set.input']).toEqual({})
    expect(components.schemas['plain.any.input']).toEqual({})
  })

  test('lie under the prefix of the plugin', () => {
    expect(describeApp(app, '/hr')['servers']).toEqual([{ url: '/hr' }])
  })
})
