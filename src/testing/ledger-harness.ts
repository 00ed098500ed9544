/** What the ledger suites work with: stores to open ledgers on, and commands, outcomes and records made by hand. */
import { HeadraceError } from '../contracts/errors.ts'
import type { BatchIds, CommitRecord, DeadLetter, Entry, Ledger, StoredOutcome } from '../contracts/ledger.ts'

export interface OpenLedgerOptions {
  /** Default: 8. */
  readonly partitions?: number
  /** Default: a day. */
  readonly outcomeRetentionMs?: number
  /** Default: 100,000. */
  readonly outcomesMax?: number
}

/** One set of data: what a ledger was opened on stays there for the next one. */
export interface LedgerStore {
  /**
   * Opens a ledger with two databases, 'left' and 'right', each with
   * `item (id text primary key not null, n bigint not null, note text)` and
   * `pair (a text, b bigint, n bigint not null, primary key (a, b))`.
   */
  open(options?: OpenLedgerOptions): Promise<Ledger>
  /** Removes the data; every ledger on it is closed. */
  remove(): Promise<void>
}

export interface LedgerHarness {
  create(): Promise<LedgerStore>
  /** False when transactions on one database go on side by side, held apart by the locks of rows. Default: true. */
  readonly takesTurns?: boolean
}

export const both = ['left', 'right'] as const

export function entryOf(position: number, given: Partial<Entry> = {}): Entry {
  const { key = 'k', input = `{"n":${position}}` } = given
  return {
    position,
    partition: position % 8,
    key,
    id: `id-${position}`,
    command: 'thing.do',
    tenant: 'default',
    input,
    digest: `digest-${position}`,
    acceptedAt: 1_700_000_000_000 + position,
    attempts: 0,
    queued: true,
    ...given,
  }
}

export function outcomeOf(
  { id, digest, position, partition }: Entry,
  status: StoredOutcome['status'] = 'committed',
  at = Date.now(),
): StoredOutcome {
  return { id, status, digest, body: JSON.stringify({ id, status }), position, partition, at }
}

export function deadOf(entry: Entry, blocks: boolean): DeadLetter & { readonly digest: string } {
  const { position, partition, key, id, command, tenant, input, digest, acceptedAt, attempts } = entry
  return {
    position,
    partition,
    key,
    id,
    command,
    tenant,
    input,
    digest,
    acceptedAt,
    attempts: attempts + 1,
    code: 'handler-failed',
    message: 'no',
    diedAt: 1_700_000_000_500,
    blocks,
  }
}

export function recordOf(given: Partial<CommitRecord>): CommitRecord {
  return { position: 0, outcomes: [], done: [], parked: [], blocked: [], dead: [], ...given }
}

export async function commitOf(ledger: Ledger, given: Partial<CommitRecord>): Promise<number> {
  const transaction = await ledger.begin([], { queued: [], arriving: [] })
  return transaction.commit(recordOf(given))
}

export async function codeOf(running: Promise<unknown>): Promise<string> {
  try {
    await running
    return 'nothing'
  } catch (error) {
    return HeadraceError.is(error) ? error.code : `not of the table: ${String(error)}`
  }
}

export const everything = { after: 0, limit: 1_000_000, bytesMax: 1_000_000_000, lane: 0, lanes: 1 }
export const none: BatchIds = { queued: [], arriving: [] }

/** A case on a store of its own; ledgers that it leaves open are closed. */
export type OnStore = (name: string, run: (open: LedgerStore['open']) => Promise<void>) => void
