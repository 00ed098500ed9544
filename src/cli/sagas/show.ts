/** How runs look to a person. */
import type { RunListing, RunStory } from '../../transaction/index.ts'
import { counted, duration, type Style, table, type Terminal } from '../terminal.ts'
import { type JournalLine, journalLines } from './journal.ts'

const statusStyles: Readonly<Record<RunListing['status'], Style>> = { running: 'cyan', completed: 'green', undone: 'yellow', parked: 'red' }

const endStyles: Readonly<Record<JournalLine['end'], Style>> = {
  done: 'green',
  failed: 'red',
  refused: 'yellow',
  open: 'cyan',
  forward: 'bold',
  back: 'bold',
  parked: 'red',
  redriven: 'bold',
}

/** Longest text of an error or a result in a table. */
const textMax = 72

export function printRuns(terminal: Terminal, runs: readonly RunListing[]): void {
  const heading = ['id', 'name', 'status', 'age', 'quiet for', 'step', 'attempts', 'error'].map((name) => terminal.style('dim', name))
  const rows = runs.map(({ id, kind, name, status, startedAt, changedAt, at, error }) => [
    id,
    kindName(kind, name),
    terminal.style(statusStyles[status], status),
    ageOf(startedAt),
    ageOf(changedAt),
    at.map(({ branch, operation }) => `${operation} ${branch}`).join(', ') || '–',
    at.map(({ attempts }) => String(attempts)).join(', ') || '–',
    error === null ? '' : shortened(`${error.code}  ${error.message}`),
  ])
  for (const line of table([heading, ...rows], ['left', 'left', 'left', 'right', 'right', 'left', 'right'])) terminal.print(line)
}

export function printRun(terminal: Terminal, run: RunStory): void {
  const dim = (text: string): string => terminal.style('dim', text)
  const { id, kind, name, gid, status, owner, startedAt, changedAt, error, calls } = run
  const what = error === null || error.branch === '' ? '' : `${error.operation} of '${error.branch}': `
  const rows = [
    ['id', id],
    ['name', kindName(kind, name)],
    ['status', terminal.style(statusStyles[status], status)],
    ['worked on by', owner === '' ? (status === 'running' ? 'nobody yet' : 'nobody: it has ended') : owner],
    ['started', `${at(startedAt)}, ${ageOf(startedAt)} ago`],
    ['last change', `${at(changedAt)}, ${ageOf(changedAt)} ago`],
    ['to the outside', gid],
    ['calls', String(calls)],
    ...(error === null ? [] : [['error', `${terminal.style('red', error.code)}  ${what}${error.message}`]]),
  ]
  // Who waits for a person is worked on by nobody, and has not ended.
  if (status === 'parked') rows[3] = ['worked on by', 'nobody: it waits for redrive']
  for (const line of table(rows.map(([label = '', value = '']) => [dim(label), value]))) terminal.print(line)
  terminal.print()
  terminal.print(`  ${dim('input')}`)
  for (const line of JSON.stringify(run.input, null, 2).split('\n')) terminal.print(`  ${line}`)
  terminal.print()
  printJournal(terminal, run)
  if (status !== 'parked') return
  terminal.print()
  terminal.print('  When what stopped it is repaired:')
  terminal.print(`    headrace saga redrive ${id}`)
}

function printJournal(terminal: Terminal, { records, status }: RunStory): void {
  const lines = journalLines(records)
  if (lines.length === 0) {
    terminal.print('  Nothing was called yet.')
    return
  }
  const heading = ['record', 'step', 'call', 'attempts', 'end', ''].map((name) => terminal.style('dim', name))
  const rows = lines.map((line) => [
    String(line.number),
    line.step,
    line.operation,
    line.attempts === null ? '' : line.attempts[0] === line.attempts[1] ? String(line.attempts[0]) : line.attempts.join('–'),
    terminal.style(endStyles[line.end], line.end === 'open' && status !== 'running' ? 'unknown' : line.end),
    wordsOf(line, status),
  ])
  for (const line of table([heading, ...rows], ['right', 'left', 'left', 'right'])) terminal.print(line)
}

function wordsOf(line: JournalLine, status: RunStory['status']): string {
  switch (line.end) {
    case 'done':
      return line.result === undefined ? '' : shortened(JSON.stringify(line.result))
    case 'open':
      return status === 'running' ? 'is under way, or its answer was lost' : 'its answer was lost'
    case 'forward':
      return 'decided: from here on it only goes forward'
    case 'back':
      return `decided: what was done is undone${line.error === undefined ? '' : shortened(`, for ${line.error.code}  ${line.error.message}`)}`
    case 'redriven':
      return line.at === undefined ? 'by hand' : `by hand, at ${at(line.at)}`
    default:
      return line.error === undefined ? '' : shortened(`${line.error.code}  ${line.error.message}`)
  }
}

/** How many of each status: "2 runs parked, 1 running". */
export function summaryOf(runs: readonly RunListing[]): string {
  const statuses = ['parked', 'running', 'undone', 'completed'] as const
  const parts = statuses.flatMap((status) => {
    const count = runs.filter((run) => run.status === status).length
    return count === 0 ? [] : [`${count} ${status}`]
  })
  return `${counted(runs.length, 'run')}: ${parts.join(', ')}`
}

const kindName = (kind: string, name: string): string => (kind === 'saga' ? name : `${name} (${kind})`)
const at = (ms: number): string => new Date(ms).toISOString()
const ageOf = (since: number): string => duration(Math.max(0, Date.now() - since))
const shortened = (text: string): string => (text.length > textMax ? `${text.slice(0, textMax - 1)}…` : text)
