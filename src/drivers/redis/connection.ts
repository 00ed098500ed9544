/**
 * A connection to Redis (or Valkey) as the drivers of this folder use it.
 *
 * What must hold:
 * - No call waits without a bound: it ends after `timeoutMs` with
 *   'engine-timeout', whether the server is stopped, slow or gone. What the
 *   server does with a call that timed out is not known.
 * - Errors are ours, with a stable code, so that a breaker can count them:
 *   'engine-unavailable' and 'engine-timeout' pass by themselves,
 *   'engine-refused' and 'engine-failed' do not.
 * - The password is never printed: the client's own errors carry the arguments
 *   of the failed call (AUTH included), so none of them leaves this file, not
 *   even as a cause.
 */
import { createHash } from 'node:crypto'
import { inspect } from 'node:util'
import { type Cluster, Redis, type RedisOptions } from 'ioredis'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs } from '../../std/backoff.ts'

export type RedisClient = Redis | Cluster

export interface RedisConnectionOptions {
  /** `redis://user:password@host:port/database`, or `rediss://` for TLS. Default: redis://127.0.0.1:6379 */
  readonly url?: string
  /** A client of your own instead (ioredis `Redis` or `Cluster`); it is not closed here. */
  readonly client?: RedisClient
  /** Longest time for one call, in milliseconds. Default: 1000. */
  readonly timeoutMs?: number
  /** Longest time to connect, in milliseconds. Default: 2000. */
  readonly connectTimeoutMs?: number
  /** Seen in CLIENT LIST. Default: 'headrace'. */
  readonly connectionName?: string
}

/** A script and its digest, under which a server keeps it. */
export interface RedisScript {
  readonly text: string
  readonly sha: string
}

export function redisScript(text: string): RedisScript {
  return { text, sha: createHash('sha1').update(text).digest('hex') }
}

const reconnectBaseMs = 50
const reconnectMaxMs = 1_000

interface Pending {
  readonly what: string
  readonly deadline: number
  readonly reject: (error: HeadraceError) => void
}

export class RedisConnection {
  readonly client: RedisClient
  readonly cluster: boolean
  /** Where it goes, for messages: host, port and database, without credentials. */
  readonly address: string
  readonly timeoutMs: number
  readonly #owned: boolean
  readonly #subscribers = new Set<RedisClient>()
  /** Calls without an answer. All have the same bound, so they run out in the order of their start: one timer, for the oldest. */
  readonly #pending = new Set<Pending>()
  #timer: NodeJS.Timeout | null = null
  #lastError: Error | null = null
  #gathering = false
  #closed = false

  constructor(options: RedisConnectionOptions = {}) {
    const { url, client, timeoutMs = 1_000, connectTimeoutMs = 2_000, connectionName = 'headrace' } = options
    if (url !== undefined && client !== undefined)
      throw new HeadraceError('option-invalid', 'Give the url of Redis or a client of your own, not both.')
    checkWhole('timeoutMs', timeoutMs, 10, 60_000)
    checkWhole('connectTimeoutMs', connectTimeoutMs, 10, 60_000)
    this.timeoutMs = timeoutMs
    this.#owned = client === undefined
    if (client === undefined) {
      const target = parseUrl(url ?? 'redis://127.0.0.1:6379')
      this.address = target.address
      this.client = new Redis(target.url, {
        lazyConnect: true,
        connectTimeout: connectTimeoutMs,
        connectionName,
        // A lost connection answers the calls in flight at once; the caller decides what to repeat.
        maxRetriesPerRequest: 0,
        retryStrategy: (times) => backoffMs(times, reconnectBaseMs, reconnectMaxMs),
      })
    } else {
      this.client = client
      this.address = addressOf(client)
    }
    this.cluster = this.client.isCluster
    this.client.on('error', this.#rememberError)
  }

  /** Runs a call on the client within the bound. `what` names it in messages: 'taking a lock'. */
  call<T>(what: string, run: (client: RedisClient) => Promise<T>): Promise<T> {
    if (this.#closed)
      return Promise.reject(new HeadraceError('engine-unavailable', `The connection to Redis at ${this.address} is closed.`))
    this.#gather()
    return this.within(what, run(this.client))
  }

  /** Bounds and translates what was asked of one of the clients of this connection. */
  within<T>(what: string, work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const pending = this.#begin(what, reject)
      work.then(
        (value) => {
          this.#pending.delete(pending)
          resolve(value)
        },
        (error: unknown) => this.#fail(pending, error),
      )
    })
  }

  /**
   * Runs a script on one key: by its digest, and with its text only when the
   * server does not know it (yet, or any more).
   */
  script(what: string, script: RedisScript, key: string, args: readonly (string | number)[]): Promise<unknown> {
    if (this.#closed) return this.call(what, () => Promise.reject(new Error('closed')))
    this.#gather()
    return new Promise((resolve, reject) => {
      const pending = this.#begin(what, reject)
      const answer = (value: unknown): void => {
        this.#pending.delete(pending)
        resolve(value)
      }
      this.client.evalsha(script.sha, 1, key, ...args).then(answer, (error: Error) => {
        if (error.message.startsWith('NOSCRIPT'))
          this.client.eval(script.text, 1, key, ...args).then(answer, (reason: unknown) => this.#fail(pending, reason))
        else this.#fail(pending, error)
      })
    })
  }

  /**
   * Calls that are made in one turn of the event loop go to the server in one
   * write: a system call for each of them would cost more than all else.
   */
  #gather(): void {
    // A call that is alone has nobody to wait for.
    if (this.#gathering || this.#pending.size === 0 || this.cluster) return
    const { stream } = this.client as Redis
    if (stream === undefined || stream.destroyed) return
    this.#gathering = true
    stream.cork()
    // Runs once the promises that are ready now have been continued.
    process.nextTick(() => {
      this.#gathering = false
      stream.uncork()
    })
  }

  /**
   * A connection of its own for subscriptions: it subscribes again by itself
   * after it was lost, and closes with this one.
   */
  subscriber(): RedisClient {
    const retryStrategy = (times: number): number => backoffMs(times, reconnectBaseMs, reconnectMaxMs)
    const client: RedisClient = this.cluster
      ? (this.client as Cluster).duplicate([], { lazyConnect: false, shardedSubscribers: true })
      : (this.client as Redis<'legacy'>).duplicate<Partial<RedisOptions>>({
          lazyConnect: false,
          autoResubscribe: true,
          maxRetriesPerRequest: null,
          retryStrategy,
        })
    client.on('error', this.#rememberError)
    this.#subscribers.add(client)
    return client
  }

  /** Our own error for what the client said, without anything secret in it. */
  explain(what: string, error: unknown): HeadraceError {
    const message = error instanceof Error ? error.message : String(error)
    const where = `Redis at ${this.address}`
    if (error instanceof HeadraceError) return error
    if (/^(WRONGPASS|NOAUTH|ERR invalid password|ERR AUTH|ERR Client sent AUTH)/.test(message)) {
      return new HeadraceError('engine-refused', `${where} refused the user or password while ${what}. Correct them in its url.`)
    }
    if (/^(NOPERM|ERR unknown command|ERR This instance has)/.test(message)) {
      return new HeadraceError(
        'engine-refused',
        `${where} does not allow what ${what} needs: ${clean(message)} Give the user the rights for scripts (+eval +evalsha), its keys (~…) and its channels (&…).`,
      )
    }
    if (message.startsWith('READONLY'))
      return new HeadraceError('engine-refused', `${where} is a read-only replica: ${what} needs the primary. Correct its url.`)
    if (message.startsWith('MISCONF'))
      return new HeadraceError(
        'engine-refused',
        `${where} refuses writes because it cannot save to its disk: free space there, or correct its settings.`,
      )
    if (message.startsWith('OOM'))
      return new HeadraceError('engine-refused', `${where} is full while ${what}: raise its maxmemory, or choose an eviction policy.`)
    if (message.startsWith('CROSSSLOT'))
      return new HeadraceError('engine-failed', `${where} is a cluster, and ${what} touched keys of several slots.`)
    if (/^(LOADING|BUSY|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|NOREPLICAS|UNBLOCKED)/.test(message)) {
      return new HeadraceError('engine-unavailable', `${where} is not ready for ${what}: ${clean(message)}`)
    }
    if (error instanceof Error && error.name === 'ReplyError')
      return new HeadraceError('engine-failed', `${where} answered ${what} with an error: ${clean(message)}`)
    if (message === 'Command timed out') return this.#timedOut(what)
    return new HeadraceError('engine-unavailable', `${where} cannot be reached for ${what}: ${this.#reason(message)}`)
  }

  /** Closes the subscribers, and the client when it was made here. Calls in flight are answered 'engine-unavailable'. */
  close(): Promise<void> {
    if (this.#closed) return Promise.resolve()
    this.#closed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    for (const subscriber of this.#subscribers) subscriber.disconnect()
    this.client.off('error', this.#rememberError)
    this.client.on('error', () => {})
    if (this.#owned) this.client.disconnect()
    return Promise.resolve()
  }

  /** A logged connection shows its address, never the options of its client. */
  [inspect.custom](): string {
    return `RedisConnection(${this.address})`
  }

  #timedOut(what: string): HeadraceError {
    return new HeadraceError(
      'engine-timeout',
      `Redis at ${this.address} did not answer ${what} within ${this.timeoutMs} ms${this.#lastError === null ? '' : ` (last: ${clean(this.#lastError.message)})`}.`,
    )
  }

  /** Flushed calls are told about the retry limit; what broke the connection says more. */
  #reason(message: string): string {
    return clean(
      this.#lastError !== null && /max retries per request|Connection is closed/.test(message) ? this.#lastError.message : message,
    )
  }

  #rememberError = (error: Error): void => {
    this.#lastError = error
  }

  #begin(what: string, reject: (error: HeadraceError) => void): Pending {
    const pending: Pending = { what, reject, deadline: performance.now() + this.timeoutMs }
    this.#pending.add(pending)
    this.#timer ??= setTimeout(this.#expire, this.timeoutMs)
    return pending
  }

  #fail(pending: Pending, error: unknown): void {
    // One that ran out has had its answer.
    if (this.#pending.delete(pending)) pending.reject(this.explain(pending.what, error))
  }

  #expire = (): void => {
    this.#timer = null
    const now = performance.now()
    for (const pending of this.#pending) {
      if (pending.deadline > now) {
        this.#timer = setTimeout(this.#expire, Math.ceil(pending.deadline - now))
        return
      }
      this.#pending.delete(pending)
      pending.reject(this.#timedOut(pending.what))
    }
  }
}

/** The first line of what a server said, bounded. */
function clean(message: string): string {
  const line = (message.split('\n')[0] ?? '').trim().slice(0, 200)
  return /[.!?]$/.test(line) ? line : `${line}.`
}

function parseUrl(url: string): { readonly url: string; readonly address: string } {
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    throw new HeadraceError('option-invalid', 'The url of Redis is not a URL: write redis://user:password@host:port/database.')
  }
  if (parsed.protocol !== 'redis:' && parsed.protocol !== 'rediss:') {
    throw new HeadraceError('option-invalid', `The url of Redis must start with redis:// or rediss://, not ${parsed.protocol}//.`)
  }
  const port = parsed.port === '' ? '6379' : parsed.port
  return {
    url,
    address: `${parsed.hostname === '' ? '127.0.0.1' : parsed.hostname}:${port}${parsed.pathname === '/' ? '' : parsed.pathname}`,
  }
}

function addressOf(client: RedisClient): string {
  if (client.isCluster) return 'the cluster'
  const { host = '127.0.0.1', port = 6379, path } = (client as Redis<'legacy'>).options
  return path ?? `${host}:${port}`
}
