/**
 * POST /commands/:name with application/x-ndjson: many commands in one
 * request, answered line by line in the same order, while they still arrive.
 *
 * An input line is `{"id": "…", "input": …, "tenant"?: "…"}`. Its answer is the
 * stored outcome document, byte for byte; or `{"id","command","status":"pending"}`
 * when the wait is over and the command is durable; or a problem document with
 * the number of the line, which then failed alone. Blank lines are counted,
 * and get no answer.
 *
 * Lines are handed to the app one after the other, so lines of one key keep
 * their order even when the node is overloaded: a line that finds no room
 * waits for it (bulkRetryMs), and everything behind it waits with it. Reading
 * stops while too many lines or bytes are in flight, and while the client does
 * not read its answers: the limits are the back-pressure.
 *
 * When the request is given up (too large, too slow, the node stops), the
 * answer ends with a problem for the first line that was not taken; lines
 * after it were not taken either, and all before it have their answers.
 */
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { FastifyReply } from 'fastify'
import { type ErrorCode, HeadraceError } from '../contracts/errors.ts'
import type { Receipt } from '../pipeline/app-contract.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import { Deque } from '../std/deque.ts'
import { pendingDocument } from './answers.ts'
import { parseBody } from './body.ts'
import type { Edge } from './edge.ts'
import { readLine, tenantOf, trim } from './bulk-line.ts'
import type { Preference } from './headers.ts'
import { LineSplitter } from './lines.ts'
import { asHeadraceError, problemOf, worthLogging } from './problem.ts'

export const lineMediaType = 'application/x-ndjson'

/** The body of a bulk request: its lines are read as they come. */
export class LineBody {
  readonly stream: IncomingMessage

  constructor(stream: IncomingMessage) {
    this.stream = stream
  }
}

export interface BulkOrder {
  readonly command: string
  /** The tenant of the request, which then is the tenant of every line. */
  readonly tenant: string | undefined
  readonly preference: Preference
}

/** Refusals that pass by themselves; a line waits for them to. */
const passing: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['overloaded', 'queue-full', 'queue-slow'])
const retryBaseMs = 10
const retryMaxMs = 1_000
/** Answers that are ready go out together, in writes of about this size. */
const writeBytes = 64 * 1024

/** Starts a bulk answer. Throws 'streams-full' and 'body-too-large'. */
export function answerBulk(edge: Edge, body: IncomingMessage, reply: FastifyReply, order: BulkOrder): Readable {
  if (edge.bulkRequests.size >= edge.limits.bulkRequestsMax) throw new HeadraceError('streams-full')
  if (Number(body.headers['content-length']) > edge.limits.bulkBytesMax) {
    reply.header('connection', 'close')
    throw new HeadraceError(
      'body-too-large',
      `A bulk request may have ${edge.limits.bulkBytesMax} bytes. Send several, or raise bulkBytesMax.`,
    )
  }
  reply.header('content-type', lineMediaType)
  if (order.preference.applied !== undefined) reply.header('preference-applied', order.preference.applied)
  const answer = new BulkAnswer(edge, body, order)
  reply.raw.once('finish', () => {
    // The answer is complete and the request is not: nobody will read the rest of it.
    if (!body.complete) body.socket.destroySoon()
  })
  return answer
}

/** A line that the app has, or whose answer waits for the lines before it. */
interface Line {
  readonly number: number
  readonly id: string | undefined
  readonly takenAt: number
  readonly receipt: Receipt | undefined
  text: string | null
  bytes: number
  /** True once its wait is over and it is being made durable. */
  expired: boolean
}

class BulkAnswer extends Readable {
  readonly #edge: Edge
  readonly #body: IncomingMessage
  readonly #order: BulkOrder
  readonly #splitter: LineSplitter
  readonly #lines = new Deque<Line>()
  readonly #over = new AbortController()
  readonly #startedAt = Date.now()
  readonly #ticker: NodeJS.Timeout
  #bytes = 0
  #number = 0
  #received = 0
  #readAll = false
  #wanted = false
  #flushing = false
  #ended = false
  #starving = false
  #progressAt = Date.now()
  #giveUp: HeadraceError | undefined
  /** Wakes the reading loop, which waits for bytes or for room. */
  #wake: (() => void) | undefined

  constructor(edge: Edge, body: IncomingMessage, order: BulkOrder) {
    super({ highWaterMark: writeBytes })
    this.#edge = edge
    this.#body = body
    this.#order = order
    this.#splitter = new LineSplitter(edge.limits.lineBytesMax)
    this.#ticker = setInterval(() => this.#tick(), Math.max(5, Math.min(250, edge.limits.bulkIdleMs / 4)))
    edge.bulkRequests.add(this)
    edge.bulkSockets.add(body.socket)
    const wake = (): void => this.#wake?.()
    body.on('readable', wake).on('end', wake).on('close', wake)
    body.on('error', wake)
    void this.#pump()
  }

  /** The node stops: no line is read any more, and the taken ones get their answers. */
  drain(): void {
    this.#stop(new HeadraceError('stopping'))
  }

  override _read(): void {
    this.#wanted = true
    this.#progressAt = Date.now()
    this.#flush()
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    clearInterval(this.#ticker)
    this.#edge.bulkRequests.delete(this)
    if (this.#body.complete) this.#edge.bulkSockets.delete(this.#body.socket)
    this.#over.abort()
    this.#wake?.()
    callback(error)
  }

  #stop(reason: HeadraceError): void {
    if (this.#readAll || this.#giveUp !== undefined) return
    this.#giveUp = reason
    this.#over.abort()
    this.#wake?.()
  }

  async #pump(): Promise<void> {
    try {
      while (!this.#over.signal.aborted) {
        const chunk = await this.#chunk()
        if (chunk === null) break
        this.#received += chunk.length
        this.#splitter.feed(chunk)
        await this.#takeLines()
        if (this.#received > this.#edge.limits.bulkBytesMax)
          this.#stop(
            new HeadraceError(
              'body-too-large',
              `A bulk request may have ${this.#edge.limits.bulkBytesMax} bytes. Send the rest in another one, or raise bulkBytesMax.`,
            ),
          )
      }
      if (this.#giveUp === undefined && !this.#body.readableEnded) return void this.destroy()
      if (!this.#over.signal.aborted && this.#splitter.finish() === 'line') await this.#takeLine()
      if (this.#giveUp !== undefined) this.#answer(this.#number + 1, undefined, this.#giveUp)
      this.#readAll = true
      this.#flush()
    } catch (error) {
      this.#edge.log.error({ err: error }, 'a bulk request broke off')
      this.destroy()
    }
  }

  /** The next bytes of the body; null when there are no more. */
  async #chunk(): Promise<Buffer | null> {
    for (;;) {
      const chunk = this.#body.read() as Buffer | null
      if (chunk !== null) {
        this.#progressAt = Date.now()
        return chunk
      }
      if (this.#body.readableEnded || this.#body.destroyed || this.#over.signal.aborted) return null
      this.#starving = true
      await this.#sleep()
      this.#starving = false
    }
  }

  async #takeLines(): Promise<void> {
    while (!this.#over.signal.aborted) {
      const found = this.#splitter.next()
      if (found === 'more') return
      if (found === 'line') await this.#takeLine()
      else
        this.#answer(
          ++this.#number,
          undefined,
          new HeadraceError(
            'line-too-long',
            `A line may have ${this.#edge.limits.lineBytesMax} bytes. Send shorter lines, or raise lineBytesMax.`,
          ),
        )
      while (this.#full() && !this.#over.signal.aborted) await this.#sleep()
    }
  }

  #full(): boolean {
    return this.#lines.length >= this.#edge.limits.bulkInFlightMax || this.#bytes >= this.#edge.limits.bulkInFlightBytesMax
  }

  #sleep(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined
        resolve()
      }
    })
  }

  async #takeLine(): Promise<void> {
    const { bytes, start, end } = this.#splitter
    const text = trim(bytes, start, end)
    const number = this.#number + 1
    if (text.length === 0) {
      this.#number = number
      return
    }
    let id: string | undefined
    try {
      const line = readLine(parseBody(text, this.#edge.app.options.jsonDepthMax + 1))
      id = line.id
      const receipt = await this.#takePatiently(line.id, tenantOf(line.tenant, this.#order.tenant), line.input)
      if (receipt === undefined) return
      this.#number = number
      this.#await({ number, id, takenAt: Date.now(), receipt, text: null, bytes: text.length, expired: false })
    } catch (error) {
      this.#number = number
      this.#answer(number, id, asHeadraceError(error))
    }
  }

  /** Hands the line to the app, again and again while it has no room; undefined when the request is over before it was taken. */
  async #takePatiently(id: string, tenant: string, input: unknown): Promise<Receipt | undefined> {
    const { gateway, limits } = this.#edge
    const options = { id, tenant }
    let deadline: number | undefined
    for (let attempt = 0; ; attempt++) {
      try {
        return await gateway.take(this.#order.command, input, options)
      } catch (error) {
        if (!HeadraceError.is(error) || !passing.has(error.code)) throw error
        deadline ??= Date.now() + limits.bulkRetryMs
        const left = deadline - Date.now()
        if (left <= 0) throw error
        await pause(Math.min(left, backoffMs(attempt, retryBaseMs, retryMaxMs)), this.#over.signal)
        if (this.#over.signal.aborted) return undefined
      }
    }
  }

  #await(line: Line & { readonly receipt: Receipt }): void {
    this.#lines.push(line)
    this.#bytes += line.bytes
    if (this.#order.preference.waitMs === 0) {
      // The outcome is not asked for: what nobody waits for need not stay in memory.
      this.#expire(line)
    } else {
      line.receipt.outcome.then(
        (outcome) => this.#settle(line, outcome.body),
        (error: unknown) => this.#settle(line, this.#problem(line, error)),
      )
    }
  }

  /** Answers a line that does not wait for its outcome any more, once it is durable. */
  #expire(line: Line): void {
    line.expired = true
    line.receipt?.durable().then(
      () => this.#settle(line, pendingDocument(this.#order.command, line.id ?? '')),
      (error: unknown) => this.#settle(line, this.#problem(line, error)),
    )
  }

  /** Answers a line that was not taken. */
  #answer(number: number, id: string | undefined, error: HeadraceError): void {
    const text = this.#problem({ number, id }, error)
    this.#lines.push({ number, id, takenAt: Date.now(), receipt: undefined, text, bytes: text.length, expired: false })
    this.#bytes += text.length
    this.#schedule()
  }

  #problem({ number, id }: Pick<Line, 'number' | 'id'>, cause: unknown): string {
    const error = asHeadraceError(cause)
    if (worthLogging(error))
      this.#edge.log.error({ err: error, command: this.#order.command, line: number }, 'a line of a bulk request failed')
    return JSON.stringify({ ...problemOf(error), line: number, ...(id === undefined ? {} : { id }) })
  }

  #settle(line: Line, text: string): void {
    if (line.text !== null) return
    line.text = text
    this.#bytes += text.length - line.bytes
    line.bytes = text.length
    if (this.#lines.peek() === line) this.#schedule()
  }

  /** Writes what is ready after the rest of this turn, in which the other lines of its batch settle. */
  #schedule(): void {
    if (this.#flushing) return
    this.#flushing = true
    setImmediate(() => {
      this.#flushing = false
      this.#flush()
    })
  }

  #flush(): void {
    if (this.destroyed || this.#ended) return
    while (this.#wanted) {
      const text = this.#ready()
      if (text === '') break
      this.#progressAt = Date.now()
      this.#wanted = this.push(text)
    }
    if (this.#readAll && this.#lines.length === 0) {
      this.#ended = true
      this.push(null)
    } else if (!this.#starving && !this.#full()) {
      this.#wake?.()
    }
  }

  #ready(): string {
    let text = ''
    for (let line = this.#lines.peek(); line !== undefined && line.text !== null && text.length < writeBytes; line = this.#lines.peek()) {
      this.#lines.shift()
      this.#bytes -= line.bytes
      text += `${line.text}\n`
    }
    return text
  }

  #tick(): void {
    const now = Date.now()
    const { bulkIdleMs, bulkMsMax } = this.#edge.limits
    for (const line of this.#lines) {
      if (now - line.takenAt < this.#order.preference.waitMs) break
      if (line.text === null && !line.expired) this.#expire(line)
    }
    if (now - this.#startedAt > bulkMsMax)
      this.#stop(new HeadraceError('request-timeout', `A bulk request is read for ${bulkMsMax} ms at most. Send the rest in another one.`))
    if (now - this.#progressAt <= bulkIdleMs) return
    if (!this.#wanted) this.destroy()
    else if (this.#starving && this.#lines.length === 0)
      this.#stop(new HeadraceError('request-timeout', `Nothing arrived for ${bulkIdleMs} ms. Send the rest in another bulk request.`))
  }
}
