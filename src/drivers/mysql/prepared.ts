/**
 * The ends of prepared branches: what anybody may call, at any time, again.
 *
 * MariaDB answers 1397 (unknown XID) for a branch that has ended, for one that
 * never was, and for one whose session still lives. So the code proves nothing;
 * what is looked at is the marker, and the server's list of prepared branches.
 *
 *   marker committed             it is committed
 *   marker aborted               it is aborted, and can never be prepared
 *   no marker, listed            it is prepared: XA COMMIT or XA ROLLBACK
 *   no marker, listed, 1397      a session still has it: 'sql-busy', and after a
 *                                while that session is ended, which keeps the branch
 *   no marker, not listed        it was never prepared, or a person undid it
 *
 * A rollback takes the marker of a branch that is not listed as 'aborted': a
 * prepare that arrives late finds it taken.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import type { BranchEnd, PreparedBranch } from '../../contracts/participant.ts'
import { errnoOf } from './branch.ts'
import { errno } from './errors.ts'
import { checkGid, endingOf, markerRead, markerSettle, xidOf } from './own-tables.ts'
import { rowsOf } from './rows.ts'
import type { Session } from './session.ts'

/** How long another session may keep a prepared branch that is to end, before it is disconnected, in milliseconds. */
const attachedGraceMs = 500
/** Branches of which it is known since when they are kept; past it the oldest is forgotten, and gets a longer grace. */
const keptMax = 1_000

export interface PreparedHost {
  readonly name: string
  readonly timeoutMs: number
  /** Runs on a connection outside of any transaction. */
  aside<T>(run: (session: Session) => Promise<T>): Promise<T>
  /** The connection of our own that prepared it, if it is still there; it is the caller's from now on. */
  detach(gid: string): Session | null
}

export class PreparedBranches {
  readonly #host: PreparedHost
  /** When a branch was first found to be kept by another session. */
  readonly #keptSince = new Map<string, number>()

  constructor(host: PreparedHost) {
    this.#host = host
  }

  async commit(gid: string): Promise<void> {
    checkGid(gid)
    if (await this.#onItsConnection(gid, 'commit')) return
    await this.#host.aside(async (session) => {
      const before = await this.#marker(session, gid)
      if (before === 'committed') return
      if (before === null && (await this.#isListed(session, gid)) && (await this.#finish(session, gid, 'commit'))) return
      const ending = before ?? (await this.#marker(session, gid, ' lock in share mode'))
      if (ending !== 'committed') throw heuristic(this.#host.name, gid, 'commit', ending)
    })
  }

  async rollback(gid: string): Promise<void> {
    checkGid(gid)
    await this.#onItsConnection(gid, 'rollback')
    await this.#host.aside(async (session) => {
      const before = await this.#marker(session, gid)
      if (before === 'committed') throw heuristic(this.#host.name, gid, 'abort', before)
      if (before === 'aborted') return
      if (await this.#isListed(session, gid)) await this.#finish(session, gid, 'rollback')
      const ending = await this.#settle(session, gid)
      if (ending === 'committed') throw heuristic(this.#host.name, gid, 'abort', ending)
    })
  }

  settle(gid: string): Promise<BranchEnd> {
    checkGid(gid)
    return this.#host.aside((session) => this.#settle(session, gid))
  }

  marker(gid: string): Promise<BranchEnd | null> {
    checkGid(gid)
    return this.#host.aside((session) => this.#marker(session, gid))
  }

  list(prefix: string): Promise<PreparedBranch[]> {
    return this.#host.aside(async (session) => {
      const all = await this.#listed(session)
      return all
        .filter(({ gid, participant }) => participant === this.#host.name && gid.startsWith(prefix))
        .map(({ gid }) => ({ gid, preparedAt: null }))
    })
  }

  /** The fast way: the connection that prepared it is still ours. False when it has to be done by another. */
  async #onItsConnection(gid: string, end: 'commit' | 'rollback'): Promise<boolean> {
    const session = this.#host.detach(gid)
    if (session === null) return false
    try {
      await session.run(`xa ${end} ${xidOf(gid, this.#host.name)}`, { timeoutMs: this.#host.timeoutMs, interruptible: false })
      session.release()
      return true
    } catch {
      // What has become of it is told by the marker. Closed, the connection keeps the branch from nobody.
      session.destroy()
      return false
    }
  }

  /** Ends a branch that is listed. False when it has ended meanwhile, one way or the other. */
  async #finish(session: Session, gid: string, end: 'commit' | 'rollback'): Promise<boolean> {
    try {
      await session.run(`xa ${end} ${xidOf(gid, this.#host.name)}`, { timeoutMs: this.#host.timeoutMs, interruptible: false })
      this.#keptSince.delete(gid)
      return true
    } catch (error) {
      const number = errnoOf(error)
      if (number === errno.xaRolledBack) return false
      if (number !== errno.unknownXid) throw error
      if (!(await this.#isListed(session, gid))) return false
      await this.#disconnectKeeper(session, gid)
      throw new HeadraceError(
        'sql-busy',
        `The session that prepared ${gid} on MySQL '${this.#host.name}' is still connected, and keeps the branch to itself. Call again.`,
        { details: { database: this.#host.name, gid }, retryAfterMs: 50 },
      )
    }
  }

  async #settle(session: Session, gid: string): Promise<BranchEnd> {
    try {
      await this.#run(session, markerSettle(gid, this.#host.name))
    } catch (error) {
      if (errnoOf(error) === errno.lockWaitTimeout) await this.#disconnectKeeper(session, gid)
      throw error
    }
    const ending = await this.#marker(session, gid)
    if (ending === null)
      throw new HeadraceError('sql-busy', `The marker of ${gid} on MySQL '${this.#host.name}' was dropped meanwhile. Call again.`)
    return ending
  }

  /**
   * Ends the session that keeps a branch to itself, for a process that is paused
   * or cut off: a prepared branch stays prepared, and any other is undone. The
   * number of the session is in the marker, which is not committed yet.
   */
  async #disconnectKeeper(session: Session, gid: string): Promise<void> {
    const now = performance.now()
    const since = this.#keptSince.get(gid)
    if (since === undefined) {
      this.#keptSince.set(gid, now)
      if (this.#keptSince.size > keptMax) this.#keptSince.delete(this.#keptSince.keys().next().value as string)
      return
    }
    if (now - since < attachedGraceMs) return
    await this.#run(session, 'set transaction isolation level read uncommitted')
    const [row] = await this.#run(session, markerRead(gid, this.#host.name))
    const id = Number(row?.['session'] ?? 0)
    // It may have ended by itself, or belong to an account that we may not touch.
    if (id > 0 && id !== session.id) await this.#run(session, `kill connection ${id}`).catch(() => undefined)
  }

  async #marker(session: Session, gid: string, lock = ''): Promise<BranchEnd | null> {
    const [row] = await this.#run(session, markerRead(gid, this.#host.name) + lock)
    return endingOf(row)
  }

  async #isListed(session: Session, gid: string): Promise<boolean> {
    return (await this.#listed(session)).some((branch) => branch.gid === gid && branch.participant === this.#host.name)
  }

  async #listed(session: Session): Promise<{ gid: string; participant: string }[]> {
    return preparedOn(await this.#run(session, 'xa recover'))
  }

  async #run(session: Session, text: string) {
    const [result] = await session.run(text, { timeoutMs: this.#host.timeoutMs, own: true, shape: text })
    return rowsOf(result)
  }
}

/** The prepared branches of the whole server, of whoever they are. */
export function preparedOn(rows: readonly Readonly<Record<string, unknown>>[]): { gid: string; participant: string }[] {
  return rows.map((row) => {
    const data = row['data'] instanceof Uint8Array ? Buffer.from(row['data']).toString('latin1') : String(row['data'])
    const length = Number(row['gtrid_length'])
    return { gid: data.slice(0, length), participant: data.slice(length, length + Number(row['bqual_length'])) }
  })
}

function heuristic(name: string, gid: string, asked: 'commit' | 'abort', found: BranchEnd | null): HeadraceError {
  const what =
    found === null
      ? 'it is neither prepared nor has it a marker: somebody rolled it back by hand'
      : `its marker says ${found}: somebody ended it by hand, or two decisions were made`
  return new HeadraceError(
    'transaction-heuristic',
    `The branch ${gid} on MySQL '${name}' was to ${asked}, but ${what}. Compare the databases, then headrace tx resolve.`,
    { details: { database: name, gid, asked, found } },
  )
}
