import { Registry } from 'prom-client'
import { afterEach, describe, expect, test } from 'vitest'
import { type DiagnosticEvents, tell } from '../contracts/diagnostics.ts'
import { listenToTransactions } from './transaction-metrics.ts'

const closers: (() => void)[] = []
afterEach(() => {
  for (const close of closers.splice(0)) close()
})

function listening(): () => Promise<string[]> {
  const registry = new Registry()
  closers.push(...listenToTransactions(registry, [0.1, 1]))
  return async () => (await registry.metrics()).split('\n')
}

const attempt: DiagnosticEvents['headrace:transaction'] = {
  deployment: 'shop',
  gid: 'shop_n_aaaaaaaa_nohome_1',
  protocol: 'last-resource',
  end: 'committed',
  branches: 2,
  databases: ['wallet', 'stock'],
  attempt: 0,
  failures: [],
  prepareMs: 1,
  decideMs: 1,
  ms: 20,
  code: null,
}

describe('global transactions are counted', () => {
  test('by their databases, whatever the order they were used in, and by who ended them', async () => {
    const lines = listening()
    tell('headrace:transaction', () => attempt)
    tell('headrace:transaction', () => ({ ...attempt, databases: ['stock', 'wallet'], attempt: 1 }))
    tell('headrace:transaction', () => ({ ...attempt, end: 'aborted', failures: [{ database: 'wallet', kind: 'prepare' }] }))
    // Nobody is to blame: the caller gave up.
    tell('headrace:transaction', () => ({ ...attempt, end: 'aborted', code: 'handler-failed' }))
    const series = (end: string, which: string): string =>
      `headrace_transaction_attempts_total{databases="stock+wallet",protocol="last-resource",end="${end}",attempt="${which}"} 1`
    const text = await lines()
    for (const line of [
      series('committed', 'first'),
      series('committed', 'again'),
      series('aborted', 'first'),
      series('withdrawn', 'first'),
    ])
      expect(text).toContain(line)
    expect(text).toContain('headrace_transaction_failures_total{database="wallet",kind="prepare"} 1')
    expect(text).toContain('headrace_transaction_duration_seconds_count{protocol="last-resource",end="committed"} 2')
  })

  test('in doubt, with the age of the oldest in seconds, as the last pass of recovery saw them', async () => {
    const lines = listening()
    const pass = { deployment: 'shop', inDoubt: 3, oldestMs: 61_500, resolved: 0, heuristics: 1, unfinished: 2, away: ['wallet'], ms: 4 }
    tell('headrace:recovery-pass', () => ({ ...pass, inDoubt: 7 }))
    tell('headrace:recovery-pass', () => pass)
    expect(await lines()).toEqual(
      expect.arrayContaining([
        'headrace_transactions_in_doubt{deployment="shop"} 3',
        'headrace_oldest_doubt_age_seconds{deployment="shop"} 61.5',
        'headrace_unfinished_transactions{deployment="shop"} 2',
        'headrace_databases_away{deployment="shop"} 1',
      ]),
    )
  })
})
