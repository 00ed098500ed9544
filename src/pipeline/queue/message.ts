/**
 * A command as a message of the queue on a server.
 *
 * | message | command |
 * |---|---|
 * | topic | `<app>.commands`, with as many partitions as the app |
 * | header `type` | name of the command |
 * | header `tenant` | tenant; 'default' when absent |
 * | header `id` | id of the caller; the id of the message when absent |
 * | body | input, as JSON |
 * | key | key of the command; another one is corrected on arrival |
 *
 * So anybody who can write to the broker can send a command, with the three
 * things that a caller over HTTP gives: name, id and input. Headrace's own
 * messages have an id made of the caller's id and the input, since engines drop
 * a message whose id waits already: the same command, never another one.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import type { Entry } from '../../contracts/ledger.ts'
import { messageIdCharactersMax, type NewMessage, type QueueMessage } from '../../contracts/queue.ts'
import { digestOf } from '../../std/hash.ts'
import { jsonDepth } from '../../std/json.ts'
import { callerId, scopedId } from '../outcome.ts'

/** The group that applies commands. */
export const commandGroup = 'apply'

export const commandTopic = (app: string): string => `${app}.commands`

const idPattern = /^[\x21-\x7e]+$/
const tenantPattern = /^[A-Za-z0-9._-]{1,64}$/
const commandPattern = /^[a-z0-9._-]{1,64}$/

export function messageOf({ partition, key, id, command, tenant, input, digest, acceptedAt }: Entry): NewMessage {
  return {
    partition,
    key,
    id: digestOf(`${id}\n${digest}`),
    headers: { type: command, tenant, id: callerId(id) },
    body: input,
    publishedAt: acceptedAt,
    availableAt: null,
  }
}

/** A command that arrived; its key is not checked yet. */
export type Arrived = Pick<Entry, 'id' | 'command' | 'tenant' | 'input' | 'digest' | 'acceptedAt'>

/** Throws 'message-invalid', 'body-not-json' and 'body-too-deep' for what cannot be a command. */
export function arrivedCommand(
  message: QueueMessage,
  { inputBytesMax, jsonDepthMax }: { inputBytesMax: number; jsonDepthMax: number },
): Arrived {
  const { headers, body, malformed, publishedAt } = message
  if (malformed !== null) throw new HeadraceError('message-invalid', malformed)
  const { type, tenant = 'default', id = message.id } = headers
  if (type === undefined || !commandPattern.test(type))
    throw new HeadraceError('message-invalid', "The header 'type' must be the name of a command.")
  if (!tenantPattern.test(tenant))
    throw new HeadraceError('message-invalid', "The header 'tenant' must be 1 to 64 letters, digits, dots, dashes or underscores.")
  if (id.length > messageIdCharactersMax || !idPattern.test(id))
    throw new HeadraceError('message-invalid', `The header 'id' must be 1 to ${messageIdCharactersMax} visible ASCII characters.`)
  if (Buffer.byteLength(body) > inputBytesMax)
    throw new HeadraceError('message-invalid', `The input has ${Buffer.byteLength(body)} bytes; inputBytesMax is ${inputBytesMax}.`)
  let value: unknown
  try {
    value = JSON.parse(body)
  } catch (error) {
    throw new HeadraceError('body-not-json', `The body is not JSON: ${(error as Error).message}`)
  }
  if (jsonDepth(value, jsonDepthMax) > jsonDepthMax)
    throw new HeadraceError('body-too-deep', `The input is nested more than ${jsonDepthMax} levels deep.`)
  // White space makes no other command of it.
  const input = JSON.stringify(value)
  return { id: scopedId(type, tenant, id), command: type, tenant, input, digest: digestOf(input), acceptedAt: publishedAt }
}
