/**
 * The session of a client that waits: it listens for its pushes, and holds the
 * advisory lock that shows the others that it is alive.
 *
 * What must hold: `ready` resolves with the number of a session that listens;
 * when the session is lost a new one is opened under a new number, and `gap` is
 * called, because pushes to the old number reach nobody.
 *
 * States: none → opening → listening → lost → opening …, until closed.
 */
import { randomBytes } from 'node:crypto'
import type { LockEvents } from '../../contracts/lock.ts'
import { backoffMs } from '../../std/backoff.ts'

/** The part of a `pg` client that is used here. */
export interface PostgresClient {
  query(query: { readonly text: string; readonly values?: readonly unknown[] }): Promise<{ readonly rows: Record<string, unknown>[] }>
  on(event: 'notification', listener: (message: { readonly payload?: string | undefined }) => void): unknown
  on(event: 'error' | 'end', listener: (error?: Error) => void): unknown
}

export interface OpenSession {
  readonly client: PostgresClient
  end(): void
}

const reconnectBaseMs = 50
const reconnectMaxMs = 1_000
/** How often a silent session is asked whether it lives, in milliseconds. */
const heartbeatMs = 5_000

export class PostgresLockSession {
  readonly #open: () => Promise<OpenSession>
  readonly #within: <T>(what: string, work: Promise<T>) => Promise<T>
  #events: LockEvents | null = null
  #current: Promise<string> | null = null
  #session: OpenSession | null = null
  #heartbeat: NodeJS.Timeout | null = null
  #retry: NodeJS.Timeout | null = null
  #closed = false

  constructor(open: () => Promise<OpenSession>, within: <T>(what: string, work: Promise<T>) => Promise<T>) {
    this.#open = open
    this.#within = within
  }

  listen(events: LockEvents): void {
    this.#events = events
  }

  /** The number of the session, once it listens. */
  ready(): Promise<string> {
    if (this.#current === null) {
      const opening = this.#start()
      this.#current = opening
      opening.catch(() => {
        // The next waiter tries again.
        if (this.#current === opening) this.#current = null
      })
    }
    return this.#current
  }

  close(): void {
    this.#closed = true
    if (this.#retry !== null) clearTimeout(this.#retry)
    this.#drop()
  }

  async #start(): Promise<string> {
    const session = await this.#open()
    const number = (randomBytes(8).readBigUInt64BE() >> 1n).toString()
    let lost = false
    const lose = (): void => {
      if (lost) return
      lost = true
      if (this.#session === session) this.#lost()
      else session.end()
    }
    session.client.on('error', lose)
    session.client.on('end', lose)
    session.client.on('notification', ({ payload }) => this.#hear(payload ?? ''))
    try {
      await this.#within('listening for locks', session.client.query({ text: `select pg_advisory_lock(${number})` }))
      await this.#within('listening for locks', session.client.query({ text: `listen headrace_lock_${number}` }))
    } catch (error) {
      session.end()
      throw error
    }
    if (lost || this.#closed) {
      session.end()
      throw new Error('Connection terminated')
    }
    this.#session = session
    this.#beat(session, lose)
    return number
  }

  #beat(session: OpenSession, lose: () => void): void {
    this.#heartbeat = setInterval(() => {
      this.#within('a heartbeat', session.client.query({ text: 'select 1' })).catch(lose)
    }, heartbeatMs)
    this.#heartbeat.unref()
  }

  #drop(): void {
    if (this.#heartbeat !== null) clearInterval(this.#heartbeat)
    this.#heartbeat = null
    const session = this.#session
    this.#session = null
    this.#current = null
    session?.end()
  }

  #lost(): void {
    this.#drop()
    if (!this.#closed) this.#again(0)
  }

  #again(attempt: number): void {
    this.#retry = setTimeout(
      () => {
        this.ready().then(
          () => this.#events?.gap(),
          () => {
            if (!this.#closed) this.#again(attempt + 1)
          },
        )
      },
      backoffMs(attempt, reconnectBaseMs, reconnectMaxMs),
    )
    this.#retry.unref()
  }

  #hear(payload: string): void {
    const [word, value, id] = payload.split(' ')
    if (id === undefined) return
    if (word === 'g') this.#events?.granted(id, Number(value))
    else if (word === 'b') this.#events?.broken(id)
  }
}
