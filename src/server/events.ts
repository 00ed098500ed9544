/**
 * Waiting for an outcome by server-sent events (HTML Living Standard, 9.2).
 *
 *   open ── comment every heartbeatMs ──> event `outcome`, data the stored document ──> end
 *                                     └─> event `pending` after eventStreamMsMax, or when the node stops ──> end
 *
 * A browser opens an ended stream again by itself. With the last event's id
 * `outcome` it has what it came for, and is told to stop by 204; any other
 * Last-Event-ID changes nothing.
 */
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import type { OutcomeState } from '../pipeline/app-contract.ts'
import { pendingDocument } from './answers.ts'
import type { Edge } from './edge.ts'
import { asHeadraceError, problemOf, worthLogging } from './problem.ts'

const outcomeEventId = 'outcome'

interface Which {
  readonly command: string
  readonly tenant: string
  readonly id: string
}

export function wantsEvents(accept: string | undefined): boolean {
  return accept?.toLowerCase().includes('text/event-stream') ?? false
}

export function lastEventWasOutcome(header: string | readonly string[] | undefined): boolean {
  return header === outcomeEventId
}

/** Starts an event stream. Throws 'streams-full' and 'stopping'. */
export function outcomeEvents(edge: Edge, reply: FastifyReply, which: Which, known: OutcomeState): Readable {
  edge.refuseWhenDraining()
  if (edge.eventStreams.size >= edge.limits.eventStreamsMax) throw new HeadraceError('streams-full')
  reply
    .header('content-type', 'text/event-stream; charset=utf-8')
    .header('cache-control', 'no-cache, no-transform')
    .header('x-accel-buffering', 'no')
  return new OutcomeEvents(edge, which, known)
}

class OutcomeEvents extends Readable {
  readonly #edge: Edge
  readonly #which: Which
  readonly #gone = new AbortController()
  readonly #heartbeat: NodeJS.Timeout
  readonly #deadline: NodeJS.Timeout
  #ended = false

  constructor(edge: Edge, which: Which, known: OutcomeState) {
    super()
    this.#edge = edge
    this.#which = which
    this.#heartbeat = setInterval(() => this.push(': waiting\n\n'), edge.limits.heartbeatMs)
    this.#deadline = setTimeout(() => this.#stillPending(), edge.limits.eventStreamMsMax)
    edge.eventStreams.add(this)
    this.push(`retry: 1000\n: outcome of ${which.command}\n\n`)
    if (known.state === 'done') this.#finish('outcome', known.body)
    else void this.#wait()
  }

  drain(): void {
    this.#stillPending()
  }

  override _read(): void {}

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    clearInterval(this.#heartbeat)
    clearTimeout(this.#deadline)
    this.#edge.eventStreams.delete(this)
    this.#gone.abort()
    callback(error)
  }

  async #wait(): Promise<void> {
    const { command, tenant, id } = this.#which
    try {
      const state = await this.#edge.gateway.waitForOutcome(command, tenant, id, this.#gone.signal)
      if (state.state === 'done') this.#finish('outcome', state.body)
      else this.#stillPending()
    } catch (cause) {
      if (this.#ended || this.destroyed) return
      const error = asHeadraceError(cause)
      if (worthLogging(error)) this.#edge.log.error({ err: error, command }, 'waiting for an outcome failed')
      this.#finish('problem', JSON.stringify(problemOf(error)))
    }
  }

  #stillPending(): void {
    this.#finish('pending', pendingDocument(this.#which.command, this.#which.id))
  }

  #finish(event: 'outcome' | 'pending' | 'problem', data: string): void {
    if (this.#ended || this.destroyed) return
    this.#ended = true
    clearInterval(this.#heartbeat)
    const id = event === 'outcome' ? `id: ${outcomeEventId}\n` : ''
    this.push(`event: ${event}\n${id}data: ${data.replace(/\r\n|\r|\n/g, '\ndata: ')}\n\n`)
    this.push(null)
  }
}
