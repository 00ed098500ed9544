/** What a definition of an app is checked for. */
import type { DatabaseHandle } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { checkNames } from '../contracts/bounds.ts'
import { checkQueueName, checkTopic, type QueueEngine } from '../contracts/queue.ts'
import type { EventOptions } from './event-relay.ts'

/** Throws 'option-invalid'. */
export function checkedQueue(queue: QueueEngine): QueueEngine {
  if (typeof queue?.declare === 'function') return queue
  throw new HeadraceError('option-invalid', "The queue of an app must be an engine, such as rabbitmqQueue({ url }), or 'none'.")
}

/** Throws 'option-invalid', 'option-unknown' and 'topic-invalid'. */
export function checkedEvents(events: EventOptions): EventOptions {
  checkNames('events', events, ['topics', 'queue'])
  if (events.queue !== undefined) checkedQueue(events.queue)
  for (const [name, topic] of Object.entries(events.topics ?? {})) {
    checkQueueName('topic', name)
    checkNames(`The topic '${name}' of events`, topic, ['partitions', 'groups', 'messagesMax'])
    checkTopic({ name, partitions: 1, groups: ['default'], messagesMax: 1, ...topic })
  }
  if (Object.keys(events.topics ?? {}).length > 0) return events
  throw new HeadraceError('option-invalid', "events needs topics: { 'order.placed': {} }.")
}

/** Throws 'app-invalid' when two have one name. */
export function uniqueByName<T extends { readonly name: string }>(what: string, items: readonly T[]): ReadonlyMap<string, T> {
  const byName = new Map<string, T>()
  for (const item of items) {
    if (byName.has(item.name))
      throw new HeadraceError(
        'app-invalid',
        `Two ${what === 'query' ? 'queries' : 'commands'} are named '${item.name}'. Give each a name of its own.`,
      )
    byName.set(item.name, item)
  }
  return byName
}

/** Every database of the commands and queries, once. Throws 'app-invalid' when two have one name. */
export function databasesOf(sets: readonly (Readonly<Record<string, DatabaseHandle>> | undefined)[]): DatabaseHandle[] {
  const byName = new Map<string, DatabaseHandle>()
  for (const handle of sets.flatMap((set) => Object.values(set ?? {}))) {
    const known = byName.get(handle.name)
    if (known !== undefined && known !== handle)
      throw new HeadraceError('app-invalid', `Two databases are named '${handle.name}'. Define it once and use that handle everywhere.`)
    byName.set(handle.name, handle)
  }
  return [...byName.values()]
}
