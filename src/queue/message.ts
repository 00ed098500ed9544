/**
 * A message, from what a publisher gives to what a handler gets.
 *
 * Bodies are JSON. Headers are the attributes of CloudEvents 1.0 (`type`,
 * `source`, `subject`, `datacontenttype` …), `traceparent` of W3C Trace Context,
 * and the user's own. https://github.com/cloudevents/spec
 */
import { randomFillSync } from 'node:crypto'
import { HeadraceError } from '../contracts/errors.ts'
import {
  headerBytesMax,
  type MessageHeaders,
  messageIdCharactersMax,
  messageKeyBytesMax,
  type NewMessage,
  type QueueMessage,
} from '../contracts/queue.ts'
import { isStorable } from '../std/text.ts'
import { partitionOf } from './partition.ts'

export interface PublishOptions {
  /** What orders it: messages with one key are handled strictly in order. Up to 512 bytes. Default: '', one order for all. */
  readonly key?: string
  /** Milliseconds until anybody gets it. Default: 0. */
  readonly delay?: number
  /** The moment before which nobody gets it: a schedule, on the clock of the engine. */
  readonly at?: Date
  /** Names the message for good: publish it again under the same id after an error. 1 to 128 visible ASCII characters. Default: a new one. */
  readonly id?: string
  /** Attributes of CloudEvents, `traceparent`, and your own: texts by lower-case name. */
  readonly headers?: MessageHeaders
  /** Ends the waiting; the message may be kept all the same when it was on its way. */
  readonly signal?: AbortSignal
}

/** A message in the hands of a handler. */
export interface Delivery<T = unknown> {
  readonly topic: string
  readonly group: string
  readonly partition: number
  readonly position: number
  /** Of the lease under which it was taken: what the database of the handler is fenced by. */
  readonly epoch: number
  readonly id: string
  readonly key: string
  readonly headers: MessageHeaders
  /** The message as it was published. */
  readonly value: T
  /** The same as text. */
  readonly body: string
  /** Milliseconds since 1970. */
  readonly publishedAt: number
  /** From 1; counts the tries of this consumer. */
  readonly attempt: number
  /** How often it came back from the dead letters. */
  readonly redriven: number
  /** Aborts when the handler has run out of time, or the partition is lost. */
  readonly signal: AbortSignal
}

const publishNames = ['key', 'delay', 'at', 'id', 'headers', 'signal']
const idPattern = /^[\x21-\x7e]+$/
const headerPattern = /^[a-z][a-z0-9_.-]{0,63}$/
/** Farthest schedule, in milliseconds from now: ten years. A date beyond it is a mistake of units. */
const delayMsMax = 10 * 366 * 86_400_000

const noHeaders: MessageHeaders = Object.freeze({})

const invalid = (message: string): HeadraceError => new HeadraceError('message-invalid', message)

/** Checks everything before anything is kept. Throws 'message-invalid', 'message-too-large' and 'option-unknown'. */
export function newMessage(value: unknown, options: PublishOptions, partitions: number, bytesMax: number, now: number): NewMessage {
  for (const name of Object.keys(options)) {
    if (!publishNames.includes(name))
      throw new HeadraceError('option-unknown', `publish has no option '${name}'. Known: ${publishNames.join(', ')}.`)
  }
  const { key = '', id = newId(now), headers = noHeaders } = options
  if (typeof key !== 'string' || Buffer.byteLength(key) > messageKeyBytesMax || !isStorable(key))
    throw invalid(`The key of a message must be a text of up to ${messageKeyBytesMax} bytes, without zero characters.`)
  if (typeof id !== 'string' || id.length > messageIdCharactersMax || !idPattern.test(id))
    throw invalid(`The id of a message must be 1 to ${messageIdCharactersMax} visible ASCII characters.`)
  checkHeaders(headers)
  return {
    partition: partitionOf(key, partitions),
    key,
    id,
    headers,
    body: bodyOf(value, bytesMax),
    publishedAt: now,
    availableAt: dueAt(options, now),
  }
}

/** The message of the user, or why its body is none. */
export function readMessage(message: QueueMessage): { readonly value: unknown } | { readonly malformed: string } {
  if (message.malformed !== null) return { malformed: message.malformed }
  try {
    return { value: JSON.parse(message.body) as unknown }
  } catch (error) {
    return { malformed: `The body is not JSON: ${(error as Error).message}` }
  }
}

function bodyOf(value: unknown, bytesMax: number): string {
  let body: string | undefined
  try {
    body = JSON.stringify(value)
  } catch (error) {
    throw invalid(`The message cannot be written as JSON: ${(error as Error).message}`)
  }
  if (body === undefined) throw invalid(`The message cannot be written as JSON: it is ${typeof value}.`)
  const bytes = Buffer.byteLength(body)
  if (bytes > bytesMax)
    throw new HeadraceError(
      'message-too-large',
      `The message has ${bytes} bytes; at most ${bytesMax} are allowed. Send a smaller one, or raise messageBytesMax.`,
      {
        details: { bytes, bytesMax },
      },
    )
  return body
}

function checkHeaders(headers: unknown): asserts headers is MessageHeaders {
  if (headers === noHeaders) return
  if (typeof headers !== 'object' || headers === null) throw invalid('The headers of a message must be an object of texts.')
  let bytes = 0
  for (const [name, value] of Object.entries(headers)) {
    if (!headerPattern.test(name))
      throw invalid(`The header name ${JSON.stringify(name)} is not valid: use lower-case letters, digits, dots, dashes and underscores.`)
    if (typeof value !== 'string' || !isStorable(value)) throw invalid(`The header '${name}' must be a text without zero characters.`)
    bytes += name.length + Buffer.byteLength(value)
  }
  if (bytes > headerBytesMax) throw invalid(`The headers have ${bytes} bytes; at most ${headerBytesMax} are allowed.`)
}

function dueAt({ delay, at }: PublishOptions, now: number): number | null {
  if (delay === undefined && at === undefined) return null
  if (delay !== undefined && at !== undefined) throw invalid('Give a delay or a moment (at), not both.')
  if (delay !== undefined && (!Number.isSafeInteger(delay) || delay < 0))
    throw invalid('The delay must be a whole number of milliseconds from 0.')
  const due = delay !== undefined ? now + delay : at instanceof Date ? at.getTime() : Number.NaN
  if (Number.isNaN(due)) throw invalid('at must be a valid Date.')
  if (due > now + delayMsMax) throw invalid('The message would be due in more than ten years: a delay is in milliseconds.')
  return due <= now ? null : due
}

const idRandomBytes = 10
/** Random bytes for many ids: asking the system for each of them costs more than all else that is done for a message. */
const randomPage = Buffer.alloc(idRandomBytes * 400)
let randomUsed = randomPage.length

/** Ids that grow with time, so that an index over them is written at its end: milliseconds, then 80 random bits. */
function newId(now: number): string {
  if (randomUsed === randomPage.length) {
    randomFillSync(randomPage)
    randomUsed = 0
  }
  const from = randomUsed
  randomUsed += idRandomBytes
  return now.toString(36).padStart(9, '0') + randomPage.toString('base64url', from, randomUsed)
}
