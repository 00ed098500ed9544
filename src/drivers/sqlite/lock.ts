/**
 * Locks in a SQLite file, for the processes of one machine. Not over a network
 * file system: neither the file locks nor the sockets reach across.
 *
 * Each call is one transaction (`BEGIN IMMEDIATE`), so calls run one after the
 * other; after its commit the waiters that it served are woken over their
 * sockets, and one that turns out to be dead is skipped in a further
 * transaction.
 *
 * Leases run on the monotonic clock of the machine, which all its processes
 * share and nobody can set. A lease that begins in the future was made before
 * the machine was started again, so its holder is gone. That is also why the
 * file need not be synced: what a power cut takes from it, it takes from the
 * holders too. Tokens go on from the wall clock, in microseconds.
 */
import { DatabaseSync, type DatabaseSyncInstance, type StatementSyncInstance } from '@photostructure/sqlite'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import type { LockAnswer, LockEnd, LockEngine, LockEvents, LockHolder, LockRequest, LockStatus } from '../../contracts/lock.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { clientName } from '../../std/client-name.ts'
import { sqliteError } from './errors.ts'
import { SocketWake } from './lock-wake.ts'

export interface SqliteLocksOptions {
  /** Path of the file; it is made when it is missing, its folder is not. Use a file of its own. */
  readonly file: string
  /** Longest time for one call, in milliseconds: how long it tries while others write. Default: 1000. */
  readonly timeoutMs?: number
  /** How many may wait for one key. Default: 10000. */
  readonly waitersMax?: number
  /** How long an idle key is kept, in milliseconds. Default: one day. */
  readonly tokenMemoryMs?: number
}

/** How long the thread itself waits for another process, in milliseconds; longer waits leave the event loop free. */
const busyMs = 5
const retryBaseMs = 1
const retryMaxMs = 20
const pruneEveryMs = 600_000
/** Longest wait of close() for pushes under way, in milliseconds. */
const tellMsMax = 1_000
const pruneRowsMax = 10_000

const schema = `
create table if not exists headrace_lock (key text primary key, token integer not null, capacity integer not null, touched integer not null) strict, without rowid;
create table if not exists headrace_lock_holder (
  key text not null, id text not null, token integer not null, permits integer not null, from_us integer not null, ttl_us integer not null,
  primary key (key, id)
) strict, without rowid;
create table if not exists headrace_lock_waiter (
  seq integer primary key autoincrement, key text not null, id text not null, permits integer not null, ttl_us integer not null, from_us integer not null, wait_us integer not null,
  unique (key, id)
) strict;
create index if not exists headrace_lock_waiter_order on headrace_lock_waiter (key, seq);
`

/** A lease is live while it began in the past of this machine and has not run out. */
const live = 'from_us <= ?2 and from_us + ttl_us > ?2'

const statements = {
  begin: 'begin immediate',
  commit: 'commit',
  rollback: 'rollback',
  lock: 'select token, capacity from headrace_lock where key = ?1',
  create: 'insert into headrace_lock (key, token, capacity, touched) values (?1, 0, ?2, ?3)',
  save: 'update headrace_lock set token = ?2, capacity = ?3, touched = ?4 where key = ?1',
  sweep: `delete from headrace_lock_holder where key = ?1 and not (${live})`,
  taken: 'select coalesce(sum(permits), 0) as permits, min(from_us + ttl_us) as ends from headrace_lock_holder where key = ?1',
  holder: 'select token, permits, from_us + ttl_us as ends from headrace_lock_holder where key = ?1 and id = ?2',
  grant: 'insert into headrace_lock_holder (key, id, token, permits, from_us, ttl_us) values (?1, ?2, ?3, ?4, ?5, ?6)',
  extend: `update headrace_lock_holder set from_us = ?2, ttl_us = ?3 where key = ?1 and id = ?4 and token = ?5 and ${live}`,
  release: 'delete from headrace_lock_holder where key = ?1 and id = ?2',
  head: 'select seq, id, permits, ttl_us, from_us, wait_us from headrace_lock_waiter where key = ?1 order by seq limit 1',
  waiter: 'select 1 from headrace_lock_waiter where key = ?1 and id = ?2',
  waiting: 'select count(*) as waiters from headrace_lock_waiter where key = ?1',
  queue: 'insert into headrace_lock_waiter (key, id, permits, ttl_us, from_us, wait_us) values (?1, ?2, ?3, ?4, ?5, ?6)',
  leave: 'delete from headrace_lock_waiter where key = ?1 and id = ?2',
  holders: "select id from headrace_lock_holder where key = ?1 and (?2 = '' or id = ?2)",
  busy: `select key from headrace_lock_holder where from_us <= ?1 and from_us + ttl_us > ?1 union select key from headrace_lock_waiter order by key limit ?2`,
  list: `select id, token, permits, from_us + ttl_us - ?2 as left_us from headrace_lock_holder where key = ?1 and ${live} order by token`,
  prune: `delete from headrace_lock where key in (
    select key from headrace_lock l where touched < ?1
      and not exists (select 1 from headrace_lock_holder h where h.key = l.key)
      and not exists (select 1 from headrace_lock_waiter w where w.key = l.key) limit ?2)`,
} as const

type Statements = { readonly [K in keyof typeof statements]: StatementSyncInstance }

/** What is to be told once the transaction is on disk. */
interface Push {
  readonly key: string
  readonly id: string
  readonly line: string
  /** A grant, or the question whether a waiter lives that holds up others: taken back when nobody listens. */
  readonly takeBack: boolean
}

/** Locks in a SQLite file: `createLocks(sqliteLocks({ file }))`. Linux and macOS. */
export function sqliteLocks(options: SqliteLocksOptions): LockEngine {
  return new SqliteLockEngine(options)
}

class SqliteLockEngine implements LockEngine {
  readonly engine = 'sqlite'
  readonly client = clientName()
  readonly tellsGaps = true
  readonly #file: string
  readonly #timeoutMs: number
  readonly #waitersMax: number
  readonly #tokenMemoryMs: number
  readonly #wake: SocketWake
  readonly #database: DatabaseSyncInstance
  readonly #sql: Statements
  readonly #pruning: NodeJS.Timeout
  #events: LockEvents | null = null
  readonly #pushing = new Set<Promise<void>>()
  #closing: Promise<void> | null = null
  #closed = false

  constructor(options: SqliteLocksOptions) {
    const { file, timeoutMs = 1_000, waitersMax = 10_000, tokenMemoryMs = 86_400_000 } = options
    if (typeof file !== 'string' || file === '' || file === ':memory:' || file.includes('\0'))
      throw new HeadraceError('option-invalid', 'file must be the path of a SQLite file.')
    checkWhole('timeoutMs', timeoutMs, 10, 60_000)
    checkWhole('waitersMax', waitersMax, 1, 1_000_000)
    checkWhole('tokenMemoryMs', tokenMemoryMs, 1_000, 30 * 86_400_000)
    this.#file = file
    this.#timeoutMs = timeoutMs
    this.#waitersMax = waitersMax
    this.#tokenMemoryMs = tokenMemoryMs
    this.#database = open(file)
    this.#sql = prepare(this.#database)
    this.#wake = new SocketWake(file, this.client, (line) => this.#hear(line))
    this.#pruning = setInterval(() => this.#prune(), pruneEveryMs)
    this.#pruning.unref()
  }

  listen(events: LockEvents): void {
    this.#events = events
  }

  async acquire(request: LockRequest): Promise<LockAnswer> {
    if (request.waitMs > 0) await this.#wake.ready()
    return this.#transaction((pushes) => this.#acquire(request, pushes))
  }

  async extend(key: string, id: string, token: number, ttlMs: number): Promise<LockEnd> {
    return this.#transaction(() => {
      const tokenBefore = this.#lock(key)?.token ?? 0
      const { changes } = this.#sql.extend.run(key, nowUs(), ttlMs * 1_000, id, token)
      return { held: Number(changes) === 1, tokenBefore }
    })
  }

  async release(key: string, id: string): Promise<LockEnd> {
    return this.#transaction((pushes) => {
      const tokenBefore = this.#lock(key)?.token ?? 0
      const held = this.#remove(key, id)
      this.#serve(key, pushes)
      return { held, tokenBefore }
    })
  }

  async break(key: string, id = ''): Promise<number> {
    return this.#transaction((pushes) => {
      const holders = this.#sql.holders.all(key, id) as { id: string }[]
      for (const holder of holders) {
        this.#sql.release.run(key, holder.id)
        pushes.push({ key, id: holder.id, line: `b 0 ${holder.id}`, takeBack: false })
      }
      this.#serve(key, pushes)
      return holders.length
    })
  }

  async list(max: number): Promise<LockStatus[]> {
    return this.#transaction(() => {
      const now = nowUs()
      const keys = this.#sql.busy.all(now, max) as { key: string }[]
      return keys.map(({ key }) => {
        const { token = 0, capacity = 0 } = this.#lock(key) ?? {}
        const holders = this.#sql.list.all(key, now) as { id: string; token: number; permits: number; left_us: number }[]
        return {
          key,
          limit: capacity,
          lastToken: token,
          waiting: this.#waiting(key),
          holders: holders.map(({ left_us, ...rest }): LockHolder => ({ ...rest, remainingMs: left_us / 1_000 })),
        }
      })
    })
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  /** What was decided is told first: who was granted a lock, or lost it, would otherwise learn of it a lease later. */
  async #close(): Promise<void> {
    clearInterval(this.#pruning)
    const told = new AbortController()
    void this.#told().then(() => told.abort())
    await pause(tellMsMax, told.signal)
    this.#closed = true
    this.#database.close()
    await this.#wake.close()
  }

  async #told(): Promise<void> {
    while (this.#pushing.size > 0) await Promise.allSettled(this.#pushing)
  }

  #acquire(request: LockRequest, pushes: Push[]): LockAnswer {
    const { key, id, permits, limit, ttlMs, waitMs, tokenFloor } = request
    const known = this.#lock(key)
    if (known === null) this.#sql.create.run(key, limit, Date.now())
    const tokenBefore = known?.token ?? 0
    const served = this.#serve(key, pushes, tokenFloor)
    let { capacity } = served
    const { ends } = this.#sql.taken.get(key) as { ends: number | null }
    const endsInMs = ends === null ? 0 : Math.max(0, (ends - nowUs()) / 1_000)
    const mine = this.#sql.holder.get(key, id) as { token: number; ends: number } | undefined
    if (mine !== undefined) return { state: 'granted', token: mine.token, remainingMs: (mine.ends - nowUs()) / 1_000 }
    if (this.#sql.waiter.get(key, id) !== undefined) return { state: 'queued', endsInMs, tokenBefore }
    const waiting = this.#waiting(key)
    if (served.taken === 0 && waiting === 0) capacity = limit
    if (capacity !== limit) return { state: 'limit-differs', limit: capacity }
    if (waiting === 0 && served.taken + permits <= limit) {
      const token = Math.max(served.token + 1, wallUs())
      this.#sql.grant.run(key, id, token, permits, nowUs(), ttlMs * 1_000)
      this.#sql.save.run(key, token, capacity, Date.now())
      return { state: 'granted', token, remainingMs: ttlMs }
    }
    if (waitMs === 0) return { state: 'refused', endsInMs, tokenBefore }
    if (waiting >= this.#waitersMax) return { state: 'full' }
    this.#sql.queue.run(key, id, permits, ttlMs * 1_000, nowUs(), waitMs * 1_000)
    return { state: 'queued', endsInMs, tokenBefore }
  }

  /** Leases that are over end, then waiters are served while the head of the queue fits. */
  #serve(key: string, pushes: Push[], tokenFloor = 0): { readonly token: number; readonly capacity: number; readonly taken: number } {
    const lock = this.#lock(key)
    if (lock === null) return { token: 0, capacity: 0, taken: 0 }
    const now = nowUs()
    let token = Math.max(lock.token, tokenFloor)
    this.#sql.sweep.run(key, now)
    let { permits: taken } = this.#sql.taken.get(key) as { permits: number }
    for (let head = this.#head(key); head !== undefined; head = this.#head(key)) {
      const late = head.from_us > now || head.from_us + head.wait_us <= now
      if (!late && taken + head.permits > lock.capacity) {
        // With a part of the limit free, a dead head would keep others waiting for nothing.
        if (taken < lock.capacity) pushes.push({ key, id: head.id, line: 'p', takeBack: true })
        break
      }
      this.#sql.leave.run(key, head.id)
      if (late) continue
      token = Math.max(token + 1, wallUs())
      taken += head.permits
      this.#sql.grant.run(key, head.id, token, head.permits, now, head.ttl_us)
      pushes.push({ key, id: head.id, line: `g ${token} ${head.id}`, takeBack: true })
    }
    this.#sql.save.run(key, token, lock.capacity, Date.now())
    return { token, capacity: lock.capacity, taken }
  }

  #lock(key: string): { readonly token: number; readonly capacity: number } | null {
    return (this.#sql.lock.get(key) as { token: number; capacity: number } | undefined) ?? null
  }

  #head(
    key: string,
  ):
    | { readonly id: string; readonly permits: number; readonly ttl_us: number; readonly from_us: number; readonly wait_us: number }
    | undefined {
    return this.#sql.head.get(key) as never
  }

  #waiting(key: string): number {
    return (this.#sql.waiting.get(key) as { waiters: number }).waiters
  }

  #remove(key: string, id: string): boolean {
    return Number(this.#sql.release.run(key, id).changes) + Number(this.#sql.leave.run(key, id).changes) > 0
  }

  /** Runs one transaction, trying again while another process writes; then tells what it decided. */
  async #transaction<T>(run: (pushes: Push[]) => T): Promise<T> {
    const deadline = performance.now() + this.#timeoutMs
    for (let attempt = 0; ; attempt++) {
      if (this.#closed) throw new HeadraceError('engine-unavailable', `The locks in ${this.#file} are closed.`)
      const pushes: Push[] = []
      try {
        this.#sql.begin.run()
        const result = this.#commit(() => run(pushes))
        for (const push of pushes) {
          const pushing = this.#push(push).finally(() => this.#pushing.delete(pushing))
          this.#pushing.add(pushing)
        }
        return result
      } catch (error) {
        const ours = sqliteError(this.#file, error)
        if (ours.code !== 'sql-busy') throw ours
        if (performance.now() >= deadline)
          throw new HeadraceError('engine-timeout', `Other processes wrote to ${this.#file} for ${this.#timeoutMs} ms without a gap.`)
      }
      await pause(backoffMs(attempt, retryBaseMs, retryMaxMs))
    }
  }

  #commit<T>(run: () => T): T {
    try {
      const result = run()
      this.#sql.commit.run()
      return result
    } catch (error) {
      this.#sql.rollback.run()
      throw error
    }
  }

  async #push({ key, id, line, takeBack }: Push): Promise<void> {
    const client = id.slice(0, id.lastIndexOf('/'))
    const heard = client === this.client ? this.#hearSoon(line) : await this.#wake.send(client, line)
    if (heard || !takeBack || this.#closed) return
    // Nobody listens: the grant, or the place in the queue, goes to the next one. When this fails, it runs out by itself.
    await this.release(key, id).catch(() => {})
  }

  #hearSoon(line: string): true {
    queueMicrotask(() => this.#hear(line))
    return true
  }

  #hear(line: string): void {
    const [word, value, id] = line.split(' ')
    if (id === undefined) return
    if (word === 'g') this.#events?.granted(id, Number(value))
    else if (word === 'b') this.#events?.broken(id)
  }

  #prune(): void {
    try {
      this.#sql.prune.run(Date.now() - this.#tokenMemoryMs, pruneRowsMax)
    } catch {
      // Another process writes; next time.
    }
  }
}

function open(file: string): DatabaseSyncInstance {
  try {
    const database = new DatabaseSync(file)
    // Setting up waits longer: several processes may begin at once.
    database.exec('pragma busy_timeout = 5000')
    database.exec('pragma journal_mode = wal; pragma synchronous = normal')
    database.exec(schema)
    database.exec(`pragma busy_timeout = ${busyMs}`)
    return database
  } catch (error) {
    throw sqliteError(file, error)
  }
}

function prepare(database: DatabaseSyncInstance): Statements {
  return Object.fromEntries(Object.entries(statements).map(([name, text]) => [name, database.prepare(text)])) as Statements
}

const nowUs = (): number => Number(process.hrtime.bigint() / 1_000n)
const wallUs = (): number => Math.floor((performance.timeOrigin + performance.now()) * 1_000)
