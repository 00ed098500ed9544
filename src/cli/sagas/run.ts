/** What `headrace saga ls`, `show` and `redrive` do. */
import { performance } from 'node:perf_hooks'
import { runIdPattern, type RunStatus } from '../../contracts/saga.ts'
import { pause } from '../../std/backoff.ts'
import { listRuns, redriveRun, type RunListing, type SagaLog, showRun } from '../../transaction/index.ts'
import { confirmed } from '../confirm.ts'
import { CliError, exitCodes } from '../exit.ts'
import { count, counted, type Terminal } from '../terminal.ts'
import { type SagaFlags, withLog } from './open.ts'
import { printRun, printRuns, summaryOf } from './show.ts'

export type { SagaFlags } from './open.ts'

export interface ListFlags extends SagaFlags {
  readonly status?: RunStatus
  readonly name?: string
  readonly after?: string
  readonly limit: number
}

export interface RedriveFlags extends SagaFlags {
  readonly all?: boolean
  readonly name?: string
  readonly wait?: number
  readonly yes?: boolean
}

/** Runs of one page, while all that are parked are gathered. */
const pageSize = 500
/** Pause between two looks for the end of a run, in milliseconds. */
const lookEveryMs = 200

const kinds = ['saga', 'tcc', 'three-phase']

/** Resolves with the exit code. */
export function list(terminal: Terminal, flags: ListFlags): Promise<number> {
  const { status, name, after, limit } = flags
  if (after !== undefined && status === undefined)
    throw new CliError(
      exitCodes.usage,
      'usage',
      '--after goes with --status.',
      'Runs are listed in the order of their ids within a status.',
    )
  return withLog(flags, async (log) => {
    // One more than is shown tells whether there are more.
    const found: RunListing[] = []
    for (const each of status === undefined ? (['parked', 'running'] as const) : [status]) {
      const left = limit + 1 - found.length
      if (left <= 0) break
      const request = { status: each, limit: left, ...(after === undefined ? {} : { after }), ...namesOf(name) }
      found.push(...(await listRuns(log, request)))
    }
    const runs = found.slice(0, limit)
    for (const run of runs) terminal.document(run)
    if (runs.length === 0) {
      terminal.print(status === undefined ? 'No run is parked, or goes on.' : `No run is ${status}.`)
      return exitCodes.ok
    }
    printRuns(terminal, runs)
    terminal.print()
    const more = found.length > runs.length
    const next = status === undefined ? 'raise --limit, or give --status' : `go on with --after ${runs.at(-1)?.id}`
    terminal.print(`${summaryOf(runs)}${more ? `, and more: ${next}.` : '. headrace saga show <id> tells more.'}`)
    return runs.some((run) => run.status === 'parked') ? exitCodes.failed : exitCodes.ok
  })
}

/** Resolves with the exit code. */
export function show(terminal: Terminal, flags: SagaFlags, id: string): Promise<number> {
  return withLog(flags, async (log) => {
    const run = await showRun(log, id)
    if (run === null) throw unknown(id)
    terminal.document(run)
    printRun(terminal, run)
    return exitCodes.ok
  })
}

/** Resolves with the exit code. */
export function redrive(terminal: Terminal, flags: RedriveFlags, ids: readonly string[]): Promise<number> {
  const { all = false, name, wait, yes } = flags
  if (all === ids.length > 0)
    throw new CliError(exitCodes.usage, 'usage', all ? '--all and an id are one too many.' : 'Which runs?', 'Give their ids, or --all.')
  if (name !== undefined && !all) throw new CliError(exitCodes.usage, 'usage', '--name goes with --all.', 'An id needs no name.')
  return withLog(flags, async (log) => {
    const wanted = all ? await parkedIds(log, name) : ids
    if (all && wanted.length === 0) {
      terminal.print('No run is parked.')
      return exitCodes.ok
    }
    if (all && !(await confirmed(terminal, { what: `Let ${counted(wanted.length, 'parked run')} go on`, yes }))) return exitCodes.failed
    const redriven: string[] = []
    let refused = 0
    for (const id of wanted) {
      if (await redriveRun(log, id)) redriven.push(id)
      else {
        refused += 1
        await refuse(terminal, log, id)
      }
    }
    if (wait === undefined) {
      for (const id of redriven) {
        terminal.document({ id, redriven: true })
        terminal.print(`${id}  goes on when a process that knows it looks`)
      }
      return refused === 0 ? exitCodes.ok : exitCodes.failed
    }
    const ends = await endsOf(log, redriven, wait)
    for (const end of ends) {
      terminal.document({ redriven: true, ...end })
      terminal.print(`${end.id}  ${words(terminal, end)}`)
    }
    const well = ends.every(({ status }) => status === 'completed' || status === 'undone')
    return refused === 0 && well ? exitCodes.ok : exitCodes.failed
  })
}

interface End {
  readonly id: string
  readonly status: RunStatus
  readonly owner: string
  readonly error: RunListing['error']
}

/** How each of the runs stands once it has ended, or when the time is up. */
async function endsOf(log: SagaLog, ids: readonly string[], waitMs: number): Promise<End[]> {
  const ends = new Map<string, End>()
  const until = performance.now() + waitMs
  for (;;) {
    const open = ids.filter((id) => (ends.get(id)?.status ?? 'running') === 'running')
    for (const { id, status, owner, error } of await log.read(open))
      ends.set(id, { id, status, owner, error: error === null ? null : (JSON.parse(error) as End['error']) })
    const left = until - performance.now()
    if (left <= 0 || open.every((id) => ends.get(id)?.status !== 'running')) return ids.flatMap((id) => ends.get(id) ?? [])
    await pause(Math.min(lookEveryMs, left))
  }
}

function words(terminal: Terminal, { status, owner, error }: End): string {
  if (status === 'completed') return terminal.style('green', 'completed')
  if (status === 'undone') return `${terminal.style('yellow', 'undone')}: ${error?.code ?? ''}  ${error?.message ?? ''}`
  if (status === 'parked') return `${terminal.style('red', 'parked again')}: ${error?.code ?? ''}  ${error?.message ?? ''}`
  return owner === ''
    ? 'goes on, but nobody has taken it yet: does a process run whose orchestrator knows it?'
    : `goes on, in the hands of ${owner}`
}

async function refuse(terminal: Terminal, log: SagaLog, id: string): Promise<void> {
  const [run] = runIdPattern.test(id) ? await log.read([id]) : []
  const error =
    run === undefined
      ? { code: 'saga-unknown', message: `There is no run '${id}'.` }
      : { code: 'saga-not-parked', message: `The run '${id}' is ${run.status}, not parked.` }
  terminal.document({ id, redriven: false, error })
  terminal.note(`${terminal.style('red', 'error')}: ${error.message}`)
}

async function parkedIds(log: SagaLog, name: string | undefined): Promise<string[]> {
  const ids: string[] = []
  for (;;) {
    const after = ids.at(-1)
    const page = await log.list({ status: 'parked', limit: pageSize, ...namesOf(name), ...(after === undefined ? {} : { after }) })
    ids.push(...page.map(({ id }) => id))
    if (page.length < pageSize) return ids
  }
}

/** A definition may be named with its kind or without. */
function namesOf(name: string | undefined): { readonly names?: readonly string[] } {
  if (name === undefined) return {}
  return { names: name.includes('/') ? [name] : kinds.map((kind) => `${kind}/${name}`) }
}

function unknown(id: string): CliError {
  return new CliError(
    exitCodes.failed,
    'saga-unknown',
    `There is no run ${JSON.stringify(id)} in this log.`,
    `headrace saga ls shows those that are parked or go on. One that ended is dropped after retentionMs.${runIdPattern.test(id) ? '' : ` An id has at most ${count(128)} visible ASCII characters.`}`,
  )
}
