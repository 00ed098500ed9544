/**
 * Events that commands emit: `accept(result, { emit: [{ topic, message }] })`.
 *
 * They are written by the commit that holds the outcome of their command, and
 * published from there: if and only if the command has committed, and in the
 * order of the commits, whatever crashes. One that is published twice, since a
 * crash came between publishing and forgetting it, has the same id both times.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { StoredEvent } from '../contracts/ledger.ts'
import { messageBytesLimit } from '../contracts/queue.ts'
import { newMessage } from '../queue/message.ts'
import { digestOf } from '../std/hash.ts'
import type { EmittedEvent } from './command.ts'
import type { Ticket } from './ticket.ts'

/** Most events of one command. */
const eventsPerCommandMax = 100

/** What is stored of the events of a command. Throws 'topic-unknown', 'message-invalid', 'message-too-large'. */
export function storedEvents(ticket: Ticket, emitted: readonly EmittedEvent[], topics: ReadonlySet<string>): StoredEvent[] {
  const { command, id: scoped } = ticket.entry
  if (!Array.isArray(emitted) || emitted.length > eventsPerCommandMax)
    throw new HeadraceError('message-invalid', `Command '${command}' must emit a list of at most ${eventsPerCommandMax} events.`)
  const now = Date.now()
  return emitted.map(({ topic, message, key = ticket.key, headers = {} }: EmittedEvent, index) => {
    if (!topics.has(topic))
      throw new HeadraceError(
        'topic-unknown',
        `Command '${command}' emits to the topic ${JSON.stringify(topic)}, which the app does not declare: name it in events.topics of defineApp.`,
      )
    const id = `${digestOf(scoped)}.${index}`
    const { body } = newMessage(message, { key, id, headers }, 1, messageBytesLimit, now)
    return { topic, key, id, headers: JSON.stringify(headers), body, at: now }
  })
}
