/**
 * What sagas, TCC and three-phase commit ask of a durable log.
 *
 * A *run* is one saga (or one TCC, or one three-phase commit) that was started.
 * Its *records* are its journal: what was about to be called, and how it ended.
 * A run that goes on has at most one *owner*, a process that calls its steps.
 *
 * What must hold on every engine:
 * - `start`, `append`, `claim` and `redrive` resolve only when they are durable.
 * - `claim` and `redrive` raise the epoch of the run. `append` is refused with
 *   'saga-taken' under another epoch than the run has, in the same transaction:
 *   so two processes never both write to a run, whatever either of them
 *   believes about the other. No clock of anybody takes part.
 * - Records of a run have the numbers 1, 2, 3 … without a gap; an append is
 *   there as a whole or not at all.
 * - `start` is idempotent by id.
 * - Every call ends within a bound, with an error of the table when it cannot
 *   do its work. After an error of `append` other than 'saga-taken' it may have
 *   happened: claim the run again, and read.
 */

export type RunStatus = 'running' | 'completed' | 'undone' | 'parked'

/** 1 to 128 visible ASCII characters. */
export const runIdPattern = /^[\x21-\x7e]{1,128}$/
/** The kind, a slash, and the name of the definition. */
export const runNamePattern = /^[a-z0-9-]{1,16}\/[a-zA-Z][a-zA-Z0-9._-]{0,63}$/
/** Who owns runs: letters, digits, dots, dashes and colons. */
export const runOwnerPattern = /^[A-Za-z0-9.:-]{1,100}$/

export interface NewRun {
  readonly id: string
  readonly name: string
  /** Names it to the outside for ever; `gidPattern`. */
  readonly gid: string
  /** JSON. */
  readonly input: string
  /** Who runs it from the start, under epoch 1; '' for whoever claims it. */
  readonly owner: string
}

export interface StoredRun extends NewRun {
  readonly status: RunStatus
  readonly epoch: number
  /** How many records it has. */
  readonly records: number
  /** JSON: why it went back or was parked. Null otherwise. */
  readonly error: string | null
  /** Milliseconds since 1970, for people and for retention; no protocol looks at it. */
  readonly startedAt: number
  readonly changedAt: number
}

export interface RunWrite {
  readonly id: string
  /** The epoch under which the writer owns the run. */
  readonly epoch: number
  /** How many records the run has, as far as the writer knows. */
  readonly after: number
  /** JSON each; may be empty. */
  readonly records: readonly string[]
  /** Ends or parks the run; it then has no owner. Default: it goes on. */
  readonly end?: { readonly status: Exclude<RunStatus, 'running'>; readonly error: string | null }
}

export interface ClaimRequest {
  readonly owner: string
  /** Takes runs of these owners; '' is nobody. */
  readonly from: readonly string[]
  /** Takes runs of these names. */
  readonly names: readonly string[]
  readonly limit: number
  /** But for these runs. Default: none. */
  readonly except?: readonly string[]
}

export interface ListRequest {
  readonly status?: RunStatus
  readonly names?: readonly string[]
  /** Runs after this id, in the order of their ids. */
  readonly after?: string
  readonly limit: number
}

/** Runs of one name and status. */
export interface RunCensus {
  readonly name: string
  readonly status: 'running' | 'parked'
  /** At least 1. */
  readonly count: number
  /** When the oldest of them was started, in milliseconds since 1970. */
  readonly oldestStartedAt: number
}

export interface OwnerBeat {
  readonly owner: string
  /** Grows while the owner lives. An owner of runs that never said so has 0. */
  readonly beats: number
}

export interface SagaLog {
  /** 'memory', 'sqlite', 'postgres', 'mysql'. */
  readonly engine: string
  /** Makes the run unless the id is there. `run` is what is there now. */
  start(run: NewRun): Promise<{ readonly created: boolean; readonly run: StoredRun }>
  /** Gives running runs to an owner, oldest change first, each under a higher epoch. */
  claim(request: ClaimRequest): Promise<StoredRun[]>
  append(write: RunWrite): Promise<void>
  /** The runs with these ids that are there, in no particular order. */
  read(ids: readonly string[]): Promise<StoredRun[]>
  /** The records of a run, in order. */
  records(id: string): Promise<string[]>
  list(request: ListRequest): Promise<StoredRun[]>
  /** Counts the runs that go on or are parked, by name and status, in no particular order; of these names, or of all. */
  census(names?: readonly string[]): Promise<RunCensus[]>
  /** Lets a parked run go on under no owner and a higher epoch, with one more record. False when it is not parked. */
  redrive(id: string, record: string): Promise<boolean>
  /** Tells that `owner` lives; answers all owners of running runs, and all that ever said so and did not leave. */
  beat(owner: string): Promise<OwnerBeat[]>
  /** Gives all runs of an owner free, and forgets the owner. */
  leave(owner: string): Promise<void>
  /** Drops runs that completed or were undone before this moment (milliseconds since 1970), with their records. Returns how many. */
  prune(before: number, limit: number): Promise<number>
  close(): Promise<void>
}

/** The tables of a log in a database. They are not named headrace_…, since the app's own transactions insert into the first one. */
export const runTable = 'saga_run'
export const recordTable = 'saga_record'
export const ownerTable = 'saga_owner'

/** One row of `saga_run`. Type, not interface, so that it is a row of the verbs. */
export type RunRow = {
  readonly id: string
  readonly name: string
  readonly gid: string
  readonly input: string
  readonly status: RunStatus
  readonly owner: string
  readonly epoch: number
  readonly records: number
  readonly error: string | null
  readonly started_at: number
  readonly changed_at: number
}

export function newRunRow({ id, name, gid, input, owner }: NewRun, now: number): RunRow {
  const epoch = owner === '' ? 0 : 1
  return { id, name, gid, input, status: 'running', owner, epoch, records: 0, error: null, started_at: now, changed_at: now }
}

/** A row as an engine gives it back: integers may come as bigint or text. */
export function storedRun(row: Readonly<Record<string, unknown>>): StoredRun {
  return {
    id: String(row['id']),
    name: String(row['name']),
    gid: String(row['gid']),
    input: String(row['input']),
    status: String(row['status']) as RunStatus,
    owner: String(row['owner']),
    epoch: Number(row['epoch']),
    records: Number(row['records']),
    error: row['error'] === null || row['error'] === undefined ? null : String(row['error']),
    startedAt: Number(row['started_at']),
    changedAt: Number(row['changed_at']),
  }
}

/** A row of a census as an engine gives it back. */
export function runCensus(row: Readonly<Record<string, unknown>>): RunCensus {
  return {
    name: String(row['name']),
    status: String(row['status']) as RunCensus['status'],
    count: Number(row['count']),
    oldestStartedAt: Number(row['oldest']),
  }
}
