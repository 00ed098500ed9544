/**
 * One connection to RabbitMQ, opened when somebody needs it.
 *
 * States: away → connecting → up → away …, and closed from anywhere.
 *
 * - It connects again as long as somebody waits for it, with a pause that
 *   doubles, with jitter. A connection that breaks soon after it was opened
 *   counts as a failure, so a broker that accepts and drops is not hammered.
 * - A refusal (password, virtual host, rights) ends the waiting at once: trying
 *   again would change nothing, and locks accounts.
 * - Nobody waits longer than asked for.
 * - When it is lost its socket is destroyed: a peer that is silent keeps nothing alive.
 */
import { EventEmitter } from 'node:events'
import type { Socket } from 'node:net'
import { type ChannelModel, connect } from 'amqplib'
import { tell } from '../../contracts/diagnostics.ts'
import type { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'
import { connectError, messageOf, queueClosed } from './errors.ts'
import type { KnownOptions } from './options.ts'

const reconnectBaseMs = 50
const reconnectMaxMs = 5_000
/** A connection that lasted this long was a good one. */
const stableMs = 5_000
const closeTimeoutMs = 2_000

/** `lost` when the connection ended; `blocked` and `unblocked` as the broker says. */
interface ConnectionEvents {
  lost: []
  blocked: []
  unblocked: []
}

export class RabbitConnection extends EventEmitter<ConnectionEvents> {
  readonly #options: KnownOptions
  readonly #role: string
  readonly #waiting = new Set<Deferred<ChannelModel>>()
  readonly #stop = new AbortController()
  #model: ChannelModel | null = null
  #connecting: Promise<void> | null = null
  #failures = 0
  #upSince = 0
  #opened = 0
  #blocked: string | null = null
  #lastError: HeadraceError | null = null

  constructor(options: KnownOptions, role: string) {
    super()
    this.setMaxListeners(0)
    this.#options = options
    this.#role = role
  }

  get isUp(): boolean {
    return this.#model !== null
  }

  get isClosed(): boolean {
    return this.#stop.signal.aborted
  }

  /** Why the broker takes no messages from us; null while it does. */
  get blocked(): string | null {
    return this.#blocked
  }

  /** How often it was opened. */
  get opened(): number {
    return this.#opened
  }

  get lastError(): HeadraceError | null {
    return this.#lastError
  }

  /** The open connection. Rejects after `timeoutMs`, or at once when the broker refuses us. */
  async acquire(timeoutMs: number): Promise<ChannelModel> {
    if (this.isClosed) throw queueClosed()
    if (this.#model !== null) return this.#model
    const waiter = deferred<ChannelModel>()
    this.#waiting.add(waiter)
    const timer = setTimeout(
      () => waiter.reject(this.#lastError ?? connectError(this.#options.target, new Error('connect ETIMEDOUT'))),
      timeoutMs,
    )
    this.#connecting ??= this.#connect()
    try {
      return await waiter.promise
    } finally {
      clearTimeout(timer)
      this.#waiting.delete(waiter)
    }
  }

  async close(): Promise<void> {
    if (this.isClosed) return
    this.#stop.abort()
    for (const waiter of this.#waiting) waiter.reject(queueClosed())
    const model = this.#model
    if (model === null) return
    const late = new AbortController()
    await Promise.race([model.close().catch(() => {}), pause(closeTimeoutMs, late.signal)])
    late.abort()
    this.#lose(model)
  }

  async #connect(): Promise<void> {
    while (this.#waiting.size > 0 && !this.isClosed) {
      if (this.#failures > 0) await pause(backoffMs(this.#failures - 1, reconnectBaseMs, reconnectMaxMs), this.#stop.signal)
      if (this.#waiting.size === 0 || this.isClosed) break
      try {
        const model = await this.#open()
        if (this.isClosed) {
          destroy(model)
          break
        }
        this.#take(model)
        for (const waiter of this.#waiting) waiter.resolve(model)
        break
      } catch (error) {
        this.#failures += 1
        const why = connectError(this.#options.target, error)
        this.#lastError = why
        if (!why.retryable) for (const waiter of this.#waiting) waiter.reject(why)
        // Those that were just refused leave in a moment: let them.
        await Promise.resolve()
        if (!why.retryable) break
      }
    }
    this.#connecting = null
    // Somebody may have come while the last one was turned away.
    if (this.#waiting.size > 0 && this.#model === null && !this.isClosed && this.#lastError?.retryable !== false)
      this.#connecting = this.#connect()
  }

  #open(): Promise<ChannelModel> {
    const { target, tls, connectTimeoutMs, heartbeatSeconds } = this.#options
    const { protocol, hostname, port, username, password, vhost } = target
    return connect(
      // The client decodes the virtual host.
      { protocol, hostname, port, username, password, vhost: encodeURIComponent(vhost), heartbeat: heartbeatSeconds },
      {
        ...tls,
        noDelay: true,
        timeout: connectTimeoutMs,
        clientProperties: { connection_name: `headrace ${this.#role} (${process.pid})` },
      },
    )
  }

  #take(model: ChannelModel): void {
    this.#model = model
    this.#upSince = performance.now()
    this.#opened += 1
    this.#lastError = null
    const socket = socketOf(model)
    if (socket !== undefined) writeTogether(socket)
    model.on('error', (error) => {
      this.#lastError = connectError(this.#options.target, error)
    })
    model.on('close', (error) => {
      if (error !== undefined && !this.isClosed) {
        this.#lastError = connectError(this.#options.target, error)
        this.#notice(
          `The ${this.#role} connection to RabbitMQ at ${this.#options.target.address} was lost: ${this.#options.target.clean(messageOf(error))}`,
        )
      }
      this.#lose(model)
    })
    model.on('blocked', (reason) => {
      this.#blocked = this.#options.target.clean(reason)
      this.#notice(
        `RabbitMQ at ${this.#options.target.address} takes no messages: ${this.#blocked}. Free memory or disk there; publishing goes on by itself.`,
      )
      this.emit('blocked')
    })
    model.on('unblocked', () => {
      this.#blocked = null
      this.emit('unblocked')
    })
  }

  #lose(model: ChannelModel): void {
    destroy(model)
    if (this.#model !== model) return
    this.#model = null
    this.#blocked = null
    this.#failures = performance.now() - this.#upSince < stableMs ? this.#failures + 1 : 0
    this.emit('lost')
  }

  #notice(message: string): void {
    tell('headrace:notice', () => ({ app: 'rabbitmq', level: 'warn', message }))
  }
}

/** The client only ends its socket, which a silent peer keeps half open for minutes. */
function destroy(model: ChannelModel): void {
  socketOf(model)?.destroy()
}

function socketOf(model: ChannelModel): Socket | undefined {
  return (model.connection as unknown as { readonly stream?: Socket }).stream
}

/**
 * The client writes every frame by itself, and each write is a call of the
 * system and often a packet. What it writes in one turn goes out together, at
 * the end of that turn.
 */
function writeTogether(socket: Socket): void {
  const write = socket.write.bind(socket) as (...args: unknown[]) => boolean
  let corked = false
  const uncork = (): void => {
    corked = false
    socket.uncork()
  }
  socket.write = ((...args: unknown[]) => {
    if (!corked) {
      corked = true
      socket.cork()
      process.nextTick(uncork)
    }
    return write(...args)
  }) as Socket['write']
}
