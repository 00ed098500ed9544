/** What the routes of one registration share: the app, the limits, and whether new work is still taken. */
import type { Socket } from 'node:net'
import type { FastifyBaseLogger } from 'fastify'
import { Gauge } from 'prom-client'
import { HeadraceError } from '../contracts/errors.ts'
import type { Metrics } from '../observe/metrics.ts'
import type { App, AppStatus, Gateway } from '../pipeline/app-contract.ts'
import type { EdgeLimits } from './options.ts'
import { late, within } from './within.ts'

/** A long answer that can be asked to come to its end. */
export interface Stream {
  drain(): void
}

export class Edge {
  readonly app: App
  readonly gateway: Gateway
  readonly limits: EdgeLimits
  readonly metrics: Metrics
  readonly log: FastifyBaseLogger
  /** The path that all routes lie under, without a slash at its end. */
  readonly prefix: string
  readonly bulkRequests = new Set<Stream>()
  readonly eventStreams = new Set<Stream>()
  /** Connections that a bulk request is read from: the time limit of a whole request is not for them. */
  readonly bulkSockets: WeakSet<Socket>
  #leaving = false
  #draining = false
  #status: Promise<AppStatus> | undefined

  constructor(parts: {
    app: App
    limits: EdgeLimits
    metrics: Metrics
    log: FastifyBaseLogger
    prefix: string
    bulkSockets: WeakSet<Socket>
  }) {
    this.app = parts.app
    this.gateway = parts.app.gateway
    this.limits = parts.limits
    this.metrics = parts.metrics
    this.log = parts.log
    this.prefix = parts.prefix
    this.bulkSockets = parts.bulkSockets
    const { bulkRequests, eventStreams } = this
    const registers = [parts.metrics.registry]
    new Gauge({
      name: 'headrace_http_bulk_requests',
      help: 'Bulk requests that are open.',
      registers,
      collect() {
        this.set(bulkRequests.size)
      },
    })
    new Gauge({
      name: 'headrace_http_event_streams',
      help: 'Event streams that are open.',
      registers,
      collect() {
        this.set(eventStreams.size)
      },
    })
  }

  get draining(): boolean {
    return this.#draining
  }

  /** True from the moment that the node wants no more traffic; it may still take what comes. */
  get leaving(): boolean {
    return this.#leaving
  }

  /** Tells balancers, through /readyz, to send traffic elsewhere. */
  leave(): void {
    this.#leaving = true
  }

  /** Takes no new commands from now on, and brings long answers to their end. */
  drain(): void {
    if (this.#draining) return
    this.#leaving = true
    this.#draining = true
    for (const stream of [...this.bulkRequests, ...this.eventStreams]) stream.drain()
  }

  refuseWhenDraining(): void {
    if (this.#draining) throw new HeadraceError('stopping')
  }

  /** The state of the app; callers at the same time share one look, and none waits longer than statusTimeoutMs. Rejects with 'not-ready'. */
  async status(): Promise<AppStatus> {
    if (this.#status === undefined) {
      const look = this.app.status()
      this.#status = look
      const forget = (): void => {
        this.#status = undefined
      }
      look.then(forget, forget)
    }
    const status = await within(this.#status, this.limits.statusTimeoutMs)
    if (status === late) throw new HeadraceError('not-ready', `The app did not tell its state within ${this.limits.statusTimeoutMs} ms.`)
    return status
  }
}
