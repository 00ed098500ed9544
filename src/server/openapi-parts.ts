/** The parts of the OpenAPI description that are the same for every app. */
import { errorTable } from '../contracts/errors.ts'

const outcomeStates = ['committed', 'rejected', 'failed']

export const schemas = {
  Outcome: {
    description: 'What became of a command, as it is stored. A repeated Idempotency-Key gets the same bytes.',
    oneOf: [
      {
        type: 'object',
        required: ['id', 'command', 'status', 'position', 'result'],
        properties: {
          id: { type: 'string' },
          command: { type: 'string' },
          status: { const: 'committed' },
          position: { type: 'integer' },
          result: {},
        },
      },
      {
        type: 'object',
        required: ['id', 'command', 'status', 'position', 'code'],
        properties: {
          id: { type: 'string' },
          command: { type: 'string' },
          status: { enum: ['rejected', 'failed'] },
          position: { type: 'integer' },
          code: { type: 'string' },
          detail: { type: 'string' },
        },
      },
    ],
  },
  Pending: {
    type: 'object',
    description: 'The command is accepted and would survive a crash; its outcome is not known yet.',
    required: ['id', 'command', 'status'],
    properties: { id: { type: 'string' }, command: { type: 'string' }, status: { const: 'pending' } },
  },
  Problem: {
    type: 'object',
    description: 'Problem details (RFC 9457).',
    required: ['type', 'title', 'status', 'detail', 'code'],
    properties: {
      type: { type: 'string', format: 'uri', description: '`urn:headrace:error:` and the code.' },
      title: { type: 'string' },
      status: { type: 'integer' },
      detail: { type: 'string' },
      code: { type: 'string', description: 'Stable; for programs.', examples: Object.keys(errorTable).slice(0, 3) },
      issues: { type: 'array', items: {}, description: 'For `input-invalid`: what is wrong with which field.' },
      retryAfter: { type: 'integer', minimum: 1, description: 'Seconds after which the request is worth repeating.' },
      line: { type: 'integer', minimum: 1, description: 'In a bulk answer: the number of the line.' },
      id: { type: 'string', description: 'In a bulk answer: the id of the line.' },
    },
  },
}

export const parameters = {
  IdempotencyKey: {
    name: 'Idempotency-Key',
    in: 'header',
    description:
      'Names the command: 1 to 128 visible ASCII characters, quoted or bare, unique per tenant and command. The same key gets the same outcome. Required for `application/json`; lines of a bulk request carry their own `id`.',
    schema: { type: 'string', minLength: 1, maxLength: 130 },
  },
  Tenant: {
    name: 'Headrace-Tenant',
    in: 'header',
    description: 'Whose ids these are.',
    schema: { type: 'string', pattern: '^[A-Za-z0-9._-]{1,64}$', default: 'default' },
  },
  Prefer: {
    name: 'Prefer',
    in: 'header',
    description:
      '`wait=N`: wait at most N seconds for the outcome (RFC 7240), then 202. `respond-async`: 202 as soon as the command is durable.',
    schema: { type: 'string' },
  },
}

export const responseHeaders = {
  RetryAfter: { description: 'Seconds after which the request is worth repeating.', schema: { type: 'integer', minimum: 1 } },
  Location: { description: 'Where the outcome will be found.', schema: { type: 'string', format: 'uri-reference' } },
  Status: { description: 'The state of the command.', schema: { type: 'string', enum: [...outcomeStates, 'pending'] } },
  PreferenceApplied: { description: 'What of Prefer was honoured.', schema: { type: 'string' } },
}

const answerHeaders = {
  'Headrace-Status': { $ref: '#/components/headers/Status' },
  'Preference-Applied': { $ref: '#/components/headers/PreferenceApplied' },
}
const outcomeContent = { 'application/json': { schema: { $ref: '#/components/schemas/Outcome' } } }

export const responses = {
  shared: {
    Outcome: {
      description: 'The command was committed or rejected. For a bulk request: one line per line.',
      headers: answerHeaders,
      content: {
        ...outcomeContent,
        'application/x-ndjson': {
          schema: {
            anyOf: [
              { $ref: '#/components/schemas/Outcome' },
              { $ref: '#/components/schemas/Pending' },
              { $ref: '#/components/schemas/Problem' },
            ],
          },
        },
      },
    },
    StoredOutcome: {
      description: 'The outcome, whatever it is.',
      headers: answerHeaders,
      content: { ...outcomeContent, 'text/event-stream': { schema: { type: 'string' } } },
    },
    Pending: {
      description: 'The command is durable; its outcome is not known yet.',
      headers: { ...answerHeaders, Location: { $ref: '#/components/headers/Location' } },
      content: { 'application/json': { schema: { $ref: '#/components/schemas/Pending' } } },
    },
  },
  failed: {
    description: 'The command failed and was dead-lettered (an outcome), or the node has a defect (a problem).',
    headers: answerHeaders,
    content: { ...outcomeContent, 'application/problem+json': { schema: { $ref: '#/components/schemas/Problem' } } },
  },
}
