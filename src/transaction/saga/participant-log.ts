/**
 * A saga log in PostgreSQL, MySQL or MariaDB, over the verbs that a participant
 * of transactions has: `participantSagaLog(await postgres('sagas', …).connect())`.
 *
 * Writes that come while a commit is on its way go together in the next one:
 * whatever their number, they take the rows of their runs, compare the epochs,
 * and change what they may, in a handful of statements. A commit whose answer is
 * lost is asked for by its marker, so that no write is told a guess.
 */
import { randomBytes } from 'node:crypto'
import type { Database } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Participant } from '../../contracts/participant.ts'
import {
  type ClaimRequest,
  type ListRequest,
  newRunRow,
  type NewRun,
  type OwnerBeat,
  ownerTable,
  recordTable,
  type RunCensus,
  runCensus,
  type RunStatus,
  runTable,
  type RunWrite,
  type SagaLog,
  type StoredRun,
  storedRun,
} from '../../contracts/saga.ts'
import { checkWhole } from '../../contracts/bounds.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { checkNames } from '../../contracts/bounds.ts'

export interface ParticipantSagaLogOptions {
  /** Longest time of one statement, in milliseconds. Default: 5000. */
  readonly statementTimeoutMs?: number
  /** Longest wait to find out how a commit ended whose answer was lost, in milliseconds. Default: 5000. */
  readonly settleWaitMs?: number
  /** Writes that wait for the commit before them; past it 'overloaded'. Default: 10000. */
  readonly writesMax?: number
}

/** Writes of one commit. */
const batchMax = 256
/** Markers of commits that are over, dropped together. */
const forgetBatch = 50
/** How often a transaction that was undone for another one is repeated. */
const conflictsMax = 5
const settleBaseMs = 10
const settleMaxMs = 500

type Answer = () => void

interface Write {
  readonly id: string
  /** Sees the run as it is, locked; null when there is none. Returns what to change, or throws to refuse. */
  apply(run: StoredRun | null): Change
  resolve(value: unknown): void
  reject(error: unknown): void
}

interface Change {
  readonly run?: StoredRun
  readonly insert?: NewRun
  readonly records?: readonly string[]
  readonly value?: unknown
}

/** The participant stays open when the log is closed; its database needs `postgresSagaSql` or `mysqlSagaSql`. */
export function participantSagaLog(participant: Participant, options: ParticipantSagaLogOptions = {}): SagaLog {
  return new ParticipantLog(participant, options)
}

class ParticipantLog implements SagaLog {
  readonly engine: string
  readonly #participant: Participant
  readonly #statementTimeoutMs: number
  readonly #settleWaitMs: number
  readonly #writesMax: number
  readonly #prefix = `sagalog_${randomBytes(8).toString('hex')}`
  #number = 0
  #writes: Write[] = []
  #draining: Promise<void> | null = null
  #over: string[] = []
  #closed = false

  constructor(participant: Participant, options: ParticipantSagaLogOptions) {
    checkNames('participantSagaLog', options, ['statementTimeoutMs', 'settleWaitMs', 'writesMax'])
    const { statementTimeoutMs = 5_000, settleWaitMs = 5_000, writesMax = 10_000 } = options
    checkWhole('statementTimeoutMs', statementTimeoutMs, 1, 3_600_000)
    checkWhole('settleWaitMs', settleWaitMs, 0, 3_600_000)
    checkWhole('writesMax', writesMax, 1, 1_000_000)
    this.engine = participant.engine
    this.#participant = participant
    this.#statementTimeoutMs = statementTimeoutMs
    this.#settleWaitMs = settleWaitMs
    this.#writesMax = writesMax
  }

  start(run: NewRun): Promise<{ readonly created: boolean; readonly run: StoredRun }> {
    return this.#write(run.id, (known) => {
      if (known !== null) return { value: { created: false, run: known } }
      return { insert: run, value: { created: true, run: storedRun(newRunRow(run, Date.now())) } }
    })
  }

  append({ id, epoch, after, records, end }: RunWrite): Promise<void> {
    return this.#write(id, (run) => {
      if (run === null || run.epoch !== epoch || run.records !== after || run.status !== 'running')
        throw new HeadraceError('saga-taken', `The run '${id}' has another owner than the one of epoch ${epoch}.`)
      return { run: { ...run, records: after + records.length, ...(end === undefined ? {} : { ...end, owner: '' }) }, records }
    })
  }

  redrive(id: string, record: string): Promise<boolean> {
    return this.#write(id, (run) => {
      if (run?.status !== 'parked') return { value: false }
      const next = { ...run, status: 'running' as const, owner: '', epoch: run.epoch + 1, records: run.records + 1, error: null }
      return { run: next, records: [record], value: true }
    })
  }

  async claim({ owner, from, names, limit, except = [] }: ClaimRequest): Promise<StoredRun[]> {
    const known = new Set(except)
    const ids: string[] = []
    for (const other of from) {
      for (const name of names) {
        const wanted = limit - ids.length
        if (wanted <= 0) break
        const rows = await this.#participant.reader.sql<{ id: string }>`select id from saga_run
          where status = 'running' and owner = ${other} and name = ${name} order by changed_at, id limit ${wanted + known.size}`
        ids.push(
          ...rows
            .map(({ id }) => id)
            .filter((id) => !known.has(id))
            .slice(0, wanted),
        )
      }
    }
    if (ids.length === 0) return []
    return this.#transaction(async (database) => {
      const runs = await lockedRuns(database, ids)
      const now = Date.now()
      const claimed = runs
        .filter((run) => run.status === 'running' && from.includes(run.owner))
        .map((run) => ({ ...run, owner, epoch: run.epoch + 1, changedAt: now }))
      if (claimed.length > 0) {
        await database.updateMany(
          runTable,
          'id',
          claimed.map(({ id, epoch }) => ({ id, owner, epoch, changed_at: now })),
        )
      }
      return claimed
    })
  }

  async read(ids: readonly string[]): Promise<StoredRun[]> {
    return (await this.#participant.reader.selectIn(runTable, 'id', ids)).map(storedRun)
  }

  async records(id: string): Promise<string[]> {
    const rows = await this.#participant.reader.sql<{ body: string }>`select body from saga_record where id = ${id} order by seq`
    return rows.map(({ body }) => body)
  }

  async list({ status, names, after = '', limit }: ListRequest): Promise<StoredRun[]> {
    const { reader } = this.#participant
    const found: StoredRun[] = []
    let from = after
    // Names are few, and most runs have one of them: what has another is left out here.
    for (;;) {
      const rows =
        status === undefined
          ? await reader.sql`select * from saga_run where id > ${from} order by id limit ${limit}`
          : await reader.sql`select * from saga_run where id > ${from} and status = ${status} order by id limit ${limit}`
      const page = rows.map(storedRun)
      found.push(...page.filter(({ name }) => names?.includes(name) ?? true))
      if (found.length >= limit || page.length < limit) return found.slice(0, limit)
      from = page.at(-1)?.id ?? from
    }
  }

  async census(names?: readonly string[]): Promise<RunCensus[]> {
    const rows = await this.#participant.reader.sql`select name, status, count(*) as count, min(started_at) as oldest
      from saga_run where status in ('running', 'parked') group by name, status`
    // Names are few: those that were not asked for are left out here.
    return rows.map(runCensus).filter(({ name }) => names?.includes(name) ?? true)
  }

  beat(owner: string): Promise<OwnerBeat[]> {
    return this.#transaction(async (database) => {
      await database.upsertMany(ownerTable, 'owner', [{ owner, beats: 1 }], { add: ['beats'] })
      const told = await database.sql<{ owner: string; beats: number }>`select owner, beats from saga_owner`
      const working = await database.sql<{ owner: string }>`select distinct owner from saga_run where status = 'running' and owner <> ''`
      const known = told.map((row) => ({ owner: row.owner, beats: Number(row.beats) }))
      const silent = working.filter((row) => known.every((each) => each.owner !== row.owner))
      return [...known, ...silent.map((row) => ({ owner: row.owner, beats: 0 }))]
    })
  }

  async leave(owner: string): Promise<void> {
    await this.#transaction(async (database) => {
      await database.sql`update saga_run set owner = '' where status = 'running' and owner = ${owner}`
      await database.deleteIn(ownerTable, 'owner', [owner])
    })
  }

  async prune(before: number, limit: number): Promise<number> {
    const ended: RunStatus[] = ['completed', 'undone']
    const old: string[] = []
    for (const status of ended) {
      const rows = await this.#participant.reader.sql<{ id: string }>`select id from saga_run
        where status = ${status} and owner = '' and changed_at < ${before} order by changed_at limit ${limit - old.length}`
      old.push(...rows.map(({ id }) => id))
      if (old.length >= limit) break
    }
    if (old.length === 0) return 0
    return this.#transaction(async (database) => {
      // They have ended, and stay so.
      await database.deleteIn(recordTable, 'id', old)
      return database.deleteIn(runTable, 'id', old)
    })
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#draining
    await this.#forget()
  }

  #write<T>(id: string, apply: (run: StoredRun | null) => Change): Promise<T> {
    return new Promise((resolve, reject) => {
      if (this.#closed) throw new HeadraceError('stopping', 'The saga log is closed.')
      if (this.#writes.length >= this.#writesMax)
        throw new HeadraceError('overloaded', `${this.#writes.length} writes wait for the saga log; writesMax is ${this.#writesMax}.`)
      this.#writes.push({ id, apply, resolve: resolve as (value: unknown) => void, reject })
      this.#draining ??= this.#drain()
    })
  }

  async #drain(): Promise<void> {
    // What else is called in this turn goes along.
    await Promise.resolve()
    while (this.#writes.length > 0) {
      const batch = this.#nextBatch()
      try {
        const answers = await this.#transaction((database) => this.#applyAll(database, batch))
        for (const answer of answers) answer()
      } catch (error) {
        for (const { reject } of batch) reject(error)
      }
    }
    // In the turn in which nothing is left: a call of the next turn drains anew.
    this.#draining = null
  }

  /** Of each run one write: the next one must see what it did. */
  #nextBatch(): Write[] {
    const ids = new Set<string>()
    const batch: Write[] = []
    const later: Write[] = []
    for (const write of this.#writes) {
      if (batch.length >= batchMax || ids.has(write.id)) later.push(write)
      else batch.push(write)
      ids.add(write.id)
    }
    this.#writes = later
    return batch
  }

  async #applyAll(database: Database, batch: readonly Write[]): Promise<Answer[]> {
    const now = Date.now()
    // Rows that are missing are not locked: their insert is what collides.
    const present = await database.selectIn<{ id: string }>(
      runTable,
      'id',
      batch.map(({ id }) => id),
      { columns: ['id'], lock: false },
    )
    const runs = new Map(
      (
        await lockedRuns(
          database,
          present.map(({ id }) => id),
        )
      ).map((run) => [run.id, run]),
    )
    const inserts: NewRun[] = []
    const updates: StoredRun[] = []
    const records: { id: string; seq: number; body: string }[] = []
    const answers = batch.map(({ id, apply, resolve, reject }): Answer => {
      try {
        const { run, insert, records: added = [], value } = apply(runs.get(id) ?? null)
        if (insert !== undefined) inserts.push(insert)
        if (run !== undefined) {
          updates.push(run)
          for (const [index, body] of added.entries()) records.push({ id, seq: run.records - added.length + 1 + index, body })
        }
        return () => resolve(value)
      } catch (error) {
        return () => reject(error)
      }
    })
    if (inserts.length > 0) {
      const inserted = await database.insertMany(
        runTable,
        inserts.map((run) => newRunRow(run, now)),
        { onConflict: 'ignore' },
      )
      if (inserted !== inserts.length)
        throw new HeadraceError('sql-conflict', 'Another process started one of these runs in the same moment.')
    }
    if (updates.length > 0) {
      await database.updateMany(
        runTable,
        'id',
        updates.map(({ id, status, owner, epoch, records: count, error }) => ({
          id,
          status,
          owner,
          epoch,
          records: count,
          error,
          changed_at: now,
        })),
      )
    }
    if (records.length > 0) await database.insertMany(recordTable, records)
    return answers
  }

  /** One transaction; a commit whose answer is lost is asked for by its marker. */
  async #transaction<T>(run: (database: Database) => Promise<T>): Promise<T> {
    for (let attempt = 0; ; attempt += 1) {
      this.#number += 1
      const gid = `${this.#prefix}_${this.#number.toString(36)}`
      const branch = await this.#participant.begin({ gid, statementTimeoutMs: this.#statementTimeoutMs })
      let value: { readonly is: T } | null = null
      try {
        value = { is: await run(branch.database) }
        await branch.commit()
        await this.#ended(gid)
        return value.is
      } catch (error) {
        await branch.abort()
        if (!HeadraceError.is(error)) throw error
        if (error.code === 'transaction-unknown') {
          const end = await this.#settle(gid, error)
          await this.#ended(gid)
          if (end === 'committed' && value !== null) return value.is
        } else if (error.code !== 'sql-conflict') throw error
        if (attempt >= conflictsMax) throw error
      }
      await pause(backoffMs(attempt, settleBaseMs, settleMaxMs))
    }
  }

  async #settle(gid: string, unknown: HeadraceError): Promise<'committed' | 'aborted'> {
    const end = performance.now() + this.#settleWaitMs
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#participant.settle(gid)
      } catch (error) {
        if (!HeadraceError.is(error) || !error.retryable || performance.now() >= end) throw unknown
      }
      await pause(backoffMs(attempt, settleBaseMs, settleMaxMs))
    }
  }

  /** Markers that nobody asks for any more go in batches; those of a process that dies stay, a row each. */
  async #ended(gid: string): Promise<void> {
    this.#over.push(gid)
    if (this.#over.length >= forgetBatch) await this.#forget()
  }

  async #forget(): Promise<void> {
    const over = this.#over.splice(0)
    await this.#participant.forget(over).catch(() => undefined)
  }
}

/** In the order of their ids, so that two who take the same rows do not wait for each other in a circle. */
async function lockedRuns(database: Database, ids: readonly string[]): Promise<StoredRun[]> {
  if (ids.length === 0) return []
  const rows = await database.selectIn(runTable, 'id', [...ids].sort(), { lock: true })
  return rows.map(storedRun)
}
