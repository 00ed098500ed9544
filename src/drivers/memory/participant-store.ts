/**
 * The server side of a database in memory: what is committed, what is prepared,
 * which session holds which lock. It outlives the clients that are connected to
 * it, as a database server does, so that tests can end those at any point.
 *
 * Rows that a session reads with a lock or writes are its own until it ends; a
 * prepared session outlives its client and a crash of the server.
 */
import type { Row, SqlValue } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { BranchEnd, Decision, Fence } from '../../contracts/participant.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'

export interface MemoryTable {
  /** The columns of the primary key. */
  readonly key: string | readonly string[]
  readonly rows?: readonly Row[]
}

export interface StoredTable {
  readonly key: readonly string[]
  readonly rows: Map<string, Row>
}

type Overlay = Map<string, Map<string, Row | null>>

/** The transaction of one client, as the server sees it. */
export interface Session {
  readonly gid: string
  /** Rows changed so far; null is deleted. */
  overlay: Overlay
  saved: { readonly overlay: Overlay; readonly wrote: boolean } | null
  wrote: boolean
  /** The error of a statement: the session can only be undone. */
  vote: HeadraceError | null
  state: 'open' | 'prepared' | 'ended'
  /** Its marker, and its decision when it is home, are written but not committed. */
  committing: 'marker' | 'decision' | null
}

export class MemoryStore {
  readonly name: string
  readonly tables: ReadonlyMap<string, StoredTable>
  readonly markers = new Map<string, BranchEnd>()
  readonly decisions = new Map<string, Decision>()
  readonly prepared = new Map<string, { readonly session: Session; readonly at: number }>()
  readonly sessions = new Set<Session>()
  readonly #epochs = new Map<string, number>()
  readonly #locks = new Map<string, Session>()
  readonly #fences = new Map<string, Set<Session>>()
  #freed: Deferred<void> = deferred()
  #down = false

  constructor(name: string, tables: Readonly<Record<string, MemoryTable>>) {
    this.name = name
    this.tables = new Map(
      Object.entries(tables).map(([table, { key, rows = [] }]) => {
        const columns = typeof key === 'string' ? [key] : [...key]
        return [table, { key: columns, rows: new Map(rows.map((row) => [keyOf(columns, row), row])) }]
      }),
    )
  }

  get down(): boolean {
    return this.#down
  }

  /** Resolves when a lock is given back. */
  get freed(): Promise<void> {
    return this.#freed.promise
  }

  /** The server dies: what is neither committed nor prepared is gone. */
  crash(): void {
    this.#down = true
    for (const session of [...this.sessions]) this.end(session)
  }

  restart(): void {
    this.#down = false
  }

  table(name: string): StoredTable {
    const table = this.tables.get(name)
    if (table === undefined) throw new HeadraceError('sql-failed', `Memory '${this.name}' has no table '${name}'.`)
    return table
  }

  /** The committed rows of a table. */
  rows(table: string): Row[] {
    return [...this.table(table).rows.values()]
  }

  open(gid: string, fences: readonly Fence[]): Session {
    for (const fence of fences) this.#checkFence(fence)
    const session: Session = { gid, overlay: new Map(), saved: null, wrote: false, vote: null, state: 'open', committing: null }
    this.sessions.add(session)
    for (const fence of fences) {
      this.#epochs.set(fenceName(fence), fence.epoch)
      // The fence is shared by the branches of its owner; a higher epoch waits for them.
      this.#held(fence).add(session)
    }
    return session
  }

  /** Whether the lock is the session's now. */
  lock(session: Session, table: string, key: string): boolean {
    const name = `${table}\0${key}`
    const holder = this.#locks.get(name)
    if (holder !== undefined && holder !== session) return false
    this.#locks.set(name, session)
    return true
  }

  read(session: Session, table: string, key: string): Row | null {
    const own = session.overlay.get(table)?.get(key)
    if (own !== undefined) return own
    return this.table(table).rows.get(key) ?? null
  }

  write(session: Session, table: string, key: string, row: Row | null): void {
    session.wrote = true
    const rows = session.overlay.get(table) ?? new Map<string, Row | null>()
    rows.set(key, row)
    session.overlay.set(table, rows)
  }

  savepoint(session: Session): void {
    session.saved = { overlay: new Map([...session.overlay].map(([table, rows]) => [table, new Map(rows)])), wrote: session.wrote }
  }

  prepare(session: Session): void {
    this.#mustBeWhole(session)
    this.#takeMarker(session)
    session.state = 'prepared'
    this.sessions.delete(session)
    this.prepared.set(session.gid, { session, at: Date.now() })
  }

  /** Writes marker and decision, not yet committed: others wait for this session. */
  beginCommit(session: Session, decision: Decision | undefined): void {
    this.#mustBeWhole(session)
    this.#takeMarker(session)
    if (decision !== undefined && this.decisions.has(decision.gid)) {
      throw new HeadraceError('gid-taken', `The decision of '${decision.gid}' is taken in memory '${this.name}'.`)
    }
    session.committing = decision === undefined ? 'marker' : 'decision'
  }

  endCommit(session: Session, decision: Decision | undefined): void {
    if (session.state !== 'open') throw new HeadraceError('sql-conflict', `The session of '${session.gid}' is gone.`)
    if (decision !== undefined) this.decisions.set(decision.gid, decision)
    this.#apply(session)
  }

  end(session: Session): void {
    if (session.state === 'ended') return
    session.state = 'ended'
    session.committing = null
    this.sessions.delete(session)
    this.prepared.delete(session.gid)
    for (const [name, holder] of this.#locks) if (holder === session) this.#locks.delete(name)
    for (const holders of this.#fences.values()) holders.delete(session)
    const freed = this.#freed
    this.#freed = deferred()
    freed.resolve()
  }

  endPrepared(gid: string, end: BranchEnd): void {
    const prepared = this.prepared.get(gid)
    if (end === 'aborted') {
      if (prepared === undefined && this.#committing(gid, 'marker')) throw busy(this.name, gid)
      if (prepared !== undefined) this.end(prepared.session)
      if (!this.markers.has(gid)) this.markers.set(gid, 'aborted')
    } else if (prepared !== undefined) this.#apply(prepared.session)
    const marker = this.markers.get(gid)
    if (marker !== end) {
      throw new HeadraceError(
        'transaction-heuristic',
        `The branch of '${gid}' in memory '${this.name}' should have been ${end}, but ${marker === undefined ? 'is gone without a marker' : `is ${marker}`}.`,
      )
    }
  }

  settle(gid: string): BranchEnd {
    const marker = this.markers.get(gid)
    if (marker !== undefined) return marker
    if (this.#committing(gid, 'marker')) throw busy(this.name, gid)
    this.markers.set(gid, 'aborted')
    return 'aborted'
  }

  decideAbort(gid: string, participants: readonly string[]): Decision {
    const decision = this.decisions.get(gid)
    if (decision !== undefined) return decision
    if (this.#committing(gid, 'decision')) throw busy(this.name, gid)
    const abort: Decision = { gid, verdict: 'abort', participants: [...participants], decidedAt: Date.now() }
    this.decisions.set(gid, abort)
    return abort
  }

  forget(gids: readonly string[]): void {
    for (const gid of gids) {
      this.markers.delete(gid)
      this.decisions.delete(gid)
    }
  }

  /** False while a branch holds one of them under a lower epoch. */
  raise(fences: readonly Fence[]): boolean {
    for (const fence of fences) this.#checkFence(fence)
    for (const fence of fences) {
      if ((this.#epochs.get(fenceName(fence)) ?? 0) < fence.epoch && this.#held(fence).size > 0) return false
    }
    for (const fence of fences) this.#epochs.set(fenceName(fence), fence.epoch)
    return true
  }

  #held(fence: Fence): Set<Session> {
    const name = fenceName(fence)
    const holders = this.#fences.get(name) ?? new Set<Session>()
    this.#fences.set(name, holders)
    return holders
  }

  #checkFence(fence: Fence): void {
    const highest = this.#epochs.get(fenceName(fence)) ?? 0
    if (fence.epoch >= highest) return
    throw new HeadraceError(
      'fenced',
      `Partition ${fence.partition} of memory '${this.name}' has seen epoch ${highest}, not ${fence.epoch}.`,
    )
  }

  #mustBeWhole(session: Session): void {
    if (session.state !== 'open') throw new HeadraceError('engine-unavailable', `The session of '${session.gid}' is gone.`)
    if (session.vote !== null) throw session.vote
  }

  #takeMarker(session: Session): void {
    if (!this.markers.has(session.gid) && !this.prepared.has(session.gid)) return
    throw new HeadraceError('gid-taken', `The marker of '${session.gid}' is taken in memory '${this.name}'.`)
  }

  #committing(gid: string, what: 'marker' | 'decision'): boolean {
    for (const session of this.sessions) {
      if (session.gid === gid && session.committing !== null && (what === 'marker' || session.committing === 'decision')) return true
    }
    return false
  }

  #apply(session: Session): void {
    for (const [table, rows] of session.overlay) {
      const stored = this.table(table).rows
      for (const [key, row] of rows) {
        if (row === null) stored.delete(key)
        else stored.set(key, row)
      }
    }
    this.markers.set(session.gid, 'committed')
    this.end(session)
  }
}

export function keyOf(columns: readonly string[], row: Row): string {
  return columns.map((column) => keyPart(row[column])).join('\0')
}

export function keyPart(value: SqlValue | undefined): string {
  return `${typeof value === 'bigint' ? 'number' : typeof value}:${String(value)}`
}

function busy(store: string, gid: string): HeadraceError {
  return new HeadraceError('sql-busy', `A session of memory '${store}' still holds '${gid}'. Try again.`)
}

function fenceName({ deployment, partition }: Fence): string {
  return `${deployment}\0${partition}`
}
