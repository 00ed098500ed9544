/** What a command was answered, as a client of the HTTP interface sees it. */

export type JobKind = 'command' | 'query'

/** One command to be sent; the same id and input however often it is sent. Or a query, which has no id. */
export interface Job {
  readonly kind: JobKind
  /** Counts commands and queries together from 0; a repeat has the index of its command. */
  readonly index: number
  /** The Idempotency-Key; empty for a query. */
  readonly id: string
  /** The input as JSON text; of a query, the parameters as they stand in its address. */
  readonly input: string
  /** When it should have gone out, on the monotonic clock in milliseconds. Latency is counted from here. */
  readonly dueAt: number
  /** True when the same command was sent before, on purpose. */
  readonly repeat: boolean
}

export type AnswerKind =
  /** 200, the command took effect, or the query is answered. */
  | 'committed'
  /** 200, refused by the rules of the business. */
  | 'rejected'
  /** 500 with an outcome: dead-lettered. */
  | 'failed'
  /** 202, accepted and not decided yet. */
  | 'pending'
  /** A problem document, or another status that is no outcome. */
  | 'problem'
  /** No whole answer came back. */
  | 'transport'

export interface Answer {
  readonly kind: AnswerKind
  /** The code of a rejection, failure or problem; the system's name of a transport error. */
  readonly code: string | null
  /** The HTTP status; 0 when none came. */
  readonly status: number
  /** The body, as it was received. */
  readonly body: string
  /** The position of the outcome; null when there is none. */
  readonly position: number | null
  /** Where a pending command's outcome will be. */
  readonly location: string | null
  /** How long to wait before another try, in milliseconds; null when the server does not say. */
  readonly retryAfterMs: number | null
}

/** The last answer to a command, with its times on the monotonic clock. */
export interface Answered {
  readonly job: Job
  readonly answer: Answer
  /** When it first went out. */
  readonly sentAt: number
  readonly answeredAt: number
  /** How often it was sent until this answer came. */
  readonly attempts: number
}

/** Statuses after which the same command, with the same id, is worth sending again. */
const retryableStatuses = new Set([408, 425, 429, 502, 503, 504])

export function isRetryable(answer: Answer): boolean {
  return answer.kind === 'transport' || retryableStatuses.has(answer.status)
}

/** What a reply with a whole body means. `status` is that of the response, or that of a line of a bulk response. */
export function answerOf(status: number, body: string, location: string | null, retryAfterMs: number | null): Answer {
  const document = parseObject(body)
  const code = typeof document?.['code'] === 'string' ? document['code'] : null
  const position = typeof document?.['position'] === 'number' ? document['position'] : null
  const said = document?.['status']
  if (status === 202) return { kind: 'pending', code: null, status, body, position, location, retryAfterMs }
  // A dead-lettered command is answered 500 with its outcome; a problem document has a number as its status.
  if ((status === 200 || status === 500) && (said === 'committed' || said === 'rejected' || said === 'failed')) {
    return { kind: said, code, status, body, position, location, retryAfterMs }
  }
  return { kind: 'problem', code: code ?? `http-${status}`, status, body, position, location, retryAfterMs }
}

export function transportAnswer(error: unknown): Answer {
  const code = (error as { code?: unknown }).code
  return {
    kind: 'transport',
    code: typeof code === 'string' ? code : error instanceof Error ? error.name : 'unknown',
    status: 0,
    body: '',
    position: null,
    location: null,
    retryAfterMs: null,
  }
}

export function parseObject(text: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null
  } catch {
    return null
  }
}
