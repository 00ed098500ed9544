/** What `headrace tx ls`, `show` and `resolve` do. */
import { HeadraceError } from '../../contracts/errors.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { type Doubt, type DoubtVerdict, parseGid, resolveDoubt, showDoubt, type Site } from '../../transaction/index.ts'
import { confirmed } from '../confirm.ts'
import { CliError, exitCodes } from '../exit.ts'
import type { DatabaseFlags } from '../participants.ts'
import { counted, type Terminal } from '../terminal.ts'
import { printAway, printBranches, printDoubt, printDoubts } from './show.ts'
import { openSites, type OpenSites, type Sites } from './sites.ts'

export interface ListFlags extends DatabaseFlags {
  readonly deployment?: string
  readonly stillAfter?: number
}

export interface ResolveFlags extends DatabaseFlags {
  readonly yes?: boolean
}

const verdicts: readonly DoubtVerdict[] = ['commit', 'abort', 'forget']

/** How long a branch that another session keeps to itself is asked for again, in milliseconds. */
const keptForMs = 10_000
const againBaseMs = 100
const againMaxMs = 1_000

/** Resolves with the exit code. */
export async function list(terminal: Terminal, flags: ListFlags): Promise<number> {
  return withSites(flags, { deployment: flags.deployment }, async (sites) => {
    const doubts = await lookTwice(sites, flags.stillAfter ?? 0)
    const { away } = sites
    terminal.document({ doubts, away })
    if (doubts.length > 0) printDoubts(terminal, doubts)
    if (doubts.length > 0) terminal.print()
    printAway(terminal, away)
    if (doubts.length > 0)
      terminal.print(
        `${terminal.style('bold', counted(doubts.length, 'transaction'))} in doubt. headrace tx show <gid> shows the evidence.`,
      )
    else if (away.length === 0) terminal.print(terminal.style('green', `Nothing in doubt in ${sites.databases.join(', ')}.`))
    else terminal.print('Nothing in doubt in the databases that answered.')
    return away.length > 0 ? exitCodes.unavailable : doubts.length > 0 ? exitCodes.failed : exitCodes.ok
  })
}

/** What is there now, and was there `afterMs` before: transactions under way are in doubt for a moment. */
async function lookTwice(sites: Sites, afterMs: number): Promise<Doubt[]> {
  const first = await sites.doubts()
  if (afterMs === 0 || first.length === 0) return first
  await pause(afterMs)
  const before = new Set(first.map(({ gid }) => gid))
  return (await sites.doubts()).filter(({ gid }) => before.has(gid))
}

/** Resolves with the exit code. */
export async function show(terminal: Terminal, flags: DatabaseFlags, gid: string): Promise<number> {
  return withSites(flags, { deployment: deploymentOf(gid) }, async (sites) => {
    const doubt = await doubtOf(sites, gid)
    terminal.document(doubt)
    printDoubt(terminal, doubt)
    printAway(terminal, sites.away)
    return exitCodes.ok
  })
}

/** Resolves with the exit code. */
export async function resolve(terminal: Terminal, flags: ResolveFlags, gid: string, verdict: string): Promise<number> {
  const wanted = verdicts.find((each) => each === verdict)
  if (wanted === undefined)
    throw new CliError(exitCodes.usage, 'usage', `'${verdict}' is no way to resolve it.`, `It is one of ${verdicts.join(', ')}.`)
  return withSites(flags, { deployment: deploymentOf(gid), toWrite: true }, async (sites) => {
    const doubt = await doubtOf(sites, gid)
    terminal.note(`${gid} is ${doubt.state}: ${doubt.message}`)
    if (!(await confirmed(terminal, { what: question(doubt, wanted), yes: flags.yes }))) return exitCodes.failed
    const site = siteOf(sites)
    await ended(site, gid, wanted)
    const left = await showDoubt(site, gid)
    const { branches } = left ?? { branches: await endsOf(site, doubt) }
    terminal.document({ gid, verdict: wanted, resolved: left === null, left })
    terminal.print(
      left === null ? terminal.style('green', `${gid} is in doubt no more.`) : `${gid} is still ${left.state}: ${left.message}`,
    )
    if (wanted !== 'forget') printBranches(terminal, branches)
    return left === null ? exitCodes.ok : exitCodes.failed
  })
}

async function ended(site: Site, gid: string, verdict: DoubtVerdict): Promise<void> {
  const until = performance.now() + keptForMs
  for (let attempt = 0; ; attempt++) {
    try {
      return await resolveDoubt(site, gid, verdict)
    } catch (error) {
      if (!HeadraceError.is(error)) throw error
      // Refused by the rules of what a person may decide, not by the command line.
      if (error.code === 'option-invalid') throw new CliError(exitCodes.failed, 'resolve-refused', error.message)
      if (error.code === 'transaction-heuristic') throw new CliError(exitCodes.failed, error.code, error.message)
      if (error.code !== 'sql-busy' || performance.now() > until) throw error
    }
    await pause(backoffMs(attempt, againBaseMs, againMaxMs))
  }
}

/** What the markers say now of the branches that were in doubt. */
async function endsOf(site: Site, { gid, branches }: Doubt): Promise<Doubt['branches']> {
  return Promise.all(
    branches.map(async (branch) => {
      const marker = await site.participants
        .get(branch.participant)
        ?.marker(gid)
        .catch(() => null)
      return { ...branch, preparedAt: null, state: marker ?? branch.state }
    }),
  )
}

function question({ gid, branches }: Doubt, verdict: DoubtVerdict): string {
  const prepared = branches.filter(({ state }) => state === 'prepared').map(({ participant }) => participant)
  const where = prepared.length === 0 ? 'no database' : prepared.join(' and ')
  if (verdict === 'forget') return `Forget ${gid}, and drop what is known about it`
  return `${verdict === 'commit' ? 'Commit' : 'Undo'} ${gid} in ${where}`
}

async function withSites(flags: DatabaseFlags, open: OpenSites, run: (sites: Sites) => Promise<number>): Promise<number> {
  const sites = await openSites(flags, open)
  try {
    return await run(sites)
  } finally {
    await sites.close()
  }
}

function deploymentOf(gid: string): string {
  const parts = parseGid(gid)
  if (parts === null)
    throw new CliError(exitCodes.usage, 'usage', `'${gid}' is no gid of Headrace.`, 'headrace tx ls shows those that are in doubt.')
  return parts.deployment
}

const siteOf = ({ sites }: Sites): Site => sites[0] as Site

async function doubtOf(sites: Sites, gid: string): Promise<Doubt> {
  const doubt = await showDoubt(siteOf(sites), gid)
  if (doubt !== null) return doubt
  const { away } = sites
  if (away.length > 0)
    throw new CliError(
      exitCodes.unavailable,
      'doubt-unknown',
      `${gid} is not in doubt in the databases that answered.`,
      away.map(({ message }) => `Not asked: ${message}`).join('\n'),
    )
  const markers = await Promise.all(
    sites.databases.map(async (name) => ({ name, marker: await siteOf(sites).participant(name).marker(gid) })),
  )
  const known = markers.filter(({ marker }) => marker !== null).map(({ name, marker }) => `${name} has it ${marker}`)
  throw new CliError(
    exitCodes.failed,
    'doubt-unknown',
    `${gid} is not in doubt in ${sites.databases.join(', ')}.`,
    known.length > 0 ? `It has ended: ${known.join(', ')}.` : 'No trace of it is left there: it has ended, or belongs to other databases.',
  )
}
