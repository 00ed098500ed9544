/**
 * How global transactions went, and what is in doubt. They belong to the
 * process, not to an app: whatever coordinator runs in it is counted.
 */
import { Gauge, type Registry } from 'prom-client'
import { listen } from '../contracts/diagnostics.ts'
import { Counters, Histograms } from './series.ts'

export function listenToTransactions(registry: Registry, durations: readonly number[]): (() => void)[] {
  const attempts = new Counters(
    registry,
    'headrace_transaction_attempts_total',
    'Attempts of global transactions, by their databases and how they ended; withdrawn: undone by its caller, a deadline or a signal.',
    ['databases', 'protocol', 'end', 'attempt'],
  )
  const failures = new Counters(
    registry,
    'headrace_transaction_failures_total',
    'What ended attempts of global transactions, by database: a statement, a prepare or a commit.',
    ['database', 'kind'],
  )
  const time = new Histograms(
    registry,
    'headrace_transaction_duration_seconds',
    'Time of an attempt of a global transaction.',
    ['protocol', 'end'],
    durations,
  )
  const gauge = (name: string, help: string): Gauge => new Gauge({ name, help, labelNames: ['deployment'], registers: [registry] })
  const inDoubt = gauge('headrace_transactions_in_doubt', 'Transactions in doubt, as the last pass of recovery saw them.')
  const oldest = gauge('headrace_oldest_doubt_age_seconds', 'How long the oldest of them has been seen.')
  const unfinished = gauge(
    'headrace_unfinished_transactions',
    'Transactions of this process that are decided, and whose branches have not all ended.',
  )
  const away = gauge('headrace_databases_away', 'Databases that did not answer the last pass of recovery.')

  return [
    listen('headrace:transaction', ({ databases, protocol, end, attempt, failures: blamed, ms }) => {
      const told = end === 'aborted' && blamed.length === 0 ? 'withdrawn' : end
      attempts.add(1, [...databases].sort().join('+'), protocol, told, attempt === 0 ? 'first' : 'again')
      for (const { database, kind } of blamed) failures.add(1, database, kind)
      time.observe(ms / 1_000, protocol, told)
    }),
    listen('headrace:recovery-pass', ({ deployment, ...pass }) => {
      inDoubt.set({ deployment }, pass.inDoubt)
      oldest.set({ deployment }, pass.oldestMs / 1_000)
      unfinished.set({ deployment }, pass.unfinished)
      away.set({ deployment }, pass.away.length)
    }),
  ]
}
