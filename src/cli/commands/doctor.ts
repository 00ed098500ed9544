/** `headrace doctor`: whether this machine and this data directory are fit for a node, and what to do if not. */
import type { Command } from 'commander'
import { act } from '../action.ts'
import { checkFileSystem, checkFolder, checkSpace, existingFolder, judgeSync, measureSync } from '../doctor/disk.ts'
import type { Finding, Level } from '../doctor/finding.ts'
import { checkDatabases, checkOwner, contentsOf } from '../doctor/journal.ts'
import { checkClock, checkMemory, checkNode, checkOpenFiles, checkSqlite, readClock } from '../doctor/machine.ts'
import { exitCodes, exitCodesHelp } from '../exit.ts'
import { counted, table, type Terminal } from '../terminal.ts'

interface Options {
  readonly data: string
}

const help = `
Measures real syncs of the disk under the data directory, and examines the
journal when no node runs there. Changes nothing.

Examples:
  headrace doctor
  headrace doctor --data /var/lib/shop
  headrace doctor --json | jq '.findings[] | select(.level == "error")'

Exit code 1 when something must be put right; warnings alone give 0.
${exitCodesHelp}`

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('check this machine and a data directory, and say what to do')
    .option('--data <folder>', 'the data directory', process.env['HEADRACE_DATA_DIR'] ?? 'data')
    .option('--json', 'the findings as one JSON object')
    .addHelpText('after', help)
    .action(act<Options>(async ({ terminal, options }) => doctor(terminal, options.data)))
}

async function doctor(terminal: Terminal, dataDir: string): Promise<number> {
  const findings = await examine(dataDir)
  const errors = findings.filter(({ level }) => level === 'error').length
  const warnings = findings.filter(({ level }) => level === 'warn').length
  terminal.document({ ok: errors === 0, errors, warnings, findings })
  print(terminal, findings)
  const summary = [counted(errors, 'error'), counted(warnings, 'warning')].join(', ')
  terminal.print()
  terminal.print(
    errors > 0 ? terminal.style('red', summary) : warnings > 0 ? terminal.style('yellow', summary) : terminal.style('green', 'All well.'),
  )
  return errors === 0 ? exitCodes.ok : exitCodes.failed
}

async function examine(dataDir: string): Promise<Finding[]> {
  const before = readClock()
  const contents = contentsOf(dataDir)
  const folder = checkFolder(dataDir)
  const writable = folder.level === 'ok'
  const sync = judgeSync(writable ? measureSync(existingFolder(dataDir)) : null)
  const sqlite = await checkSqlite()
  const machine = [checkNode(), sqlite, checkMemory(), checkOpenFiles(), checkClock(before, readClock(), contents.newest)]
  const disk = [folder, checkSpace(dataDir), checkFileSystem(dataDir), sync]
  if (sqlite.level === 'error') return [...machine, ...disk]
  const owner = await checkOwner(dataDir)
  return [...machine, ...disk, owner, ...(await checkDatabases(dataDir, contents, owner.level !== 'ok'))]
}

const marks: Readonly<Record<Level, readonly ['green' | 'dim' | 'yellow' | 'red', string]>> = {
  ok: ['green', '✓'],
  info: ['dim', '·'],
  warn: ['yellow', '!'],
  error: ['red', '✗'],
}

function print(terminal: Terminal, findings: readonly Finding[]): void {
  const lines = table(findings.map(({ level, check, found }) => [terminal.style(...marks[level]), check, found]))
  findings.forEach((finding, index) => {
    terminal.print(lines[index])
    if (finding.remedy !== undefined) terminal.print(`     ${terminal.style('dim', '→')} ${finding.remedy}`)
  })
}
