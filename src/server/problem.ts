/**
 * Errors as problem documents (RFC 9457). Every answer that is not a success
 * and not an outcome is one of these, with a stable `code` of the error table.
 *
 * What a caller did wrong is told in the words of the error. What went wrong
 * on our side is told in the words of the table alone: messages of unknown
 * errors, paths and statements stay in the log.
 */
import { STATUS_CODES } from 'node:http'
import type { FastifyReply } from 'fastify'
import { type ErrorCode, errorTable, HeadraceError } from '../contracts/errors.ts'

export interface Problem {
  /** `urn:headrace:error:` and the code. */
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly code: string
  /** For 'input-invalid': what is wrong with which field. */
  readonly issues?: unknown
  /** Seconds after which the same request is worth repeating; also in Retry-After. */
  readonly retryAfter?: number
  /** In a bulk answer: the number of the line, from 1. */
  readonly line?: number
  /** In a bulk answer: the id of the line, when it could be read. */
  readonly id?: string
}

export const problemMediaType = 'application/problem+json; charset=utf-8'

/** Codes of 5xx whose messages speak of the limits of the node, and of nothing inside it. */
const speaksOfLimits: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'queue-full',
  'queue-slow',
  'key-blocked',
  'stopping',
  'not-ready',
  'app-not-started',
])

/** The codes of Fastify's own errors, in ours. */
const fromFastify: Readonly<Record<string, ErrorCode>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'body-too-large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'media-type-unsupported',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'body-missing',
  FST_ERR_CTP_INVALID_JSON_BODY: 'body-not-json',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'request-malformed',
  FST_ERR_BAD_URL: 'request-malformed',
  FST_ERR_MAX_PARAM_LENGTH: 'parameter-invalid',
  FST_ERR_NOT_FOUND: 'route-unknown',
}

function codeOf(error: unknown): string {
  return typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : ''
}

/** An error of ours, or of Fastify in our words; undefined for errors of somebody else. */
export function knownError(error: unknown): HeadraceError | undefined {
  if (HeadraceError.is(error)) return error
  const code = fromFastify[codeOf(error)]
  return code === undefined ? undefined : new HeadraceError(code)
}

/** Any error as one of ours: what is not known is 'internal', with the error as its cause. */
export function asHeadraceError(error: unknown): HeadraceError {
  return knownError(error) ?? new HeadraceError('internal', undefined, { cause: error })
}

export function problemOf(error: HeadraceError): Problem {
  const { status, title, remedy } = errorTable[error.code]
  const mayQuote = status < 500 || speaksOfLimits.has(error.code)
  const issues = error.code === 'input-invalid' ? error.details?.['issues'] : undefined
  return {
    type: `urn:headrace:error:${error.code}`,
    title,
    status,
    detail: mayQuote ? error.message : remedy,
    code: error.code,
    ...(issues === undefined ? {} : { issues }),
    ...(status === 429 || status === 503 ? { retryAfter: retryAfterSeconds(error.retryAfterMs) } : {}),
  }
}

/** Retry-After counts in whole seconds, and zero would invite a storm. */
function retryAfterSeconds(ms: number | undefined): number {
  return Math.max(1, Math.ceil((ms ?? 1_000) / 1_000))
}

/** An error that a hook or plugin of the user threw with a status of its own, such as 401. */
export function foreignProblem(error: { readonly statusCode: number; readonly message: string }): Problem {
  return {
    type: 'about:blank',
    title: STATUS_CODES[error.statusCode] ?? 'Error',
    status: error.statusCode,
    detail: error.message,
    code: 'refused',
  }
}

export function sendProblem(reply: FastifyReply, problem: Problem): FastifyReply {
  if (problem.retryAfter !== undefined) reply.header('retry-after', String(problem.retryAfter))
  // The next request of this client should find another node. (HTTP/2 has no such header.)
  if (problem.code === 'stopping' && reply.request.raw.httpVersionMajor === 1) reply.header('connection', 'close')
  return reply.code(problem.status).header('content-type', problemMediaType).send(JSON.stringify(problem))
}

/** Whether the log should hold the error: what the caller did, and what a limit did, is in the answer and in the metrics. */
export function worthLogging(error: HeadraceError): boolean {
  return error.status >= 500 && !speaksOfLimits.has(error.code)
}
