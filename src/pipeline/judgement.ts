/**
 * What becomes of a command that failed alone: it waits and is tried again, or
 * it is dead-lettered, and its key is skipped or blocked.
 */
import { inspect } from 'node:util'
import { type ErrorCode, HeadraceError } from '../contracts/errors.ts'
import type { CommitRecord, StoredOutcome } from '../contracts/ledger.ts'
import { backoffMs } from '../std/backoff.ts'
import type { Limits } from './options.ts'
import { failedOutcome } from './outcome.ts'
import type { Ticket } from './ticket.ts'

const retriesDefault = 3
/** Longest error message that a dead letter keeps, in characters. */
const messageMax = 2_000

/** Errors that the same input meets again however often it is tried. */
const final: readonly ErrorCode[] = [
  'input-invalid',
  'command-unknown',
  'decide-impure',
  'decide-invalid',
  'result-invalid',
  'statement-refused',
  'table-without-key',
  'protocol-unavailable',
  'topic-unknown',
  'message-invalid',
  'message-too-large',
]

/** Errors of the storage that pass by themselves: the batch is repeated whole. */
export const transient: readonly ErrorCode[] = [
  'sql-busy',
  'disk-full',
  'sql-conflict',
  'engine-unavailable',
  'prepare-full',
  'decision-log-full',
  'transaction-aborted',
]

/** Errors after which this process must not go on. */
export const fatal: readonly ErrorCode[] = ['storage-failed', 'fenced', 'data-corrupt', 'internal']

/** Errors that are nobody's fault in a batch. Whatever else a handler throws is its own, also when a retry may help. */
export const ofStorage: readonly ErrorCode[] = [...transient, ...fatal]

export type Verdict = 'retry' | 'skip' | 'block'

export function verdictOf(ticket: Ticket, error: unknown): Verdict {
  const retries = ticket.command?.options.retries ?? retriesDefault
  const hopeless = HeadraceError.is(error) && final.includes(error.code)
  if (!hopeless && ticket.entry.attempts < retries) return 'retry'
  return ticket.command?.options.onDeadLetter ?? 'skip'
}

export interface Judged {
  readonly ticket: Ticket
  readonly verdict: Verdict
  /** When the key is tried again; null unless the verdict is 'retry'. */
  readonly retryAt: number | null
  /** Null when the verdict is 'retry'. */
  readonly outcome: StoredOutcome | null
  readonly code: string
  readonly message: string
}

export function judge(ticket: Ticket, error: unknown, limits: Limits): Judged {
  const verdict = verdictOf(ticket, error)
  const code: string = HeadraceError.is(error) ? error.code : 'handler-failed'
  const message = messageOf(error).slice(0, messageMax)
  if (verdict === 'retry') {
    return {
      ticket,
      verdict,
      code,
      message,
      outcome: null,
      retryAt: Date.now() + backoffMs(ticket.entry.attempts, limits.retryBaseMs, limits.retryMaxMs),
    }
  }
  return { ticket, verdict, code, message, outcome: failedOutcome(ticket, code, message), retryAt: null }
}

/** Handlers throw what they like: also things without a message, or whose text cannot be made. */
function messageOf(error: unknown): string {
  try {
    if (error instanceof Error && typeof error.message === 'string') return error.message
    return typeof error === 'string' ? error : inspect(error, { depth: 1 })
  } catch {
    return 'An error that cannot be shown.'
  }
}

/** The part of the commit record that tells of failed commands, and of those held behind them. */
export function recordOfFailures(
  judged: readonly Judged[],
  held: readonly Ticket[],
): Pick<CommitRecord, 'parked' | 'blocked' | 'dead' | 'outcomes' | 'done'> {
  const parked = [...held].map(({ entry }) => entry)
  const blocked: CommitRecord['blocked'][number][] = []
  const dead: CommitRecord['dead'][number][] = []
  const outcomes: StoredOutcome[] = []
  const done: CommitRecord['done'][number][] = []
  for (const { ticket, verdict, retryAt, outcome, code, message } of judged) {
    const { entry } = ticket
    if (verdict !== 'skip') blocked.push({ key: entry.key, partition: entry.partition, retryAt })
    if (outcome === null) {
      parked.push({ ...entry, attempts: entry.attempts + 1 })
      continue
    }
    const { position, partition, key, id, command, tenant, input, digest, acceptedAt } = entry
    dead.push({
      position,
      partition,
      key,
      id,
      command,
      tenant,
      input,
      digest,
      acceptedAt,
      attempts: entry.attempts + 1,
      code,
      message,
      diedAt: Date.now(),
      blocks: verdict === 'block',
    })
    outcomes.push(outcome)
    if (entry.queued) done.push(entry)
  }
  return { parked, blocked, dead, outcomes, done }
}
