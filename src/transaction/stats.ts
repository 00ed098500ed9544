/** Counts what became of transactions, and puts the model beside it. */
import { measuredShare, type Share, successOfTry, successWithRetries } from './model.ts'
import type { Protocol } from './planner.ts'

export type AttemptEnd = 'committed' | 'aborted' | 'unknown'

export interface ProtocolStats {
  readonly attempts: number
  readonly commits: number
  readonly aborts: number
  readonly unknown: number
}

export interface ParticipantStats {
  /** Attempts it took part in. */
  readonly attempts: number
  /** Of these, ended by a statement of it, or by its begin. */
  readonly statementFailures: number
  readonly prepareFailures: number
  readonly commitFailures: number
  /** pᵢ: the share of attempts that it did not end. */
  readonly success: number
}

/** What was measured and what the model says, for all transactions over the same databases. */
export interface SetStats {
  readonly databases: readonly string[]
  readonly attempts: number
  readonly commits: number
  readonly transactions: number
  readonly transactionCommits: number
  readonly measuredTry: Share
  /** ∏ pᵢ over the databases of the set. */
  readonly predictedTry: number
  readonly measured: Share
  /** With the retries that were allowed. */
  readonly predicted: number
}

export interface TransactionStats {
  readonly protocols: Readonly<Record<Protocol, ProtocolStats>>
  readonly participants: Readonly<Record<string, ParticipantStats>>
  readonly sets: readonly SetStats[]
  /** Attempts ended by the code of the caller, a deadline or a signal: no database is to blame. */
  readonly callerAborts: number
  readonly retries: number
}

/** Sets of databases that are counted; further ones are counted together, under no names. */
const setsMax = 64

type FailureKind = 'statement' | 'prepare' | 'commit'

export interface Failure {
  readonly participant: string
  readonly kind: FailureKind
}

export class StatsBook {
  readonly #protocols = Object.fromEntries(
    (['none', 'one-phase', 'last-resource', 'two-phase'] as const).map((name) => [
      name,
      { attempts: 0, commits: 0, aborts: 0, unknown: 0 },
    ]),
  ) as Record<Protocol, { attempts: number; commits: number; aborts: number; unknown: number }>
  readonly #participants = new Map<string, { attempts: number; statement: number; prepare: number; commit: number }>()
  readonly #sets = new Map<
    string,
    { databases: string[]; attempts: number; commits: number; transactions: number; done: number; retriesMax: number }
  >()
  #callerAborts = 0
  #retries = 0

  /** An attempt ended. `protocol` is null when it was undone before one was chosen. */
  attempt(databases: readonly string[], protocol: Protocol | null, end: AttemptEnd, failures: readonly Failure[], byCaller: boolean): void {
    if (protocol !== null) {
      const row = this.#protocols[protocol]
      row.attempts += 1
      if (end === 'committed') row.commits += 1
      else if (end === 'aborted') row.aborts += 1
      else row.unknown += 1
    }
    // What the caller ended says nothing about the databases.
    if (byCaller) {
      this.#callerAborts += 1
      return
    }
    for (const name of databases) this.#participant(name).attempts += 1
    for (const { participant, kind } of failures) this.#participant(participant)[kind] += 1
    const set = this.#set(databases)
    set.attempts += 1
    if (end === 'committed') set.commits += 1
  }

  transaction(databases: readonly string[], committed: boolean, retries: number, retriesMax: number): void {
    const set = this.#set(databases)
    set.transactions += 1
    if (committed) set.done += 1
    set.retriesMax = Math.max(set.retriesMax, retriesMax)
    this.#retries += retries
  }

  read(): TransactionStats {
    const participants = Object.fromEntries(
      [...this.#participants].map(([name, { attempts, statement, prepare, commit }]) => [
        name,
        {
          attempts,
          statementFailures: statement,
          prepareFailures: prepare,
          commitFailures: commit,
          success: attempts === 0 ? 1 : Math.max(0, 1 - (statement + prepare + commit) / attempts),
        },
      ]),
    )
    const sets = [...this.#sets.values()].map(({ databases, attempts, commits, transactions, done, retriesMax }) => {
      const successes = databases.map((name) => participants[name]?.success ?? 1)
      return {
        databases,
        attempts,
        commits,
        transactions,
        transactionCommits: done,
        measuredTry: measuredShare(commits, attempts),
        predictedTry: successOfTry(successes),
        measured: measuredShare(done, transactions),
        predicted: successWithRetries(successes, retriesMax),
      }
    })
    return {
      protocols: structuredClone(this.#protocols),
      participants,
      sets,
      callerAborts: this.#callerAborts,
      retries: this.#retries,
    }
  }

  #participant(name: string): { attempts: number; statement: number; prepare: number; commit: number } {
    const row = this.#participants.get(name) ?? { attempts: 0, statement: 0, prepare: 0, commit: 0 }
    this.#participants.set(name, row)
    return row
  }

  #set(databases: readonly string[]): { attempts: number; commits: number; transactions: number; done: number; retriesMax: number } {
    const names = [...databases].sort()
    const key = this.#sets.size < setsMax || this.#sets.has(names.join('+')) ? names.join('+') : ''
    const row = this.#sets.get(key) ?? {
      databases: key === '' ? [] : names,
      attempts: 0,
      commits: 0,
      transactions: 0,
      done: 0,
      retriesMax: 0,
    }
    this.#sets.set(key, row)
    return row
  }
}
