/**
 * Who in this process waits for a key that another loads. A fill tells each
 * client that waits, on its own channel; lost messages cost at most one lease.
 */
import type { RedisClient, RedisConnection } from './connection.ts'

/** How long to wait before looking again while nothing can be heard. */
const deafPauseMs = 50

/** Announced before the store is asked, so that a push which overtakes the answer is not lost. */
export interface Waiter {
  /** Resolves at the push, or after `forMs`; never rejects. */
  wait(forMs: number, signal?: AbortSignal): Promise<void>
  leave(): void
}

export class CachePushes {
  readonly #connection: RedisConnection
  readonly #channel: string
  readonly #waiters = new Map<string, Set<() => void>>()
  #subscriber: RedisClient | null = null
  #starting: Promise<void> | null = null
  #heard = false

  constructor(connection: RedisConnection, channel: string) {
    this.#connection = connection
    this.#channel = channel
  }

  /** Listens; never rejects, since a client that cannot listen looks again instead. */
  ready(): Promise<void> {
    this.#starting ??= this.#start().catch(() => {
      this.#starting = null
    })
    return this.#starting
  }

  announce(key: string): Waiter {
    let pushed = false
    let wake = (): void => {
      pushed = true
    }
    const hear = (): void => wake()
    const waiters = this.#waiters.get(key) ?? new Set()
    this.#waiters.set(key, waiters)
    waiters.add(hear)
    const leave = (): void => {
      waiters.delete(hear)
      if (waiters.size === 0 && this.#waiters.get(key) === waiters) this.#waiters.delete(key)
    }
    return {
      leave,
      wait: (forMs, signal) =>
        new Promise((resolve) => {
          const end = (): void => {
            clearTimeout(timer)
            signal?.removeEventListener('abort', end)
            leave()
            resolve()
          }
          const timer = setTimeout(end, this.#heard ? forMs : Math.min(forMs, deafPauseMs))
          if (pushed || signal?.aborted === true) return end()
          wake = end
          signal?.addEventListener('abort', end)
        }),
    }
  }

  async #start(): Promise<void> {
    if (this.#subscriber === null) {
      const subscriber = this.#connection.subscriber()
      subscriber.on('message', (_channel: string, key: string) => this.#push(key))
      subscriber.on('close', () => {
        this.#heard = false
        for (const key of [...this.#waiters.keys()]) this.#push(key)
      })
      subscriber.on('ready', () => void this.#listen(subscriber).catch(() => {}))
      this.#subscriber = subscriber
    }
    await this.#listen(this.#subscriber)
  }

  /** The client subscribes again by itself; asking once more tells when that is in force. */
  async #listen(subscriber: RedisClient): Promise<void> {
    await this.#connection.within('listening for cache fills', subscriber.subscribe(this.#channel))
    this.#heard = true
  }

  #push(key: string): void {
    for (const wake of [...(this.#waiters.get(key) ?? [])]) wake()
  }
}
