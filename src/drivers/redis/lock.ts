/**
 * Locks on Redis or Valkey, one server or a cluster. The protocol is in
 * `lock-scripts.ts`, the pushes in `lock-wake.ts`.
 *
 * Redis may lose the last moments at a failover, and everything when it keeps
 * nothing on disk: then two clients can believe that they hold a lock until the
 * older one asks again. Tokens still grow; the guard in the database is what
 * is safe.
 */
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type LockAnswer,
  type LockEnd,
  type LockEngine,
  type LockEvents,
  type LockHolder,
  type LockRequest,
  type LockStatus,
  wholeLimit,
} from '../../contracts/lock.ts'
import { clientName } from '../../std/client-name.ts'
import { type RedisClient, RedisConnection, type RedisConnectionOptions, type RedisScript, redisScript as script } from './connection.ts'
import { lockScripts } from './lock-scripts.ts'
import { RedisLockWake } from './lock-wake.ts'

export interface RedisLocksOptions extends RedisConnectionOptions {
  /** Starts every key and channel: 1 to 64 of letters, digits, `:`, `_`, `.`, `-`. Default: 'headrace:lock:'. */
  readonly prefix?: string
  /** How many may wait for one key. Default: 10000. */
  readonly waitersMax?: number
  /** How long the last token of a key is kept after its last lease, in milliseconds. Default: one hour. */
  readonly tokenMemoryMs?: number
}

/** Locks on Redis: `createLocks(redisLocks({ url }))`. */
export function redisLocks(options: RedisLocksOptions = {}): LockEngine {
  return new RedisLockEngine(options)
}

class RedisLockEngine implements LockEngine {
  readonly engine = 'redis'
  readonly client = clientName()
  readonly tellsGaps: boolean
  readonly #connection: RedisConnection
  readonly #prefix: string
  readonly #wake: RedisLockWake
  readonly #memoryMs: number
  readonly #scripts: { readonly [K in keyof ReturnType<typeof lockScripts>]: RedisScript }

  constructor(options: RedisLocksOptions) {
    const { prefix = 'headrace:lock:', waitersMax = 10_000, tokenMemoryMs = 3_600_000, ...connection } = options
    if (!/^[A-Za-z0-9:_.-]{1,64}$/.test(prefix))
      throw new HeadraceError('option-invalid', 'prefix must be 1 to 64 letters, digits, colons, dots, dashes or underscores.')
    checkWhole('waitersMax', waitersMax, 1, 1_000_000)
    checkWhole('tokenMemoryMs', tokenMemoryMs, 1_000, 30 * 86_400_000)
    this.#connection = new RedisConnection(connection)
    this.tellsGaps = !this.#connection.cluster
    this.#prefix = prefix
    this.#memoryMs = tokenMemoryMs
    this.#wake = new RedisLockWake(this.#connection, prefix, this.client)
    const texts = lockScripts({ prefix, cluster: this.#connection.cluster, waitersMax, memoryMs: tokenMemoryMs })
    this.#scripts = {
      acquire: script(texts.acquire),
      release: script(texts.release),
      extend: script(texts.extend),
      break: script(texts.break),
      status: script(texts.status),
    }
  }

  listen(events: LockEvents): void {
    this.#wake.listen(events)
  }

  async acquire(request: LockRequest): Promise<LockAnswer> {
    const hash = this.#hash(request.key)
    if (request.waitMs > 0) {
      if (this.#connection.cluster) {
        // A channel for each lock: only once it turns out not to be free.
        const first = await this.#ask(hash, request, 0)
        if (first.state !== 'refused') return first
      }
      await this.#wake.ready(hash, request.waitMs)
    }
    return this.#ask(hash, request, request.waitMs)
  }

  async #ask(hash: string, request: LockRequest, waitMs: number): Promise<LockAnswer> {
    const { id, permits, limit, ttlMs, tokenFloor } = request
    const keepMs = ttlMs + this.#memoryMs
    const floor = String(tokenFloor).padStart(16, '0')
    const args = permits === wholeLimit ? [id, keepMs, waitMs, floor] : [id, keepMs, waitMs, floor, ` ${permits} ${limit} `]
    const reply = await this.#connection.script('taking a lock', this.#scripts.acquire, hash, args)
    if (typeof reply === 'string') return { state: 'granted', token: Number(reply), remainingMs: ttlMs }
    const [state, value, ms, tokenBefore] = reply as [number, number, number, number]
    switch (state) {
      case 1:
        return { state: 'granted', token: value, remainingMs: ms }
      case 0:
        return { state: 'queued', endsInMs: ms, tokenBefore }
      case -1:
        return { state: 'refused', endsInMs: ms, tokenBefore }
      case -2:
        return { state: 'limit-differs', limit: value }
      default:
        return { state: 'full' }
    }
  }

  async extend(key: string, id: string, token: number, ttlMs: number): Promise<LockEnd> {
    return end(await this.#connection.script('extending a lock', this.#scripts.extend, this.#hash(key), [id, token, ttlMs]))
  }

  async release(key: string, id: string): Promise<LockEnd> {
    return end(await this.#connection.script('releasing a lock', this.#scripts.release, this.#hash(key), [id]))
  }

  async break(key: string, id = ''): Promise<number> {
    return (await this.#connection.script('breaking a lock', this.#scripts.break, this.#hash(key), [id])) as number
  }

  async list(max: number): Promise<LockStatus[]> {
    const found: LockStatus[] = []
    for (const node of this.#nodes()) {
      let cursor = '0'
      do {
        const [next, hashes] = await this.#connection.within(
          'listing locks',
          node.scan(cursor, 'MATCH', `${this.#prefix}{*}`, 'COUNT', 200),
        )
        cursor = next
        for (const hash of hashes) {
          if (found.length >= max) return found
          const status = this.#status(hash, await this.#connection.script('listing locks', this.#scripts.status, hash, []))
          if (status !== null) found.push(status)
        }
      } while (cursor !== '0')
    }
    return found
  }

  close(): Promise<void> {
    this.#wake.close()
    return this.#connection.close()
  }

  #nodes(): Exclude<RedisClient, { isCluster: true }>[] {
    const { client } = this.#connection
    return 'nodes' in client ? (client.nodes('master') as never) : [client as never]
  }

  #status(hash: string, reply: unknown): LockStatus | null {
    const [now, value, waiting, flat] = reply as [number, string, number, string[]]
    const [last = '', second = '', third = '', fourth = '', id = ''] = value.slice(1).split(' ')
    const one = value.startsWith('x')
    const entries = one ? [id, `${third} ${last} ${Math.floor(Number(last) / 1_000) + Number(second) - this.#memoryMs}`] : flat
    const holders: LockHolder[] = []
    for (let i = 0; i + 1 < entries.length; i += 2) {
      const [permits = 0, token = 0, expiry = 0] = (entries[i + 1] ?? '').split(' ').map(Number)
      if (expiry > now) holders.push({ id: entries[i] ?? '', token, permits, remainingMs: expiry - now })
    }
    if (holders.length === 0 && waiting === 0) return null
    return {
      key: decodeKey(hash.slice(this.#prefix.length + 1, -1)),
      limit: Number(one ? fourth : second),
      lastToken: Number(last),
      holders,
      waiting,
    }
  }

  /** The name of the hash: the key in braces is the hash tag, so everything of a lock is in one slot. */
  #hash(key: string): string {
    return `${this.#prefix}{${encodeKey(key)}}`
  }
}

function end(reply: unknown): LockEnd {
  if (reply === 1) return { held: true, tokenBefore: null }
  const [held, tokenBefore] = reply as [number, number]
  return { held: held === 1, tokenBefore }
}

/** Braces would move the end of the hash tag. */
const encodeKey = (key: string): string =>
  /[%{}]/.test(key) ? key.replace(/[%{}]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`) : key
const decodeKey = (text: string): string => text.replace(/%(25|7b|7d)/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)))
