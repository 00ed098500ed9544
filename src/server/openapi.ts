/**
 * GET /openapi.json: the description of this app (OpenAPI 3.1), made of the
 * schemas of its commands and queries.
 *
 * A schema library that offers the Standard JSON Schema extension
 * (`schema['~standard'].jsonSchema`) is asked for its schema; where it has
 * none, or cannot say it in JSON Schema, the description permits anything.
 */
import type { StandardJSONSchemaV1, StandardSchemaV1 } from '@standard-schema/spec'
import { type ErrorCode, errorTable } from '../contracts/errors.ts'
import type { Gateway } from '../pipeline/app-contract.ts'
import type { AnyCommand } from '../pipeline/command.ts'
import { type AnyQuery, answerTtlMs } from '../pipeline/query.ts'
import { parameters, responseHeaders, responses, schemas } from './openapi-parts.ts'

export type JsonSchema = Record<string, unknown>

/** The schema of what a caller sends, or {} when the library cannot tell. */
export function inputSchema(schema: StandardSchemaV1): JsonSchema {
  const standard = schema['~standard'] as StandardSchemaV1.Props & Partial<StandardJSONSchemaV1.Props>
  try {
    const { $schema: _dialect, ...described } = standard.jsonSchema?.input({ target: 'draft-2020-12' }) ?? {}
    return described
  } catch {
    return {}
  }
}

/** Moves a schema into the document: its own references then start from its new place. */
function placed(schema: JsonSchema, place: string): JsonSchema {
  const move = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(move)
    if (typeof value !== 'object' || value === null) return value
    return Object.fromEntries(
      Object.entries(value).map(([key, child]) => [
        key,
        key === '$ref' && typeof child === 'string' && (child === '#' || child.startsWith('#/'))
          ? `${place}${child.slice(1)}`
          : move(child),
      ]),
    )
  }
  return move(schema) as JsonSchema
}

const ref = (kind: 'schemas' | 'parameters' | 'headers' | 'responses', name: string): JsonSchema => ({
  $ref: `#/components/${kind}/${name}`,
})

function problems(...codes: readonly ErrorCode[]): Record<string, JsonSchema> {
  const byStatus = new Map<number, ErrorCode[]>()
  for (const code of codes) byStatus.set(errorTable[code].status, [...(byStatus.get(errorTable[code].status) ?? []), code])
  return Object.fromEntries(
    [...byStatus].map(([status, of]) => [
      String(status),
      {
        description: of.map((code) => `\`${code}\`: ${errorTable[code].title}.`).join(' '),
        ...(status === 429 || status === 503 ? { headers: { 'Retry-After': ref('headers', 'RetryAfter') } } : {}),
        content: { 'application/problem+json': { schema: ref('schemas', 'Problem') } },
      },
    ]),
  )
}

function commandPath(command: AnyCommand): JsonSchema {
  const input = `${command.name}.input`
  const failed = responses.failed
  return {
    post: {
      operationId: command.name,
      summary: command.options.summary ?? `Submit the command ${command.name}`,
      tags: ['commands'],
      parameters: [ref('parameters', 'IdempotencyKey'), ref('parameters', 'Tenant'), ref('parameters', 'Prefer')],
      requestBody: {
        required: true,
        content: {
          'application/json': { schema: ref('schemas', input) },
          'application/x-ndjson': { schema: ref('schemas', `${command.name}.line`) },
        },
      },
      responses: {
        200: ref('responses', 'Outcome'),
        202: ref('responses', 'Pending'),
        ...problems(
          'body-not-json',
          'body-too-deep',
          'body-forbidden-key',
          'body-missing',
          'input-invalid',
          'id-missing',
          'id-invalid',
          'tenant-invalid',
          'key-invalid',
          'request-timeout',
          'body-too-large',
          'media-type-unsupported',
          'id-reused',
          'headers-too-large',
          'overloaded',
          'streams-full',
          'queue-full',
          'queue-slow',
          'key-blocked',
          'stopping',
          'not-ready',
          'storage-failed',
        ),
        500: failed,
      },
    },
  }
}

function lineSchema(command: AnyCommand): JsonSchema {
  return {
    type: 'object',
    description:
      'One line of a bulk request. The answer has one line for each, in the same order: the outcome document, a pending document, or a problem document with `line`.',
    required: ['id', 'input'],
    properties: {
      id: { type: 'string', minLength: 1, maxLength: 128, pattern: '^[\\x21-\\x7e]+$' },
      input: ref('schemas', `${command.name}.input`),
      tenant: { type: 'string', pattern: '^[A-Za-z0-9._-]{1,64}$' },
    },
  }
}

function queryPath(query: AnyQuery): JsonSchema {
  const schema = placed(inputSchema(query.definition.input), `#/components/schemas/${query.name}.input`)
  const required = new Set(Array.isArray(schema['required']) ? schema['required'] : [])
  const properties = typeof schema['properties'] === 'object' && schema['properties'] !== null ? schema['properties'] : {}
  return {
    get: {
      operationId: query.name,
      summary: query.definition.summary ?? `Ask the query ${query.name}`,
      tags: ['queries'],
      // For programs that compare what a cache does with what it should do.
      ...(query.definition.key === undefined ? {} : { 'x-headrace-cache': { ttlMs: query.definition.ttlMs ?? answerTtlMs } }),
      parameters: Object.entries(properties).map(([name, of]) => ({
        name,
        in: 'query',
        required: required.has(name),
        schema: of as JsonSchema,
      })),
      responses: {
        200: { description: 'The answer.', content: { 'application/json': { schema: {} } } },
        ...problems('input-invalid', 'parameter-invalid', 'overloaded', 'query-failed', 'not-ready', 'query-timeout'),
      },
    },
  }
}

const plainRoutes = {
  '/outcomes/{command}/{id}': {
    get: {
      operationId: 'getOutcome',
      summary: 'What became of a command. With `Accept: text/event-stream`: waits, and sends it as the event `outcome`.',
      tags: ['outcomes'],
      parameters: [
        { name: 'command', in: 'path', required: true, schema: { type: 'string' } },
        { name: 'id', in: 'path', required: true, description: 'The Idempotency-Key, percent-encoded.', schema: { type: 'string' } },
        ref('parameters', 'Tenant'),
      ],
      responses: {
        200: ref('responses', 'StoredOutcome'),
        202: ref('responses', 'Pending'),
        ...problems('id-invalid', 'tenant-invalid', 'outcome-unknown', 'streams-full', 'stopping'),
      },
    },
  },
  '/livez': {
    get: {
      operationId: 'livez',
      summary: 'Whether the process is alive.',
      tags: ['health'],
      responses: { 200: { description: 'It is.' } },
    },
  },
  '/readyz': {
    get: {
      operationId: 'readyz',
      summary: 'Whether the node takes commands.',
      tags: ['health'],
      responses: { 200: { description: 'It does.' }, ...problems('not-ready', 'stopping') },
    },
  },
  '/metrics': {
    get: {
      operationId: 'metrics',
      summary: 'Metrics for Prometheus.',
      tags: ['health'],
      responses: { 200: { description: 'Text exposition format.', content: { 'text/plain': { schema: { type: 'string' } } } } },
    },
  },
}

export interface DescribedApp {
  readonly name: string
  readonly gateway: Pick<Gateway, 'commands' | 'queries'>
}

/** The whole description, as a document; paths lie under `prefix`. */
export function describeApp(app: DescribedApp, prefix: string): JsonSchema {
  const commands = [...app.gateway.commands.values()]
  const queries = [...app.gateway.queries.values()]
  const inputs = [
    ...commands.map((command) => ({ name: command.name, schema: command.options.input })),
    ...queries.map((query) => ({ name: query.name, schema: query.definition.input })),
  ]
  return {
    openapi: '3.1.0',
    info: {
      title: app.name,
      version: '1',
      description:
        'Every accepted write is applied once, in order per key, in all of its databases or in none. Errors are problem details (RFC 9457) with a stable `code`.',
    },
    servers: [{ url: prefix === '' ? '/' : prefix }],
    tags: [{ name: 'commands' }, { name: 'queries' }, { name: 'outcomes' }, { name: 'health' }],
    paths: {
      ...Object.fromEntries(commands.map((command) => [`/commands/${command.name}`, commandPath(command)])),
      ...Object.fromEntries(queries.map((query) => [`/queries/${query.name}`, queryPath(query)])),
      ...plainRoutes,
    },
    components: {
      schemas: {
        ...schemas,
        ...Object.fromEntries(
          inputs.map(({ name, schema }) => [`${name}.input`, placed(inputSchema(schema), `#/components/schemas/${name}.input`)]),
        ),
        ...Object.fromEntries(commands.map((command) => [`${command.name}.line`, lineSchema(command)])),
      },
      parameters,
      headers: responseHeaders,
      responses: responses.shared,
    },
  }
}
