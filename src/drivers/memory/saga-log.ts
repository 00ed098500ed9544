/**
 * A saga log in memory: for tests of sagas, and for simulations. The store is
 * what survives; each log is a client of it, as a process would have.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import {
  type ClaimRequest,
  type ListRequest,
  newRunRow,
  type NewRun,
  type OwnerBeat,
  type RunCensus,
  type RunRow,
  type RunWrite,
  type SagaLog,
  type StoredRun,
  storedRun,
} from '../../contracts/saga.ts'

export type SagaLogCall = Exclude<keyof SagaLog, 'engine' | 'close'>

/** `lost-before`: nothing happened. `lost-after`: it happened, and the answer did not arrive. */
export type SagaLogFault = 'lost-before' | 'lost-after'

export interface MemorySagaLogOptions {
  /** What several clients share. Default: a store of its own. */
  readonly store?: MemorySagaStore
  /** What happens to a call. Default: nothing. */
  readonly fault?: (call: SagaLogCall) => SagaLogFault | null
  /** Waits before and after each call. Default: none. */
  readonly travel?: (call: SagaLogCall) => Promise<void>
}

/** What all clients of one log in memory share. */
export class MemorySagaStore {
  readonly runs = new Map<string, RunRow>()
  readonly journals = new Map<string, string[]>()
  readonly beats = new Map<string, number>()
}

export interface MemorySagaLog extends SagaLog {
  readonly store: MemorySagaStore
  /** The process of this client dies: no call of it does anything any more, and none is answered. */
  kill(): void
}

/** A saga log in memory. */
export function memorySagaLog(options: MemorySagaLogOptions = {}): MemorySagaLog {
  return new MemoryLog(options)
}

class MemoryLog implements MemorySagaLog {
  readonly engine = 'memory'
  readonly store: MemorySagaStore
  readonly #options: MemorySagaLogOptions
  #dead = false

  constructor(options: MemorySagaLogOptions) {
    this.#options = options
    this.store = options.store ?? new MemorySagaStore()
  }

  kill(): void {
    this.#dead = true
  }

  start(run: NewRun): Promise<{ created: boolean; run: StoredRun }> {
    return this.#call('start', () => {
      const { runs, journals } = this.store
      const known = runs.get(run.id)
      if (known !== undefined) return { created: false, run: storedRun(known) }
      const row = newRunRow(run, Date.now())
      runs.set(run.id, row)
      journals.set(run.id, [])
      return { created: true, run: storedRun(row) }
    })
  }

  claim({ owner, from, names, limit, except = [] }: ClaimRequest): Promise<StoredRun[]> {
    return this.#call('claim', () =>
      [...this.store.runs.values()]
        .filter((row) => row.status === 'running' && from.includes(row.owner) && names.includes(row.name))
        .filter((row) => !except.includes(row.id))
        .sort((a, b) => a.changed_at - b.changed_at || (a.id < b.id ? -1 : 1))
        .slice(0, limit)
        .map((row) => storedRun(this.#change(row, { owner, epoch: row.epoch + 1 }))),
    )
  }

  append({ id, epoch, after, records, end }: RunWrite): Promise<void> {
    return this.#call('append', () => {
      const row = this.store.runs.get(id)
      if (row === undefined || row.epoch !== epoch || row.status !== 'running' || row.records !== after)
        throw new HeadraceError('saga-taken', `The run '${id}' has another owner than the one of epoch ${epoch}.`)
      this.store.journals.get(id)?.push(...records)
      this.#change(row, { records: after + records.length, ...(end === undefined ? {} : { ...end, owner: '' }) })
    })
  }

  read(ids: readonly string[]): Promise<StoredRun[]> {
    return this.#call('read', () =>
      [...new Set(ids)].flatMap((id) => {
        const row = this.store.runs.get(id)
        return row === undefined ? [] : [storedRun(row)]
      }),
    )
  }

  records(id: string): Promise<string[]> {
    return this.#call('records', () => [...(this.store.journals.get(id) ?? [])])
  }

  list({ status, names, after = '', limit }: ListRequest): Promise<StoredRun[]> {
    return this.#call('list', () =>
      [...this.store.runs.values()]
        .filter((row) => row.id > after && (status === undefined || row.status === status) && (names?.includes(row.name) ?? true))
        .sort((a, b) => (a.id < b.id ? -1 : 1))
        .slice(0, limit)
        .map(storedRun),
    )
  }

  census(names?: readonly string[]): Promise<RunCensus[]> {
    return this.#call('census', () => {
      const found = new Map<string, RunCensus>()
      for (const { name, status, started_at: startedAt } of this.store.runs.values()) {
        if ((status !== 'running' && status !== 'parked') || names?.includes(name) === false) continue
        const known = found.get(`${status} ${name}`)
        const oldestStartedAt = Math.min(known?.oldestStartedAt ?? startedAt, startedAt)
        found.set(`${status} ${name}`, { name, status, count: (known?.count ?? 0) + 1, oldestStartedAt })
      }
      return [...found.values()]
    })
  }

  redrive(id: string, record: string): Promise<boolean> {
    return this.#call('redrive', () => {
      const row = this.store.runs.get(id)
      if (row === undefined || row.status !== 'parked') return false
      this.store.journals.get(id)?.push(record)
      this.#change(row, { status: 'running', owner: '', epoch: row.epoch + 1, records: row.records + 1, error: null })
      return true
    })
  }

  beat(owner: string): Promise<OwnerBeat[]> {
    return this.#call('beat', () => {
      const { beats, runs } = this.store
      beats.set(owner, (beats.get(owner) ?? 0) + 1)
      const silent = [...runs.values()].filter((row) => row.status === 'running' && row.owner !== '' && !beats.has(row.owner))
      return [
        ...[...beats].map(([each, count]) => ({ owner: each, beats: count })),
        ...[...new Set(silent.map((row) => row.owner))].map((each) => ({ owner: each, beats: 0 })),
      ]
    })
  }

  leave(owner: string): Promise<void> {
    return this.#call('leave', () => {
      for (const row of this.store.runs.values()) if (row.owner === owner && row.status === 'running') this.#change(row, { owner: '' })
      this.store.beats.delete(owner)
    })
  }

  prune(before: number, limit: number): Promise<number> {
    return this.#call('prune', () => {
      const { runs, journals } = this.store
      const old = [...runs.values()]
        .filter((row) => (row.status === 'completed' || row.status === 'undone') && row.changed_at < before)
        .slice(0, limit)
      for (const { id } of old) {
        runs.delete(id)
        journals.delete(id)
      }
      return old.length
    })
  }

  async close(): Promise<void> {
    this.#dead = true
  }

  #change(row: RunRow, change: Partial<RunRow>): RunRow {
    const next = { ...row, ...change, changed_at: Date.now() }
    this.store.runs.set(row.id, next)
    return next
  }

  async #call<T>(call: SagaLogCall, run: () => T): Promise<T> {
    await this.#options.travel?.(call)
    if (this.#dead) throw lost()
    const fault = this.#options.fault?.(call) ?? null
    if (fault === 'lost-before') throw lost()
    const answer = run()
    await this.#options.travel?.(call)
    if (fault === 'lost-after' || this.#dead) throw lost()
    return answer
  }
}

function lost(): HeadraceError {
  return new HeadraceError('engine-unavailable', 'The saga log in memory cannot be reached.')
}
