/**
 * The transaction of one global transaction in PostgreSQL.
 *
 * States: open → prepared, committed or aborted. Beside `open` it may have
 * *failed*: a statement ended with an error, and until the savepoint from before
 * it is rolled back nothing but `abort` is taken.
 *
 * BEGIN goes out in one message with the first statement, or with the fences,
 * and the marker in one with PREPARE TRANSACTION or COMMIT: a message of several
 * statements stops at the first that fails, so without its BEGIN no statement
 * runs, and without its marker nothing is prepared or committed.
 */
import type { Database, InsertOptions, ReadDatabase, Row, SelectOptions, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Branch, BranchStart, Decision, Fence } from '../../contracts/participant.ts'
import { type Connection, deadlineGraceMs } from './connection.ts'
import { fencedError, raiseStatement } from './fences.ts'
import type { Part, Result } from './flight.ts'
import { decisionPart, heldFences, markerPart, once, plain, preparedName, timesOf } from './own-statements.ts'
import type { TypeCache } from './type-cache.ts'
import { isPlainRead, type Statement, Verbs } from './verbs.ts'

/** How long ROLLBACK may take, in milliseconds; then the connection is closed, which undoes as well. */
const rollbackTimeoutMs = 2_000

type State = 'open' | 'ending' | 'prepared' | 'committed' | 'aborted'

export interface BranchContext {
  readonly name: string
  readonly connection: Connection
  readonly types: TypeCache
  readonly start: BranchStart
  readonly isolation: string
  /** The session may idle this long inside the transaction, in milliseconds, before the server ends it. */
  readonly idleTimeoutMs: number
  /** The times are set for the session, once, and not for each transaction. */
  readonly settle: boolean
}

const noop = (): void => {}
const noResult: Result = { rows: [], rowCount: 0, command: '' }

export class PostgresBranch implements Branch {
  readonly participant: string
  readonly gid: string
  readonly database: Database
  readonly #connection: Connection
  readonly #types: TypeCache
  readonly #verbs: Verbs
  readonly #deadlineMs: number
  readonly #signal: AbortSignal | undefined
  #state: State = 'open'
  /** What goes out ahead of the first statement. */
  #ahead: readonly Part[]
  #wrote = false
  #failed: HeadraceError | null = null
  #stopped: HeadraceError | null = null
  #savepoint = false
  /** Resolves when the next call may be sent. */
  #gate: Promise<unknown> = Promise.resolve()
  readonly #running = new Set<Promise<unknown>>()

  private constructor({ name, connection, types, start, isolation, idleTimeoutMs, settle }: BranchContext) {
    this.participant = name
    this.gid = start.gid
    this.#connection = connection
    this.#types = types
    this.#verbs = new Verbs(name)
    this.#deadlineMs = start.statementTimeoutMs + deadlineGraceMs
    this.#signal = start.signal
    const times = settle ? [] : timesOf(start.statementTimeoutMs, idleTimeoutMs)
    this.#ahead = [
      `begin isolation level ${isolation}`,
      ...times.map((time) => `set local ${time}`),
      ...(connection.greeting.loosely ? ['set local synchronous_commit = on'] : []),
    ].map(plain)
    this.database = this.#handle()
  }

  /** When it throws, nothing is left of the branch, and the connection is given back. */
  static async begin(context: BranchContext): Promise<PostgresBranch> {
    const { name, connection, start, idleTimeoutMs, settle } = context
    const { fences = [], statementTimeoutMs, signal } = start
    const branch = new PostgresBranch(context)
    try {
      signal?.addEventListener('abort', branch.#stop)
      if (settle) {
        const times = timesOf(statementTimeoutMs, idleTimeoutMs).map((time) => `set ${time}`)
        await connection.settle(times.join('; '), branch.#deadlineMs)
      }
      if (fences.length > 0) {
        const parts = heldFences(fences)
        const results = await connection.flight([...branch.#takeAhead(), ...parts], 'statement', branch.#deadlineMs)
        await branch.#raiseWhereBelow(
          fences,
          results.slice(-parts.length).flatMap(({ rows }) => rows),
        )
      }
      if (branch.#stopped !== null) throw branch.#stopped
      return branch
    } catch (error) {
      const why = branch.#stopped ?? error
      await branch.abort()
      throw HeadraceError.is(why) && why.code === 'fenced'
        ? new HeadraceError('fenced', why.message, { details: { ...why.details, database: name } })
        : why
    }
  }

  get client(): unknown {
    if (this.#state !== 'open') throw this.#closed()
    this.#wrote = true
    this.#connection.unsettle()
    // What its owner sends comes after BEGIN, also when nothing was sent before.
    const ahead = this.#takeAhead()
    if (ahead.length > 0) {
      const begun = this.#connection.flight(ahead, 'statement', this.#deadlineMs)
      this.#keep(
        begun.then(noop, (error: unknown) => {
          this.#fail(error, undefined)
        }),
      )
    }
    return this.#connection.client
  }

  get wrote(): boolean {
    return this.#wrote
  }

  async savepoint(): Promise<void> {
    // One level: the older one goes when a newer one is set.
    await this.#control(...(this.#savepoint ? ['release savepoint headrace'] : []), 'savepoint headrace')
    this.#savepoint = true
  }

  async releaseSavepoint(): Promise<void> {
    this.#mustBeOpen()
    if (!this.#savepoint) return
    this.#savepoint = false
    await this.#control('release savepoint headrace')
  }

  async rollbackToSavepoint(): Promise<void> {
    this.#mustBeOpen()
    // What was not awaited ends first: its failure is undone with the rest.
    await this.#settled()
    if (!this.#savepoint) throw new HeadraceError('internal', 'There is no savepoint to go back to.')
    this.#savepoint = false
    this.#failed = this.#stopped
    await this.#control('rollback to savepoint headrace', 'release savepoint headrace')
  }

  async prepare(): Promise<void> {
    await this.#end('prepare', 'prepared', [
      markerPart(this.gid, this.participant),
      once(`prepare transaction '${preparedName(this.gid, this.participant)}'`),
    ])
  }

  async commit(decision?: Decision): Promise<void> {
    const decide = decision === undefined ? [] : [decisionPart(decision)]
    await this.#end('commit', 'committed', [markerPart(this.gid, this.participant), ...decide, plain('commit')])
  }

  async abort(): Promise<void> {
    if (this.#state !== 'open') return
    this.#state = 'aborted'
    await this.#undo()
  }

  async #end(doing: 'prepare' | 'commit', end: 'prepared' | 'committed', parts: readonly Part[]): Promise<void> {
    this.#mustBeOpen()
    this.#state = 'ending'
    // Whatever was sent and not awaited is part of the branch.
    await this.#settled()
    const connection = this.#connection
    try {
      if (this.#stopped !== null) throw this.#stopped
      if (this.#failed !== null) throw this.#votedToAbort(doing)
      if (connection.lost !== null) throw connection.lost
      if (this.#ahead.length === 0 && (connection.status ?? 'T') === 'I')
        throw new HeadraceError('transaction-closed', `The transaction of PostgreSQL '${this.participant}' was ended through its client.`)
      // From here on the signal ends nothing: it would make the end a riddle.
      this.#signal?.removeEventListener('abort', this.#stop)
      const results = await connection.flight([...this.#takeAhead(), ...parts], doing, this.#deadlineMs)
      const command = results.at(-1)?.command
      // In a transaction that has failed, both succeed with ROLLBACK.
      if (command !== doing.toUpperCase())
        throw new HeadraceError(
          'sql-failed',
          `PostgreSQL '${this.participant}' answered ${doing.toUpperCase()} with ${command}: nothing is kept.`,
        )
      this.#state = end
      connection.release()
    } catch (error) {
      this.#state = 'aborted'
      await this.#undo()
      throw error
    }
  }

  async #undo(): Promise<void> {
    this.#signal?.removeEventListener('abort', this.#stop)
    const connection = this.#connection
    if (connection.pending > 0) {
      connection.cancel()
      await connection.settled()
    }
    // Also when the client believes that nothing is open: after an error it knows only later.
    if (connection.lost === null && this.#ahead.length === 0)
      await connection.script('rollback', 'statement', rollbackTimeoutMs).catch(() => connection.destroy())
    connection.release()
  }

  /** Until every call so far has been answered, and its failure is known. */
  async #settled(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running)
  }

  readonly #stop = (): void => {
    if (this.#stopped !== null || this.#state !== 'open') return
    const reason: unknown = this.#signal?.reason
    this.#stopped = HeadraceError.is(reason)
      ? reason
      : new HeadraceError('wait-aborted', `The transaction on PostgreSQL '${this.participant}' was given up by its signal.`, {
          cause: reason,
        })
    this.#failed ??= this.#stopped
    if (this.#connection.pending > 0) this.#connection.cancel()
  }

  /** The fences that the first look did not find as they are asked for: made, raised, or refused. */
  async #raiseWhereBelow(fences: readonly Fence[], held: readonly Row[]): Promise<void> {
    const key = (deployment: unknown, partition: unknown): string => `${String(partition)} ${String(deployment)}`
    const epochs = new Map(held.map(({ deployment, partition, epoch }) => [key(deployment, partition), Number(epoch)]))
    const below = fences.filter(({ deployment, partition, epoch }) => {
      const highest = epochs.get(key(deployment, partition))
      if (highest !== undefined && highest > epoch) throw fencedError(this.participant, { deployment, partition, epoch }, highest)
      return highest !== epoch
    })
    if (below.length === 0) return
    const { text, values } = raiseStatement(below)
    const { rowCount } = await this.#connection.query(text, values, 'statement', this.#deadlineMs)
    const [first] = below
    if (first !== undefined && rowCount !== below.length) throw fencedError(this.participant, first)
  }

  #handle(): Database {
    const verbs = this.#verbs
    const names = (key: string | readonly string[]): readonly string[] => (typeof key === 'string' ? [key] : key)
    const write = (
      table: string,
      rows: readonly unknown[],
      make: (types: Parameters<Verbs['selectIn']>[0]) => Statement<number>,
    ): Promise<number> => (rows.length === 0 ? this.#nothing(0) : this.#run(table, true, make))
    const read: ReadDatabase = {
      sql: (text, ...values) => this.#send(!isPlainRead(text.join('$')), async () => verbs.sql(text, values)) as Promise<never>,
      selectIn: (table: string, column: string, values: readonly SqlValue[], options: SelectOptions = {}) =>
        (values.length === 0
          ? this.#nothing([])
          : this.#run(table, false, (types) => verbs.selectIn(types, table, column, values, options, true))) as Promise<never>,
    }
    return {
      ...read,
      insertMany: (table: string, rows: readonly Row[], options: InsertOptions = {}) =>
        write(table, rows, (types) => verbs.insertMany(types, table, rows, options)),
      updateMany: (table, key, rows) => write(table, rows, (types) => verbs.updateMany(types, table, names(key), rows)),
      addMany: (table, key, rows) => write(table, rows, (types) => verbs.addMany(types, table, names(key), rows)),
      upsertMany: (table, key, rows, { add = [] } = {}) =>
        write(table, rows, (types) => verbs.upsertMany(types, table, names(key), rows, add)),
      deleteIn: (table: string, column: string, values: readonly SqlValue[]) =>
        write(table, values, (types) => verbs.deleteIn(types, table, column, values)),
    }
  }

  async #nothing<T>(value: T): Promise<T> {
    this.#mustBeOpen()
    return value
  }

  #run<T>(table: string, writes: boolean, make: (types: Parameters<Verbs['selectIn']>[0]) => Statement<T>): Promise<T> {
    return this.#send(writes, async () => make(await this.#types.of(this.#verbs.table(table), this.#connection, this.#deadlineMs)), table)
  }

  #control(...texts: string[]): Promise<void> {
    return this.#send(false, async () => ({ text: texts.at(-1) ?? '', values: [], rows: false, read: noop }), undefined, texts.slice(0, -1))
  }

  /**
   * Sends in the order of the calls; answers are awaited in between only where
   * the client does not pipeline. Any failure is a vote to abort.
   */
  #send<T>(writes: boolean, make: () => Promise<Statement<T>>, table?: string, before: readonly string[] = []): Promise<T> {
    if (this.#state !== 'open') return Promise.reject(this.#closed())
    const sent = this.#gate.then(async () => {
      if (this.#state !== 'open' && this.#state !== 'ending') throw this.#closed()
      if (this.#stopped !== null) throw this.#stopped
      if (this.#failed !== null) throw this.#votedToAbort('a statement')
      if (writes) this.#wrote = true
      const statement = await make()
      const { text, values, rows } = statement
      const parts = [...this.#takeAhead(), ...before.map(plain), { text, values, keep: true, rows }]
      const answer = this.#connection.flight(parts, 'statement', this.#deadlineMs).then((results) => results[parts.length - 1] ?? noResult)
      answer.catch(() => undefined)
      return { answer, statement }
    })
    this.#gate = sent.then(
      ({ answer }) => (this.#connection.pipelined ? undefined : answer.then(noop, noop)),
      () => undefined,
    )
    const running = sent
      .then(async ({ answer, statement }) => statement.read(await answer))
      .catch((error: unknown) => {
        throw this.#fail(error, table)
      })
    this.#keep(running.then(noop, noop))
    return running
  }

  /** A handler may leave a call unawaited: the branch is held to it all the same. */
  #keep(call: Promise<void>): void {
    const kept = call.finally(() => this.#running.delete(kept))
    this.#running.add(kept)
  }

  #takeAhead(): readonly Part[] {
    const ahead = this.#ahead
    this.#ahead = []
    return ahead
  }

  #fail(error: unknown, table: string | undefined): unknown {
    if (HeadraceError.is(error) && error.code === 'transaction-closed') return error
    const known = this.#stopped ?? error
    this.#failed ??= HeadraceError.is(known) ? known : new HeadraceError('internal', String(known), { cause: known })
    // The table may have been changed since its types were read.
    if (table !== undefined && HeadraceError.is(error) && isTypeTrouble(error)) this.#types.forget(table)
    return known
  }

  #mustBeOpen(): void {
    if (this.#state !== 'open') throw this.#closed()
  }

  #closed(): HeadraceError {
    return new HeadraceError('transaction-closed', `The transaction '${this.gid}' on PostgreSQL '${this.participant}' has ended.`)
  }

  #votedToAbort(doing: string): HeadraceError {
    const { code, message, details } = this.#failed ?? new HeadraceError('internal')
    return new HeadraceError(code, `${message} The transaction can only be undone, so ${doing} is refused.`, {
      ...(details === undefined ? {} : { details }),
      cause: this.#failed,
    })
  }
}

const isTypeTrouble = ({ details }: HeadraceError): boolean =>
  ['42P01', '42703', '42804', '22P02', '42883'].includes(String(details?.['sqlState'])) || details?.['table'] !== undefined
