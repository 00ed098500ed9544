/**
 * The shared store of the cache on Redis or Valkey, one server or a cluster. The
 * protocol is in `cache-scripts.ts`, the pushes in `cache-pushes.ts`.
 *
 * Redis may evict, lose its last moments at a failover, or everything at a
 * restart. A key is lost as a whole, lease included, so that a load which began
 * before cannot fill; floors that are lost with it are known to the nodes for
 * as long as they keep them.
 */
import { createHash } from 'node:crypto'
import { HeadraceError } from '../../contracts/errors.ts'
import type { CacheStore, Change, FillAnswer, FillRequest, LeaseAnswer, LeaseRequest, StoreRead, TagMark } from '../../contracts/cache.ts'
import { clientName } from '../../std/client-name.ts'
import { ServerClock } from './cache-clock.ts'
import { CachePushes } from './cache-pushes.ts'
import { newToken, viewRecord } from '../../contracts/cache-record.ts'
import { cacheScripts } from './cache-scripts.ts'
import { RedisConnection, type RedisConnectionOptions } from './connection.ts'

export interface RedisCacheOptions extends RedisConnectionOptions {
  /** Starts every key and channel: 1 to 64 of letters, digits, `:`, `_`, `.`, `-`. Default: 'headrace:cache:'. */
  readonly prefix?: string
}

/** How long a record without a value is kept, unless its floor says otherwise. */
const emptyKeepMs = 60_000
const tagKeepMs = 7 * 86_400_000
const claimKeepMs = 30 * 86_400_000
const bodyBytesMax = 64 * 1024 ** 2

const fillAnswers: readonly FillAnswer[] = ['stored', 'below-floor', 'superseded']

interface Script {
  readonly text: string
  readonly sha: string
}

/** The shared tier on Redis: `createCache({ store: redisCache({ url }) })`. */
export function redisCache(options: RedisCacheOptions = {}): CacheStore {
  return new RedisCacheStore(options)
}

export function checkPrefix(prefix: string): string {
  if (!/^[A-Za-z0-9:_.-]{1,64}$/.test(prefix))
    throw new HeadraceError('option-invalid', 'prefix must be 1 to 64 letters, digits, colons, dots, dashes or underscores.')
  return prefix
}

class RedisCacheStore implements CacheStore {
  readonly engine = 'redis'
  readonly push = true
  readonly bodyBytesMax = bodyBytesMax
  readonly name: string
  readonly #connection: RedisConnection
  readonly #prefix: string
  readonly #client = clientName()
  readonly #pushes: CachePushes
  readonly #clock = new ServerClock()
  readonly #scripts: { readonly [K in keyof ReturnType<typeof cacheScripts>]: Script }

  constructor(options: RedisCacheOptions) {
    const { prefix = 'headrace:cache:', ...connection } = options
    this.#prefix = checkPrefix(prefix)
    this.#connection = new RedisConnection(connection)
    this.name = `Redis at ${this.#connection.address}`
    const channel = `${this.#prefix}filled:`
    this.#pushes = new CachePushes(this.#connection, channel + this.#client)
    const texts = cacheScripts(channel)
    this.#scripts = {
      lease: script(texts.lease),
      fill: script(texts.fill),
      release: script(texts.release),
      extend: script(texts.extend),
      change: script(texts.change),
      mark: script(texts.mark),
      claim: script(texts.claim),
    }
  }

  async read(key: string): Promise<StoreRead> {
    const now = this.#clock.now() ?? (await this.#askTime())
    const record = await this.#connection.call('reading the cache', (client) => client.getBuffer(this.#key(key)))
    return viewRecord(record, now)
  }

  async lease({ key, floor, minVersion, leaseMs, refresh }: LeaseRequest): Promise<LeaseAnswer> {
    const name = this.#key(key)
    await this.#pushes.ready()
    const waiter = this.#pushes.announce(name)
    const token = newToken()
    try {
      const sentAt = performance.now()
      const reply = await this.#run('taking a load lease', this.#scripts.lease, name, [
        floor,
        minVersion,
        leaseMs,
        refresh ? 1 : 0,
        token,
        this.#client,
        emptyKeepMs,
      ])
      const [state, now, leftMs, record] = reply as [number, number, number, Buffer]
      this.#clock.sample(now, sentAt, performance.now())
      const read = viewRecord(record, now)
      if (state === 2) return { state: 'wait', read, filled: (forMs, signal) => waiter.wait(Math.min(forMs, leftMs), signal) }
      waiter.leave()
      return state === 1 ? { state: 'leased', token, read } : { state: 'hit', read }
    } catch (error) {
      waiter.leave()
      throw error
    }
  }

  async extend(key: string, token: string, leaseMs: number): Promise<boolean> {
    return (await this.#run('extending a load lease', this.#scripts.extend, this.#key(key), [token, leaseMs])) === 1
  }

  async fill({ key, token, version, raise, body, freshMs, keepMs }: FillRequest): Promise<FillAnswer> {
    const sentAt = performance.now()
    const args = [
      token ?? '',
      version ?? '',
      raise ? 1 : 0,
      freshMs,
      keepMs,
      Buffer.from(body.buffer, body.byteOffset, body.byteLength),
      emptyKeepMs,
    ]
    const [answer, now] = (await this.#run('filling the cache', this.#scripts.fill, this.#key(key), args)) as [number, number]
    this.#clock.sample(now, sentAt, performance.now())
    return fillAnswers[answer - 1] ?? 'superseded'
  }

  async release(key: string, token: string): Promise<void> {
    await this.#run('releasing a load lease', this.#scripts.release, this.#key(key), [token, emptyKeepMs])
  }

  async change(changes: readonly Change[], floorKeepMs: number): Promise<void> {
    // Side by side on one connection: one round trip, and every key in the slot of its own.
    await Promise.all(
      changes.map(({ kind, name, version }) =>
        kind === 'key'
          ? this.#run('raising a floor', this.#scripts.change, this.#key(name), [version ?? '', floorKeepMs])
          : this.#run('changing a tag', this.#scripts.mark, this.#tag(name), [version ?? '', newToken(), tagKeepMs]),
      ),
    )
  }

  marks(tags: readonly string[]): Promise<TagMark[]> {
    return Promise.all(
      tags.map(async (tag) => {
        const mark = (await this.#run('reading a tag', this.#scripts.mark, this.#tag(tag), ['?', newToken(), tagKeepMs])) as Buffer
        const [stamp = '', floor = '0'] = mark.toString('latin1').split(' ')
        return { stamp, floor: Number(floor) }
      }),
    )
  }

  async claim(name: string, text: string): Promise<string> {
    const found = (await this.#run('claiming a namespace', this.#scripts.claim, `${this.#prefix}{claim ${name}}`, [
      text,
      claimKeepMs,
    ])) as Buffer
    return found.toString()
  }

  async note(name: string, text: string, keepMs: number): Promise<void> {
    await this.#connection.call('writing a note', (client) => client.set(`${this.#prefix}{note ${name}}`, text, 'PX', keepMs))
  }

  recall(name: string): Promise<string | null> {
    return this.#connection.call('reading a note', (client) => client.get(`${this.#prefix}{note ${name}}`))
  }

  close(): Promise<void> {
    return this.#connection.close()
  }

  async #askTime(): Promise<number> {
    const sentAt = performance.now()
    const [seconds, micros] = (await this.#connection.call('reading the clock', (client) => client.time())) as unknown as [
      string | number,
      string | number,
    ]
    this.#clock.sample(Number(seconds) * 1_000 + Number(micros) / 1_000, sentAt, performance.now())
    return this.#clock.now() ?? 0
  }

  /** The key in braces is the hash tag: all of a key is in one slot. Only the first closing brace counts, and it is the same for all. */
  #key(key: string): string {
    return `${this.#prefix}{${key}}`
  }

  #tag(tag: string): string {
    return `${this.#prefix}{tag ${tag}}`
  }

  /** By digest; the text goes along only when the server does not know it (yet, or any more). */
  #run(what: string, { text, sha }: Script, key: string, args: readonly (string | number | Buffer)[]): Promise<unknown> {
    return this.#connection.call(what, (client) =>
      client.callBuffer('EVALSHA', sha, 1, key, ...args).catch((error: Error) => {
        if (!error.message.startsWith('NOSCRIPT')) throw error
        return client.callBuffer('EVAL', text, 1, key, ...args)
      }),
    )
  }
}

const script = (text: string): Script => ({ text, sha: createHash('sha1').update(text).digest('hex') })
