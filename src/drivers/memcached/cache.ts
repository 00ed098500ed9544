/**
 * The shared store of the cache on Memcached: the protocol of the record
 * (`contracts/cache-record.ts`) by compare-and-swap, since Memcached has no
 * scripts. Every step reads the record, works out the next one, and writes it
 * unless somebody else was first; then it starts over.
 *
 * What Memcached cannot do: it does not push, so waiters look again, at growing
 * pauses; it has no clock to read, so times go by the clocks of the nodes, which
 * must agree to a few milliseconds of a time to live; and it evicts floors with
 * their keys. A load under way is evicted with them, so it cannot fill; a load
 * that begins afterwards on a replica that lags is stopped only by the floors
 * that its own node remembers.
 */
import { setTimeout as pause } from 'node:timers/promises'
import type { CacheStore, Change, FillAnswer, FillRequest, LeaseAnswer, LeaseRequest, StoreRead, TagMark } from '../../contracts/cache.ts'
import {
  type CacheRecord,
  decodeRecord,
  emptyRecord,
  encodeRecord,
  headBytes,
  newToken,
  noToken,
  viewRecord,
} from '../../contracts/cache-record.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { MemcachedConnection, type MemcachedOptions, type Stored } from './connection.ts'

const emptyKeepMs = 60_000
const tagKeepMs = 7 * 86_400_000
const claimKeepMs = 30 * 86_400_000

/** Tries of one step while others write the same key. */
const triesMax = 100
const tryPauseMsMax = 4

/** A waiter looks again after 4 ms, then twice as long each time, up to 64. */
const lookPauseMs = 4
const lookPauseMsMax = 64

/** What Memcached needs of an item besides its value: key, flags, links. */
const itemOverheadBytes = 512

interface Next<T> {
  /** Null leaves the record as it is. */
  readonly record: CacheRecord | null
  readonly keepMs: number
  readonly answer: T
}

interface LeaseStep {
  readonly record: CacheRecord
  readonly state: LeaseAnswer['state']
  readonly leftMs: number
  /** Whose lease it is. */
  readonly holder: string
}

/** The shared tier on Memcached: `createCache({ store: memcachedCache({ server }) })`. */
export function memcachedCache(options: MemcachedOptions = {}): CacheStore {
  return new MemcachedCacheStore(options)
}

class MemcachedCacheStore implements CacheStore {
  readonly engine = 'memcached'
  readonly push = false
  readonly name: string
  readonly bodyBytesMax: number
  readonly #connection: MemcachedConnection

  constructor(options: MemcachedOptions) {
    this.#connection = new MemcachedConnection(options)
    this.name = `Memcached at ${this.#connection.address}`
    this.bodyBytesMax = (options.itemBytesMax ?? 1024 ** 2) - headBytes - itemOverheadBytes
  }

  async read(key: string): Promise<StoreRead> {
    return viewRecord(await this.#connection.get(`k:${key}`), Date.now())
  }

  async lease({ key, floor, minVersion, leaseMs, refresh }: LeaseRequest): Promise<LeaseAnswer> {
    const token = newToken()
    const { record, state, leftMs, holder } = await this.#update<LeaseStep>(key, (record) => {
      const now = Date.now()
      const raised = floor > record.floor
      if (raised) raise(record, floor, now)
      const hit = record.version >= Math.max(0, record.floor, minVersion) && record.freshUntil > now
      const keep = { record: raised ? record : null, keepMs: emptyKeepMs }
      if (hit && !refresh) return { ...keep, answer: { record, state: 'hit', leftMs: 0, holder: '' } }
      if (record.leaseUntil > now && record.leaseFloor >= record.floor) {
        return { ...keep, answer: { record, state: 'wait', leftMs: record.leaseUntil - now, holder: record.token } }
      }
      const leased = { ...record, leaseUntil: now + leaseMs, token, leaseFloor: record.floor }
      return {
        record: leased,
        keepMs: Math.max(keepOf(leased, now), 2 * leaseMs),
        answer: { record: leased, state: 'leased', leftMs: 0, holder: token },
      }
    })
    const read = viewRecord(encodeRecord(record), Date.now())
    if (state === 'leased') return { state, token, read }
    if (state === 'hit') return { state, read }
    return { state, read, filled: (forMs, signal) => this.#look(key, holder, Math.min(forMs, leftMs), signal) }
  }

  extend(key: string, token: string, leaseMs: number): Promise<boolean> {
    return this.#update(key, (record) => {
      if (record.token !== token) return { record: null, keepMs: 0, answer: false }
      const now = Date.now()
      return { record: { ...record, leaseUntil: now + leaseMs }, keepMs: Math.max(keepOf(record, now), 2 * leaseMs), answer: true }
    })
  }

  fill({ key, token, version, raise: raises, body, freshMs, keepMs }: FillRequest): Promise<FillAnswer> {
    return this.#update<FillAnswer>(
      key,
      (record) => {
        const now = Date.now()
        if (token !== null && token !== record.token) return { record: null, keepMs: 0, answer: 'superseded' }
        const own = version ?? record.floor
        if (raises && own > record.floor) raise(record, own, now)
        const ended = { ...record, leaseUntil: 0, token: noToken }
        if (own < record.floor || (version !== null && own < record.version))
          return { record: ended, keepMs: keepOf(record, now), answer: 'below-floor' }
        const filled = { ...ended, version: own, freshUntil: now + freshMs, belowSince: 0, body }
        return { record: filled, keepMs: record.floor > 0 ? Math.max(keepMs, emptyKeepMs) : keepMs, answer: 'stored' }
      },
      'too-large',
    )
  }

  async release(key: string, token: string): Promise<void> {
    await this.#update(key, (record) => {
      if (record.token !== token) return { record: null, keepMs: 0, answer: undefined }
      return { record: { ...record, leaseUntil: 0, token: noToken }, keepMs: keepOf(record, Date.now()), answer: undefined }
    })
  }

  async change(changes: readonly Change[], floorKeepMs: number): Promise<void> {
    await Promise.all(
      changes.map(({ kind, name, version }) => {
        if (kind === 'tag') return this.#mark(name, version === null ? 'cut' : version)
        return this.#update(name, (record, found) => {
          const now = Date.now()
          if (version !== null) {
            if (version <= record.floor) return { record: null, keepMs: 0, answer: undefined }
            raise(record, version, now)
            return { record, keepMs: Math.max(keepOf(record, now), floorKeepMs), answer: undefined }
          }
          // Without a record there is no lease: nothing that could fill.
          return { record: found ? { ...emptyRecord(), floor: record.floor } : null, keepMs: floorKeepMs, answer: undefined }
        })
      }),
    )
  }

  marks(tags: readonly string[]): Promise<TagMark[]> {
    return Promise.all(tags.map((tag) => this.#mark(tag, 'look')))
  }

  async claim(name: string, text: string): Promise<string> {
    for (let tries = 0; tries < triesMax; tries++) {
      const found = await this.#connection.get(`c:${name}`)
      if (found !== null) return found.toString()
      if ((await this.#connection.add(`c:${name}`, Buffer.from(text), claimKeepMs)) === 'stored') return text
    }
    throw this.#crowded(name)
  }

  async note(name: string, text: string, keepMs: number): Promise<void> {
    await this.#connection.set(`n:${name}`, Buffer.from(text), keepMs)
  }

  async recall(name: string): Promise<string | null> {
    return (await this.#connection.get(`n:${name}`))?.toString() ?? null
  }

  close(): Promise<void> {
    return this.#connection.close()
  }

  /** One step on a record. `step` may change the record it is given. */
  async #update<T>(key: string, step: (record: CacheRecord, found: boolean) => Next<T>, tooLarge?: T): Promise<T> {
    const name = `k:${key}`
    for (let tries = 0; tries < triesMax; tries++) {
      const held = await this.#connection.gets(name)
      const old = decodeRecord(held?.value ?? null)
      const { record, keepMs, answer } = step(old ?? emptyRecord(), old !== null)
      if (record === null) return answer
      const bytes = encodeRecord(record)
      const stored: Stored =
        held === null ? await this.#connection.add(name, bytes, keepMs) : await this.#connection.cas(name, held, bytes, keepMs)
      if (stored === 'stored') return answer
      if (stored === 'too-large') {
        if (tooLarge === undefined)
          throw new HeadraceError(
            'engine-failed',
            `${this.name} does not take a record of ${bytes.length} bytes: raise its -I, or lower itemBytesMax.`,
          )
        await this.#giveUp(key)
        return tooLarge
      }
      if (tries > 2) await pause(Math.random() * tryPauseMsMax)
    }
    throw this.#crowded(key)
  }

  /** The value does not fit: those who wait for it need not. */
  async #giveUp(key: string): Promise<void> {
    await this.#update(key, (record) => ({ record: { ...emptyRecord(), floor: record.floor }, keepMs: emptyKeepMs, answer: undefined }))
  }

  /** The mark of a tag is "stamp floor". */
  async #mark(tag: string, to: number | 'look' | 'cut'): Promise<TagMark> {
    const name = `t:${tag}`
    for (let tries = 0; tries < triesMax; tries++) {
      const held = await this.#connection.gets(name)
      const [oldStamp, oldFloor = '0'] = held === null ? [] : held.value.toString('latin1').split(' ')
      const stamp = oldStamp === undefined || to === 'cut' ? newToken() : oldStamp
      const floor = typeof to === 'number' ? Math.max(to, Number(oldFloor)) : Number(oldFloor)
      if (stamp === oldStamp && floor === Number(oldFloor)) return { stamp, floor }
      const bytes = Buffer.from(`${stamp} ${floor}`, 'latin1')
      const stored =
        held === null ? await this.#connection.add(name, bytes, tagKeepMs) : await this.#connection.cas(name, held, bytes, tagKeepMs)
      if (stored === 'stored') return { stamp, floor }
      if (tries > 2) await pause(Math.random() * tryPauseMsMax)
    }
    throw this.#crowded(tag)
  }

  /** Waits until the lease is no longer that of `holder`. */
  async #look(key: string, holder: string, forMs: number, signal?: AbortSignal): Promise<void> {
    const until = performance.now() + forMs
    for (let pauseMs = lookPauseMs; ; pauseMs = Math.min(2 * pauseMs, lookPauseMsMax)) {
      const leftMs = until - performance.now()
      if (leftMs <= 0 || signal?.aborted === true) return
      await pause(Math.min(pauseMs * (0.75 + Math.random() / 2), leftMs))
      try {
        const record = decodeRecord(await this.#connection.get(`k:${key}`))
        if (record === null || record.token !== holder) return
      } catch {
        // The asker finds out by itself.
        return
      }
    }
  }

  #crowded(key: string): HeadraceError {
    return new HeadraceError('engine-unavailable', `${this.name}: too many write ${JSON.stringify(key.slice(0, 80))} at once.`)
  }
}

function raise(record: CacheRecord, to: number, now: number): void {
  record.floor = to
  if (record.version >= 0 && record.version < to && record.belowSince === 0) record.belowSince = now
}

/** How long a record that is written again is kept: its time to live is not known, so as long as its value is fresh, and what an empty one gets. */
function keepOf({ freshUntil }: CacheRecord, now: number): number {
  return Math.max(freshUntil - now, 0) + emptyKeepMs
}
