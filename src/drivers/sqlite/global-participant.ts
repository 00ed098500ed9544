/**
 * A SQLite file as a participant of global transactions.
 *
 * SQLite has no prepare, so the file is home of every transaction that writes
 * to it: the others are prepared, and the commit of the file carries the
 * decision. A transaction may write to one such file.
 *
 * There is nothing in doubt in the file itself: a branch that has not committed
 * is gone with its process. The marker tells others that it has.
 */
import type { ReadDatabase } from '../../contracts/database.ts'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Branch, BranchEnd, BranchStart, Decision, Fence, Finding, Participant, PreparedBranch } from '../../contracts/participant.ts'
import { SqliteBranch } from './branch.ts'
import { sqliteError } from './errors.ts'
import { givenUp } from './file-turn.ts'
import { readHandle } from './handle.ts'
import { mustBeGid, ownTablesSql, ownTablesVersion } from './own-tables.ts'
import { SharedFile, type SharedFileOptions } from './shared-file.ts'

/** How long a call outside of a branch waits for a writer, in milliseconds; then it is 'sql-busy', and worth another call. */
const callWaitMs = 1_000
/** How long fences wait for the branches that hold the file, in milliseconds. */
const raiseWaitMs = 1_000
/** Markers and decisions dropped in one commit, at most. */
const forgetMax = 1_000
const timeoutMsMax = 3_600_000

export class SqliteParticipant implements Participant {
  readonly name: string
  readonly engine = 'sqlite'
  readonly canPrepare = false
  readonly canDecide = true
  readonly reader: ReadDatabase
  readonly #file: SharedFile
  readonly #options: SharedFileOptions
  readonly #branches = new Set<SqliteBranch>()

  constructor(options: SharedFileOptions) {
    this.name = options.name
    this.#options = options
    this.#file = new SharedFile(options)
    this.reader = readHandle((verb) => this.#file.read(({ reads }) => reads.run(verb)))
  }

  /** Opens the file. Throws what no second try mends: a file that belongs to an app, that cannot be read, or is none of SQLite. */
  async open(): Promise<void> {
    try {
      await this.#file.open()
    } catch (error) {
      if (HeadraceError.is(error) && (error.code === 'sql-busy' || error.code === 'disk-full')) return
      await this.close()
      throw error
    }
  }

  async begin({ fences = [], ...start }: BranchStart): Promise<Branch> {
    const { gid, statementTimeoutMs, signal } = start
    mustBeGid(gid)
    checkWhole('statementTimeoutMs', statementTimeoutMs, 1, timeoutMsMax)
    if (signal?.aborted === true) throw givenUp(this.name, signal)
    checkFences(fences)
    const writing = await this.#file.begin({ gid, waitMs: statementTimeoutMs, signal })
    try {
      writing.own.raise(fences)
    } catch (error) {
      writing.rollback()
      throw sqliteError(this.name, error)
    }
    const branch = new SqliteBranch(this.#file, writing, start, (ended) => this.#branches.delete(ended))
    this.#branches.add(branch)
    await this.#file.breathe()
    return branch
  }

  async commitPrepared(gid: string): Promise<void> {
    if ((await this.marker(gid)) === 'committed') return
    throw this.#heuristic(gid, 'was to be committed, but never did; no branch can be prepared here')
  }

  async rollbackPrepared(gid: string): Promise<void> {
    if ((await this.settle(gid)) === 'aborted') return
    throw this.#heuristic(gid, 'was to be undone, but is marked as committed')
  }

  /** None, ever. */
  async prepared(): Promise<PreparedBranch[]> {
    await this.#file.open()
    return []
  }

  async marker(gid: string): Promise<BranchEnd | null> {
    mustBeGid(gid)
    return this.#file.read(({ seen }) => seen.marker(gid))
  }

  async settle(gid: string): Promise<BranchEnd> {
    const end = await this.marker(gid)
    if (end !== null) return end
    return this.#file.write(gid, callWaitMs, (own) => {
      const found = own.marker(gid)
      if (found === null) own.mark(gid, 'aborted')
      return found ?? 'aborted'
    })
  }

  async decision(gid: string): Promise<Decision | null> {
    mustBeGid(gid)
    return this.#file.read(({ seen }) => seen.decision(gid))
  }

  async decideAbort(gid: string, participants: readonly string[]): Promise<Decision> {
    const decision = await this.decision(gid)
    if (decision !== null) return decision
    return this.#file.write(gid, callWaitMs, (own) => {
      const found = own.decision(gid)
      if (found !== null) return found
      const abort: Decision = { gid, verdict: 'abort', participants: [...participants], decidedAt: Date.now() }
      own.decide(abort)
      return abort
    })
  }

  decisions(prefix: string, limit: number): Promise<Decision[]> {
    return this.#file.read(({ seen }) => seen.decisions(prefix, limit))
  }

  async forget(gids: readonly string[]): Promise<void> {
    for (let from = 0; from < gids.length; from += forgetMax) {
      const some = gids.slice(from, from + forgetMax)
      await this.#file.write(some[0] as string, callWaitMs, (own) => own.forget(some))
    }
  }

  async raise(fences: readonly Fence[]): Promise<void> {
    checkFences(fences)
    const [first] = fences
    if (first === undefined) return
    await this.#file.write(`the fences of ${first.deployment}`, raiseWaitMs, (own) => own.raise(fences))
  }

  migration(): string {
    const { schema } = this.#options
    return [ownTablesSql, ...(schema === null ? [] : ['-- The tables of the app.', schema.trim().replace(/;?$/, ';'), ''])].join('\n')
  }

  migrate(): Promise<void> {
    return this.#file.migrate()
  }

  async check(): Promise<Finding[]> {
    const about = `SQLite '${this.name}'`
    try {
      const version = await this.#file.read(({ reads }) => reads.run({ verb: 'sql', text: 'select sqlite_version()', values: [] }))
      const [number] = typeof version === 'number' ? [] : version.values
      return [
        {
          name: 'version',
          level: 'ok',
          message: `${about} answers: version ${String(number)}, file ${this.#options.path}, every commit on disk (WAL, synchronous=FULL).`,
        },
        {
          name: 'prepare',
          level: 'ok',
          message: `${about} cannot prepare: it is home of what writes to it, one such file for each transaction.`,
        },
        { name: 'tables', level: 'ok', message: `${about} has Headrace's tables, version ${ownTablesVersion}.` },
      ]
    } catch (error) {
      const { message } = sqliteError(this.name, error)
      return [{ name: 'connection', level: 'error', message }]
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#branches].map((branch) => branch.abort()))
    await this.#file.close()
  }

  #heuristic(gid: string, what: string): HeadraceError {
    return new HeadraceError('transaction-heuristic', `The branch '${gid}' of SQLite '${this.name}' ${what}.`, {
      details: { database: this.name, gid },
    })
  }
}

function checkFences(fences: readonly Fence[]): void {
  for (const { partition, epoch } of fences) {
    checkWhole('partition', partition, 0, 2_147_483_647)
    checkWhole('epoch', epoch, 0, Number.MAX_SAFE_INTEGER)
  }
}
