/** The options of a coordinator and of a transaction: every bound, with its unit in its name, and the check of them. */
import { checkBounds, checkOrder, numberOption as number } from '../contracts/bounds.ts'

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

export type CoordinatorLimits = { readonly [K in keyof typeof coordinatorLimitTable]: number }

export function checkLimits(given: Partial<CoordinatorLimits>): CoordinatorLimits {
  const limits = checkBounds(coordinatorLimitTable, given)
  checkOrder(limits, 'retryBaseMs', 'retryMaxMs')
  checkOrder(limits, 'finishBaseMs', 'finishMaxMs')
  return limits
}
