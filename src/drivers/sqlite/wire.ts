/** Lists of records as they cross between threads: values alone, in one flat list, in the order of their fields. */
import type { CommitRecord, Entry, OutcomeStatus, StoredOutcome } from '../../contracts/ledger.ts'

export type Flat = readonly (string | number | boolean)[]

/** A commit record as it crosses: what there may be hundreds of is flat. */
export interface WireRecord extends Omit<CommitRecord, 'outcomes' | 'done'> {
  readonly outcomes: Flat
  readonly done: Flat
}

export function toWireRecord(record: CommitRecord): WireRecord {
  return { ...record, outcomes: flatOutcomes(record.outcomes), done: flatEntries(record.done) }
}

export function fromWireRecord(record: WireRecord): CommitRecord {
  return { ...record, outcomes: outcomesIn(record.outcomes), done: entriesIn(record.done) }
}

const outcomeFields = 7

function flatOutcomes(outcomes: readonly StoredOutcome[]): Flat {
  const flat: (string | number)[] = []
  for (const { id, status, digest, body, position, partition, at } of outcomes) flat.push(id, status, digest, body, position, partition, at)
  return flat
}

function outcomesIn(flat: Flat): StoredOutcome[] {
  const outcomes: StoredOutcome[] = []
  for (let at = 0; at < flat.length; at += outcomeFields) {
    outcomes.push({
      id: flat[at] as string,
      status: flat[at + 1] as OutcomeStatus,
      digest: flat[at + 2] as string,
      body: flat[at + 3] as string,
      position: flat[at + 4] as number,
      partition: flat[at + 5] as number,
      at: flat[at + 6] as number,
    })
  }
  return outcomes
}

const entryFields = 11

export function flatEntries(entries: readonly Entry[]): Flat {
  const flat: (string | number | boolean)[] = []
  for (const { position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts, queued } of entries)
    flat.push(position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts, queued)
  return flat
}

export function entriesIn(flat: Flat): Entry[] {
  const entries: Entry[] = []
  for (let at = 0; at < flat.length; at += entryFields) {
    entries.push({
      position: flat[at] as number,
      partition: flat[at + 1] as number,
      key: flat[at + 2] as string,
      id: flat[at + 3] as string,
      command: flat[at + 4] as string,
      tenant: flat[at + 5] as string,
      input: flat[at + 6] as string,
      digest: flat[at + 7] as string,
      acceptedAt: flat[at + 8] as number,
      attempts: flat[at + 9] as number,
      queued: flat[at + 10] as boolean,
    })
  }
  return entries
}
