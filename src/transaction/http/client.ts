/**
 * Calls services over HTTP that take part in sagas, TCC and three-phase commit.
 *
 *   const http = createHttpClient({ allow: ['https://wallet.internal'] })
 *   await http.call({ url: 'https://wallet.internal/debit', body, gid, branch, operation, attempt, idempotencyKey })
 *
 * What must hold:
 * - only origins of the list are called, whatever an input was pasted into a URL;
 * - a redirect is refused, not followed: it would leave the list;
 * - an answer is bounded in bytes, in time from the first byte sent to the last
 *   one read, and in depth;
 * - calls under way, connections and retries are bounded.
 */
import { Agent, request } from 'undici'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { jsonDepth } from '../../std/json.ts'
import { callHeaders } from '../barrier.ts'
import { checkNames } from '../../contracts/bounds.ts'
import { Permits } from '../permits.ts'

export interface HttpClientOptions {
  /** Origins that may be called: `https://wallet.internal:8443`. Nothing else is. */
  readonly allow: readonly string[]
  /** Longest time of one attempt, to the last byte of the answer, in milliseconds. Default: 10000. */
  readonly timeoutMs?: number
  /** Longest body of an answer. Default: 65536. */
  readonly answerBytesMax?: number
  /** Longest body of a request. Default: 65536. */
  readonly requestBytesMax?: number
  /** Connections to one origin. Default: 32. */
  readonly connectionsMax?: number
  /** Calls under way at once. Default: 256. */
  readonly callsMax?: number
  /** Calls that wait for their turn; past it 'overloaded'. Default: 1000. */
  readonly waitersMax?: number
  /** How often a call is repeated after a failure that may pass. Default: 3. Steps and participants repeat by themselves. */
  readonly retriesMax?: number
  /** First pause before a retry, in milliseconds; doubles, with jitter. Default: 50. */
  readonly retryBaseMs?: number
  /** Longest pause before a retry, in milliseconds; a service that asks for more gets this. Default: 2000. */
  readonly retryMaxMs?: number
  /** Sent with every request, such as authorization. */
  readonly headers?: Readonly<Record<string, string>>
}

export interface HttpRequest {
  /** Absolute; of an allowed origin. */
  readonly url: string
  /** Default: POST. */
  readonly method?: 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Sent as JSON. Default: null. */
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

export interface HttpCall extends HttpRequest {
  readonly gid: string
  readonly branch: string
  readonly operation: string
  /** From 1; retries of the client count on from it. */
  readonly attempt: number
  readonly idempotencyKey: string
  readonly signal?: AbortSignal
  /** Default: that of the client. */
  readonly retriesMax?: number
}

export interface HttpAnswer {
  readonly status: number
  /** The JSON of the answer; null when it was empty. */
  readonly body: unknown
}

export interface HttpClient extends AsyncDisposable {
  /**
   * Throws 'service-forbidden', 'service-refused' (4xx: `details.status`, and
   * `details.code` when the answer names one), 'service-answer' (a redirect, no
   * JSON, too long), 'service-failed' (5xx, 408, 425, 429, lost, too late: may
   * pass, and may have been done), 'overloaded'.
   */
  call(call: HttpCall): Promise<HttpAnswer>
  close(): Promise<void>
}

const numbers = {
  timeoutMs: [10_000, 1, 3_600_000],
  answerBytesMax: [65_536, 2, 67_108_864],
  requestBytesMax: [65_536, 2, 67_108_864],
  connectionsMax: [32, 1, 10_000],
  callsMax: [256, 1, 100_000],
  waitersMax: [1_000, 0, 1_000_000],
  retriesMax: [3, 0, 100],
  retryBaseMs: [50, 1, 3_600_000],
  retryMaxMs: [2_000, 1, 3_600_000],
} as const

type Limits = { readonly [K in keyof typeof numbers]: number }

const answerDepthMax = 32
const answerHeaderBytesMax = 16_384
/** Statuses of failures that may pass. */
const passing: ReadonlySet<number> = new Set([408, 425, 429])
/** Headers that only the client sets. */
const ownHeaders: ReadonlySet<string> = new Set([
  ...Object.values(callHeaders),
  ...[
    'idempotency-key',
    'host',
    'content-length',
    'content-type',
    'transfer-encoding',
    'connection',
    'accept-encoding',
    'expect',
    'upgrade',
  ],
])

/** Throws 'option-unknown' and 'option-invalid'. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  checkNames('createHttpClient', options, ['allow', 'headers', ...Object.keys(numbers)])
  const limits = Object.fromEntries(
    Object.entries(numbers).map(([name, [standard, min, max]]) => {
      const value = options[name as keyof Limits] ?? standard
      checkWhole(name, value, min, max)
      return [name, value]
    }),
  ) as Limits
  if (limits.retryBaseMs > limits.retryMaxMs) throw new HeadraceError('option-invalid', 'retryMaxMs must be at least retryBaseMs.')
  if (!Array.isArray(options.allow) || options.allow.length === 0)
    throw new HeadraceError('option-invalid', 'allow must name the origins that may be called, such as https://wallet.internal.')
  return new UndiciClient(new Set(options.allow.map(originOf)), limits, checkHeaders(options.headers ?? {}))
}

class UndiciClient implements HttpClient {
  readonly #allowed: ReadonlySet<string>
  readonly #limits: Limits
  readonly #headers: Readonly<Record<string, string>>
  readonly #agent: Agent
  readonly #places: Permits
  #closed = false

  constructor(allowed: ReadonlySet<string>, limits: Limits, headers: Readonly<Record<string, string>>) {
    this.#allowed = allowed
    this.#limits = limits
    this.#headers = headers
    this.#places = new Permits(limits.callsMax)
    this.#agent = new Agent({
      connections: limits.connectionsMax,
      // One request at a time on a connection: what is lost with it is lost for one call.
      pipelining: 1,
      connectTimeout: limits.timeoutMs,
      headersTimeout: limits.timeoutMs,
      bodyTimeout: limits.timeoutMs,
      maxHeaderSize: answerHeaderBytesMax,
    })
  }

  async call(call: HttpCall): Promise<HttpAnswer> {
    const { retriesMax = this.#limits.retriesMax, signal } = call
    const url = this.#allow(call.url)
    const body = this.#bodyOf(call)
    const { retryBaseMs, retryMaxMs, callsMax, waitersMax } = this.#limits
    if (this.#closed) throw new HeadraceError('stopping', 'The HTTP client is closed.')
    if (this.#places.taken >= callsMax && this.#places.waiting >= waitersMax)
      throw new HeadraceError('overloaded', `${callsMax} calls are under way and ${waitersMax} wait (callsMax, waitersMax).`)
    if (!(await this.#places.take(signal))) throw aborted(signal)
    try {
      for (let retry = 0; ; retry += 1) {
        try {
          return await this.#attempt(url, { ...call, attempt: call.attempt + retry }, body)
        } catch (error) {
          if (!HeadraceError.is(error) || !error.retryable || retry >= retriesMax || isOver(signal)) throw error
          await pause(Math.max(backoffMs(retry, retryBaseMs, retryMaxMs), Math.min(error.retryAfterMs ?? 0, retryMaxMs)), signal)
          if (isOver(signal)) throw aborted(signal)
        }
      }
    } finally {
      this.#places.give()
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#agent.destroy()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #attempt(url: URL, call: HttpCall, body: string): Promise<HttpAnswer> {
    const { timeoutMs } = this.#limits
    const over = new AbortController()
    const timer = setTimeout(() => over.abort(new Error(`no answer within ${timeoutMs} ms`)), timeoutMs)
    const leave = (): void => over.abort(call.signal?.reason)
    if (call.signal?.aborted === true) leave()
    call.signal?.addEventListener('abort', leave, { once: true })
    try {
      const {
        statusCode,
        headers,
        body: stream,
      } = await request(url, {
        dispatcher: this.#agent,
        method: call.method ?? 'POST',
        headers: {
          ...this.#headers,
          ...checkHeaders(call.headers ?? {}),
          'accept': 'application/json',
          'accept-encoding': 'identity',
          'content-type': 'application/json',
          'idempotency-key': call.idempotencyKey,
          [callHeaders.gid]: call.gid,
          [callHeaders.branch]: call.branch,
          [callHeaders.operation]: call.operation,
          [callHeaders.attempt]: String(call.attempt),
        },
        body,
        signal: over.signal,
      })
      const text = await this.#read(stream, url)
      return answerOf(url, statusCode, headers, text)
    } catch (error) {
      if (HeadraceError.is(error)) throw error
      if (call.signal?.aborted === true) throw aborted(call.signal)
      const why = over.signal.aborted ? String((over.signal.reason as Error).message) : String((error as Error).message)
      throw new HeadraceError('service-failed', `${url.origin} failed: ${why.slice(0, 200)}. It may have been done.`, { cause: error })
    } finally {
      clearTimeout(timer)
      call.signal?.removeEventListener('abort', leave)
    }
  }

  async #read(stream: AsyncIterable<Buffer> & { destroy(): unknown }, url: URL): Promise<string> {
    const parts: Buffer[] = []
    let bytes = 0
    for await (const part of stream) {
      bytes += part.length
      if (bytes > this.#limits.answerBytesMax) {
        stream.destroy()
        throw new HeadraceError(
          'service-answer',
          `The answer of ${url.origin} is longer than ${this.#limits.answerBytesMax} bytes (answerBytesMax).`,
        )
      }
      parts.push(part)
    }
    return Buffer.concat(parts).toString('utf8')
  }

  #allow(given: string): URL {
    let url: URL
    try {
      url = new URL(given)
    } catch {
      throw new HeadraceError('service-forbidden', `${JSON.stringify(String(given).slice(0, 200))} is no absolute URL.`)
    }
    if (url.username !== '' || url.password !== '')
      throw new HeadraceError('service-forbidden', `A URL of ${url.origin} holds credentials: send them as a header.`)
    if (this.#allowed.has(url.origin)) return url
    throw new HeadraceError('service-forbidden', `${url.origin} is not allowed. Allowed: ${[...this.#allowed].join(', ')}.`, {
      details: { origin: url.origin },
    })
  }

  #bodyOf({ body = null, branch }: HttpCall): string {
    let text: string | undefined
    try {
      text = JSON.stringify(body)
    } catch (error) {
      throw new HeadraceError('input-invalid', `The body for '${branch}' cannot be sent as JSON.`, { cause: error })
    }
    if (text !== undefined && Buffer.byteLength(text) <= this.#limits.requestBytesMax) return text
    throw new HeadraceError(
      'input-invalid',
      `The body for '${branch}' is no JSON of at most ${this.#limits.requestBytesMax} bytes (requestBytesMax).`,
    )
  }
}

const isOver = (signal: AbortSignal | undefined): boolean => signal?.aborted === true

type AnswerHeaders = Readonly<Record<string, string | readonly string[] | undefined>>

function answerOf(url: URL, status: number, headers: AnswerHeaders, text: string): HttpAnswer {
  if (status >= 300 && status < 400)
    throw new HeadraceError('service-answer', `${url.origin} redirects (${status}), which is refused: name the address itself.`, {
      details: { status },
    })
  if (status >= 500 || passing.has(status)) {
    const retryAfterMs = retryAfterOf(headers['retry-after'])
    throw new HeadraceError('service-failed', `${url.origin} answered ${status}. It may have been done.`, {
      details: { status },
      ...(retryAfterMs === null ? {} : { retryAfterMs }),
    })
  }
  const body = text === '' ? null : parse(url, headers, text, status)
  if (status < 300) return { status, body }
  const code = typeof body === 'object' && body !== null && 'code' in body && typeof body.code === 'string' ? body.code : undefined
  throw new HeadraceError('service-refused', `${url.origin} refused: ${status}${code === undefined ? '' : ` ${code.slice(0, 64)}`}.`, {
    details: { status, ...(code === undefined ? {} : { code }) },
  })
}

function parse(url: URL, headers: AnswerHeaders, text: string, status: number): unknown {
  const type = String(headers['content-type'] ?? '')
  const encoding = headers['content-encoding'] ?? 'identity'
  // What a refusal says is for people; that it is one is enough.
  const refused = status >= 400
  if (encoding !== 'identity' || !/^application\/([a-z.-]+\+)?json\b/i.test(type)) {
    if (refused) return null
    throw new HeadraceError('service-answer', `The answer of ${url.origin} is not plain JSON: ${type.slice(0, 80) || 'no type'}.`)
  }
  try {
    const body = JSON.parse(text) as unknown
    if (jsonDepth(body, answerDepthMax) <= answerDepthMax) return body
  } catch (error) {
    if (refused) return null
    throw new HeadraceError('service-answer', `The answer of ${url.origin} is not JSON.`, { cause: error })
  }
  throw new HeadraceError('service-answer', `The answer of ${url.origin} is nested deeper than ${answerDepthMax}.`)
}

/** RFC 9110, section 10.2.3: seconds or a date. */
function retryAfterOf(value: string | readonly string[] | undefined): number | null {
  if (typeof value !== 'string') return null
  const seconds = /^\d{1,9}$/.test(value) ? Number(value) * 1_000 : Date.parse(value) - Date.now()
  return Number.isFinite(seconds) ? Math.max(0, seconds) : null
}

function originOf(given: unknown): string {
  try {
    const url = new URL(String(given))
    if ((url.protocol === 'http:' || url.protocol === 'https:') && url.href === `${url.origin}/`) return url.origin
  } catch {
    // Refused below.
  }
  throw new HeadraceError('option-invalid', `allow: ${JSON.stringify(given)} is no origin such as https://wallet.internal:8443.`)
}

function checkHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  const checked: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers)) {
    const key = name.toLowerCase()
    if (ownHeaders.has(key)) throw new HeadraceError('option-invalid', `The header ${key} is set by the client itself.`)
    checked[key] = value
  }
  return checked
}

function aborted(signal: AbortSignal | undefined): HeadraceError {
  const { reason } = signal as AbortSignal
  if (HeadraceError.is(reason)) return reason
  return new HeadraceError('service-failed', 'The call was given up. It may have been done.', { cause: reason })
}
