/**
 * A connection to Memcached: gets, cas, add and set on bytes, under our keys.
 *
 * Built on memcache-client, which has compare-and-swap, a bound on every call,
 * and a parser that works on buffers. (memjs speaks the binary protocol, which
 * Memcached has deprecated, and has no compare-and-swap; memcached was last
 * released in 2016; memcache needs a newer Node than we do.)
 *
 * What must hold: no call waits longer than `timeoutMs`, and all errors are ours.
 */
import { createHash } from 'node:crypto'
import { MemcacheClient } from 'memcache-client'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'

export interface MemcachedOptions {
  /** host:port. Default: 127.0.0.1:11211 */
  readonly server?: string
  /** Starts every key: 1 to 32 of letters, digits, `:`, `_`, `.`, `-`. Default: 'headrace:' */
  readonly prefix?: string
  /** Longest time for one call, in milliseconds. Default: 1000. */
  readonly timeoutMs?: number
  /** Connections at most. Default: 2. */
  readonly connectionsMax?: number
  /** The largest item that the server takes (its option -I), in bytes. Default: one MiB. */
  readonly itemBytesMax?: number
}

/** Memcached's own bound is 250; the rest is for what it adds. */
const keyBytesMax = 240
/** Longer times are taken for a date. */
const relativeSecondsMax = 30 * 86_400

export interface Held {
  readonly value: Buffer
  readonly cas: string
}

export type Stored = 'stored' | 'conflict' | 'too-large'

export class MemcachedConnection {
  readonly address: string
  readonly #client: MemcacheClient
  readonly #prefix: string
  readonly #timeoutMs: number
  #closed = false

  constructor(options: MemcachedOptions) {
    const { server = '127.0.0.1:11211', prefix = 'headrace:', timeoutMs = 1_000, connectionsMax = 2 } = options
    if (!/^[A-Za-z0-9._-]+:\d{1,5}$/.test(server)) throw new HeadraceError('option-invalid', 'The server of Memcached must be host:port.')
    if (!/^[A-Za-z0-9:_.-]{1,32}$/.test(prefix))
      throw new HeadraceError('option-invalid', 'prefix must be 1 to 32 letters, digits, colons, dots, dashes or underscores.')
    checkWhole('timeoutMs', timeoutMs, 10, 60_000)
    checkWhole('connectionsMax', connectionsMax, 1, 1_000)
    this.address = server
    this.#prefix = prefix
    this.#timeoutMs = timeoutMs
    const silent = (): void => {}
    this.#client = new MemcacheClient({
      server: { server, maxConnections: connectionsMax },
      cmdTimeout: timeoutMs,
      connectTimeout: timeoutMs,
      noDelay: true,
      logger: { debug: silent, info: silent, warn: silent, error: silent },
    })
  }

  async get(key: string): Promise<Buffer | null> {
    const found = await this.#call('reading the cache', () => this.#client.get<Buffer>(this.#name(key)))
    return bufferOf(found)
  }

  /** With the mark that `cas` asks for. */
  async gets(key: string): Promise<Held | null> {
    const found = (await this.#call('reading the cache', () => this.#client.gets<Buffer>(this.#name(key)))) as
      | { casUniq?: string | number }
      | undefined
    const value = bufferOf(found)
    return value === null ? null : { value, cas: String(found?.casUniq) }
  }

  /** Writes unless somebody else has written since `gets`. */
  cas(key: string, { cas }: Held, value: Buffer, keepMs: number): Promise<Stored> {
    return this.#store(() => this.#client.cas(this.#name(key), value, { casUniq: cas, lifetime: lifetimeOf(keepMs) }))
  }

  /** Writes unless there is something. */
  add(key: string, value: Buffer, keepMs: number): Promise<Stored> {
    return this.#store(() => this.#client.add(this.#name(key), value, { lifetime: lifetimeOf(keepMs) }))
  }

  set(key: string, value: Buffer, keepMs: number): Promise<Stored> {
    return this.#store(() => this.#client.set(this.#name(key), value, { lifetime: lifetimeOf(keepMs) }))
  }

  close(): Promise<void> {
    this.#closed = true
    this.#client.shutdown()
    return Promise.resolve()
  }

  async #store(run: () => Promise<unknown>): Promise<Stored> {
    try {
      const answer = await this.#call('writing to the cache', run)
      return String(answer) === 'STORED' ? 'stored' : 'conflict'
    } catch (error) {
      const reason = HeadraceError.is(error) ? error.details?.['answer'] : undefined
      if (reason === 'NOT_STORED' || reason === 'EXISTS' || reason === 'NOT_FOUND') return 'conflict'
      if (typeof reason === 'string' && reason.includes('too large')) return 'too-large'
      throw error
    }
  }

  async #call<T>(what: string, run: () => Promise<T>): Promise<T> {
    if (this.#closed) throw new HeadraceError('engine-unavailable', `The connection to Memcached at ${this.address} is closed.`)
    try {
      return await run()
    } catch (error) {
      throw this.#explain(what, error instanceof Error ? error.message : String(error))
    }
  }

  #explain(what: string, message: string): HeadraceError {
    const where = `Memcached at ${this.address}`
    const details = { details: { answer: message } }
    if (/timeout/i.test(message))
      return new HeadraceError('engine-timeout', `${where} did not answer ${what} within ${this.#timeoutMs} ms.`, details)
    if (/^(NOT_STORED|EXISTS|NOT_FOUND)/.test(message))
      return new HeadraceError('engine-failed', `${where} answered ${what} with ${message}.`, {
        details: { answer: message.split(' ')[0] },
      })
    if (/out of memory/.test(message))
      return new HeadraceError('engine-refused', `${where} has no memory for what is written: give it more (-m).`, details)
    if (/^(SERVER_ERROR|CLIENT_ERROR|ERROR)/.test(message))
      return new HeadraceError('engine-failed', `${where} answered ${what} with an error: ${message.slice(0, 200)}.`, details)
    return new HeadraceError('engine-unavailable', `${where} cannot be reached for ${what}: ${message.slice(0, 200)}.`, details)
  }

  /** Memcached takes 250 bytes without blanks and control characters; other keys go by their digest. */
  #name(key: string): string {
    const plain = this.#prefix + key
    if (plain.length <= keyBytesMax && /^[\x21-\x7e]+$/.test(plain)) return plain
    return `${this.#prefix}#${createHash('sha256').update(key).digest('base64url')}`
  }
}

function bufferOf(found: unknown): Buffer | null {
  const value = (found as { value?: unknown } | undefined)?.value
  return Buffer.isBuffer(value) ? value : null
}

function lifetimeOf(keepMs: number): number {
  const seconds = Math.max(1, Math.ceil(keepMs / 1_000))
  return seconds <= relativeSecondsMax ? seconds : Math.floor(Date.now() / 1_000) + seconds
}
