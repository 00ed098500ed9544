/**
 * A saga log in a SQLite file, for the processes of one machine. Not over a
 * network file system.
 *
 * Calls that are made in the same turn of the event loop share one transaction,
 * and one wait for the disk. They resolve after its commit, with
 * synchronous=FULL: what is answered survives a power cut.
 *
 * It may be a file of its own, or the file of a database of the app, whose
 * commands then start runs in their own commit (`enqueueSaga`).
 */
import type { DatabaseSyncInstance, StatementSyncInstance } from '@photostructure/sqlite'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type ClaimRequest,
  type ListRequest,
  newRunRow,
  type NewRun,
  type OwnerBeat,
  type RunCensus,
  runCensus,
  type RunWrite,
  type SagaLog,
  type StoredRun,
  storedRun,
} from '../../contracts/saga.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { sqliteError } from './errors.ts'
import { openDatabase } from './open.ts'

export interface SqliteSagaLogOptions {
  /** Path of the file; it is made when it is missing, its folder is not. */
  readonly file: string
  /** Longest time that a call tries while others write, in milliseconds. Default: 5000. */
  readonly timeoutMs?: number
  /** Calls that wait for the file; past it 'overloaded'. Default: 10000. */
  readonly callsMax?: number
}

const cacheKiB = 8 * 1024
/** Calls of one transaction. */
const batchMax = 256
/** The thread itself waits for another process no longer than this. */
const busyMs = 5
const retryBaseMs = 1
const retryMaxMs = 50

/** The tables of a saga log in SQLite; safe to run again. Also for `schema` of a database whose commands start sagas. */
export const sqliteSagaSql = `
create table if not exists saga_run (
  id text primary key not null, name text not null, gid text not null, input text not null, status text not null, owner text not null,
  epoch integer not null, records integer not null, error text, started_at integer not null, changed_at integer not null
) strict;
create index if not exists saga_run_open on saga_run (status, owner, changed_at);
create table if not exists saga_record (id text not null, seq integer not null, body text not null, primary key (id, seq)) strict;
create table if not exists saga_owner (owner text primary key not null, beats integer not null) strict;
`

const statements = {
  begin: 'begin immediate',
  commit: 'commit',
  rollback: 'rollback',
  start: `insert into saga_run (id, name, gid, input, status, owner, epoch, records, error, started_at, changed_at)
    values (?, ?, ?, ?, 'running', ?, ?, 0, null, ?, ?) on conflict (id) do nothing`,
  run: 'select * from saga_run where id = ?',
  runs: 'select * from saga_run where id in (select value from json_each(?))',
  records: 'select body from saga_record where id = ? order by seq',
  open: `select * from saga_run where status = 'running' and owner in (select value from json_each(?)) and name in (select value from json_each(?))
    order by changed_at, id limit ?`,
  take: 'update saga_run set owner = ?, epoch = epoch + 1, changed_at = ? where id = ? returning *',
  // One statement checks the epoch and moves the run: no row, no right.
  move: `update saga_run set records = records + ?4, status = ?5, owner = iif(?5 = 'running', owner, ''), error = ?6, changed_at = ?7
    where id = ?1 and epoch = ?2 and records = ?3 and status = 'running'`,
  record: 'insert into saga_record (id, seq, body) values (?, ?, ?)',
  redrive: `update saga_run set status = 'running', owner = '', epoch = epoch + 1, records = records + 1, error = null, changed_at = ?
    where id = ? and status = 'parked' returning records`,
  list: `select * from saga_run where id > ?1 and (?2 = '' or status = ?2) and (?3 = '' or name in (select value from json_each(?3)))
    order by id limit ?4`,
  census: `select name, status, count(*) as count, min(started_at) as oldest from saga_run
    where status in ('running', 'parked') and (?1 = '' or name in (select value from json_each(?1))) group by name, status`,
  beat: 'insert into saga_owner (owner, beats) values (?, 1) on conflict (owner) do update set beats = beats + 1',
  owners: `select owner, beats from saga_owner union all
    select distinct owner, 0 from saga_run where status = 'running' and owner <> '' and owner not in (select owner from saga_owner)`,
  free: "update saga_run set owner = '' where status = 'running' and owner = ?",
  forgetOwner: 'delete from saga_owner where owner = ?',
  old: "select id from saga_run where status in ('completed', 'undone') and changed_at < ? limit ?",
  dropRun: 'delete from saga_run where id = ?',
  dropRecords: 'delete from saga_record where id = ?',
} as const

type Statements = { readonly [K in keyof typeof statements]: StatementSyncInstance }

interface Call {
  readonly run: () => unknown
  resolve(value: unknown): void
  reject(error: unknown): void
}

/** A saga log in a SQLite file. Throws 'option-invalid', and what opening the file throws. */
export function sqliteSagaLog(options: SqliteSagaLogOptions): SagaLog {
  return new SqliteLog(options)
}

class SqliteLog implements SagaLog {
  readonly engine = 'sqlite'
  readonly #file: string
  readonly #timeoutMs: number
  readonly #callsMax: number
  readonly #database: DatabaseSyncInstance
  readonly #sql: Statements
  #calls: Call[] = []
  #draining: Promise<void> | null = null
  #closed = false

  constructor(options: SqliteSagaLogOptions) {
    const { file, timeoutMs = 5_000, callsMax = 10_000 } = options
    if (typeof file !== 'string' || file === '' || file === ':memory:' || file.includes('\0'))
      throw new HeadraceError('option-invalid', 'file must be the path of a SQLite file.')
    checkWhole('timeoutMs', timeoutMs, 10, 600_000)
    checkWhole('callsMax', callsMax, 1, 1_000_000)
    this.#file = file
    this.#timeoutMs = timeoutMs
    this.#callsMax = callsMax
    this.#database = openDatabase('sagas', file, { synchronous: 'full', cacheKiB })
    try {
      this.#database.exec(sqliteSagaSql)
      this.#database.exec(`pragma busy_timeout = ${busyMs}`)
      this.#sql = Object.fromEntries(Object.entries(statements).map(([name, text]) => [name, this.#database.prepare(text)])) as Statements
    } catch (error) {
      this.#database.close()
      throw sqliteError('sagas', error)
    }
  }

  start(run: NewRun): Promise<{ readonly created: boolean; readonly run: StoredRun }> {
    return this.#write(() => {
      const { id, name, gid, input, owner, epoch, started_at, changed_at } = newRunRow(run, Date.now())
      const { changes } = this.#sql.start.run(id, name, gid, input, owner, epoch, started_at, changed_at)
      return { created: Number(changes) === 1, run: storedRun(this.#sql.run.get(id) as object as Record<string, unknown>) }
    })
  }

  claim({ owner, from, names, limit, except = [] }: ClaimRequest): Promise<StoredRun[]> {
    return this.#write(() => {
      const open = this.#sql.open.all(JSON.stringify(from), JSON.stringify(names), limit + except.length) as { id: string }[]
      const known = new Set(except)
      const wanted = open.filter(({ id }) => !known.has(id)).slice(0, limit)
      return wanted.map(({ id }) => storedRun(this.#sql.take.get(owner, Date.now(), id) as Record<string, unknown>))
    })
  }

  append({ id, epoch, after, records, end }: RunWrite): Promise<void> {
    return this.#write(() => {
      const { status, error } = end ?? { status: 'running', error: null }
      const { changes } = this.#sql.move.run(id, epoch, after, records.length, status, error, Date.now())
      if (Number(changes) === 0) throw new HeadraceError('saga-taken', `The run '${id}' has another owner than the one of epoch ${epoch}.`)
      for (const [index, body] of records.entries()) this.#sql.record.run(id, after + 1 + index, body)
    })
  }

  async read(ids: readonly string[]): Promise<StoredRun[]> {
    return this.#read(() => this.#sql.runs.all(JSON.stringify(ids)).map((row) => storedRun(row as Record<string, unknown>)))
  }

  async records(id: string): Promise<string[]> {
    return this.#read(() => this.#sql.records.all(id).map((row) => (row as { body: string }).body))
  }

  async list({ status, names, after = '', limit }: ListRequest): Promise<StoredRun[]> {
    return this.#read(() =>
      this.#sql.list
        .all(after, status ?? '', names === undefined ? '' : JSON.stringify(names), limit)
        .map((row) => storedRun(row as Record<string, unknown>)),
    )
  }

  async census(names?: readonly string[]): Promise<RunCensus[]> {
    return this.#read(() =>
      this.#sql.census.all(names === undefined ? '' : JSON.stringify(names)).map((row) => runCensus(row as Record<string, unknown>)),
    )
  }

  redrive(id: string, record: string): Promise<boolean> {
    return this.#write(() => {
      const row = this.#sql.redrive.get(Date.now(), id) as { records: number } | undefined
      if (row === undefined) return false
      this.#sql.record.run(id, row.records, record)
      return true
    })
  }

  beat(owner: string): Promise<OwnerBeat[]> {
    return this.#write(() => {
      this.#sql.beat.run(owner)
      return this.#sql.owners.all() as { owner: string; beats: number }[]
    })
  }

  leave(owner: string): Promise<void> {
    return this.#write(() => {
      this.#sql.free.run(owner)
      this.#sql.forgetOwner.run(owner)
    })
  }

  prune(before: number, limit: number): Promise<number> {
    return this.#write(() => {
      const old = this.#sql.old.all(before, limit) as { id: string }[]
      for (const { id } of old) {
        this.#sql.dropRecords.run(id)
        this.#sql.dropRun.run(id)
      }
      return old.length
    })
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#draining
    this.#database.close()
  }

  #read<T>(run: () => T): T {
    this.#mustBeOpen()
    try {
      return run()
    } catch (error) {
      throw sqliteError('sagas', error)
    }
  }

  #write<T>(run: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.#mustBeOpen()
      if (this.#calls.length >= this.#callsMax)
        throw new HeadraceError(
          'overloaded',
          `${this.#calls.length} calls wait for the saga log ${this.#file}; callsMax is ${this.#callsMax}.`,
        )
      this.#calls.push({ run, resolve: resolve as (value: unknown) => void, reject })
      this.#draining ??= this.#drain()
    })
  }

  async #drain(): Promise<void> {
    while (this.#calls.length > 0) {
      // What else is called in this turn goes along.
      await new Promise(setImmediate)
      const batch = this.#calls.splice(0, batchMax)
      try {
        await this.#begin()
        this.#commit(batch)
      } catch (error) {
        for (const { reject } of batch) reject(sqliteError('sagas', error))
      }
    }
    // In the turn in which nothing is left: a call of the next turn drains anew.
    this.#draining = null
  }

  async #begin(): Promise<void> {
    const end = performance.now() + this.#timeoutMs
    for (let attempt = 0; ; attempt += 1) {
      try {
        this.#sql.begin.run()
        return
      } catch (error) {
        if (sqliteError('sagas', error).code !== 'sql-busy' || performance.now() >= end) throw error
      }
      await pause(backoffMs(attempt, retryBaseMs, retryMaxMs))
    }
  }

  /** All or none, but for calls that were refused: those have changed nothing. */
  #commit(batch: readonly Call[]): void {
    const answers: (() => void)[] = []
    try {
      for (const { run, resolve, reject } of batch) {
        try {
          const value = run()
          answers.push(() => resolve(value))
        } catch (error) {
          if (!HeadraceError.is(error)) throw error
          answers.push(() => reject(error))
        }
      }
      this.#sql.commit.run()
    } catch (error) {
      if (this.#database.isTransaction) this.#sql.rollback.run()
      throw error
    }
    for (const answer of answers) answer()
  }

  #mustBeOpen(): void {
    if (this.#closed) throw new HeadraceError('stopping', 'The saga log is closed.')
  }
}
