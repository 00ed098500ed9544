/** The embedded ledger: the contract of the write path, on the engine behind a port. */
import { join, resolve } from 'node:path'
import type { Database, DatabaseHandle } from '../../contracts/database.ts'
import { tell } from '../../contracts/diagnostics.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { BatchIds, CommitRecord, DecidingLedger, LedgerOptions, QueuedId, StoredOutcome, Transaction } from '../../contracts/ledger.ts'
import { Mutex } from '../../std/mutex.ts'
import type { Reply } from './calls.ts'
import { readHandle, writeHandle } from './handle.ts'
import { openPort, type Port, type ThreadOption } from './port.ts'
import type { RowSet } from './rows.ts'
import type { Verb } from './verbs.ts'
import { entriesIn, flatEntries, toWireRecord } from './wire.ts'

export interface SqliteLedgerOptions extends LedgerOptions {
  /** Default: what HEADRACE_SQLITE_THREAD says, else 'worker'; run from TypeScript sources, which Node 20 cannot load in a worker, 'main'. */
  readonly thread?: ThreadOption
}

function threadOf(options: SqliteLedgerOptions): ThreadOption {
  const asked = options.thread ?? process.env['HEADRACE_SQLITE_THREAD']
  if (asked === undefined || asked === '') return import.meta.url.endsWith('.ts') ? 'main' : 'worker'
  if (asked !== 'main' && asked !== 'worker')
    throw new HeadraceError('option-invalid', `HEADRACE_SQLITE_THREAD must be 'main' or 'worker', not ${JSON.stringify(asked)}.`)
  return asked
}

/** Opens the journal and the databases of an app in its data directory, and recovers. Errors: see `openEngine`. */
export async function openSqliteLedger(options: SqliteLedgerOptions): Promise<DecidingLedger> {
  const startedAt = performance.now()
  const dataDir = resolve(options.dataDir)
  const databases = options.databases.map((handle) => databaseOf(handle, dataDir))
  const paths = new Map([[join(dataDir, 'journal.sqlite'), 'the journal']])
  for (const { name, path } of databases) {
    const other = paths.get(path)
    if (other !== undefined)
      throw new HeadraceError('app-invalid', `SQLite '${name}' and ${other} are one file: ${path}. Give each a file of its own.`)
    paths.set(path, `'${name}'`)
  }
  const port = await openPort({ dataDir, partitions: options.partitions, databases, queue: options.queue }, threadOf(options))
  const { queued, redone } = port.opened
  tell('headrace:recovery', () => ({ app: options.app, queued, redone, ms: performance.now() - startedAt }))
  return ledgerOn(port, options)
}

function databaseOf(handle: DatabaseHandle, dataDir: string): { name: string; path: string; schema: string | null } {
  const { file, schema } = handle.options as { file?: string; schema?: string }
  return { name: handle.name, path: file === undefined ? join(dataDir, `${handle.name}.sqlite`) : resolve(file), schema: schema ?? null }
}

function ledgerOn(port: Port, options: LedgerOptions): DecidingLedger {
  const locks = new Map(options.databases.map(({ name }) => [name, new Mutex()]))
  return {
    firstPosition: port.opened.firstPosition,
    partitions: port.opened.partitions,
    identity: port.opened.identity,
    epoch: port.opened.epoch,
    decisions: {
      name: 'journal',
      decision: (gid) => port.call('decision', gid),
      decideAbort: (gid, participants) => port.call('decideAbort', gid, participants),
      decisions: (prefix, limit) => port.call('decisions', prefix, limit),
      forget: (gids) => port.call('forgetDecisions', gids),
    },
    append: (entries) => port.call('append', flatEntries(entries)),
    read: async (reading) => entriesIn(await port.call('queued', reading)),
    begin: (databases, ids) => beginTransaction(port, locks, databases, ids),
    reader: (database) => readHandle((verb) => port.call('read', database, verb)),
    outcomes: async (ids) => byId(await port.call('outcomes', ids)),
    pending: (id) => port.call('pending', id),
    counts: () => port.call('counts'),
    blockedKeys: () => port.call('blockedKeys'),
    unblock: (key, limit) => port.call('unblock', key, limit),
    deadLetters: ({ after = 0, limit }) => port.call('deadLetters', after, limit),
    deadLetter: (position) => port.call('deadLetter', position),
    redrive: (position) => port.call('redrive', position),
    drop: (position) => port.call('drop', position),
    events: (limit) => port.call('events', limit),
    forgetEvents: (upTo) => port.call('forgetEvents', upTo),
    prune: () => port.call('prune', Date.now() - options.outcomeRetentionMs, options.outcomesMax),
    close: () => port.close(),
  }
}

function byId<T extends { readonly id: string }>(items: readonly T[]): Map<string, T> {
  return new Map(items.map((item) => [item.id, item]))
}

/** One transaction at a time per file: SQLite has one writer, and this one must not block its thread waiting for itself. */
async function beginTransaction(
  port: Port,
  locks: ReadonlyMap<string, Mutex>,
  databases: readonly string[],
  ids: BatchIds,
): Promise<Transaction> {
  const held = [...databases].sort().map((name) => locks.get(name) ?? new Mutex())
  for (const lock of held) await lock.acquire()
  const releaseAll = (): void => {
    for (const lock of held) lock.release()
  }
  let begun: Reply['begin']
  try {
    begun = await port.call('begin', databases, ids)
  } catch (error) {
    releaseAll()
    throw error
  }
  return new SqliteTransaction(port, begun, databases, releaseAll)
}

class SqliteTransaction implements Transaction {
  readonly #port: Port
  readonly #number: number
  readonly known: ReadonlyMap<string, StoredOutcome>
  readonly queued: ReadonlyMap<string, QueuedId>
  readonly #handles: ReadonlyMap<string, Database>
  readonly #release: () => void
  #open = true

  constructor(port: Port, begun: Reply['begin'], databases: readonly string[], release: () => void) {
    this.#port = port
    this.#number = begun.transaction
    this.known = byId(begun.known)
    this.queued = byId(begun.queued)
    this.#release = release
    this.#handles = new Map(databases.map((name) => [name, writeHandle((verb) => this.#write(name, verb))]))
  }

  database(name: string): Database {
    const handle = this.#handles.get(name)
    if (handle === undefined) throw new HeadraceError('internal', `The transaction does not hold '${name}'.`)
    return handle
  }

  savepoint(): Promise<void> {
    return this.#port.call('savepoint', this.#number, 'savepoint')
  }

  async rollbackToSavepoint(): Promise<void> {
    await this.#port.call('savepoint', this.#number, 'rollback to')
    await this.releaseSavepoint()
  }

  releaseSavepoint(): Promise<void> {
    return this.#port.call('savepoint', this.#number, 'release')
  }

  commit(record: CommitRecord): Promise<number> {
    return this.#end(() => this.#port.call('commit', this.#number, toWireRecord(record)))
  }

  abort(): Promise<void> {
    return this.#end(() => this.#port.call('abort', this.#number))
  }

  async #write(database: string, verb: Verb): Promise<RowSet | number> {
    if (!this.#open)
      throw new HeadraceError(
        'transaction-closed',
        `The transaction on '${database}' has ended. Await every database call before the handler returns.`,
      )
    return this.#port.call('write', this.#number, database, verb)
  }

  async #end<T>(action: () => Promise<T>): Promise<T> {
    if (!this.#open) throw new HeadraceError('transaction-closed')
    this.#open = false
    try {
      return await action()
    } finally {
      this.#release()
    }
  }
}
