/** The queues of a running app: the one that commands come through, and the one that events go to. */
import { HeadraceError } from '../../contracts/errors.ts'
import type { Ledger, LedgerCounts } from '../../contracts/ledger.ts'
import type { QueueEngine } from '../../contracts/queue.ts'
import type { Admission } from '../admission.ts'
import { type EventOptions, EventRelay } from '../event-relay.ts'
import { CommandFeed, type FeedContext } from './feed.ts'

export interface Queues {
  readonly feed: CommandFeed | null
  readonly relay: EventRelay | null
  close(): Promise<void>
}

/** Opens both, or neither. Throws what an engine refuses with. */
export async function openQueues(
  queue: QueueEngine | null,
  events: EventOptions | null,
  ledger: Ledger,
  context: FeedContext,
): Promise<Queues> {
  const engines = new Set([queue, events?.queue ?? null].filter((engine) => engine !== null))
  let feed: CommandFeed | null = null
  let relay: EventRelay | null = null
  const close = async (): Promise<void> => {
    await Promise.all([feed?.close(), relay?.close()])
    await Promise.all([...engines].map((engine) => engine.close()))
  }
  try {
    if (events !== null) relay = await openRelay(events.queue ?? queue, events, ledger, context)
    if (queue !== null) feed = await CommandFeed.open(queue, context)
    return { feed, relay, close }
  } catch (error) {
    await close().catch(() => undefined)
    throw error
  }
}

async function openRelay(engine: QueueEngine | null, { topics }: EventOptions, ledger: Ledger, context: FeedContext): Promise<EventRelay> {
  const { app, admission } = context
  if (engine === null)
    throw new HeadraceError(
      'option-invalid',
      'The app emits events, and has no queue for them: give events.queue to defineApp, or start it with a queue (--queue).',
    )
  admission.events = (await ledger.counts()).events
  return EventRelay.open(app, ledger, engine, topics, (count) => {
    admission.events -= count
  })
}

/** What waits in the ledger, and in the queue that commands come through. */
export async function countsOf(ledger: Ledger, { inQueue }: Admission, queues: Queues | null): Promise<LedgerCounts> {
  const counts = await ledger.counts()
  const feed = queues?.feed ?? null
  if (feed === null) return counts
  const times = [counts.oldestAcceptedAt, feed.oldestPublishedAt].filter((time) => time !== null)
  return { ...counts, queued: counts.queued + inQueue, oldestAcceptedAt: times.length === 0 ? null : Math.min(...times) }
}
