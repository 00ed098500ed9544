/**
 * The branches of one global transaction: begun when they are first used, and
 * held to every statement that was sent.
 *
 * A branch begins with its first statement, not with the transaction: a
 * database that is not used costs no connection, no fence lock and no round
 * trip, and statements that are sent side by side begin side by side anyway.
 *
 * What must hold:
 * - a statement that failed is a vote to abort, whether or not its promise was
 *   awaited, unless a savepoint from before it was rolled back;
 * - no call is left running behind the end of the transaction.
 */
import type { Database } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Branch, BranchStart } from '../contracts/participant.ts'
import type { Site } from './site.ts'

export interface Vote {
  readonly participant: string
  readonly error: unknown
}

export class Branches {
  readonly #site: Site
  readonly #start: BranchStart
  readonly #allowed: ReadonlySet<string>
  readonly #beginning = new Map<string, Promise<Branch>>()
  readonly #begun = new Map<string, Branch>()
  readonly #handles = new Map<string, Database>()
  readonly #running = new Set<Promise<unknown>>()
  #open = true
  #undoing = false
  #vote: Vote | null = null
  /** What was voted before the savepoint that is open; undefined when none is. */
  #voteBefore: Vote | null | undefined

  constructor(site: Site, start: BranchStart, allowed: readonly string[]) {
    this.#site = site
    this.#start = start
    this.#allowed = new Set(allowed)
  }

  /** The first statement that failed. */
  get vote(): Vote | null {
    return this.#vote
  }

  get(name: string): Branch | undefined {
    return this.#begun.get(name)
  }

  all(): Branch[] {
    return [...this.#begun.values()]
  }

  /** The database of a branch; it begins with the first call. */
  database(name: string): Database {
    const known = this.#handles.get(name)
    if (known !== undefined) return known
    if (!this.#allowed.has(name)) {
      throw new HeadraceError('option-invalid', `Database '${name}' is not part of this transaction. Name it in databases.`, {
        details: { database: name },
      })
    }
    const call = <T>(verb: (database: Database) => Promise<T>): Promise<T> => this.#call(name, (branch) => verb(branch.database))
    const made: Database = {
      sql: (text, ...values) => call((database) => database.sql(text, ...values)) as Promise<never>,
      selectIn: (table, column, values, options) => call((database) => database.selectIn(table, column, values, options)) as Promise<never>,
      insertMany: (table, rows, options) => call((database) => database.insertMany(table, rows, options)),
      updateMany: (table, key, rows) => call((database) => database.updateMany(table, key, rows)),
      addMany: (table, key, rows) => call((database) => database.addMany(table, key, rows)),
      upsertMany: (table, key, rows, options) => call((database) => database.upsertMany(table, key, rows, options)),
      deleteIn: (table, column, values) => call((database) => database.deleteIn(table, column, values)),
    }
    this.#handles.set(name, made)
    return made
  }

  /** The driver's own client, inside the branch. */
  client(name: string): Promise<unknown> {
    this.database(name)
    return this.#call(name, async (branch) => branch.client)
  }

  /** Begins a branch that the caller of the transaction has not used: home, for the decision. */
  begin(name: string): Promise<Branch> {
    const known = this.#beginning.get(name)
    if (known !== undefined) return known
    const begin = async (): Promise<Branch> => {
      const branch = await this.#site.participant(name).begin(this.#start)
      this.#begun.set(name, branch)
      // What it will do belongs to the savepoint that is open.
      if (this.#voteBefore !== undefined) await branch.savepoint()
      return branch
    }
    const beginning = begin()
    beginning.catch(() => undefined)
    this.#beginning.set(name, beginning)
    return beginning
  }

  async savepoint(): Promise<void> {
    await this.#idle()
    if (this.#voteBefore !== undefined) throw new HeadraceError('transaction-nested', 'A savepoint is open already; there is one level.')
    this.#voteBefore = this.#vote
    await this.#everywhere((branch) => branch.savepoint())
  }

  async rollbackToSavepoint(): Promise<void> {
    await this.#idle()
    const before = this.#voteBefore
    if (before === undefined) throw new HeadraceError('transaction-closed', 'No savepoint is open.')
    this.#vote = before
    await this.#everywhere((branch) => branch.rollbackToSavepoint())
  }

  /** Waits for the statements under way. Throws the error of the first that failed since the savepoint that is open. */
  async check(): Promise<void> {
    await this.#idle()
    if (this.#vote !== null && this.#vote !== this.#voteBefore) throw this.#vote.error
  }

  /** Throws what `check` throws; then the savepoint is open still, and can be rolled back. */
  async releaseSavepoint(): Promise<void> {
    await this.#idle()
    if (this.#voteBefore === undefined) throw new HeadraceError('transaction-closed', 'No savepoint is open.')
    await this.check()
    this.#voteBefore = undefined
    await this.#everywhere((branch) => branch.releaseSavepoint())
  }

  /** Refuses further calls, and waits for those under way. */
  async close(): Promise<void> {
    this.#open = false
    await this.#idle()
  }

  /** Undoes the branches that `keep` does not name, side by side. Never throws. */
  async abort(keep: ReadonlySet<string> = new Set()): Promise<void> {
    this.#undoing = true
    await this.close()
    const others = this.all().filter((branch) => !keep.has(branch.participant))
    if (others.length > 0) await Promise.allSettled(others.map((branch) => branch.abort()))
  }

  #call<T>(name: string, act: (branch: Branch) => Promise<T>): Promise<T> {
    const running = this.#watched(name, act)
    // A call may be left unawaited: its failure must not end the process, and counts all the same.
    running.catch(() => undefined)
    this.#running.add(running)
    const over = (): void => void this.#running.delete(running)
    running.then(over, over)
    return running
  }

  async #watched<T>(name: string, act: (branch: Branch) => Promise<T>): Promise<T> {
    if (!this.#open) throw this.#closed()
    try {
      const branch = await this.begin(name)
      // Taken before the end, it counts: only what is undone anyway is not sent any more.
      if (this.#undoing) throw this.#closed()
      return await act(branch)
    } catch (error) {
      this.#vote ??= { participant: name, error }
      throw error
    }
  }

  #closed(): HeadraceError {
    return new HeadraceError('transaction-closed', 'The transaction has ended. Await every database call before the callback returns.')
  }

  async #idle(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running)
    if (this.#begun.size < this.#beginning.size) await Promise.allSettled(this.#beginning.values())
  }

  async #everywhere(act: (branch: Branch) => Promise<void>): Promise<void> {
    const done = await Promise.allSettled(
      this.all().map(async (branch) => {
        try {
          await act(branch)
        } catch (error) {
          this.#vote ??= { participant: branch.participant, error }
          throw error
        }
      }),
    )
    for (const each of done) if (each.status === 'rejected') throw each.reason
  }
}
