/**
 * A ledger whose batches reach databases on servers, too: PostgreSQL, MySQL and
 * MariaDB take part in the commit of the journal.
 *
 *   begin    the journal looks up the ids; a branch begins with the first call to its database.
 *   commit 1 every branch that wrote is prepared, side by side
 *          2 the journal: outcomes, queue, redo of the SQLite files, and the decision, in one commit. This decides.
 *          3 phase 2: every branch commits, side by side
 *
 * So one batch may change SQLite files and databases on servers, and is true in
 * all of them or in none. What a crash leaves prepared is ended by the next
 * start, before anything is taken, as the journal says (`src/transaction/`).
 *
 * What must hold:
 * - a prepared branch is rolled back only when the journal can never decide to commit it;
 * - no read shows a database from before a batch whose outcomes are out: while
 *   phase 2 of a decided batch goes on, reads of its databases are refused, and
 *   so is the next batch on them;
 * - no command is blamed for a database that does not answer: a statement that
 *   ran out of time is the command's own only when the database answers others;
 * - a database belongs to one journal. Another one, made anew where the first
 *   was lost, knows nothing of what is decided, and is refused.
 */
import type { Database, DatabaseHandle, ReadDatabase } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { BatchIds, CommitRecord, DecidingLedger, Ledger, LedgerOptions, Transaction } from '../contracts/ledger.ts'
import type { Fence, Participant, ParticipantHandle } from '../contracts/participant.ts'
import { type Coordinator, createCoordinator, type GlobalTransaction } from '../transaction/index.ts'
import { deploymentOf, takeOver } from './take-over.ts'

/** Longest time of a batch until it is decided; what ends it sooner are the bounds of its handlers and statements. */
const batchTimeoutMs = 3_600_000
/** Connections of each database beside those of the lanes: phase 2 and recovery. */
const connectionsBeside = 4
/** What a caller is asked to wait before the next try, while a database is away, in milliseconds. */
const awayRetryMs = 1_000

/** Opens the inner ledger alone when no database is on a server. */
export async function openGlobalLedger(
  options: LedgerOptions,
  openInner: (options: LedgerOptions) => Promise<DecidingLedger>,
): Promise<Ledger> {
  const remote = options.databases.filter(isOnServer)
  const inner = await openInner({ ...options, databases: options.databases.filter((handle) => !isOnServer(handle)) })
  if (remote.length === 0) return inner
  let coordinator: Coordinator | null = null
  try {
    coordinator = await createCoordinator({
      deployment: deploymentOf(inner.identity),
      databases: remote,
      logs: [inner.decisions],
      home: inner.decisions.name,
      epoch: inner.epoch,
      // Only the process that holds the journal can decide, and the earlier ones do not hold it any more.
      isRetired: ({ epoch }) => epoch !== null && epoch < inner.epoch,
      transactionsMax: options.lanes + connectionsBeside,
      waitersMax: options.lanes,
      timeoutMs: batchTimeoutMs,
      statementTimeoutMs: options.statementTimeoutMs,
    })
    const fences = await takeOver(coordinator, inner, options)
    return new GlobalLedger(inner, coordinator, fences)
  } catch (error) {
    await coordinator?.close()
    await inner.close()
    throw error
  }
}

function isOnServer(handle: DatabaseHandle): handle is ParticipantHandle {
  return 'connect' in handle && (handle as ParticipantHandle).embedded !== true
}

class GlobalLedger implements Ledger {
  readonly firstPosition: number
  readonly partitions: number
  readonly #inner: DecidingLedger
  readonly #coordinator: Coordinator
  /** Those that no batch holds. */
  readonly #fences: Fence[]
  /** Decided batches that a database may not show yet, by its name. */
  readonly #unshown = new Map<string, number>()

  constructor(inner: DecidingLedger, coordinator: Coordinator, fences: readonly Fence[]) {
    this.firstPosition = inner.firstPosition
    this.partitions = inner.partitions
    this.#inner = inner
    this.#coordinator = coordinator
    this.#fences = [...fences]
  }

  async begin(databases: readonly string[], ids: BatchIds): Promise<Transaction> {
    const { participants } = this.#coordinator.site
    const remote = databases.filter((name) => participants.has(name))
    const files = databases.filter((name) => !participants.has(name))
    if (remote.length === 0) return this.#inner.begin(files, ids)
    // A handler reads, too, and would decide by what is old.
    for (const name of remote) this.#mustShow(name)
    const fence = this.#fences.shift()
    if (fence === undefined) throw new HeadraceError('internal', 'More batches are applied at once than there are lanes.')
    const over = (): void => void this.#fences.push(fence)
    try {
      const global = await this.#coordinator.begin({ databases: remote, fences: [fence] })
      try {
        return new WideTransaction(await this.#inner.begin(files, ids), global, participants, {
          over,
          hide: (names, shown) => this.#hide(names, shown),
        })
      } catch (error) {
        await global.abort(error)
        throw error
      }
    } catch (error) {
      over()
      throw error
    }
  }

  reader(name: string): ReadDatabase {
    const participant = this.#coordinator.site.participants.get(name)
    if (participant === undefined) return this.#inner.reader(name)
    const { reader } = participant
    return {
      sql: async (text, ...values) => {
        this.#mustShow(name)
        return reader.sql(text, ...values)
      },
      selectIn: async (table, column, values, options) => {
        this.#mustShow(name)
        return reader.selectIn(table, column, values, options)
      },
    }
  }

  append(...given: Parameters<Ledger['append']>): ReturnType<Ledger['append']> {
    return this.#inner.append(...given)
  }

  read(...given: Parameters<Ledger['read']>): ReturnType<Ledger['read']> {
    return this.#inner.read(...given)
  }

  outcomes(...given: Parameters<Ledger['outcomes']>): ReturnType<Ledger['outcomes']> {
    return this.#inner.outcomes(...given)
  }

  pending(...given: Parameters<Ledger['pending']>): ReturnType<Ledger['pending']> {
    return this.#inner.pending(...given)
  }

  counts(): ReturnType<Ledger['counts']> {
    return this.#inner.counts()
  }

  blockedKeys(): ReturnType<Ledger['blockedKeys']> {
    return this.#inner.blockedKeys()
  }

  unblock(...given: Parameters<Ledger['unblock']>): ReturnType<Ledger['unblock']> {
    return this.#inner.unblock(...given)
  }

  deadLetters(...given: Parameters<Ledger['deadLetters']>): ReturnType<Ledger['deadLetters']> {
    return this.#inner.deadLetters(...given)
  }

  deadLetter(...given: Parameters<Ledger['deadLetter']>): ReturnType<Ledger['deadLetter']> {
    return this.#inner.deadLetter(...given)
  }

  redrive(...given: Parameters<Ledger['redrive']>): ReturnType<Ledger['redrive']> {
    return this.#inner.redrive(...given)
  }

  drop(...given: Parameters<Ledger['drop']>): ReturnType<Ledger['drop']> {
    return this.#inner.drop(...given)
  }

  events(limit: number): ReturnType<Ledger['events']> {
    return this.#inner.events(limit)
  }

  forgetEvents(upTo: number): Promise<void> {
    return this.#inner.forgetEvents(upTo)
  }

  prune(): ReturnType<Ledger['prune']> {
    return this.#inner.prune()
  }

  /** What is decided and not finished is finished by the next start. */
  async close(): Promise<void> {
    await this.#coordinator.close()
    await this.#inner.close()
  }

  #hide(names: readonly string[], shown: Promise<unknown>): void {
    const count = (by: number): void => {
      for (const name of names) this.#unshown.set(name, (this.#unshown.get(name) ?? 0) + by)
    }
    count(1)
    void shown.then(() => count(-1))
  }

  #mustShow(name: string): void {
    if ((this.#unshown.get(name) ?? 0) === 0) return
    throw new HeadraceError(
      'engine-unavailable',
      `Database '${name}' does not show yet what was committed: it was away when a batch was decided. Ask again later.`,
      { retryAfterMs: awayRetryMs, details: { database: name } },
    )
  }
}

/** What a transaction tells its ledger. */
interface Ends {
  /** It holds its fence no more; called once. */
  over(): void
  /** Databases that do not show it before `shown` resolves. */
  hide(names: readonly string[], shown: Promise<unknown>): void
}

class WideTransaction implements Transaction {
  readonly known: Transaction['known']
  readonly queued: Transaction['queued']
  readonly #inner: Transaction
  readonly #global: GlobalTransaction
  readonly #remote: ReadonlyMap<string, Participant>
  readonly #ends: Ends
  #over = false

  constructor(inner: Transaction, global: GlobalTransaction, remote: ReadonlyMap<string, Participant>, ends: Ends) {
    this.known = inner.known
    this.queued = inner.queued
    this.#inner = inner
    this.#global = global
    this.#remote = remote
    this.#ends = ends
  }

  database(name: string): Database {
    const participant = this.#remote.get(name)
    if (participant === undefined) return this.#inner.database(name)
    const database = this.#global.database(name)
    const fairly = <T>(statement: Promise<T>): Promise<T> => statement.catch((error: unknown) => blameFairly(participant, error))
    return {
      sql: (text, ...values) => fairly(database.sql(text, ...values)) as Promise<never>,
      selectIn: (...given) => fairly(database.selectIn(...given)) as Promise<never>,
      insertMany: (...given) => fairly(database.insertMany(...given)),
      updateMany: (...given) => fairly(database.updateMany(...given)),
      addMany: (...given) => fairly(database.addMany(...given)),
      upsertMany: (...given) => fairly(database.upsertMany(...given)),
      deleteIn: (...given) => fairly(database.deleteIn(...given)),
    }
  }

  async savepoint(): Promise<void> {
    await bothOf(this.#inner.savepoint(), blameless(this.#global.savepoint()))
  }

  async rollbackToSavepoint(): Promise<void> {
    await bothOf(
      this.#inner.rollbackToSavepoint(),
      blameless(this.#global.rollbackToSavepoint().then(() => this.#global.releaseSavepoint())),
    )
  }

  async releaseSavepoint(): Promise<void> {
    // A release that fails leaves the savepoint open, on all of them.
    await this.#global.check()
    await this.#inner.releaseSavepoint()
    await blameless(this.#global.releaseSavepoint())
  }

  async commit(record: CommitRecord): Promise<number> {
    let refused: unknown = null
    const decide = async ({ gid, participants }: { readonly gid: string; readonly participants: readonly string[] }): Promise<number> => {
      try {
        return await this.#inner.commit(
          participants.length === 0 ? record : { ...record, decision: { gid, verdict: 'commit', participants, decidedAt: Date.now() } },
        )
      } catch (error) {
        refused = error
        if (!isOpen(error)) throw error
        // Whether it is on disk is for the journal to say: until then nothing is rolled back.
        throw new HeadraceError('transaction-unknown', undefined, { cause: error })
      }
    }
    try {
      const { decided, finished, finishing, plan } = await this.#global.commit({ decide })
      if (!finished) this.#ends.hide(plan.prepare, finishing)
      // Decided, though the journal could not say so in time: the batch is tried again, and found decided.
      if (decided === undefined) throw refused
      return decided
    } catch (error) {
      await this.#inner.abort().catch(() => undefined)
      throw refused ?? (isTimeout(error) ? away(error) : error)
    } finally {
      this.#end()
    }
  }

  async abort(): Promise<void> {
    try {
      await this.#global.abort()
      await this.#inner.abort()
    } finally {
      this.#end()
    }
  }

  #end(): void {
    if (!this.#over) this.#ends.over()
    this.#over = true
  }
}

/** Throws the error of a statement on; as 'engine-unavailable' when it ran out of time on a database that answers nobody. */
async function blameFairly(participant: Participant, error: unknown): Promise<never> {
  if (!isTimeout(error)) throw error
  try {
    await participant.reader.sql`select 1`
  } catch {
    throw away(error)
  }
  throw error
}

/** For statements that are no command's own: running out of time is nobody's fault. */
async function blameless(statement: Promise<void>): Promise<void> {
  try {
    await statement
  } catch (error) {
    throw isTimeout(error) ? away(error) : error
  }
}

function isTimeout(error: unknown): error is HeadraceError {
  return HeadraceError.is(error) && error.code === 'engine-timeout'
}

function away(error: HeadraceError): HeadraceError {
  return new HeadraceError('engine-unavailable', error.message, { retryAfterMs: awayRetryMs, cause: error })
}

/** Whether a commit of the journal that failed so may be on disk all the same. */
function isOpen(error: unknown): boolean {
  return !HeadraceError.is(error) || error.code === 'storage-failed' || error.details?.['decided'] === true
}

/** Waits for both, so that no call is left behind, then throws what the first one threw. */
async function bothOf(...running: Promise<void>[]): Promise<void> {
  const done = await Promise.allSettled(running)
  for (const each of done) if (each.status === 'rejected') throw each.reason
}
