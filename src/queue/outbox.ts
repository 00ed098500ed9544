/**
 * The outbox: a message is published if and only if the transaction that wrote
 * it committed.
 *
 * `add` writes rows through the database handle of that transaction. A relay
 * reads them in order, appends them to the queue, and drops them once they are
 * durable there. A crash between the two publishes them again under the same
 * ids, which the engine or the inbox of the consumer recognises.
 *
 * Order: one relay at a time, one append at a time, rows by number. Numbers are
 * given when a row is written and become visible at commit, so a key keeps its
 * order when its row is locked or changed before its message is added, as a
 * transaction about that key does anyway. The relay never goes on *after* a
 * number: it reads what is there, so a number that commits late is not missed.
 *
 * A delayed message waits here until it is due.
 */
import { checkNames, checkWhole } from '../contracts/bounds.ts'
import type { Database, Row, SqlValue } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { MessageHeaders, QueueEngine, QueueTopic } from '../contracts/queue.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import { clientName } from '../std/client-name.ts'
import type { InboxEngine, Transact } from './inbox.ts'
import { newMessage, type PublishOptions } from './message.ts'
import { queueLimitTable } from './options.ts'
import { partitionOf } from './partition.ts'

export interface OutboxMessage extends Omit<PublishOptions, 'signal'> {
  readonly topic: string
  readonly message: unknown
}

export interface RelayOptions {
  /** The engine that the messages go to. Its topics are declared already. */
  readonly engine: QueueEngine
  readonly transact: Transact
  /** Messages of one round. Default: 500. */
  readonly batch?: number
  /** Longest time until a committed message is noticed without `wake`, in milliseconds. Default: 25. */
  readonly pollMs?: number
  /** How long another process waits for a relay that died, in milliseconds. Default: 10000. */
  readonly leaseTtlMs?: number
  /** Called with errors that the relay gets over, and with messages that no engine takes. Default: a process warning. */
  readonly onError?: (error: HeadraceError) => void
}

const table = 'message_outbox'
const ownerTable = 'message_outbox_owner'
const retryBaseMs = 20
const retryMaxMs = 2_000

/** The tables of the outbox, for a migration; running it again changes nothing. */
export const outboxSchema: Readonly<Record<InboxEngine, string>> = {
  sqlite: `create table if not exists ${table} (n integer primary key autoincrement, topic text not null, id text not null, key_text text not null, headers text not null,
  body text not null, published_at integer not null, available_at integer, refused text) strict;
create table if not exists ${ownerTable} (scope text primary key not null, owner text not null, until_ms integer not null) strict;`,
  postgres: `create table if not exists ${table} (n bigint generated always as identity primary key, topic text not null, id text not null, key_text text not null, headers text not null,
  body text not null, published_at bigint not null, available_at bigint, refused text);
create table if not exists ${ownerTable} (scope text collate "C" primary key, owner text not null, until_ms bigint not null);`,
  mysql: `create table if not exists ${table} (n bigint auto_increment primary key, topic varchar(64) not null, id varchar(128) not null, key_text varchar(512) not null, headers text not null,
  body longtext not null, published_at bigint not null, available_at bigint, refused text) character set utf8mb4 collate utf8mb4_bin;
create table if not exists ${ownerTable} (scope varchar(64) primary key, owner varchar(160) not null, until_ms bigint not null) character set ascii collate ascii_bin;`,
}

/** Writes messages into the outbox, in the transaction of `database`. Answers their ids. Throws 'message-invalid' and 'message-too-large'. */
export async function addToOutbox(
  database: Database,
  messages: readonly OutboxMessage[],
  { messageBytesMax = queueLimitTable.messageBytesMax.default }: { readonly messageBytesMax?: number } = {},
): Promise<string[]> {
  const now = Date.now()
  const rows = messages.map(({ topic, message, ...options }) => {
    const { id, key, headers, body, availableAt } = newMessage(message, options, 1, messageBytesMax, now)
    return { topic, id, key_text: key, headers: JSON.stringify(headers), body, published_at: now, available_at: availableAt }
  })
  await database.insertMany(table, rows)
  return rows.map(({ id }) => id)
}

/** Publishes what is in the outbox, until it is closed. Start one in each process: one of them works, the others wait for it to die. */
export function startOutboxRelay(options: RelayOptions): OutboxRelay {
  return new OutboxRelay(options)
}

interface OutboxRow extends Row {
  readonly n: SqlValue
  readonly topic: string
  readonly id: string
  readonly key_text: string
  readonly headers: string
  readonly body: string
  readonly published_at: SqlValue
}

export class OutboxRelay implements AsyncDisposable {
  readonly #options: RelayOptions
  readonly #batch: number
  readonly #pollMs: number
  readonly #ttlMs: number
  readonly #name = clientName()
  readonly #stop = new AbortController()
  readonly #topics = new Map<string, QueueTopic>()
  readonly #loop: Promise<void>
  #wakeUp: AbortController | null = null
  #published = 0

  constructor(options: RelayOptions) {
    checkNames('startOutboxRelay', options, ['engine', 'transact', 'batch', 'pollMs', 'leaseTtlMs', 'onError'])
    const { batch = 500, pollMs = 25, leaseTtlMs = 10_000 } = options
    checkWhole('batch', batch, 1, 10_000)
    checkWhole('pollMs', pollMs, 1, 60_000)
    checkWhole('leaseTtlMs', leaseTtlMs, 100, 3_600_000)
    this.#options = options
    this.#batch = batch
    this.#pollMs = pollMs
    this.#ttlMs = leaseTtlMs
    this.#loop = this.#run()
  }

  /** Messages that this relay has published. */
  get published(): number {
    return this.#published
  }

  /** A transaction with messages has committed: look at once. */
  wake(): void {
    this.#wakeUp?.abort()
  }

  /** Ends after the round that is under way. */
  async close(): Promise<void> {
    this.#stop.abort()
    this.wake()
    await this.#loop
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #run(): Promise<void> {
    for (let failures = 0; !this.#stop.signal.aborted; ) {
      this.#wakeUp = new AbortController()
      try {
        const rows = await this.#read()
        const left = rows.length === 0 ? 0 : await this.#publish(rows)
        failures = left > 0 ? failures + 1 : 0
        if (rows.length > 0 && left === 0) continue
        await pause(left > 0 ? backoffMs(failures, retryBaseMs, retryMaxMs) : this.#pollMs, this.#wakeUp.signal)
      } catch (error) {
        const why = HeadraceError.is(error) ? error : new HeadraceError('engine-failed', String(error), { cause: error })
        if (why.code === 'queue-closed' || this.#stop.signal.aborted) return
        this.#tell(why)
        await pause(backoffMs(failures++, retryBaseMs, retryMaxMs), this.#stop.signal)
      }
    }
    await this.#giveUp().catch(() => {})
  }

  /** The next rows, when this relay may work: it is the owner, or the owner has not been heard of for a lease. */
  #read(): Promise<OutboxRow[]> {
    return this.#options.transact(async (database) => {
      const now = Date.now()
      await database.insertMany(ownerTable, [{ scope: 'relay', owner: this.#name, until_ms: 0 }], { onConflict: 'ignore' })
      const [row] = await database.selectIn<Row & { readonly owner: string; readonly until_ms: SqlValue }>(ownerTable, 'scope', ['relay'], {
        lock: true,
      })
      if (row !== undefined && row.owner !== this.#name && Number(row.until_ms) > now) return []
      if (row?.owner !== this.#name || Number(row.until_ms) < now + this.#ttlMs / 2)
        await database.updateMany(ownerTable, 'scope', [{ scope: 'relay', owner: this.#name, until_ms: now + this.#ttlMs }])
      return database.sql<OutboxRow>`select n, topic, id, key_text, headers, body, published_at from message_outbox where refused is null and (available_at is null or available_at <= ${now}) order by n limit ${this.#batch}`
    })
  }

  /** Appends topic by topic, and drops what is durable. Answers how many are left because their partition is full. */
  async #publish(rows: readonly OutboxRow[]): Promise<number> {
    const byTopic = new Map<string, OutboxRow[]>()
    for (const row of rows) byTopic.set(row.topic, [...(byTopic.get(row.topic) ?? []), row])
    let left = 0
    for (const [name, own] of byTopic) {
      const topic = await this.#topic(name, own)
      if (topic === null) continue
      const answers = await topic.append(
        own.map((row) => ({
          partition: partitionOf(row.key_text, topic.partitions),
          key: row.key_text,
          id: row.id,
          headers: JSON.parse(row.headers) as MessageHeaders,
          body: row.body,
          publishedAt: Number(row.published_at),
          availableAt: null,
        })),
      )
      const kept = own.filter((_, index) => answers[index]?.state !== 'full')
      left += own.length - kept.length
      if (kept.length > 0)
        await this.#options.transact((database) =>
          database.deleteIn(
            table,
            'n',
            kept.map(({ n }) => n),
          ),
        )
      this.#published += kept.length
    }
    return left
  }

  /** The topic; null, and its rows set aside, when nobody declared it: they must not hold up the others. */
  async #topic(name: string, rows: readonly OutboxRow[]): Promise<QueueTopic | null> {
    const known = this.#topics.get(name)
    if (known !== undefined) return known
    try {
      const topic = await this.#options.engine.open(name)
      this.#topics.set(name, topic)
      return topic
    } catch (error) {
      if (!HeadraceError.is(error) || error.retryable) throw error
      await this.#options.transact((database) =>
        database.updateMany(
          table,
          'n',
          rows.map(({ n }) => ({ n, refused: error.code })),
        ),
      )
      this.#tell(
        new HeadraceError(
          error.code,
          `${error.message} ${rows.length} messages of the outbox are set aside (column refused of ${table}).`,
          { cause: error },
        ),
      )
      return null
    }
  }

  async #giveUp(): Promise<void> {
    await this.#options.transact(async (database) => {
      const [row] = await database.selectIn<Row & { readonly owner: string }>(ownerTable, 'scope', ['relay'], { lock: true })
      if (row?.owner === this.#name) await database.updateMany(ownerTable, 'scope', [{ scope: 'relay', until_ms: 0 }])
    })
  }

  #tell(error: HeadraceError): void {
    if (this.#options.onError !== undefined) this.#options.onError(error)
    else process.emitWarning(error.message, { code: error.code })
  }
}
