/**
 * PostgreSQL as a participant of global transactions, by PREPARE TRANSACTION.
 *
 * What became of a branch is told by its row in headrace_branch alone. The row
 * is written by the branch itself, so while a branch is under way or prepared
 * its key is locked: whoever wants to refuse the branch inserts the same key, and
 * either is first, or waits, or finds the branch committed.
 *
 * https://www.postgresql.org/docs/current/sql-prepare-transaction.html
 */
import type { ReadDatabase, Row, SelectOptions, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type Branch,
  type BranchEnd,
  type BranchStart,
  type Decision,
  type Fence,
  type Finding,
  gidPattern,
  type Participant,
  type PreparedBranch,
} from '../../contracts/participant.ts'
import { checkWhole } from '../../contracts/bounds.ts'
import { PostgresBranch } from './branch.ts'
import { checkPostgres } from './check.ts'
import { type Connection, deadlineGraceMs } from './connection.ts'
import type { Connections } from './connections.ts'
import { sqlState } from './errors.ts'
import type { Result } from './flight.ts'
import { fencedError, raiseStatement } from './fences.ts'
import type { KnownOptions } from './options.ts'
import { insertDecision, insertMarker, preparedName } from './own-statements.ts'
import { migrationSql, tablesVersion } from './schema.ts'
import { TypeCache } from './type-cache.ts'
import { literal } from './values.ts'
import { type Statement, Verbs } from './verbs.ts'

const timeoutMsMax = 3_600_000
/** A shorter time for statements is set for one transaction, and not for its session, in milliseconds. */
const settledTimeoutMsMin = 2_000
/** How long `migrate` may take, in milliseconds. */
const migrateTimeoutMs = 600_000
/** Markers and decisions dropped in one statement, at most. */
const forgetMax = 1_000

export class PostgresParticipant implements Participant {
  readonly name: string
  readonly engine = 'postgres'
  readonly canDecide = true
  readonly reader: ReadDatabase
  readonly #options: KnownOptions
  readonly #branches: Connections
  readonly #readers: Connections | null
  readonly #types = new TypeCache()
  readonly #callDeadlineMs: number
  #preparedMax: number | null = null
  #verified: Promise<void> | null = null

  /** `readers`: connections that only read; null when the pool is the user's own. */
  constructor(name: string, options: KnownOptions, branches: Connections, readers: Connections | null) {
    this.name = name
    this.#options = options
    this.#branches = branches
    this.#readers = readers
    this.#callDeadlineMs = options.statementTimeoutMs + deadlineGraceMs
    this.reader = this.#readHandle()
  }

  /** Known after the first connection; until then it is taken for granted, and `prepare` would tell. */
  get canPrepare(): boolean {
    return this.#preparedMax !== 0
  }

  async begin(start: BranchStart): Promise<Branch> {
    this.#mustBeGid(start.gid)
    checkWhole('statementTimeoutMs', start.statementTimeoutMs, 1, timeoutMsMax)
    refuseAborted(this.name, start.signal)
    for (const { partition, epoch } of start.fences ?? []) {
      checkWhole('partition', partition, 0, 2_147_483_647)
      checkWhole('epoch', epoch, 0, Number.MAX_SAFE_INTEGER)
    }
    const connection = await this.#branches.take()
    this.#preparedMax = connection.greeting.preparedMax
    try {
      await this.#verify(connection)
      // The signal may have been given while the connection was waited for.
      refuseAborted(this.name, start.signal)
    } catch (error) {
      connection.release()
      throw error
    }
    const { isolation, idleTimeoutMs, lockTimeoutMs } = this.#options
    // Calls about transactions share the connections, so what is set for good must leave them their time.
    const settle = this.#branches.own && start.statementTimeoutMs >= Math.max(settledTimeoutMsMin, 2 * lockTimeoutMs)
    return PostgresBranch.begin({ name: this.name, connection, types: this.#types, start, isolation, idleTimeoutMs, settle })
  }

  async commitPrepared(gid: string): Promise<void> {
    this.#mustBeGid(gid)
    await this.#with(async (connection) => {
      if (await this.#finish(connection, 'commit', gid)) return
      const end = await this.#markerOf(connection, gid)
      if (end === 'committed') return
      throw this.#heuristic(
        gid,
        end === 'aborted'
          ? 'was to be committed, but is marked as aborted'
          : 'was to be committed, but is neither prepared nor marked: somebody undid it by hand',
      )
    })
  }

  async rollbackPrepared(gid: string): Promise<void> {
    this.#mustBeGid(gid)
    await this.#with(async (connection) => {
      // While it is prepared its marker is locked, so it goes first; what is not prepared yet finds the marker taken.
      let end: BranchEnd | 'busy' = 'busy'
      for (let attempt = 0; attempt < 2 && end === 'busy'; attempt++) {
        await this.#finish(connection, 'rollback', gid)
        end = await this.#refuse(connection, gid)
      }
      if (end === 'busy') throw this.#busy(gid)
      if (end === 'committed') throw this.#heuristic(gid, 'was to be undone, but is marked as committed: somebody committed it by hand')
    })
  }

  prepared(prefix: string): Promise<PreparedBranch[]> {
    return this.#with(async (connection) => {
      const suffix = preparedName('', this.name)
      const { rows } = await connection.query(
        `select gid, prepared from pg_prepared_xacts
where database = current_database() and left(gid, length($1)) = $1 and right(gid, length($2)) = $2 order by prepared, gid`,
        [prefix, suffix],
        'call',
        this.#callDeadlineMs,
      )
      return rows
        .map(({ gid, prepared }) => ({
          gid: String(gid).slice(0, -suffix.length),
          preparedAt: prepared instanceof Date ? prepared.getTime() : null,
        }))
        .filter(({ gid }) => gidPattern.test(gid))
    })
  }

  marker(gid: string): Promise<BranchEnd | null> {
    return this.#with((connection) => this.#markerOf(connection, gid))
  }

  async settle(gid: string): Promise<BranchEnd> {
    this.#mustBeGid(gid)
    return this.#with(async (connection) => {
      const end = await this.#refuse(connection, gid)
      if (end === 'busy') throw this.#busy(gid)
      return end
    })
  }

  decision(gid: string): Promise<Decision | null> {
    return this.#with(async (connection) => {
      const { rows } = await connection.query(`${selectDecision} where gid = $1`, [gid], 'call', this.#callDeadlineMs)
      return rows[0] === undefined ? null : decisionOf(rows[0])
    })
  }

  async decideAbort(gid: string, participants: readonly string[]): Promise<Decision> {
    this.#mustBeGid(gid)
    return this.#with(async (connection) => {
      const decision: Decision = { gid, verdict: 'abort', participants, decidedAt: Date.now() }
      const results = await this.#locking(
        connection,
        `${insertDecision(decision)} on conflict (gid) do nothing; ${selectDecision} where gid = '${gid}'`,
      )
      const row = results.at(-1)?.rows[0]
      if (row === undefined) throw this.#busy(gid)
      return decisionOf(row)
    })
  }

  decisions(prefix: string, limit: number): Promise<Decision[]> {
    return this.#with(async (connection) => {
      // The range is read from the primary key; '~' comes after all that a gid is made of.
      const { rows } = await connection.query(
        `${selectDecision} where gid >= $1 and gid < $1 || '~' order by decided_at, gid limit $2`,
        [prefix, limit],
        'call',
        this.#callDeadlineMs,
      )
      return rows.map(decisionOf)
    })
  }

  async forget(gids: readonly string[]): Promise<void> {
    if (gids.length === 0) return
    await this.#with(async (connection) => {
      for (let from = 0; from < gids.length; from += forgetMax) {
        await connection.query(
          `with forgotten as (delete from headrace_decision where gid = any($1::text[]))
delete from headrace_branch where gid = any($1::text[]) and participant = $2`,
          [gids.slice(from, from + forgetMax), this.name],
          'call',
          this.#callDeadlineMs,
        )
      }
    })
  }

  async raise(fences: readonly Fence[]): Promise<void> {
    const [first] = fences
    if (first === undefined) return
    await this.#with(async (connection) => {
      const { lockTimeoutMs, statementTimeoutMs } = this.#options
      const { text, values } = raiseStatement(fences)
      const send = (script: string): Promise<unknown> => connection.script(script, 'call', this.#callDeadlineMs)
      try {
        await send(
          `begin isolation level read committed; set local lock_timeout = ${lockTimeoutMs}; set local statement_timeout = ${statementTimeoutMs}; set local synchronous_commit = on`,
        )
        const { rowCount } = await connection.query(text, values, 'call', this.#callDeadlineMs)
        if (rowCount !== fences.length) throw fencedError(this.name, first)
        await send('commit')
      } catch (error) {
        if (connection.lost === null) await send('rollback').catch(() => connection.destroy())
        throw error
      }
    })
  }

  migration(): string {
    return migrationSql(this.#options.schema)
  }

  async migrate(): Promise<void> {
    await this.#with(async (connection) => {
      try {
        await connection.settle('reset statement_timeout; reset idle_in_transaction_session_timeout', this.#callDeadlineMs)
        await connection.script(this.migration(), 'call', migrateTimeoutMs)
      } catch (error) {
        if (connection.lost === null) await connection.script('rollback', 'call', this.#callDeadlineMs).catch(() => connection.destroy())
        throw error
      }
    })
    this.#verified = null
  }

  async check(): Promise<Finding[]> {
    let connection: Connection
    try {
      connection = await this.#branches.take()
    } catch (error) {
      if (!HeadraceError.is(error)) throw error
      return [{ name: 'connection', level: 'error', message: error.message }]
    }
    try {
      return await checkPostgres(this.name, connection, this.#callDeadlineMs)
    } catch (error) {
      if (!HeadraceError.is(error)) throw error
      return [{ name: 'check', level: 'error', message: error.message }]
    } finally {
      connection.release()
    }
  }

  async close(): Promise<void> {
    await Promise.all([this.#branches.close(), this.#readers?.close()])
  }

  /** COMMIT PREPARED or ROLLBACK PREPARED; false when there is no such branch, which proves nothing. */
  async #finish(connection: Connection, how: 'commit' | 'rollback', gid: string): Promise<boolean> {
    try {
      await connection.script(`${how} prepared '${preparedName(gid, this.name)}'`, 'call', this.#callDeadlineMs)
      return true
    } catch (error) {
      const state = sqlState((error as HeadraceError).cause)
      if (state === '42704') return false
      // Somebody else is at it, or the session that prepared has not let go yet.
      if (state === '55000') throw this.#busy(gid)
      throw error
    }
  }

  /** Takes the marker as 'aborted' unless it is there; 'busy' when somebody holds it for longer than a moment. */
  async #refuse(connection: Connection, gid: string): Promise<BranchEnd | 'busy'> {
    try {
      const results = await this.#locking(
        connection,
        `${insertMarker(gid, this.name, false)} on conflict (gid, participant) do nothing; ${this.#selectMarker(gid)}`,
      )
      const row = results.at(-1)?.rows[0]
      return row === undefined ? 'busy' : endOf(row)
    } catch (error) {
      if (HeadraceError.is(error) && error.code === 'sql-busy') return 'busy'
      throw error
    }
  }

  async #markerOf(connection: Connection, gid: string): Promise<BranchEnd | null> {
    this.#mustBeGid(gid)
    const [result] = await connection.script(this.#selectMarker(gid), 'call', this.#callDeadlineMs)
    return result?.rows[0] === undefined ? null : endOf(result.rows[0])
  }

  #selectMarker(gid: string): string {
    return `select committed from headrace_branch where gid = '${gid}' and participant = ${literal(this.name)}`
  }

  /** Statements as one transaction, on disk when it resolves; a lock that others hold is waited for only for a moment. */
  #locking(connection: Connection, text: string): Promise<Result[]> {
    return connection.script(
      `set local lock_timeout = ${this.#options.lockTimeoutMs}; set local synchronous_commit = on; ${text}`,
      'call',
      this.#callDeadlineMs,
    )
  }

  /** Once: that the tables are of the version that is worked with here. */
  #verify(connection: Connection): Promise<void> {
    if (this.#verified === null) {
      const verified = (async (): Promise<void> => {
        const { rows } = await connection.query(`select value from headrace_meta where name = 'tables'`, [], 'call', this.#callDeadlineMs)
        const version = Number(rows[0]?.['value'] ?? 0)
        if (version !== tablesVersion)
          throw new HeadraceError(
            'tables-outdated',
            `PostgreSQL '${this.name}' has Headrace's tables of version ${version}; this Headrace needs version ${tablesVersion}. ${version < tablesVersion ? 'Run headrace migrate.' : 'Use the newer Headrace that made them.'}`,
            { details: { database: this.name, version, needed: tablesVersion } },
          )
      })()
      this.#verified = verified
      verified.catch(() => {
        if (this.#verified === verified) this.#verified = null
      })
    }
    return this.#verified
  }

  async #with<T>(use: (connection: Connection) => Promise<T>): Promise<T> {
    const connection = await this.#branches.take()
    this.#preparedMax = connection.greeting.preparedMax
    try {
      return await use(connection)
    } finally {
      connection.release()
    }
  }

  #readHandle(): ReadDatabase {
    const verbs = new Verbs(this.name)
    return {
      sql: (texts, ...values) => this.#read(async () => verbs.sql(texts, values)) as Promise<never>,
      selectIn: (table: string, column: string, values: readonly SqlValue[], options: SelectOptions = {}) =>
        (values.length === 0
          ? Promise.resolve([])
          : this.#read(async (connection) =>
              verbs.selectIn(
                await this.#types.of(verbs.table(table), connection, this.#callDeadlineMs),
                table,
                column,
                values,
                options,
                false,
              ),
            )) as Promise<never>,
    }
  }

  async #read(make: (connection: Connection) => Promise<Statement<Row[]>>): Promise<Row[]> {
    const connection = await (this.#readers ?? this.#branches).take()
    const run = async (): Promise<Row[]> => {
      const { text, values, read } = await make(connection)
      return read(await connection.query(text, values, 'read', this.#callDeadlineMs))
    }
    try {
      if (this.#readers !== null) return await run()
      // A pool of the user's own has connections that may write.
      await connection.script(
        `begin read only; set local statement_timeout = ${this.#options.statementTimeoutMs}`,
        'read',
        this.#callDeadlineMs,
      )
      try {
        return await run()
      } finally {
        if (connection.lost === null) await connection.script('rollback', 'read', this.#callDeadlineMs).catch(() => connection.destroy())
      }
    } catch (error) {
      if (sqlState((error as HeadraceError).cause) === '25006')
        throw new HeadraceError('statement-refused', `A query only reads, but this statement writes to '${this.name}'.`, { cause: error })
      throw error
    } finally {
      connection.release()
    }
  }

  #mustBeGid(gid: string): void {
    if (!gidPattern.test(gid))
      throw new HeadraceError(
        'option-invalid',
        `${JSON.stringify(gid)} is not a gid: use 1 to 60 lower-case letters, digits and underscores.`,
      )
  }

  #busy(gid: string): HeadraceError {
    return new HeadraceError(
      'sql-busy',
      `The branch '${gid}' of PostgreSQL '${this.name}' is held by a session that is still at work. Try again.`,
      {
        details: { database: this.name, gid },
        retryAfterMs: 100,
      },
    )
  }

  #heuristic(gid: string, what: string): HeadraceError {
    return new HeadraceError('transaction-heuristic', `The branch '${gid}' of PostgreSQL '${this.name}' ${what}.`, {
      details: { database: this.name, gid },
    })
  }
}

const selectDecision = 'select gid, verdict, participants, decided_at from headrace_decision'

function decisionOf({ gid, verdict, participants, decided_at }: Row): Decision {
  return {
    gid: String(gid),
    verdict: verdict === 'commit' ? 'commit' : 'abort',
    participants: participants === '' ? [] : String(participants).split(','),
    decidedAt: Number(decided_at),
  }
}

const endOf = ({ committed }: Row): BranchEnd => (committed === true ? 'committed' : 'aborted')

function refuseAborted(name: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return
  const reason: unknown = signal.reason
  throw HeadraceError.is(reason)
    ? reason
    : new HeadraceError('wait-aborted', `The transaction on PostgreSQL '${name}' was given up by its signal.`, { cause: reason })
}
