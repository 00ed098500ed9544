/**
 * The bus of the cache over Redis: pub/sub with numbers, so that a gap is seen,
 * and with trust, so that a publisher knows when nobody serves the old value.
 *
 *     apart ── subscribed, then renewed ──> in touch ── a third of trustMs later ──> renewed
 *       ^                                      │
 *       └── connection lost, or not renewed ───┘ (lost)
 *
 * A message that is not the next one, another epoch, or a number from the server
 * that does not arrive here: something was missed. Then L1 starts empty.
 *
 * Renewing counts only once every message that the server had numbered at that
 * moment has been applied here. Trust is measured from before the renewal was
 * sent, on the monotonic clock, so it ends here before it ends for the others.
 */
import { createHash, randomBytes } from 'node:crypto'
import { checkWhole } from '../../contracts/bounds.ts'
import type { BusListener, BusMessage, CacheBus } from '../../contracts/cache.ts'
import { clientName } from '../../std/client-name.ts'
import { checkPrefix } from './cache.ts'
import { busScripts } from './cache-bus-scripts.ts'
import { BusWaits } from './cache-bus-waits.ts'
import { type RedisClient, RedisConnection, type RedisConnectionOptions } from './connection.ts'

export interface RedisCacheBusOptions extends RedisConnectionOptions {
  /** Starts every key and channel; the same in all nodes. Default: 'headrace:bus:'. */
  readonly prefix?: string
  /** How long a node trusts its L1 without word from Redis, and so how long a dead node holds an invalidation up, in milliseconds; the same in all nodes. Default: 2000. */
  readonly trustMs?: number
}

/** Invalidations in one message. */
const changesPerMessageMax = 1_000

/** The bus on Redis: `createCache({ bus: redisCacheBus({ url }) })`. */
export function redisCacheBus(options: RedisCacheBusOptions = {}): CacheBus {
  return new RedisCacheBus(options)
}

interface Script {
  readonly text: string
  readonly sha: string
}

class RedisCacheBus implements CacheBus {
  readonly name: string
  readonly trustMs: number
  readonly #connection: RedisConnection
  readonly #key: string
  readonly #channel: string
  readonly #acks: string
  readonly #client = clientName()
  readonly #scripts: { readonly [K in keyof ReturnType<typeof busScripts>]: Script }
  readonly #waits = new BusWaits()
  #listener: BusListener | null = null
  #subscriber: RedisClient | null = null
  #listening = false
  #epoch: string | null = null
  #seen = 0
  #trustedUntil = 0
  #inTouch = false
  #missed = true
  /** A renewal that waits for messages on their way. */
  #promised: { readonly number: number; readonly until: number; readonly madeAt: number } | null = null
  #renewTimer: NodeJS.Timeout | undefined
  #renewing = false
  /** Answers to publishers, gathered for one turn. */
  readonly #owed = new Map<string, number>()
  #closed = false

  constructor(options: RedisCacheBusOptions) {
    const { prefix = 'headrace:bus:', trustMs = 2_000, ...connection } = options
    checkPrefix(prefix)
    checkWhole('trustMs', trustMs, 100, 60_000)
    this.trustMs = trustMs
    this.#connection = new RedisConnection(connection)
    this.name = `Redis at ${this.#connection.address}`
    this.#key = `${prefix}{nodes}`
    this.#channel = `${prefix}changes`
    this.#acks = `${prefix}applied:`
    const texts = busScripts(this.#channel)
    this.#scripts = { renew: script(texts.renew), leave: script(texts.leave), publish: script(texts.publish) }
  }

  async join(listener: BusListener): Promise<void> {
    this.#listener = listener
    const subscriber = this.#connection.subscriber()
    this.#subscriber = subscriber
    subscriber.on('message', (channel: string, text: string) => this.#hear(channel, text))
    subscriber.on('close', () => this.#apart('its connection was lost'))
    subscriber.on('ready', () => void this.#resync().catch(() => {}))
    this.#renewTimer = setInterval(() => void this.#tick(), this.trustMs / 3)
    this.#renewTimer.unref()
    await this.#resync()
  }

  trustedUntil(): number {
    return this.#trustedUntil
  }

  async publish(messages: readonly BusMessage[]): Promise<void> {
    for (const message of split(messages)) await this.#publishOne(JSON.stringify(message))
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    clearInterval(this.#renewTimer)
    this.#trustedUntil = 0
    this.#waits.close()
    if (this.#listening) await this.#run('leaving the cache bus', this.#scripts.leave, [this.#client]).catch(() => {})
    await this.#connection.close()
  }

  async #publishOne(text: string): Promise<void> {
    const reply = (await this.#run('telling of invalidations', this.#scripts.publish, [this.#client, newEpoch(), this.trustMs, text])) as [
      string,
      number,
      number,
      number,
      ...(string | number)[],
    ]
    const [epoch, number, youngMs, heardBy, ...trusted] = reply
    const now = performance.now()
    const nodes = new Map<string, number>()
    for (let place = 0; place + 1 < trusted.length; place += 2) nodes.set(String(trusted[place]), now + Number(trusted[place + 1]))
    // In a cluster the server counts only those who listen on the same node.
    const needed = this.#connection.cluster ? Number.POSITIVE_INFINITY : heardBy - (this.#listening ? 1 : 0)
    await this.#waits.until(epoch, number, nodes, { needed, until: now + youngMs })
  }

  #hear(channel: string, text: string): void {
    if (channel !== this.#channel) {
      const [epoch = '', number = '0', node = ''] = text.split(' ')
      this.#waits.applied(epoch, node, Number(number))
      return
    }
    const headEnd = text.indexOf('\n')
    const [epoch = '', digits = '', from = ''] = text.slice(0, headEnd).split(' ')
    const number = Number(digits)
    if (epoch === this.#epoch && number <= this.#seen) return
    const next = epoch === this.#epoch && number === this.#seen + 1
    this.#epoch = epoch
    this.#seen = number
    if (!next) this.#missed = true
    if (this.#missed && this.#inTouch) this.#miss()
    if (from !== this.#client) {
      for (const message of JSON.parse(text.slice(headEnd + 1)) as BusMessage[]) this.#listener?.apply(message)
      this.#owe(from)
    }
    this.#keepPromise()
  }

  /** One answer for all messages of a turn: whoever has applied the last one has applied all. */
  #owe(publisher: string): void {
    if (this.#owed.size === 0) setImmediate(() => this.#answer())
    this.#owed.set(publisher, this.#seen)
  }

  #answer(): void {
    const epoch = this.#epoch
    for (const [publisher, number] of this.#owed) {
      // Lost answers cost the publisher our trust's time, no more.
      this.#connection
        .call('answering an invalidation', (client) => client.publish(this.#acks + publisher, `${epoch} ${number} ${this.#client}`))
        .catch(() => {})
    }
    this.#owed.clear()
  }

  /** Subscribes (again); whatever was published before that is missed. */
  async #resync(): Promise<void> {
    const subscriber = this.#subscriber
    if (subscriber === null || this.#closed) return
    await this.#connection.within(
      'joining the cache bus',
      subscriber.subscribe(this.#channel, this.#acks + this.#client) as Promise<unknown>,
    )
    this.#listening = true
    this.#epoch = null
    await this.#renew()
  }

  async #tick(): Promise<void> {
    if (this.#inTouch && performance.now() >= this.#trustedUntil) this.#out('Redis did not answer')
    if (!this.#listening || this.#renewing) return
    await this.#renew().catch(() => {})
  }

  async #renew(): Promise<void> {
    this.#renewing = true
    try {
      const sentAt = performance.now()
      const [epoch, number] = (await this.#run('renewing trust in L1', this.#scripts.renew, [this.#client, newEpoch(), this.trustMs])) as [
        string,
        number,
      ]
      if (this.#closed || !this.#listening) return
      if (epoch !== this.#epoch) {
        this.#epoch = epoch
        this.#seen = number
        this.#promised = null
        this.#missed = true
        if (this.#inTouch) this.#miss()
      }
      const overdue = this.#promised !== null && this.#promised.number > this.#seen && sentAt - this.#promised.madeAt >= this.trustMs / 4
      if (overdue) return this.#listenAnew()
      if (this.#promised === null || this.#seen >= this.#promised.number)
        this.#promised = { number, until: sentAt + this.trustMs, madeAt: sentAt }
      this.#keepPromise()
    } finally {
      this.#renewing = false
    }
  }

  #keepPromise(): void {
    const promised = this.#promised
    if (promised === null || this.#seen < promised.number) return
    this.#promised = null
    if (this.#inTouch && performance.now() >= this.#trustedUntil) this.#out('Redis did not answer')
    this.#trustedUntil = promised.until
    if (this.#inTouch) return
    this.#inTouch = true
    const missed = this.#missed
    this.#missed = false
    this.#listener?.regained(missed)
  }

  /** The server has numbered messages that do not arrive: the subscription is dead, though nobody said so. */
  #listenAnew(): void {
    this.#apart('messages do not arrive')
    const subscriber = this.#subscriber
    if (subscriber !== null && 'disconnect' in subscriber) subscriber.disconnect(true)
  }

  /** Something was missed while in touch: L1 starts empty, and everything before is made up for. */
  #miss(): void {
    this.#missed = false
    this.#listener?.regained(true)
  }

  #apart(reason: string): void {
    this.#listening = false
    this.#missed = true
    this.#promised = null
    this.#trustedUntil = 0
    this.#out(reason)
    if (!this.#closed) this.#run('leaving the cache bus', this.#scripts.leave, [this.#client]).catch(() => {})
  }

  #out(reason: string): void {
    if (!this.#inTouch) return
    this.#inTouch = false
    this.#listener?.lost(reason)
  }

  #run(what: string, { text, sha }: Script, args: readonly (string | number)[]): Promise<unknown> {
    return this.#connection.call(what, (client) =>
      client.evalsha(sha, 1, this.#key, ...args).catch((error: Error) => {
        if (!error.message.startsWith('NOSCRIPT')) throw error
        return client.eval(text, 1, this.#key, ...args)
      }),
    )
  }
}

/** Messages of at most so many changes each. */
function* split(messages: readonly BusMessage[]): Generator<BusMessage[]> {
  let batch: BusMessage[] = []
  let count = 0
  for (const { namespace, changes } of messages) {
    for (let from = 0; from < changes.length; from += changesPerMessageMax) {
      const part = changes.slice(from, from + changesPerMessageMax)
      if (count > 0 && count + part.length > changesPerMessageMax) {
        yield batch
        batch = []
        count = 0
      }
      batch.push({ namespace, changes: part })
      count += part.length
    }
  }
  if (count > 0) yield batch
}

const newEpoch = (): string => randomBytes(9).toString('base64url')

const script = (text: string): Script => ({ text, sha: createHash('sha1').update(text).digest('hex') })
