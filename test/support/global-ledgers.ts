/**
 * Ledgers over databases on servers for unit tests: databases in memory that
 * fail on demand, over a real journal and a real SQLite file.
 *
 * A crash is a copy of the data directory at that moment, with the clients of
 * the databases dead: what a process that is killed leaves.
 */
import { cpSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { HeadraceError } from '../../src/contracts/errors.ts'
import type { CommitRecord, DecidingLedger, Ledger, LedgerOptions, Transaction } from '../../src/contracts/ledger.ts'
import type { Participant } from '../../src/contracts/participant.ts'
import { type MemoryCall, type MemoryFault, type MemoryHandle, memory } from '../../src/drivers/memory/index.ts'
import { sqlite } from '../../src/drivers/sqlite/index.ts'
import { openSqliteLedger } from '../../src/drivers/sqlite/ledger.ts'
import { openGlobalLedger } from '../../src/pipeline/global-ledger.ts'
import { entryOf, none, outcomeOf, recordOf } from '../../src/testing/ledger-harness.ts'

/** Many of these tests wait for bounds: they run side by side, and are cleaned up after together. */
const ledgers: Ledger[] = []
const folders: string[] = []
/** Undoes what would make the end wait for its bounds. */
export const heal: (() => void)[] = []
afterAll(async () => {
  for (const each of heal) each()
  await Promise.allSettled(ledgers.map((ledger) => ledger.close()))
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
})

export function newFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'headrace-global-'))
  folders.push(folder)
  return folder
}

type Fault = (call: MemoryCall, gid: string) => MemoryFault | null

/** A server in memory, and clients of it; `fault` is what befalls their calls now. */
export class Remote {
  fault: Fault = () => null
  /** Reads outside of transactions are answered. */
  answers = true
  readonly name: string
  readonly handle: MemoryHandle
  readonly #kills: (() => void)[] = []

  constructor(name: string, change: (participant: Participant) => Participant = (participant) => participant) {
    this.name = name
    const inner = memory(name, {
      tables: { item: { key: 'id' } },
      fault: (call, gid) => this.fault(call, gid),
      lockWaitMs: 10_000,
      sql: (_text, _values, database) => {
        if (!this.answers) throw new HeadraceError('engine-timeout', 'The test lets nothing through.')
        return database.rows('item')
      },
    })
    this.handle = {
      ...inner,
      connect: async () => {
        const participant = await inner.connect()
        this.#kills.push(() => participant.kill())
        return change(participant) as never
      },
    }
  }

  get store() {
    return this.handle.store
  }

  /** Every client so far dies. */
  kill(): void {
    for (const kill of this.#kills.splice(0)) kill()
  }

  ids(): unknown[] {
    return this.store.rows('item').map(({ id }) => id)
  }
}

interface Opening extends Partial<LedgerOptions> {
  readonly dataDir: string
  readonly remotes: readonly Remote[]
  readonly change?: (inner: DecidingLedger) => DecidingLedger
}

const fileSchema = 'create table if not exists item (id text primary key not null, n integer)'

export async function opened({ remotes, change = (inner) => inner, ...given }: Opening): Promise<Ledger> {
  const ledger = await openGlobalLedger(
    {
      app: 'unit',
      partitions: 8,
      databases: [sqlite('file', { schema: fileSchema }), ...remotes.map(({ handle }) => handle)],
      databaseWaitMs: 300,
      statementTimeoutMs: 100,
      lanes: 2,
      outcomeRetentionMs: 86_400_000,
      outcomesMax: 1_000,
      ...given,
    },
    async (options) => change(await openSqliteLedger({ ...options, thread: 'main' })),
  )
  ledgers.push(ledger)
  return ledger
}

/** The same ledger, but for the commit of its journal. */
export const withCommit = (commit: (inner: Transaction, record: CommitRecord) => Promise<number>) => (inner: DecidingLedger) =>
  ({
    ...inner,
    begin: async (...given) => {
      const transaction = await inner.begin(...given)
      return Object.assign(Object.create(transaction) as Transaction, {
        known: transaction.known,
        queued: transaction.queued,
        database: (name: string) => transaction.database(name),
        abort: () => transaction.abort(),
        commit: (record: CommitRecord) => commit(transaction, record),
      })
    },
  }) satisfies DecidingLedger

/** A batch that puts the row `id` into every database, and the outcome of the command of this number. */
export async function put(ledger: Ledger, remotes: readonly Remote[], number: number): Promise<Transaction> {
  const entry = entryOf(number)
  const transaction = await ledger.begin(['file', ...remotes.map(({ name }) => name)], { ...none, arriving: [entry.id] })
  for (const name of ['file', ...remotes.map((each) => each.name)])
    await transaction.database(name).insertMany('item', [{ id: entry.id, n: number }])
  return transaction
}

export function recordFor(number: number): CommitRecord {
  return recordOf({ position: number, outcomes: [outcomeOf(entryOf(number))] })
}

export async function commit(ledger: Ledger, remotes: readonly Remote[], number: number): Promise<number> {
  return (await put(ledger, remotes, number)).commit(recordFor(number))
}

export function idsIn(ledger: Ledger, name: string): Promise<unknown[]> {
  return ledger.reader(name).sql<{ id: string }>`select id from item`.then((rows) => rows.map(({ id }) => id))
}

export async function decidedIn(ledger: Ledger, number: number): Promise<boolean> {
  const { id } = entryOf(number)
  return (await ledger.outcomes([id])).has(id)
}

/** A copy of the data directory as it is now, and the end of every client. */
export function crash(dataDir: string, remotes: readonly Remote[]): string {
  const copy = newFolder()
  cpSync(dataDir, copy, { recursive: true, filter: (path) => !path.endsWith('owner.lock') })
  for (const remote of remotes) remote.kill()
  return copy
}
