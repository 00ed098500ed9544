/** The options of `rabbitmqQueue(…)`: checked when the engine is made, and where the broker is, without a password in it. */
import type { ConnectionOptions } from 'node:tls'
import { inspect } from 'node:util'
import { checkBounds, checkNames } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { WindowBounds } from './window.ts'

export interface RabbitmqQueueOptions {
  /** `amqp://user:password@host:port/vhost`, or `amqps://` for TLS. Default: amqp://guest:guest@127.0.0.1:5672 */
  readonly url?: string
  /** Certificates and the like for `amqps://`, as `tls.connect` takes them. */
  readonly tls?: ConnectionOptions
  /** Longest time for one call, reconnection included, in milliseconds. Default: 10000. */
  readonly timeoutMs?: number
  /** Longest time to connect once, in milliseconds. Default: 5000. */
  readonly connectTimeoutMs?: number
  /**
   * How long a connection may be silent before either side gives it up, in
   * seconds. A process that is busy for longer loses its connection and
   * connects again; one that is dead keeps its partitions for up to twice as
   * long. Default: 30.
   */
  readonly heartbeatSeconds?: number
  /** Messages that are published and not yet confirmed. Default: found from what the broker confirms, up to confirmWindowMax. */
  readonly confirmWindow?: number
  /** Highest confirm window that is found, in messages. Default: 4096. */
  readonly confirmWindowMax?: number
  /** Bytes of messages that are published and not yet confirmed. Default: 16777216. */
  readonly confirmWindowBytes?: number
  /** Messages that wait for room in the window; past it 'overloaded'. Default: 100000. */
  readonly waitingMax?: number
  /** Messages that a partition's consumer has before it acknowledges: AMQP counts no bytes, so bound their size too. Default: 5000. */
  readonly prefetch?: number
}

export interface KnownOptions {
  readonly target: Target
  readonly tls: ConnectionOptions
  readonly timeoutMs: number
  readonly connectTimeoutMs: number
  readonly heartbeatSeconds: number
  /** Both are the same where it is fixed. */
  readonly confirmWindow: WindowBounds
  readonly confirmWindowBytes: number
  readonly waitingMax: number
  readonly prefetch: number
}

/** Where a broker is and who we are there. Printing it shows no password. */
export class Target {
  readonly protocol: 'amqp' | 'amqps'
  readonly hostname: string
  readonly port: number
  readonly username: string
  readonly vhost: string
  readonly #password: string

  constructor(url: string) {
    let parsed: URL
    try {
      parsed = new URL(url)
    } catch {
      throw new HeadraceError('option-invalid', 'The url of RabbitMQ is not a URL: write amqp://user:password@host:port/vhost.')
    }
    if (parsed.protocol !== 'amqp:' && parsed.protocol !== 'amqps:')
      throw new HeadraceError('option-invalid', `The url of RabbitMQ must start with amqp:// or amqps://, not ${parsed.protocol}//.`)
    if (parsed.search !== '' || parsed.hash !== '')
      throw new HeadraceError(
        'option-invalid',
        'The url of RabbitMQ must end after the vhost: set heartbeats and bounds by the options of rabbitmqQueue.',
      )
    const path = parsed.pathname.replace(/^\//, '')
    if (path.includes('/')) throw new HeadraceError('option-invalid', "A '/' in the vhost of RabbitMQ is written %2F in its url.")
    this.protocol = parsed.protocol === 'amqps:' ? 'amqps' : 'amqp'
    this.hostname = parsed.hostname === '' ? '127.0.0.1' : parsed.hostname.replace(/^\[|\]$/g, '')
    this.port = parsed.port === '' ? (this.protocol === 'amqps' ? 5671 : 5672) : Number(parsed.port)
    const named = parsed.username !== '' || parsed.password !== ''
    this.username = named ? decoded(parsed.username) : 'guest'
    this.#password = named ? decoded(parsed.password) : 'guest'
    this.vhost = path === '' ? '/' : decoded(path)
  }

  /** Only for the client of AMQP. */
  get password(): string {
    return this.#password
  }

  /** For messages: host, port and vhost. */
  get address(): string {
    return `${this.hostname}:${this.port}${this.vhost === '/' ? '' : `/${this.vhost}`}`
  }

  /** A text without the password, should the client or the broker have put it there. */
  clean(text: string): string {
    const line = (text.split('\n')[0] ?? '').trim().slice(0, 400)
    return this.#password.length < 4 || this.#password === this.username ? line : line.replaceAll(this.#password, '***')
  }

  [inspect.custom](): string {
    return `Target(${this.address})`
  }
}

const numbers = {
  timeoutMs: { default: 10_000, min: 100, max: 600_000 },
  connectTimeoutMs: { default: 5_000, min: 50, max: 600_000 },
  heartbeatSeconds: { default: 30, min: 1, max: 3_600 },
  confirmWindowMax: { default: 4_096, min: 1, max: 65_535 },
  confirmWindowBytes: { default: 16 * 1024 ** 2, min: 1_024, max: 2 ** 31 },
  waitingMax: { default: 100_000, min: 1, max: 10_000_000 },
  // AMQP's count has 16 bits, and 0 would be without a bound.
  prefetch: { default: 5_000, min: 1, max: 65_535 },
} as const

/** The smallest window that is found, in messages. */
const confirmWindowMin = 32

const known = ['url', 'tls', 'confirmWindow', ...Object.keys(numbers)]

/** Throws 'option-invalid' and 'option-unknown'. */
export function knownOptions(options: RabbitmqQueueOptions): KnownOptions {
  checkNames('rabbitmqQueue', options, known)
  const { confirmWindowMax, ...checked } = checkBounds(numbers, options)
  const { confirmWindow: fixed } = options
  if (fixed !== undefined) checkBounds({ confirmWindow: numbers.confirmWindowMax }, { confirmWindow: fixed })
  const confirmWindow =
    fixed === undefined ? { min: Math.min(confirmWindowMin, confirmWindowMax), max: confirmWindowMax } : { min: fixed, max: fixed }
  const { url = 'amqp://guest:guest@127.0.0.1:5672', tls = {} } = options
  if (typeof url !== 'string') throw new HeadraceError('option-invalid', 'The url of RabbitMQ must be a text.')
  return Object.freeze({ ...checked, confirmWindow, target: new Target(url), tls })
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new HeadraceError('option-invalid', 'The url of RabbitMQ has a % that no two hexadecimal digits follow: write %25 for it.')
  }
}
