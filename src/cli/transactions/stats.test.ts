import { describe, expect, it } from 'vitest'
import { samplesIn } from '../metrics-text.ts'
import { figuresOf } from './stats.ts'

const scrape = `# HELP headrace_transaction_attempts_total Attempts.
# TYPE headrace_transaction_attempts_total counter
headrace_transaction_attempts_total{databases="stock+wallet",protocol="last-resource",end="committed",attempt="first"} 80
headrace_transaction_attempts_total{databases="stock+wallet",protocol="last-resource",end="committed",attempt="again"} 15
headrace_transaction_attempts_total{databases="stock+wallet",protocol="last-resource",end="aborted",attempt="first"} 20
headrace_transaction_attempts_total{databases="stock+wallet",protocol="last-resource",end="aborted",attempt="again"} 5
headrace_transaction_attempts_total{databases="stock+wallet",protocol="last-resource",end="withdrawn",attempt="first"} 30
headrace_transaction_attempts_total{databases="stock",protocol="one-phase",end="committed",attempt="first"} 80
headrace_transaction_failures_total{database="stock",kind="statement"} 10
headrace_transaction_failures_total{database="wallet",kind="prepare"} 15
headrace_transaction_duration_seconds_count{protocol="one-phase",end="committed"} 80
headrace_other{quoted="a\\"b\\\\c\\nd"} 1
not a sample
`

describe('the figures of a scrape', () => {
  const { databases, sets, protocols } = figuresOf(samplesIn(scrape, 'headrace_transaction_'), 1)

  it('count what each database ended, over all tries it took part in', () => {
    expect(databases).toEqual([
      { database: 'stock', attempts: 200, failures: { statement: 10, prepare: 0, commit: 0 }, success: 1 - 10 / 200 },
      { database: 'wallet', attempts: 120, failures: { statement: 0, prepare: 15, commit: 0 }, success: 1 - 15 / 120 },
    ])
  })

  it('put the model beside what was measured, tries and transactions apart, and leave out what was withdrawn', () => {
    const both = sets.find((set) => set.databases.length === 2)
    expect(both).toMatchObject({ attempts: 120, commits: 95, withdrawn: 30, transactions: 100, measured: { share: 0.95 } })
    expect(both?.measuredTry.share).toBeCloseTo(95 / 120)
    expect(both?.predictedTry).toBeCloseTo(0.95 * 0.875)
    expect(both?.predicted).toBeCloseTo(1 - (1 - 0.95 * 0.875) ** 2)
    expect(protocols).toEqual({ 'last-resource': 150, 'one-phase': 80 })
  })

  it('read labels as they were written', () => {
    expect(samplesIn(scrape, 'headrace_other')).toEqual([{ name: 'headrace_other', labels: { quoted: 'a"b\\c\nd' }, value: 1 }])
  })
})
