/** Makes Headrace's tables in databases on servers, and looks at what would fail later: what `headrace migrate` does. */
import { HeadraceError } from '../contracts/errors.ts'
import type { Finding, FindingLevel, Participant, ParticipantHandle } from '../contracts/participant.ts'
import { exitCodes } from './exit.ts'
import { addressOf, chosenOf, givenDatabases } from './participants.ts'
import { counted, table, type Terminal } from './terminal.ts'

export interface MigrateFlags {
  readonly url?: readonly string[]
  readonly only?: readonly string[]
  readonly print?: boolean
  readonly check?: boolean
}

interface Migrated {
  readonly name: string
  readonly engine: string
  readonly address: string | null
  readonly reached: boolean
  /** Null when only a look was asked for. */
  readonly migrated: boolean | null
  readonly error: { readonly code: string; readonly message: string } | null
  readonly findings: readonly Finding[]
}

/** A database that fails so has nothing to say to a check either. */
const silent: ReadonlySet<string> = new Set(['engine-unavailable', 'engine-timeout'])

/** Resolves with the exit code. */
export async function migrate(terminal: Terminal, flags: MigrateFlags, file: string | undefined): Promise<number> {
  const { participants, others } = await givenDatabases(file, flags.url)
  const chosen = chosenOf(participants, flags.only)
  const skipped = flags.only === undefined ? others.map(({ name, engine }) => ({ name, engine })) : []
  if (flags.print === true) return print(terminal, chosen, skipped)
  // One after the other: a person who reads along sees where it stands.
  const databases: Migrated[] = []
  for (const handle of chosen) {
    const done = await migrateOne(handle, flags.check === true)
    databases.push(done)
    show(terminal, done)
  }
  for (const { name, engine } of skipped) terminal.print(`${terminal.style('bold', name)}  ${skippedWords(engine)}`)
  const unreachable = databases.some(({ reached }) => !reached)
  const errors = databases.reduce((sum, { error, findings }) => sum + (error === null ? 0 : 1) + countOf(findings, 'error'), 0)
  const warnings = databases.reduce((sum, { findings }) => sum + countOf(findings, 'warning'), 0)
  terminal.document({ ok: errors === 0, errors, warnings, databases, skipped })
  if (chosen.length > 0) terminal.print()
  terminal.print(summary(terminal, chosen.length, errors, warnings))
  return unreachable ? exitCodes.unavailable : errors > 0 ? exitCodes.failed : exitCodes.ok
}

async function migrateOne(handle: ParticipantHandle, onlyCheck: boolean): Promise<Migrated> {
  const about = { name: handle.name, engine: handle.engine, address: addressOf(handle) }
  let participant: Participant | null = null
  let error: Migrated['error'] = null
  let findings: readonly Finding[] = []
  try {
    participant = await handle.connect({ branchesMax: 1 })
    if (!onlyCheck) await participant.migrate()
  } catch (failure) {
    error = told(failure)
  }
  let reached = participant !== null && !silent.has(error?.code ?? '')
  if (participant !== null && reached) {
    const found = await participant.check()
    const refusal = refusalIn(found)
    reached = refusal === null
    if (refusal !== null) error ??= { code: 'engine-unavailable', message: refusal }
    else findings = found
  }
  await participant?.close()
  return { ...about, reached, migrated: onlyCheck ? null : error === null, error, findings }
}

/** A check that could not even connect says so as its only finding. */
function refusalIn([only, ...more]: readonly Finding[]): string | null {
  if (only === undefined || more.length > 0 || only.level !== 'error') return null
  return only.name === 'connection' || only.name === 'reachable' ? only.message : null
}

function told(failure: unknown): { readonly code: string; readonly message: string } {
  if (!HeadraceError.is(failure)) throw failure
  return { code: failure.code, message: failure.message }
}

async function print(
  terminal: Terminal,
  chosen: readonly ParticipantHandle[],
  skipped: readonly { readonly name: string; readonly engine: string }[],
): Promise<number> {
  const databases = []
  for (const handle of chosen) {
    const participant = await handle.connect({ branchesMax: 1 })
    databases.push({ name: handle.name, engine: handle.engine, sql: participant.migration() })
    await participant.close()
  }
  terminal.document({ databases, skipped })
  for (const { name, engine, sql } of terminal.json ? [] : databases) {
    terminal.print(`-- ${name} (${engine})`)
    terminal.print(sql)
  }
  for (const { name, engine } of skipped) terminal.note(`${name}  ${skippedWords(engine)}`)
  return exitCodes.ok
}

const skippedWords = (engine: string): string =>
  engine === 'sqlite' ? 'SQLite: left out, the app makes its tables when it starts' : `${engine}: left out, it needs no tables of Headrace`

const countOf = (findings: readonly Finding[], level: FindingLevel): number => findings.filter((each) => each.level === level).length

const marks: Readonly<Record<FindingLevel, readonly ['green' | 'yellow' | 'red', string]>> = {
  ok: ['green', '✓'],
  warning: ['yellow', '!'],
  error: ['red', '✗'],
}

function show(terminal: Terminal, { name, engine, address, migrated, error, findings }: Migrated): void {
  terminal.print(
    `${terminal.style('bold', name)}  ${terminal.style('dim', [engine, address].filter((part) => part !== null).join(' at '))}`,
  )
  const lines: { level: FindingLevel; check: string; found: string; remedy?: string | undefined }[] = []
  if (error !== null) lines.push({ level: 'error', check: migrated === null ? 'check' : 'migrate', found: error.message })
  else if (migrated === true) lines.push({ level: 'ok', check: 'migrate', found: 'The tables are there and up to date.' })
  for (const finding of findings) lines.push({ level: finding.level, check: finding.name, found: finding.message, remedy: finding.remedy })
  const rows = table(lines.map(({ level, check, found }) => [terminal.style(...marks[level]), check, found]))
  lines.forEach(({ remedy }, index) => {
    terminal.print(rows[index])
    if (remedy !== undefined) terminal.print(`     ${terminal.style('dim', '→')} ${remedy}`)
  })
}

function summary(terminal: Terminal, databases: number, errors: number, warnings: number): string {
  if (databases === 0) return 'There is no database on a server here: nothing to do.'
  if (errors > 0) return terminal.style('red', [counted(errors, 'error'), counted(warnings, 'warning')].join(', '))
  if (warnings > 0) return terminal.style('yellow', counted(warnings, 'warning'))
  return terminal.style('green', 'All well.')
}
