/**
 * A MySQL or MariaDB database as a participant of global transactions.
 *
 * Branches run on connections of their own. The one that prepared a branch stays
 * with it, since it ends the branch without a look at the server's list; it is
 * let go when another branch needs the connection, on failure, and on close.
 * Everything else (markers, decisions, recovery, reads) runs on a few other
 * connections, so that it works while every branch is taken.
 */
import type { Pool } from 'mysql2/promise'
import type { ReadDatabase } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Branch, BranchEnd, BranchStart, Decision, Fence, Finding, Participant, PreparedBranch } from '../../contracts/participant.ts'
import { errnoOf, type BranchHost, MysqlBranch, runAll } from './branch.ts'
import { checkDatabase } from './check.ts'
import { readDatabase } from './database.ts'
import type { MysqlDriver } from './driver.ts'
import type { ErrorContext } from './errors.ts'
import { migrateDatabase, migrationText } from './migrate.ts'
import { checkEpochs, checkGid, decisionColumns, decisionInsert, decisionOf, fenceStatements, xidOf } from './own-tables.ts'
import { PreparedBranches } from './prepared.ts'
import { rowsOf } from './rows.ts'
import type { Session } from './session.ts'
import { type Server, Sessions } from './sessions.ts'
import { Tables } from './tables.ts'
import { Verbs } from './verbs.ts'

/** How long a call outside of branches waits for a row lock, in seconds. */
const asideLockWaitS = 1
/** Gids that one statement forgets. */
const forgetMax = 1_000
/** Tries to undo a branch whose prepare was not answered; after that, recovery finds it. */
const undoTriesMax = 5
const undoPauseMs = 100

export interface MysqlParticipantOptions {
  readonly name: string
  /** Host, port and database, without credentials. */
  readonly address: string
  readonly driver: MysqlDriver
  readonly branches: { readonly pool: Pool; readonly max: number }
  /** For everything outside of branches; the same pool when it was handed over. */
  readonly aside: { readonly pool: Pool; readonly max: number }
  /** Whether the branches' pool takes several statements in one call. */
  readonly several: boolean
  /** Pools to end on close: those made here. */
  readonly owned: readonly Pool[]
  readonly schema: string | null
  readonly connectTimeoutMs: number
  /** For calls outside of branches. */
  readonly statementTimeoutMs: number
}

export class MysqlParticipant implements Participant {
  readonly name: string
  readonly engine = 'mysql'
  readonly canPrepare = true
  readonly canDecide = true
  readonly reader: ReadDatabase
  readonly #options: MysqlParticipantOptions
  readonly #context: ErrorContext
  readonly #branches: Sessions
  readonly #aside: Sessions
  readonly #prepared: PreparedBranches
  readonly #tables: Tables
  /** Connections of prepared branches, the oldest first. At most as many as branches. */
  readonly #attached = new Map<string, Session>()
  readonly #open = new Set<MysqlBranch>()
  readonly #quote: (text: string) => string
  #closed = false

  constructor(options: MysqlParticipantOptions) {
    this.#options = options
    this.name = options.name
    this.#context = { name: options.name, address: options.address }
    this.#quote = (text) => options.driver.escape(text)
    this.#tables = new Tables(options.name, this.#quote)
    const killQuery = (id: number) => this.#killQuery(id)
    this.#branches = new Sessions({ ...options.branches, context: this.#context, killQuery, spare: () => this.#spare() })
    this.#aside = new Sessions({ ...options.aside, context: this.#context, killQuery, spare: () => false })
    this.#prepared = new PreparedBranches({
      name: options.name,
      timeoutMs: options.statementTimeoutMs,
      aside: (run) => this.#asideOf(run),
      detach: (gid) => this.#detach(gid),
    })
    this.reader = readDatabase(
      (verb) => this.#asideOf((session) => this.#readVerbs().run(verb, session, { timeoutMs: options.statementTimeoutMs }), true),
      false,
    )
  }

  async begin(start: BranchStart): Promise<Branch> {
    checkGid(start.gid)
    this.#openOrThrow()
    const { gid, fences = [], statementTimeoutMs, signal } = start
    if (!Number.isSafeInteger(statementTimeoutMs) || statementTimeoutMs < 1)
      throw new HeadraceError('option-invalid', `statementTimeoutMs must be a whole number from 1, not ${String(statementTimeoutMs)}.`)
    if (signal?.aborted === true) throw new HeadraceError('wait-aborted', `The caller ended the transaction ${gid} before it began.`)
    // A lock is waited for a little shorter than the whole statement may take, where seconds are fine enough.
    const lockWaitS = Math.max(1, Math.ceil(statementTimeoutMs / 1_000) - 1)
    const session = await this.#branches.acquire(Math.max(statementTimeoutMs, this.#options.connectTimeoutMs), lockWaitS)
    const branch = new MysqlBranch(this.#host(), session, start)
    try {
      this.#openOrThrow()
      const xaStart = `xa start ${xidOf(gid, this.name)}`
      const options = { timeoutMs: statementTimeoutMs, signal, own: true, shape: 'the begin of a branch' }
      if (fences.length === 0 && this.#several) session.ahead = xaStart
      else if (fences.length === 0) await session.run(xaStart, options)
      else {
        const results = await runAll(session, [xaStart, ...fenceStatements(fences, this.name, this.#quote)], this.#several, options)
        checkEpochs(fences, rowsOf(results.at(-1)), this.name)
      }
    } catch (error) {
      // One that was in a transaction already, or in a branch, is not ours to use.
      if (errnoOf(error) === 1399 || errnoOf(error) === 1400) session.destroy()
      await branch.abort()
      throw error
    }
    this.#open.add(branch)
    return branch
  }

  commitPrepared(gid: string): Promise<void> {
    return this.#prepared.commit(gid)
  }

  rollbackPrepared(gid: string): Promise<void> {
    return this.#prepared.rollback(gid)
  }

  prepared(prefix: string): Promise<PreparedBranch[]> {
    return this.#prepared.list(prefix)
  }

  async marker(gid: string): Promise<BranchEnd | null> {
    return this.#prepared.marker(gid)
  }

  async settle(gid: string): Promise<BranchEnd> {
    return this.#prepared.settle(gid)
  }

  async decision(gid: string): Promise<Decision | null> {
    checkGid(gid)
    const [row] = await this.#rows(`select ${decisionColumns} from headrace_decision where gid = '${gid}'`)
    return row === undefined ? null : decisionOf(row)
  }

  async decideAbort(gid: string, participants: readonly string[]): Promise<Decision> {
    const before = await this.decision(gid)
    if (before !== null) return before
    const decision: Decision = { gid, verdict: 'abort', participants, decidedAt: Date.now() }
    await this.#rows(`${decisionInsert(decision, this.#quote)} on duplicate key update gid = gid`)
    const found = await this.decision(gid)
    if (found === null)
      throw new HeadraceError('sql-busy', `The decision on ${gid} in MySQL '${this.name}' was dropped meanwhile. Call again.`)
    return found
  }

  async decisions(prefix: string, limit: number): Promise<Decision[]> {
    if (!Number.isSafeInteger(limit) || limit < 0)
      throw new HeadraceError('option-invalid', `limit must be a whole number from 0, not ${String(limit)}.`)
    // Above every gid that starts with it: no gid has a tilde.
    const range = prefix === '' ? '' : `where gid >= ${this.#quote(prefix)} and gid < ${this.#quote(`${prefix}~`)} `
    const rows = await this.#rows(`select ${decisionColumns} from headrace_decision ${range}order by decided_at, gid limit ${limit}`)
    return rows.map(decisionOf)
  }

  async forget(gids: readonly string[]): Promise<void> {
    for (const gid of gids) checkGid(gid)
    const sorted = [...new Set(gids)].sort()
    for (let at = 0; at < sorted.length; at += forgetMax) {
      const list = sorted
        .slice(at, at + forgetMax)
        .map((gid) => `'${gid}'`)
        .join(', ')
      // The decision last: as long as it is there, somebody can ask again.
      await this.#rows(`delete from headrace_branch where participant = '${this.name}' and gid in (${list})`)
      await this.#rows(`delete from headrace_decision where gid in (${list})`)
    }
  }

  async raise(fences: readonly Fence[]): Promise<void> {
    if (fences.length === 0) return
    const [raise, read] = fenceStatements(fences, this.name, this.#quote)
    await this.#asideOf(async (session) => {
      const options = { timeoutMs: this.#options.statementTimeoutMs, own: true, shape: 'raising epochs' }
      try {
        await session.run('start transaction', options)
        await session.run(raise, options)
        const [seen] = await session.run(read, options)
        checkEpochs(fences, rowsOf(seen), this.name)
        await session.run('commit', { ...options, interruptible: false })
      } catch (error) {
        await session.run('rollback', { timeoutMs: this.#options.statementTimeoutMs, interruptible: false }).catch(() => session.destroy())
        throw error
      }
    })
  }

  migration(): string {
    return migrationText(this.#options.schema)
  }

  async migrate(): Promise<void> {
    this.#openOrThrow()
    await migrateDatabase(this.#options, this.#context)
    this.#tables.clear()
  }

  async check(): Promise<Finding[]> {
    return checkDatabase(this.name, this.#options.address, (run) => this.#asideOf(run), this.#options.statementTimeoutMs)
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    for (const branch of this.#open) branch.drop()
    this.#open.clear()
    for (const session of this.#attached.values()) session.destroy()
    this.#attached.clear()
    await Promise.all(this.#options.owned.map((pool) => endPool(pool, this.#options.connectTimeoutMs)))
  }

  get #several(): boolean {
    return this.#options.several
  }

  #openOrThrow(): void {
    if (this.#closed) throw new HeadraceError('engine-unavailable', `MySQL '${this.name}' at ${this.#context.address} is closed.`)
  }

  #host(): BranchHost {
    const { mariadb, packetBytesMax } = this.#server
    return {
      name: this.name,
      quote: this.#quote,
      tables: this.#tables,
      mariadb,
      packetBytesMax,
      several: this.#several,
      attach: (gid, attached) => {
        if (this.#closed) attached.destroy()
        else this.#attached.set(gid, attached)
      },
      undo: (gid) => this.#undo(gid),
      ended: (branch) => this.#open.delete(branch),
    }
  }

  #readVerbs(): Verbs {
    const { mariadb, packetBytesMax } = this.#server
    return new Verbs({ name: this.name, quote: this.#quote, tables: this.#tables, mariadb, packetBytesMax, onWrite: () => undefined })
  }

  get #server(): Server {
    return this.#branches.server ?? this.#aside.server ?? { version: '', mariadb: false, packetBytesMax: 1024 ** 2 }
  }

  async #rows(text: string) {
    return this.#asideOf(async (session) => {
      const [result] = await session.run(text, { timeoutMs: this.#options.statementTimeoutMs, own: true, shape: text.slice(0, 80) })
      return rowsOf(result)
    })
  }

  /** On a connection outside of any branch, which is given back. */
  async #asideOf<T>(run: (session: Session) => Promise<T>, readOnly = false): Promise<T> {
    this.#openOrThrow()
    const { statementTimeoutMs, connectTimeoutMs } = this.#options
    const session = await this.#aside.acquire(Math.max(statementTimeoutMs, connectTimeoutMs), asideLockWaitS, readOnly)
    try {
      return await run(session)
    } finally {
      session.release()
    }
  }

  /** Within a bound of its own: whoever interrupts waits for it. */
  async #killQuery(id: number): Promise<void> {
    const session = await this.#aside.acquire(this.#options.connectTimeoutMs, asideLockWaitS)
    try {
      await session.run(`kill query ${id}`, { timeoutMs: this.#options.connectTimeoutMs, interruptible: false })
    } finally {
      session.release()
    }
  }

  #detach(gid: string): Session | null {
    const session = this.#attached.get(gid)
    this.#attached.delete(gid)
    return session ?? null
  }

  /** Lets the oldest prepared branch go: closing its connection keeps it prepared, for anybody to end. */
  #spare(): boolean {
    const [oldest] = this.#attached.keys()
    if (oldest === undefined) return false
    this.#detach(oldest)?.destroy()
    return true
  }

  async #undo(gid: string): Promise<void> {
    for (let tries = 0; tries < undoTriesMax && !this.#closed; tries++) {
      try {
        await this.#prepared.rollback(gid)
        return
      } catch (error) {
        if (!HeadraceError.is(error) || !error.retryable) return
        await new Promise((resolve) => setTimeout(resolve, undoPauseMs))
      }
    }
  }
}

/** A pool whose server does not answer would end never. */
async function endPool(pool: Pool, timeoutMs: number): Promise<void> {
  const late = new Promise<void>((resolve) => setTimeout(resolve, timeoutMs).unref())
  await Promise.race([pool.end().catch(() => undefined), late])
}
