/**
 * How the scripts wake a waiter: a message on the channel of its client, which
 * this client alone listens to. The script sees by the number of listeners
 * whether the client is alive.
 *
 * What must hold: a client listens before its first waiter is queued, and says
 * `gap` once it listens again after its connection was lost.
 *
 * On a single server one channel per client is enough. In a cluster a script
 * reaches only the channels of its own slot, so there is one per lock, kept
 * while somebody may wait for it.
 */
import type { LockEvents } from '../../contracts/lock.ts'
import type { RedisClient, RedisConnection } from './connection.ts'

/** How often a subscription is asked whether it lives, in milliseconds: a connection can be gone without a word. */
const heartbeatMs = 5_000
/** Past this number, channels of locks that nobody waits for are left. Cluster only. */
const idleChannelsMax = 256
/** How long after the last deadline of a waiter a channel may still bring something, in milliseconds. */
const channelSlackMs = 60_000

export class RedisLockWake {
  readonly #connection: RedisConnection
  readonly #channelOf: (hash: string) => string
  #events: LockEvents | null = null
  #subscriber: RedisClient | null = null
  #listening: Promise<void> | null = null
  #wasListening = false
  #heartbeat: NodeJS.Timeout | null = null
  /** Cluster: the channels that are subscribed, and until when each is needed. */
  readonly #channels = new Map<string, { until: number; ready: Promise<void> }>()

  constructor(connection: RedisConnection, prefix: string, client: string) {
    this.#connection = connection
    this.#channelOf = connection.cluster ? (hash) => `${hash}:c:${client}` : () => `${prefix}wake:${client}`
  }

  listen(events: LockEvents): void {
    this.#events = events
  }

  /** Resolves when a waiter of this lock would be heard. */
  ready(hash: string, forMs: number): Promise<void> {
    if (this.#connection.cluster) return this.#readyInCluster(hash, forMs)
    this.#listening ??= this.#start(this.#channelOf(hash)).catch((error: unknown) => {
      // The next waiter tries again.
      this.#listening = null
      throw error
    })
    return this.#listening
  }

  #start(channel: string): Promise<void> {
    const subscriber = this.#open()
    return this.#connection.within('listening for locks', subscriber.subscribe(channel)).then(() => {
      this.#wasListening = true
    })
  }

  #open(): RedisClient {
    if (this.#subscriber !== null) return this.#subscriber
    const subscriber = this.#connection.subscriber()
    const hear = (_channel: string, message: string): void => this.#hear(message)
    if (this.#connection.cluster) {
      subscriber.on('smessage', hear)
    } else {
      subscriber.on('message', hear)
      subscriber.on('ready', () => void this.#listenAgain(subscriber))
    }
    this.#subscriber = subscriber
    this.#heartbeat = setInterval(() => this.#beat(subscriber), heartbeatMs)
    this.#heartbeat.unref()
    return subscriber
  }

  close(): void {
    if (this.#heartbeat !== null) clearInterval(this.#heartbeat)
  }

  /** A subscription that does not answer is opened anew, which ends in `gap`. */
  #beat(subscriber: RedisClient): void {
    if (this.#connection.cluster || subscriber.status !== 'ready') return
    this.#connection.within('a heartbeat', subscriber.ping()).catch(() => {
      if (subscriber.status === 'ready') subscriber.disconnect(true)
    })
  }

  /** The client subscribes again by itself; asking once more tells when that is in force. */
  async #listenAgain(subscriber: RedisClient): Promise<void> {
    if (!this.#wasListening) return
    try {
      await this.#connection.within('listening for locks again', subscriber.subscribe(this.#channelOf('')))
      this.#events?.gap()
    } catch {
      // The connection was lost once more, and this runs again when it is back.
    }
  }

  #readyInCluster(hash: string, forMs: number): Promise<void> {
    const now = performance.now()
    const channel = this.#channelOf(hash)
    const until = now + forMs + channelSlackMs
    const known = this.#channels.get(channel)
    if (known !== undefined) {
      known.until = Math.max(known.until, until)
      return known.ready
    }
    const subscriber = this.#open()
    this.#leaveIdle(subscriber, now)
    const ready = this.#connection
      .within('listening for a lock', subscriber.ssubscribe(channel))
      .then(() => {})
      .catch((error: unknown) => {
        this.#channels.delete(channel)
        throw error
      })
    this.#channels.set(channel, { until, ready })
    return ready
  }

  #leaveIdle(subscriber: RedisClient, now: number): void {
    if (this.#channels.size < idleChannelsMax) return
    for (const [channel, { until }] of this.#channels) {
      if (until >= now) continue
      this.#channels.delete(channel)
      subscriber.sunsubscribe(channel).catch(() => {})
    }
  }

  #hear(message: string): void {
    const [word, value, id] = message.split(' ')
    if (id === undefined) return
    if (word === 'g') this.#events?.granted(id, Number(value))
    else if (word === 'b') this.#events?.broken(id)
  }
}
