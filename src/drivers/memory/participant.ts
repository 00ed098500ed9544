/**
 * A database in memory that takes part in global transactions: for unit tests
 * of users, and for seeded simulations of what engines, networks and processes
 * do at the worst moment.
 *
 *   const stock = memory('stock', { tables: { item: { key: 'sku', rows } } })
 *
 * The store is the server, and the participant a client of it. `participant.kill()`
 * ends the client as SIGKILL would, `store.crash()` the server. A `fault` of a
 * call is what the network makes of it: the call does not arrive, or its answer
 * does not, or it arrives when the client has long given up.
 */
import type { ReadDatabase } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type {
  Branch,
  BranchEnd,
  BranchStart,
  Decision,
  Fence,
  Finding,
  Participant,
  ParticipantHandle,
  PreparedBranch,
} from '../../contracts/participant.ts'
import { gidPattern } from '../../contracts/participant.ts'
import { pause as realPause } from '../../std/backoff.ts'
import { branchDatabase, committedReader } from './participant-database.ts'
import type { MemoryCall, MemoryFault, MemoryOptions } from './participant-options.ts'
import { MemoryStore, type Session } from './participant-store.ts'
import { aborted, ended } from './participant-waits.ts'

export interface MemoryHandle<Name extends string = string> extends ParticipantHandle<Name> {
  readonly store: MemoryStore
  connect(): Promise<MemoryParticipant>
}

/** A database in memory, by name. */
export function memory<Name extends string>(name: Name, options: MemoryOptions): MemoryHandle<Name> {
  const store = options.store ?? new MemoryStore(name, options.tables)
  return {
    kind: 'database',
    name,
    engine: 'memory',
    options: {},
    store,
    connect: async () => new MemoryParticipant(name, store, options),
  }
}

export class MemoryParticipant implements Participant {
  readonly name: string
  readonly engine = 'memory'
  readonly canPrepare: boolean
  readonly canDecide: boolean
  readonly reader: ReadDatabase
  readonly store: MemoryStore
  readonly #options: MemoryOptions
  readonly #sessions = new Set<Session>()
  readonly #pause: (ms: number, signal?: AbortSignal) => Promise<void>
  #dead = false

  constructor(name: string, store: MemoryStore, options: MemoryOptions) {
    this.name = name
    this.store = store
    this.canPrepare = options.canPrepare ?? true
    this.canDecide = options.canDecide ?? true
    this.#options = options
    this.#pause = options.pause ?? realPause
    this.reader = committedReader(store, options.sql, () => this.#arrive('statement'))
  }

  /** The process of this client dies: its sessions end, and no call of it does anything any more. */
  kill(): void {
    this.#dead = true
    for (const session of this.#sessions) if (session.state === 'open' && session.committing === null) this.store.end(session)
  }

  async begin(start: BranchStart): Promise<Branch> {
    if (!gidPattern.test(start.gid)) throw new HeadraceError('option-invalid', `'${start.gid}' is not a gid.`)
    if (start.signal?.aborted === true) throw ended('a branch')
    const session = await this.#call('begin', start.gid, () => this.store.open(start.gid, start.fences ?? []))
    this.#sessions.add(session)
    return this.#branch(session, start)
  }

  commitPrepared(gid: string): Promise<void> {
    return this.#call('commitPrepared', gid, () => this.store.endPrepared(gid, 'committed'))
  }

  rollbackPrepared(gid: string): Promise<void> {
    return this.#call('rollbackPrepared', gid, () => this.store.endPrepared(gid, 'aborted'))
  }

  prepared(prefix: string): Promise<PreparedBranch[]> {
    return this.#call('prepared', prefix, () =>
      [...this.store.prepared].filter(([gid]) => gid.startsWith(prefix)).map(([gid, { at }]) => ({ gid, preparedAt: at })),
    )
  }

  marker(gid: string): Promise<BranchEnd | null> {
    return this.#call('marker', gid, () => this.store.markers.get(gid) ?? null)
  }

  settle(gid: string): Promise<BranchEnd> {
    return this.#call('settle', gid, () => this.store.settle(gid))
  }

  decision(gid: string): Promise<Decision | null> {
    return this.#call('decision', gid, () => this.store.decisions.get(gid) ?? null)
  }

  decideAbort(gid: string, participants: readonly string[]): Promise<Decision> {
    return this.#call('decideAbort', gid, () => this.store.decideAbort(gid, participants))
  }

  decisions(prefix: string, limit: number): Promise<Decision[]> {
    return this.#call('decisions', prefix, () =>
      [...this.store.decisions.values()].filter(({ gid }) => gid.startsWith(prefix)).slice(0, limit),
    )
  }

  forget(gids: readonly string[]): Promise<void> {
    return this.#call('forget', gids[0] ?? '', () => this.store.forget(gids))
  }

  async raise(fences: readonly Fence[]): Promise<void> {
    await this.#arrive('statement')
    await this.#until(() => this.store.raise(fences), `the fences of memory '${this.name}'`)
  }

  migration(): string {
    return ''
  }

  async migrate(): Promise<void> {
    await this.#arrive('statement')
  }

  async check(): Promise<Finding[]> {
    if (this.store.down)
      return [{ name: 'reachable', level: 'error', message: `Memory '${this.name}' is down.`, remedy: 'Call restart().' }]
    return [{ name: 'reachable', level: 'ok', message: `Memory '${this.name}' answers.` }]
  }

  async close(): Promise<void> {
    this.kill()
  }

  #branch(session: Session, start: BranchStart): Branch {
    const { store } = this
    const { gid } = session
    let closed = false
    const mustBeOpen = (): void => {
      if (closed) throw new HeadraceError('transaction-closed', `The branch of '${gid}' in memory '${this.name}' has ended.`)
    }
    const end = (): void => {
      closed = true
      this.#sessions.delete(session)
    }
    const lock = async (table: string, key: string): Promise<void> => {
      const what = `a row of table '${table}' in memory '${this.name}'`
      await this.#until(() => session.state !== 'open' || store.lock(session, table, key), what, start)
      if (session.state !== 'open') throw this.#away()
    }
    const running = new Set<Promise<unknown>>()
    const run = <T>(verb: (session: Session, take: typeof lock) => Promise<T>): Promise<T> => {
      const statement = send(verb)
      running.add(statement)
      const over = (): void => void running.delete(statement)
      statement.then(over, over)
      return statement
    }
    /** Commit and prepare are held to every statement that was sent. */
    const settled = async (): Promise<void> => {
      while (running.size > 0) await Promise.allSettled(running)
    }
    const send = async <T>(verb: (session: Session, take: typeof lock) => Promise<T>): Promise<T> => {
      mustBeOpen()
      try {
        await this.#arrive('statement')
        const fault = this.#fault('statement', gid)
        if (fault !== null && fault !== 'refused') {
          store.end(session)
          throw this.#away()
        }
        if (fault === 'refused') throw new HeadraceError('sql-conflict', `Memory '${this.name}' ended the statement for another.`)
        if (session.state !== 'open') throw this.#away()
        if (session.vote !== null) throw session.vote
        const answer = await verb(session, lock)
        await this.#back('statement')
        return answer
      } catch (error) {
        session.vote ??= HeadraceError.is(error) ? error : new HeadraceError('sql-failed', String(error), { cause: error })
        throw error
      }
    }
    return {
      participant: this.name,
      gid,
      database: branchDatabase(store, this.#options.sql, { run }),
      get client() {
        session.wrote = true
        return session
      },
      get wrote() {
        return session.wrote
      },
      async savepoint() {
        mustBeOpen()
        store.savepoint(session)
      },
      async rollbackToSavepoint() {
        mustBeOpen()
        if (session.saved === null) throw new HeadraceError('sql-failed', 'There is no savepoint.')
        if (session.state !== 'open') throw new HeadraceError('engine-unavailable', `The session of '${gid}' is gone.`)
        session.overlay = new Map([...session.saved.overlay].map(([table, rows]) => [table, new Map(rows)]))
        session.vote = null
      },
      async releaseSavepoint() {
        mustBeOpen()
        session.saved = null
      },
      prepare: async () => {
        mustBeOpen()
        if (!this.canPrepare) throw new HeadraceError('prepare-unavailable', `Memory '${this.name}' cannot prepare.`)
        end()
        await settled()
        const open = (): boolean => session.state === 'open'
        try {
          await this.#call('prepare', gid, () => store.prepare(session))
        } finally {
          // A client that does not know leaves the session to the server, which ends it when it is not on its way.
          if (open() && !this.#late.has(session)) store.end(session)
        }
      },
      commit: async (decision) => {
        mustBeOpen()
        end()
        await settled()
        await this.#commit(session, decision)
      },
      abort: async () => {
        if (closed) return
        end()
        await this.#travel('abort')
        store.end(session)
      },
    }
  }

  /** Sessions with a call of theirs still under way although their client has given up. */
  readonly #late = new Set<Session>()

  async #commit(session: Session, decision: Decision | undefined): Promise<void> {
    const { store } = this
    const whole = (): void => {
      try {
        store.beginCommit(session, decision)
        store.endCommit(session, decision)
      } catch (error) {
        store.end(session)
        throw error
      }
    }
    try {
      await this.#arrive('commit')
    } catch (error) {
      store.end(session)
      throw error
    }
    const fault = this.#fault('commit', session.gid)
    if (this.#dead) throw this.#away()
    if (fault === 'refused') {
      store.end(session)
      throw new HeadraceError('sql-conflict', `Memory '${this.name}' refused the commit.`)
    }
    const unknown = new HeadraceError(
      'transaction-unknown',
      `The connection to memory '${this.name}' was lost in the commit of '${session.gid}'.`,
    )
    if (fault === 'lost-before') {
      store.end(session)
      throw unknown
    }
    if (fault === 'late') {
      // Half of the late ones have their rows written already, and others wait for them.
      const held = (this.#options.lateMs?.() ?? 0) % 2 === 0
      if (held) {
        try {
          store.beginCommit(session, decision)
        } catch {
          store.end(session)
          throw unknown
        }
      } else session.committing = null
      this.#later(session, () => (held ? store.endCommit(session, decision) : whole()))
      throw unknown
    }
    whole()
    if (fault === 'lost-after' || this.#dead) throw unknown
    try {
      await this.#back('commit')
    } catch {
      throw unknown
    }
  }

  async #call<T>(call: MemoryCall, gid: string, act: () => T): Promise<T> {
    await this.#arrive(call)
    const fault = this.#fault(call, gid)
    // The client may have died of it.
    if (this.#dead) throw this.#away()
    if (fault === 'refused') throw new HeadraceError('sql-busy', `Memory '${this.name}' is busy.`)
    if (fault === 'lost-before') throw this.#away()
    if (fault === 'late') {
      const session = call === 'prepare' ? [...this.#sessionsOf(gid)][0] : undefined
      this.#later(session, act)
      throw this.#away()
    }
    const answer = act()
    if (fault === 'lost-after') throw this.#away()
    await this.#back(call)
    return answer
  }

  *#sessionsOf(gid: string): Generator<Session> {
    for (const session of this.store.sessions) if (session.gid === gid) yield session
  }

  #later(session: Session | undefined, act: () => unknown): void {
    if (session !== undefined) this.#late.add(session)
    const happen = async (): Promise<void> => {
      await this.#pause(this.#options.lateMs?.() ?? 50)
      if (session !== undefined) this.#late.delete(session)
      if (this.store.down) return
      try {
        act()
      } catch {
        // Nobody listens any more.
        if (session !== undefined && session.state === 'open') this.store.end(session)
      }
    }
    void happen()
  }

  #fault(call: MemoryCall, gid: string): MemoryFault | null {
    return this.#options.fault?.(call, gid) ?? null
  }

  async #travel(call: MemoryCall): Promise<void> {
    const ms = this.#options.delayMs?.(call) ?? 0
    if (ms > 0) await this.#pause(ms)
  }

  async #arrive(call: MemoryCall): Promise<void> {
    await this.#travel(call)
    if (this.#dead || this.store.down) throw this.#away()
  }

  /** The way back: a client or a server that died meanwhile gives no answer. */
  async #back(call: MemoryCall): Promise<void> {
    await this.#travel(call)
    if (this.#dead || this.store.down) throw this.#away()
  }

  /** Tries again whenever a lock is given back, but not for longer than lockWaitMs. */
  async #until(done: () => boolean, what: string, { statementTimeoutMs = Infinity, signal }: Partial<BranchStart> = {}): Promise<void> {
    if (done()) return
    const { lockWaitMs = 1_000 } = this.#options
    const stop = new AbortController()
    let over = false
    const limit = this.#pause(Math.min(lockWaitMs, statementTimeoutMs), stop.signal).then(() => {
      over = true
    })
    const ends = signal === undefined ? [limit] : [limit, aborted(signal, stop.signal)]
    try {
      do {
        await Promise.race([this.store.freed, ...ends])
        if (signal?.aborted === true) throw ended(what)
        if (!over) continue
        if (statementTimeoutMs < lockWaitMs)
          throw new HeadraceError('engine-timeout', `The statement took longer than ${statementTimeoutMs} ms.`)
        throw new HeadraceError('sql-busy', `The wait for ${what} took longer than lockWaitMs.`)
      } while (!done())
    } finally {
      stop.abort()
    }
  }

  #away(): HeadraceError {
    return new HeadraceError('engine-unavailable', `Memory '${this.name}' does not answer.`)
  }
}
