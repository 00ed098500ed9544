/**
 * The inbox: a message changes a database exactly once, although a queue can
 * only deliver it at least once.
 *
 * In the transaction of the handler, before its own work:
 *
 * 1. *The fence.* The row of (topic, group, partition) has the epoch of the
 *    newest consumer; a handler under an older one is refused ('fenced') by the
 *    database, whatever its consumer believes. The row is read with a shared
 *    lock that lasts to the commit, so handlers of one consumer run side by
 *    side, and a takeover waits for those that are in the middle.
 * 2. *The row of the message*, by its id: there already means done, and the
 *    handler is not called. Its unique key lets only one of two transactions
 *    commit.
 *
 * The handler's work, the row and so the knowledge that it is done commit
 * together; the acknowledgement that follows may get lost without harm.
 *
 * A new consumer first raises the epoch, in a transaction of its own. After
 * that everything an older one committed can be seen, and nothing more of it
 * comes.
 */
import { checkWhole } from '../contracts/bounds.ts'
import type { Database, Row, SqlValue } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { FencedError } from '../contracts/lock.ts'
import type { Delivery } from './message.ts'
import { checkNames } from '../contracts/bounds.ts'

/** Runs `run` in one transaction of the database, and commits it; rolls back and rejects when it throws. */
export type Transact = <T>(run: (database: Database) => Promise<T>) => Promise<T>

export type InboxEngine = 'sqlite' | 'postgres' | 'mysql'

export interface InboxOptions {
  /** Which database it is: their words for a shared lock differ. */
  readonly engine: InboxEngine
  readonly transact: Transact
  /** How long a message is remembered, in milliseconds. Longer than it can wait, fail and be redriven. Default: 7 days. */
  readonly retentionMs?: number
}

export interface Inbox {
  /** A handler for `consumer.run` that does its work in the transaction it is given, exactly once. */
  once<T>(handler: (delivery: Delivery<T>, database: Database) => unknown): (delivery: Delivery<T>) => Promise<void>
  /** The same for `consumer.runBatch`: it gets those of the batch that are not done yet, if there are any. */
  onceBatch<T>(
    handler: (deliveries: readonly Delivery<T>[], database: Database) => unknown,
  ): (deliveries: readonly Delivery<T>[]) => Promise<void>
  /** For a transaction of your own: the deliveries that are not done yet. Do their work in the same transaction. Throws 'fenced'. */
  fresh<D extends Delivery>(database: Database, deliveries: readonly D[]): Promise<D[]>
  /** Drops rows past their retention, in steps; called now and then by the inbox itself. Returns how many. */
  prune(): Promise<number>
}

const ownerTable = 'message_inbox_owner'
const table = 'message_inbox'
/** Rows that one step of pruning drops. */
const pruneRowsMax = 1_000
/** Messages between two prunings. */
const pruneEvery = 10_000

const sharedLock: Readonly<Record<InboxEngine, string>> = {
  // One writer at a time: its transaction is the lock.
  sqlite: '',
  postgres: ' for share',
  mysql: ' lock in share mode',
}

/** The tables of the inbox, for a migration; running it again changes nothing. */
export const inboxSchema: Readonly<Record<InboxEngine, string>> = {
  sqlite: `create table if not exists ${ownerTable} (scope text primary key not null, epoch integer not null) strict;
create table if not exists ${table} (mark text primary key not null, at integer not null) strict, without rowid;
create index if not exists ${table}_at on ${table} (at);`,
  postgres: `create table if not exists ${ownerTable} (scope text collate "C" primary key, epoch bigint not null);
create table if not exists ${table} (mark text collate "C" primary key, at bigint not null);
create index if not exists ${table}_at on ${table} (at);`,
  mysql: `create table if not exists ${ownerTable} (scope varchar(160) character set ascii collate ascii_bin primary key, epoch bigint not null);
create table if not exists ${table} (mark varchar(320) character set ascii collate ascii_bin primary key, at bigint not null, key ${table}_at (at));`,
}

/** An inbox in a database. Throws 'option-invalid' and 'option-unknown'. */
export function createInbox(options: InboxOptions): Inbox {
  return new MessageInbox(options)
}

class MessageInbox implements Inbox {
  readonly #transact: Transact
  readonly #retentionMs: number
  readonly #ownerQuery: TemplateStringsArray
  /** The epoch that this inbox has raised each scope to, or is raising it to. */
  readonly #claims = new Map<string, { readonly epoch: number; readonly done: Promise<void> }>()
  #sincePruned = 0

  constructor(options: InboxOptions) {
    checkNames('createInbox', options, ['engine', 'transact', 'retentionMs'])
    const { engine, transact, retentionMs = 7 * 86_400_000 } = options
    if (sharedLock[engine] === undefined)
      throw new HeadraceError('option-invalid', `The engine of an inbox must be one of: ${Object.keys(sharedLock).join(', ')}.`)
    if (typeof transact !== 'function') throw new HeadraceError('option-invalid', 'transact must be a function that runs a transaction.')
    checkWhole('retentionMs', retentionMs, 1_000, Number.MAX_SAFE_INTEGER)
    this.#transact = transact
    this.#retentionMs = retentionMs
    this.#ownerQuery = template(`select epoch from ${ownerTable} where scope = `, sharedLock[engine])
  }

  once<T>(handler: (delivery: Delivery<T>, database: Database) => unknown): (delivery: Delivery<T>) => Promise<void> {
    const batch = this.onceBatch<T>(([delivery], database) => handler(delivery as Delivery<T>, database))
    return (delivery) => batch([delivery])
  }

  onceBatch<T>(
    handler: (deliveries: readonly Delivery<T>[], database: Database) => unknown,
  ): (deliveries: readonly Delivery<T>[]) => Promise<void> {
    return async (deliveries) => {
      await Promise.all(deliveries.map((delivery) => this.#claim(delivery)))
      await this.#transact(async (database) => {
        const fresh = await this.fresh(database, deliveries)
        if (fresh.length > 0) await handler(fresh, database)
      })
      this.#sincePruned += deliveries.length
      // Nobody waits for it, and the next one makes good what this one leaves.
      if (this.#sincePruned >= pruneEvery) this.prune().catch(() => {})
    }
  }

  async fresh<D extends Delivery>(database: Database, deliveries: readonly D[]): Promise<D[]> {
    const epochs = new Map(deliveries.map((delivery) => [scopeOf(delivery), delivery.epoch]))
    for (const [scope, epoch] of epochs) {
      await this.#claims.get(scope)?.done
      const [row] = await database.sql<Row & { readonly epoch: SqlValue }>(this.#ownerQuery, scope)
      // Nobody has raised it: a transaction of the caller's own, whose claim comes first.
      if (row === undefined || Number(row.epoch) < epoch)
        throw new HeadraceError('fenced', `The inbox has not been told of epoch ${epoch} of ${scope}: use once() or onceBatch().`)
      if (Number(row.epoch) > epoch) throw new FencedError(scope, epoch, Number(row.epoch))
    }
    const byMark = new Map(deliveries.map((delivery) => [markOf(delivery), delivery]))
    const known = await database.selectIn<Row & { readonly mark: string }>(table, 'mark', [...byMark.keys()], {
      columns: ['mark'],
      lock: false,
    })
    for (const { mark } of known) byMark.delete(mark)
    const at = Date.now()
    await database.insertMany(
      table,
      [...byMark.keys()].map((mark) => ({ mark, at })),
    )
    return [...byMark.values()]
  }

  async prune(): Promise<number> {
    this.#sincePruned = 0
    const cutoff = Date.now() - this.#retentionMs
    let pruned = 0
    for (let dropped = pruneRowsMax; dropped === pruneRowsMax; pruned += dropped) {
      dropped = await this.#transact(async (database) => {
        const rows = await database.sql<Row & { readonly mark: string }>(
          template(`select mark from ${table} where at < `, ` order by at limit ${pruneRowsMax}`),
          cutoff,
        )
        return rows.length === 0
          ? 0
          : await database.deleteIn(
              table,
              'mark',
              rows.map(({ mark }) => mark),
            )
      })
    }
    return pruned
  }

  /** Raises the epoch of the partition, once for each lease. */
  #claim(delivery: Delivery): Promise<void> {
    const { epoch } = delivery
    const scope = scopeOf(delivery)
    const known = this.#claims.get(scope)
    if (known?.epoch === epoch) return known.done
    if (known !== undefined && known.epoch > epoch) throw new FencedError(scope, epoch, known.epoch)
    const done = this.#raise(scope, epoch)
    const claim = { epoch, done }
    this.#claims.set(scope, claim)
    done.catch(() => {
      // The next message tries again.
      if (this.#claims.get(scope) === claim) this.#claims.delete(scope)
    })
    return done
  }

  #raise(scope: string, epoch: number): Promise<void> {
    return this.#transact(async (database) => {
      await database.insertMany(ownerTable, [{ scope, epoch }], { onConflict: 'ignore' })
      const [row] = await database.selectIn<Row & { readonly epoch: SqlValue }>(ownerTable, 'scope', [scope], { lock: true })
      const highest = Number(row?.epoch)
      if (highest > epoch) throw new FencedError(scope, epoch, highest)
      if (highest < epoch) await database.updateMany(ownerTable, 'scope', [{ scope, epoch }])
    })
  }
}

const scopeOf = ({ topic, group, partition }: Delivery): string => `${topic}/${group}/${partition}`
const markOf = (delivery: Delivery): string => `${scopeOf(delivery)}/${delivery.id}`

/** A statement put together from constants, as the tag of a template gets it. */
function template(...parts: readonly string[]): TemplateStringsArray {
  return Object.assign([...parts], { raw: parts }) as unknown as TemplateStringsArray
}
