/** What a person asks of a saga log: which runs there are, how far they came, why one is parked, and to let it go on. No orchestrator is needed for it. */
import type { ListRequest, SagaLog, StoredRun } from '../../contracts/saga.ts'
import type { RunView } from './orchestrator-contract.ts'
import { parseRecord, type RunRecord } from './records.ts'
import { viewOf } from './run-view.ts'

/** A call of a step or participant. */
export interface RunCall {
  readonly branch: string
  readonly operation: string
  /** How often it was begun. */
  readonly attempts: number
}

export interface RunListing extends RunView {
  /** What was begun and has not ended; of a parked run, what it was parked for. */
  readonly at: readonly RunCall[]
  /** How often anything of it was called. */
  readonly calls: number
}

export interface RunStory extends RunListing {
  /** Its journal, in order. */
  readonly records: readonly RunRecord[]
}

/** Runs in the order of their ids, with how far each came. Reads the journal of each. */
export async function listRuns(log: SagaLog, request: ListRequest): Promise<RunListing[]> {
  const listings: RunListing[] = []
  for (const run of await log.list(request)) listings.push(listingOf(run, await recordsOf(log, run.id)))
  return listings
}

/** One run with its journal; null when there is none with this id. */
export async function showRun(log: SagaLog, id: string): Promise<RunStory | null> {
  const [run] = await log.read([id])
  if (run === undefined) return null
  const records = await recordsOf(log, id)
  return { ...listingOf(run, records), records }
}

/**
 * Lets a parked run try again what it was parked for, with its bounds counted
 * anew: it has no owner then, and a process whose orchestrator knows it takes it
 * at its next look. False when it is not parked.
 */
export function redriveRun(log: SagaLog, id: string): Promise<boolean> {
  const record: RunRecord = { kind: 'redriven', at: Date.now() }
  return log.redrive(id, JSON.stringify(record))
}

async function recordsOf(log: SagaLog, id: string): Promise<RunRecord[]> {
  return (await log.records(id)).map(parseRecord)
}

function listingOf(run: StoredRun, records: readonly RunRecord[]): RunListing {
  const open = new Map<string, RunCall>()
  const attempts = new Map<string, number>()
  let calls = 0
  for (const record of records) {
    if (record.kind !== 'call' && record.kind !== 'done' && record.kind !== 'failed') continue
    const { branch, operation } = record
    const key = `${branch}/${operation}`
    if (record.kind === 'call') {
      calls += 1
      attempts.set(key, record.attempt)
      open.set(key, { branch, operation, attempts: record.attempt })
    } else open.delete(key)
  }
  const view = viewOf(run)
  const { status, error } = view
  const parkedFor = status === 'parked' && error !== null && error.branch !== '' ? error : null
  const at =
    parkedFor !== null
      ? [
          {
            branch: parkedFor.branch,
            operation: parkedFor.operation,
            attempts: attempts.get(`${parkedFor.branch}/${parkedFor.operation}`) ?? 0,
          },
        ]
      : status === 'running'
        ? [...open.values()]
        : []
  return { ...view, at, calls }
}
