/** How doubts look to a person. */
import { type Doubt, type DoubtBranch, type DoubtState, type DoubtVerdict, parseGid } from '../../transaction/index.ts'
import { duration, type Style, table, type Terminal } from '../terminal.ts'
import type { Away } from './sites.ts'

const stateStyles: Readonly<Record<DoubtState, Style>> = {
  'undecided': 'cyan',
  'unfinished': 'cyan',
  'away': 'yellow',
  'home-unknown': 'yellow',
  'heuristic': 'red',
}

const branchStyles: Readonly<Record<DoubtBranch['state'], Style>> = {
  prepared: 'cyan',
  committed: 'green',
  aborted: 'dim',
  gone: 'red',
  away: 'yellow',
  unknown: 'yellow',
}

const branchWords: Readonly<Record<DoubtBranch['state'], string>> = {
  prepared: 'holds its locks until it is ended',
  committed: 'its marker says so',
  aborted: 'its marker says so',
  gone: 'neither prepared nor marked: ended by hand',
  away: 'the database does not answer',
  unknown: 'the database is not among those given',
}

/** A table of doubts, each with what it means below it. */
export function printDoubts(terminal: Terminal, doubts: readonly Doubt[]): void {
  const rows = doubts.map((doubt) => [
    doubt.gid,
    terminal.style(stateStyles[doubt.state], doubt.state),
    ageOf(doubt.since),
    doubt.decision?.verdict ?? '–',
    doubt.branches.map(({ participant, state }) => `${participant} ${state}`).join(', '),
  ])
  const heading = ['gid', 'state', 'age', 'decision', 'databases'].map((name) => terminal.style('dim', name))
  const [first, ...lines] = table([heading, ...rows], ['left', 'left', 'right'])
  terminal.print(first)
  lines.forEach((line, index) => {
    terminal.print(line)
    const doubt = doubts[index] as Doubt
    for (const words of [doubt.message, remedy(doubt)]) if (words !== null) terminal.print(`     ${terminal.style('dim', '→')} ${words}`)
  })
}

/** All that is known about one. */
export function printDoubt(terminal: Terminal, doubt: Doubt): void {
  const { gid, state, message, since, home, decision, branches } = doubt
  const parts = parseGid(gid)
  const made =
    parts === null ? gid : `deployment ${parts.deployment}, node ${parts.node}, incarnation ${parts.incarnation}, number ${parts.number}`
  const rows = [
    ['gid', gid],
    ['state', terminal.style(stateStyles[state], state)],
    ['meaning', message],
    ['since', since === null ? 'not known: its databases do not keep the time' : `${at(since)}, ${ageOf(since)} ago`],
    ['made by', made],
    ['home', home ?? 'not among the databases given'],
    ['decision', decision === null ? 'none' : `${decision.verdict}, at ${at(decision.decidedAt)}, for ${decision.participants.join(', ')}`],
  ]
  for (const line of table(rows.map(([name = '', value = '']) => [terminal.style('dim', name), value]))) terminal.print(line)
  terminal.print()
  printBranches(terminal, branches)
  terminal.print()
  const [first, ...more] = possibleVerdicts(doubt)
  if (state !== 'heuristic' && state !== 'away') terminal.print(`  ${remedy(doubt) ?? ''}`)
  if (first === undefined) return
  terminal.print(first === 'forget' ? '  When the databases are right:' : '  By hand, where nobody else will:')
  for (const verdict of [first, ...more]) terminal.print(`    headrace tx resolve ${gid} ${verdict}`)
}

export function printBranches(terminal: Terminal, branches: readonly DoubtBranch[]): void {
  const rows = branches.map(({ participant, state, preparedAt }) => [
    participant,
    terminal.style(branchStyles[state], state),
    preparedAt === null ? branchWords[state] : `since ${at(preparedAt)}; ${branchWords[state]}`,
  ])
  for (const line of table(rows)) terminal.print(line)
}

/** Databases that could not be asked: what is missing above may be there. */
export function printAway(terminal: Terminal, away: readonly Away[]): void {
  for (const { message } of away) terminal.print(`${terminal.style('red', 'not asked')}: ${message}`)
}

/** Beside what it means: what there is to do. */
function remedy({ state, gid }: Doubt): string | null {
  switch (state) {
    case 'undecided':
    case 'unfinished':
      return 'A node of its deployment does that within seconds; start one if none runs.'
    case 'heuristic':
      return `When they are right: headrace tx resolve ${gid} forget`
    case 'home-unknown':
      return 'It may be in the journal of an app: give the app file, and --data where its data directory is another.'
    default:
      return null
  }
}

/** What `resolve` would not refuse, as far as can be told. */
function possibleVerdicts({ state, home, decision, branches }: Doubt): readonly DoubtVerdict[] {
  if (!branches.some((branch) => branch.state === 'prepared')) return state === 'heuristic' ? ['forget'] : []
  if (decision !== null) return [decision.verdict]
  return home === null || state === 'away' ? ['commit', 'abort'] : ['abort']
}

const at = (ms: number): string => new Date(ms).toISOString()

/** By the clock of this machine against that of the database. */
function ageOf(since: number | null): string {
  return since === null ? '–' : duration(Math.max(0, Date.now() - since))
}
