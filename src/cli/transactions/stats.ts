/** How the transactions of a running node went, with the model beside them: what `headrace tx stats` does. */
import { measuredShare, type Share, successOfTry, successWithRetries } from '../../transaction/index.ts'
import { CliError, exitCodes } from '../exit.ts'
import { type MetricSample, samplesIn } from '../metrics-text.ts'
import { askNode } from '../remote.ts'
import { count, percent, table, type Terminal } from '../terminal.ts'

export interface StatsFlags {
  readonly url: string
  readonly retries: number
}

const attemptsName = 'headrace_transaction_attempts_total'
const failuresName = 'headrace_transaction_failures_total'

interface DatabaseFigures {
  readonly database: string
  readonly attempts: number
  readonly failures: Readonly<Record<string, number>>
  /** pᵢ: the share of attempts that it did not end. */
  readonly success: number
}

interface SetFigures {
  readonly databases: readonly string[]
  readonly attempts: number
  readonly commits: number
  /** Attempts that their callers ended; they say nothing about the databases. */
  readonly withdrawn: number
  readonly transactions: number
  readonly measuredTry: Share
  readonly predictedTry: number
  readonly measured: Share
  readonly predicted: number
}

export interface TransactionFigures {
  readonly databases: readonly DatabaseFigures[]
  readonly sets: readonly SetFigures[]
  readonly protocols: Readonly<Record<string, number>>
}

/** Resolves with the exit code. */
export async function stats(terminal: Terminal, { url, retries }: StatsFlags): Promise<number> {
  const { status, text } = await askNode({ url }, 'GET', '/metrics')
  if (status !== 200 || !text.includes(`# TYPE ${attemptsName} `))
    throw new CliError(
      exitCodes.failed,
      'metrics-missing',
      `${url}/metrics tells nothing of transactions.`,
      'It must be a Headrace node of this version. In a process of your own, coordinator.stats() has the same figures.',
    )
  const figures = figuresOf(samplesIn(text, 'headrace_transaction_'), retries)
  terminal.document({ url, retries, ...figures })
  print(terminal, figures, retries)
  return exitCodes.ok
}

/** From the counters of a scrape. */
export function figuresOf(samples: readonly MetricSample[], retries: number): TransactionFigures {
  const attempts = samples.filter(({ name }) => name === attemptsName)
  const blamed = samples.filter(({ name }) => name === failuresName)
  const sum = (list: readonly MetricSample[], is: (labels: MetricSample['labels']) => boolean = () => true): number =>
    list.reduce((total, { labels, value }) => total + (is(labels) ? value : 0), 0)
  const keys = [...new Set(attempts.map(({ labels }) => labels['databases'] ?? ''))].filter((key) => key !== '').sort()
  const names = [...new Set(keys.flatMap((key) => key.split('+')))].sort()
  const databases = names.map((database): DatabaseFigures => {
    const own = sum(attempts, ({ databases: set = '', end }) => set.split('+').includes(database) && end !== 'withdrawn')
    const failures = Object.fromEntries(
      ['statement', 'prepare', 'commit'].map((kind) => [
        kind,
        sum(blamed, (labels) => labels['database'] === database && labels['kind'] === kind),
      ]),
    )
    const failed = Object.values(failures).reduce((total, each) => total + each, 0)
    return { database, attempts: own, failures, success: own === 0 ? 1 : Math.max(0, 1 - failed / own) }
  })
  const successes = new Map(databases.map(({ database, success }) => [database, success]))
  const sets = keys.map((key): SetFigures => {
    const list = attempts.filter(({ labels }) => labels['databases'] === key)
    const withdrawn = sum(list, ({ end }) => end === 'withdrawn')
    const tries = sum(list) - withdrawn
    const commits = sum(list, ({ end }) => end === 'committed')
    const transactions = sum(list, ({ end, attempt }) => attempt === 'first' && end !== 'withdrawn')
    const each = key.split('+').map((name) => successes.get(name) ?? 1)
    return {
      databases: key.split('+'),
      attempts: tries,
      commits,
      withdrawn,
      transactions,
      measuredTry: measuredShare(commits, tries),
      predictedTry: successOfTry(each),
      // A transaction whose retry was withdrawn counts as one that did not commit.
      measured: measuredShare(Math.min(commits, transactions), transactions),
      predicted: successWithRetries(each, retries),
    }
  })
  const protocols: Record<string, number> = {}
  for (const { labels, value } of attempts) {
    const protocol = labels['protocol'] ?? 'unknown'
    protocols[protocol] = (protocols[protocol] ?? 0) + value
  }
  return { databases, sets, protocols }
}

function print(terminal: Terminal, { databases, sets, protocols }: TransactionFigures, retries: number): void {
  if (sets.length === 0) {
    terminal.print('The node has ended no transaction over databases on servers since its start.')
    return
  }
  const dim = (names: readonly string[]): string[] => names.map((name) => terminal.style('dim', name))
  terminal.print(terminal.style('bold', 'Success of transactions'))
  const rows = sets.map((set) => [
    set.databases.join(' + '),
    count(set.attempts),
    shown(set.measuredTry),
    exact(set.predictedTry),
    count(set.transactions),
    shown(set.measured),
    exact(set.predicted),
  ])
  const heading = dim(['databases', 'tries', 'measured', 'model', 'transactions', 'measured', `model, ${retries} retries`])
  for (const line of table([heading, ...rows], ['left', 'right', 'right', 'right', 'right', 'right', 'right'])) terminal.print(line)
  terminal.print()
  terminal.print(terminal.style('bold', 'What ended tries'))
  const ends = databases.map(({ database, attempts, failures, success }) => [
    database,
    count(attempts),
    ...['statement', 'prepare', 'commit'].map((kind) => count(failures[kind] ?? 0)),
    exact(success),
  ])
  const endsHeading = dim(['database', 'tries', 'statement', 'prepare', 'commit', 'success'])
  for (const line of table([endsHeading, ...ends], ['left', 'right', 'right', 'right', 'right', 'right'])) terminal.print(line)
  terminal.print()
  const withdrawn = sets.reduce((total, each) => total + each.withdrawn, 0)
  terminal.print(
    `  ${Object.entries(protocols)
      .map(([protocol, value]) => `${count(value)} ${protocol}`)
      .join(', ')}${withdrawn > 0 ? `; ${count(withdrawn)} withdrawn by their callers, and not counted above` : ''}`,
  )
}

/** With the range that holds the true share with 95%. */
const shown = ({ share, low, high }: Share): string => `${percent(share)} (${percent(low)}–${percent(high)})`
const exact = (share: number): string => `${(share * 100).toFixed(3)} %`
