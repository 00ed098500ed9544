/**
 * A message as it travels: a JSON body, AMQP's own properties, and headers.
 *
 * | AMQP | message |
 * |---|---|
 * | property `message_id` | id |
 * | header `headrace:key` | key; '' when absent |
 * | header `headrace:published-at`, or property `timestamp` | publishedAt |
 * | header `headrace:available-at` | availableAt, when there is one |
 * | header `headrace:redriven` | redriven |
 * | every other header that is a text, a number or a boolean | header, as text |
 *
 * Names with a colon cannot be headers of a user. Anything may arrive here, from
 * any client: what cannot be a message gets a reason in `malformed`, never an
 * error.
 */
import { isUtf8 } from 'node:buffer'
import type { Message, Options } from 'amqplib'
import { headerBytesMax, messageIdCharactersMax, messageKeyBytesMax, type NewMessage, type QueueMessage } from '../../contracts/queue.ts'
import { hash32 } from '../../std/hash.ts'
import { isStorable } from '../../std/text.ts'

export type Properties = Options.Publish & { readonly messageId: string }

const own = 'headrace:'
const keyHeader = `${own}key`
const publishedHeader = `${own}published-at`
const availableHeader = `${own}available-at`
export const redrivenHeader = `${own}redriven`
/** The position under which a message was delivered first, before it was redriven. */
export const firstHeader = `${own}first`

const idPattern = /^[\x21-\x7e]+$/
const headerPattern = /^[a-z][a-z0-9_.-]{0,63}$/
/** What the broker itself adds. */
const brokerPattern = /^x-(death|first-death-.*|last-death-.*|delivery-count|acquired-count|opt-.*|routing-.*)$/

/** The properties of a message of ours. */
export function propertiesOf({ id, key, headers, publishedAt, availableAt }: NewMessage): Properties {
  const all: Record<string, string> = { ...headers, [keyHeader]: key, [publishedHeader]: String(publishedAt) }
  if (availableAt !== null) all[availableHeader] = String(availableAt)
  return {
    persistent: true,
    mandatory: true,
    messageId: id,
    contentType: 'application/json',
    timestamp: Math.floor(publishedAt / 1_000),
    headers: all,
  }
}

/** The properties of a message that came, to send it on as it is; headers of ours may be set or (undefined) taken away. */
export function propertiesAgain({ properties }: Message, changes: Readonly<Record<string, string | undefined>>): Properties {
  const headers: Record<string, unknown> = {}
  for (const [name, value] of Object.entries({ ...properties.headers, ...changes }))
    if (value !== undefined && !brokerPattern.test(name)) headers[name] = value
  return {
    messageId: typeof properties.messageId === 'string' ? properties.messageId : '',
    ...(properties.contentType === undefined ? {} : { contentType: properties.contentType as string }),
    ...(properties.contentEncoding === undefined ? {} : { contentEncoding: properties.contentEncoding as string }),
    ...(properties.timestamp === undefined ? {} : { timestamp: properties.timestamp as number }),
    headers,
  }
}

/** A text of the header, whatever its type there. */
export function headerText({ properties }: Message, name: string): string | undefined {
  const value: unknown = properties.headers?.[name]
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? String(value) : undefined
}

/** A whole number of a header, from 0. */
export function headerNumber(message: Message, name: string): number | undefined {
  const text = headerText(message, name)
  const value = text === undefined ? Number.NaN : Number(text)
  return Number.isSafeInteger(value) && value >= 0 ? value : undefined
}

/** The key of a message that came, when it has a usable one. */
export function keyOf(message: Message): string | null {
  const key = message.properties.headers?.[keyHeader] as unknown
  if (key === undefined) return ''
  return typeof key === 'string' && Buffer.byteLength(key) <= messageKeyBytesMax && isStorable(key) ? key : null
}

/** The message that came, with what is wrong with it. `partitions` is that of its topic. */
export function messageFrom(raw: Message, partition: number, partitions: number, position: number): QueueMessage {
  const { properties, content } = raw
  const id: unknown = properties.messageId
  const validId = typeof id === 'string' && id.length <= messageIdCharactersMax && idPattern.test(id)
  const key = keyOf(raw)
  const { body, trouble } = bodyFrom(content, properties.contentEncoding)
  const headers = headersFrom(raw)
  const malformed = !validId
    ? `message_id must be 1 to ${messageIdCharactersMax} visible ASCII characters, one for each message; it tells a repetition.`
    : key === null
      ? `The header ${own}key must be a text of up to ${messageKeyBytesMax} bytes, without zero characters.`
      : hash32(key) % partitions !== partition
        ? `The key ${JSON.stringify(key)} belongs to partition ${hash32(key) % partitions}, not ${partition}.`
        : (trouble ?? (headers === null ? `The headers have more than ${headerBytesMax} bytes.` : null))
  const seconds: unknown = properties.timestamp
  return {
    partition,
    position,
    id: validId ? id : `malformed-${partition}-${position}`,
    key: key ?? '',
    headers: headers ?? {},
    body,
    publishedAt: headerNumber(raw, publishedHeader) ?? (typeof seconds === 'number' && seconds > 0 ? seconds * 1_000 : Date.now()),
    availableAt: headerNumber(raw, availableHeader) ?? null,
    redriven: headerNumber(raw, redrivenHeader) ?? 0,
    malformed,
  }
}

function bodyFrom(content: Buffer, encoding: unknown): { readonly body: string; readonly trouble: string | null } {
  if (encoding !== undefined && encoding !== '' && !/^(utf-?8|identity)$/i.test(String(encoding)))
    return { body: '', trouble: `content_encoding must be utf-8 or nothing, not ${JSON.stringify(String(encoding).slice(0, 40))}.` }
  const body = content.toString('utf8')
  if (!isUtf8(content)) return { body: body.replaceAll('\0', '\ufffd'), trouble: 'The body is not UTF-8.' }
  if (body.includes('\0')) return { body: body.replaceAll('\0', '\ufffd'), trouble: 'The body has a zero character.' }
  return { body, trouble: null }
}

function headersFrom(raw: Message): Record<string, string> | null {
  const headers: Record<string, string> = {}
  let bytes = 0
  for (const name of Object.keys(raw.properties.headers ?? {})) {
    if (name.startsWith(own) || !headerPattern.test(name) || brokerPattern.test(name)) continue
    const text = headerText(raw, name)
    if (text === undefined || !isStorable(text)) continue
    bytes += name.length + Buffer.byteLength(text)
    headers[name] = text
  }
  return bytes > headerBytesMax ? null : headers
}
