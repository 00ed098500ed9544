/** Events that commands emitted, until their queue has them; in the order of the commits. */
import type { QueuedEvent, StoredEvent } from '../../contracts/ledger.ts'
import type { JournalStore, Memory } from './store.ts'

const schema = `create table if not exists event (
  n integer primary key,
  topic text not null,
  key text not null,
  id text not null,
  headers text not null,
  body text not null,
  at integer not null
)`

export class EventTable implements Memory {
  readonly #store: JournalStore
  #size: number

  constructor(store: JournalStore) {
    this.#store = store
    store.database.exec(schema)
    this.#size = (store.run('select count(*) as n from event').get() as { n: number }).n
    store.follow(this)
  }

  get size(): number {
    return this.#size
  }

  remember(): () => void {
    const size = this.#size
    return () => {
      this.#size = size
    }
  }

  insert(events: readonly StoredEvent[]): void {
    if (events.length === 0) return
    this.#store.insertRows(
      'insert into event (topic, key, id, headers, body, at)',
      events.map(({ topic, key, id, headers, body, at }) => [topic, key, id, headers, body, at]),
    )
    this.#size += events.length
  }

  list(limit: number): QueuedEvent[] {
    return this.#store
      .run('select n, topic, key, id, headers, body, at from event order by n limit ?')
      .all(limit) as unknown as QueuedEvent[]
  }

  forget(upTo: number): void {
    const { changes } = this.#store.run('delete from event where n <= ?').run(upTo)
    this.#size -= Number(changes)
  }
}
