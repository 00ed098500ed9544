/** Shows the requests of a load run to a person: what was answered, how fast, and the shape of the latency. */
import { count, duration, percent, table, type Terminal } from '../terminal.ts'
import { type CodeCounts, type HistogramBar, type Latency, type LoadSummary, type ReadSummary, total } from './tally.ts'

const barWidth = 40

export function printSummary(terminal: Terminal, summary: LoadSummary): void {
  const { answers, commands } = summary
  const answered = commands - total(answers.transport)
  terminal.print()
  terminal.print(terminal.style('bold', 'Answers'))
  const rows: string[][] = []
  const row = (name: string, code: string, value: number): void => {
    if (value > 0 || name === 'committed') rows.push([name, code, count(value), percent(value / commands)])
  }
  const rowsOf = (name: string, counts: CodeCounts): void => {
    for (const [code, value] of Object.entries(counts)) row(name, code, value)
  }
  row('committed', '', answers.committed)
  rowsOf('rejected', answers.rejected)
  row('pending', '', answers.pending)
  rowsOf('failed', answers.failed)
  rowsOf('problem', answers.problem)
  rowsOf('no answer', answers.transport)
  for (const line of table(rows, ['left', 'left', 'right', 'right'])) terminal.print(line)

  terminal.print()
  terminal.print(
    `  ${count(answered)} commands answered in ${duration(summary.elapsedMs)}: ${terminal.style('bold', `${count(summary.throughput)} per second`)}`,
  )
  const retries = Object.entries(summary.retries).map(([code, value]) => `${count(value)} × ${code}`)
  if (retries.length > 0) terminal.print(`  sent again: ${retries.join(', ')}`)
  const { repeats } = summary
  if (repeats.sent > 0) {
    const verdict =
      repeats.different > 0 ? terminal.style('red', `${count(repeats.different)} answered otherwise`) : 'none answered otherwise'
    terminal.print(
      `  repeated with the same key: ${count(repeats.sent)}, ${count(repeats.same)} answered alike, ${verdict}${repeats.open > 0 ? `, ${count(repeats.open)} not comparable` : ''}`,
    )
  }
  for (const { id, first, second } of summary.differences) {
    terminal.print(`    ${id}`)
    terminal.print(`      first:  ${first}`)
    terminal.print(`      second: ${second}`)
  }
  printLatency(terminal, 'Latency', summary)
}

/** The queries of the run. */
export function printReads(terminal: Terminal, summary: ReadSummary): void {
  const { query, requests, answers, throughput, elapsedMs } = summary
  terminal.print()
  terminal.print(`${terminal.style('bold', 'Queries')}  ${query}`)
  const codes = (name: string, counts: CodeCounts): string[][] =>
    Object.entries(counts).map(([code, value]) => [name, code, count(value), percent(value / requests)])
  const rows = [
    ['answered', '', count(answers.answered), percent(answers.answered / requests)],
    ...codes('problem', answers.problem),
    ...codes('no answer', answers.transport),
  ]
  for (const line of table(rows, ['left', 'left', 'right', 'right'])) terminal.print(line)
  terminal.print()
  const answered = requests - total(answers.transport)
  terminal.print(
    `  ${count(answered)} queries answered in ${duration(elapsedMs)}: ${terminal.style('bold', `${count(throughput)} per second`)}`,
  )
  const retries = Object.entries(summary.retries).map(([code, value]) => `${count(value)} × ${code}`)
  if (retries.length > 0) terminal.print(`  sent again: ${retries.join(', ')}`)
  printLatency(terminal, 'Latency of queries', summary)
}

function printLatency(
  terminal: Terminal,
  title: string,
  { latencyMs, histogram }: { readonly latencyMs: Latency; readonly histogram: readonly HistogramBar[] },
): void {
  if (histogram.length === 0) return
  terminal.print()
  terminal.print(terminal.style('bold', title))
  const { p50, p90, p99, p999, max } = latencyMs
  terminal.print(
    `  ${[['p50', p50] as const, ['p90', p90] as const, ['p99', p99] as const, ['p99.9', p999] as const, ['max', max] as const].map(([name, value]) => `${terminal.style('dim', name)} ${duration(value)}`).join('   ')}`,
  )
  terminal.print()
  const most = Math.max(...histogram.map((bar) => bar.count))
  const rows = histogram.map((bar) => {
    const length = Math.round((bar.count / most) * barWidth)
    return [
      `≤ ${bar.upToMs >= 1000 ? `${bar.upToMs / 1000} s` : `${bar.upToMs} ms`}`,
      count(bar.count),
      bar.count === 0 ? '' : '█'.repeat(length) || '▏',
    ]
  })
  for (const line of table(rows, ['right', 'right', 'left'])) terminal.print(line)
}
