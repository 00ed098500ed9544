/** The options of a coordinator and of a transaction: every bound, with its unit in its name, and the check of them. */
import { checkWhole } from '../contracts/bounds.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { nearest } from '../std/nearest.ts'

interface NumberOption {
  readonly default: number
  readonly min: number
  readonly max: number
  readonly about: string
}

const number = (defaultValue: number, min: number, max: number, about: string): NumberOption => ({ default: defaultValue, min, max, about })

const hour = 3_600_000

export const coordinatorLimitTable = Object.freeze({
  transactionsMax: number(20, 1, 10_000, 'Transactions at once; each takes at most one connection of each database.'),
  waitersMax: number(1_000, 0, 1_000_000, 'Callers that wait for their turn; past it overloaded.'),
  timeoutMs: number(10_000, 1, 24 * hour, 'Longest time of a transaction until it is decided, retries included.'),
  statementTimeoutMs: number(5_000, 1, hour, 'Longest time of one statement.'),
  retriesMax: number(5, 0, 100, 'How often a transaction is repeated whole after a failure that passes.'),
  retryBaseMs: number(10, 1, 60_000, 'First pause before a retry; doubles, with jitter.'),
  retryMaxMs: number(1_000, 1, hour, 'Longest pause before a retry.'),
  settleWaitMs: number(
    2_000,
    0,
    hour,
    'Longest wait to find out how a commit ended whose connection was lost; past it transaction-unknown.',
  ),
  phase2WaitMs: number(2_000, 0, hour, 'Longest wait for phase 2 after the decision; it goes on behind the answer.'),
  unfinishedMax: number(1_000, 1, 1_000_000, 'Decided transactions whose phase 2 goes on; past it decision-log-full.'),
  finishCallsMax: number(64, 1, 10_000, 'Calls of phase 2 at once.'),
  finishBaseMs: number(20, 1, 60_000, 'First pause before a call of phase 2 is repeated; doubles, with jitter.'),
  finishMaxMs: number(1_000, 1, hour, 'Longest pause before a call of phase 2 is repeated.'),
  forgetEveryMs: number(500, 1, hour, 'Pause between two rounds that drop what nobody asks for any more.'),
  forgetBatchMax: number(500, 1, 10_000, 'Transactions that one call drops.'),
  forgetMax: number(10_000, 1, 10_000_000, 'Ended transactions that wait to be dropped; past it the oldest are left to recovery.'),
  recoveryIntervalMs: number(1_000, 1, hour, 'Pause between two passes of recovery, with jitter.'),
  graceMs: number(2_000, 0, hour, 'How long a branch of another coordinator is left alone before recovery ends it.'),
  recoveryCallsMax: number(16, 1, 1_000, 'Transactions that a pass of recovery ends at once.'),
  decisionsPageMax: number(1_000, 1, 100_000, 'Decisions that a pass of recovery reads from one database.'),
  closeTimeoutMs: number(5_000, 0, hour, 'Longest wait of close() for transactions and phase 2.'),
})

export type CoordinatorLimitName = keyof typeof coordinatorLimitTable
export type CoordinatorLimits = { readonly [K in CoordinatorLimitName]: number }

export function checkNames(owner: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue
    const proposal = nearest(name, known)
    throw new HeadraceError(
      'option-unknown',
      `${owner} has no option '${name}'${proposal === null ? '' : `; did you mean '${proposal}'?`} Known: ${known.join(', ')}.`,
      { details: { option: name } },
    )
  }
}

export function checkLimits(given: Partial<CoordinatorLimits>): CoordinatorLimits {
  const limits = {} as Record<CoordinatorLimitName, number>
  for (const name of Object.keys(coordinatorLimitTable) as CoordinatorLimitName[]) {
    const { default: defaultValue, min, max } = coordinatorLimitTable[name]
    const value = given[name] ?? defaultValue
    checkWhole(name, value, min, max)
    limits[name] = value
  }
  for (const [low, high] of [
    ['retryBaseMs', 'retryMaxMs'],
    ['finishBaseMs', 'finishMaxMs'],
  ] as const) {
    if (limits[low] > limits[high])
      throw new HeadraceError('option-invalid', `${high} (${limits[high]}) must be at least ${low} (${limits[low]}).`)
  }
  return Object.freeze(limits)
}
