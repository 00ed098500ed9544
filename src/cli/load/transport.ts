/** One request, one whole reply, over a fixed number of kept connections (undici's dispatch, the least work per request). */
import { Pool, type Dispatcher } from 'undici'

export interface Reply {
  readonly status: number
  readonly body: string
  readonly location: string | null
  readonly retryAfterMs: number | null
}

export interface TransportOptions {
  readonly url: string
  /** Connections that are kept open. */
  readonly connections: number
  /** Longest wait for the head of a reply, and between two pieces of it, in milliseconds. */
  readonly requestTimeoutMs: number
}

export interface Transport {
  /** Resolves with the whole reply; rejects when the connection breaks before its end. `headers` are name, value, name, value … */
  send(method: 'GET' | 'POST', path: string, headers: string[], body: string | null): Promise<Reply>
  /** Breaks every connection. */
  close(): Promise<void>
}

/** Longest time to open a connection, in milliseconds. */
const connectTimeoutMs = 5_000
/** Most bytes of one reply that are taken. */
const replyBytesMax = 256 * 1024 ** 2

export function createTransport(options: TransportOptions): Transport {
  const base = new URL(options.url)
  const prefix = base.pathname.replace(/\/+$/, '')
  const pool = new Pool(base.origin, {
    connections: options.connections,
    pipelining: 1,
    keepAliveTimeout: 60_000,
    headersTimeout: options.requestTimeoutMs,
    bodyTimeout: options.requestTimeoutMs,
    connect: { timeout: connectTimeoutMs },
  })
  return {
    send: (method, path, headers, body) =>
      new Promise((resolve, reject) => {
        pool.dispatch({ method, path: prefix + path, headers, body }, new ReplyHandler(resolve, reject))
      }),
    close: () => pool.destroy(),
  }
}

class ReplyHandler implements Dispatcher.DispatchHandler {
  readonly #resolve: (reply: Reply) => void
  readonly #reject: (error: Error) => void
  #status = 0
  #location: string | null = null
  #retryAfterMs: number | null = null
  #first: Buffer | null = null
  #more: Buffer[] | null = null
  #bytes = 0

  constructor(resolve: (reply: Reply) => void, reject: (error: Error) => void) {
    this.#resolve = resolve
    this.#reject = reject
  }

  onRequestStart(): void {}

  onResponseStart(
    _controller: Dispatcher.DispatchController,
    status: number,
    headers: Readonly<Record<string, string | string[] | undefined>>,
  ): void {
    this.#status = status
    const location = headers['location']
    if (typeof location === 'string') this.#location = location
    const retryAfter = headers['retry-after']
    if (typeof retryAfter === 'string') this.#retryAfterMs = retryAfterOf(retryAfter)
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    this.#bytes += chunk.length
    if (this.#bytes > replyBytesMax) controller.abort(new Error(`the reply is longer than ${replyBytesMax} bytes`))
    else if (this.#first === null) this.#first = chunk
    else if (this.#more === null) this.#more = [this.#first, chunk]
    else this.#more.push(chunk)
  }

  onResponseEnd(): void {
    const body = this.#more === null ? (this.#first?.toString() ?? '') : Buffer.concat(this.#more).toString()
    this.#resolve({ status: this.#status, body, location: this.#location, retryAfterMs: this.#retryAfterMs })
  }

  onResponseError(_controller: Dispatcher.DispatchController, error: Error): void {
    this.#reject(error)
  }
}

/** Retry-After in seconds; the form with a date is taken as well (RFC 9110, section 10.2.3). */
function retryAfterOf(value: string): number | null {
  const ms = /^\d+(\.\d+)?$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now()
  return Number.isFinite(ms) ? Math.max(0, ms) : null
}
