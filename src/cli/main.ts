#!/usr/bin/env node
/** `headrace`: the command line. Each command has a file of its own in `commands/`. */
import { Command, CommanderError } from 'commander'
import { leave, report } from './action.ts'
import { addDemo } from './commands/demo.ts'
import { addDlq } from './commands/dlq.ts'
import { addDoctor } from './commands/doctor.ts'
import { addLoad } from './commands/load.ts'
import { addLock } from './commands/lock.ts'
import { addMigrate } from './commands/migrate.ts'
import { addOutcomes } from './commands/outcomes.ts'
import { addSaga } from './commands/saga.ts'
import { addQueue } from './commands/queue.ts'
import { addStart } from './commands/start.ts'
import { addTx } from './commands/tx.ts'
import { addVersion } from './commands/version.ts'
import { CliError, exitCodes, exitCodesHelp } from './exit.ts'
import { version } from './package.ts'
import { createTerminal } from './terminal.ts'

const help = `
Examples:
  headrace demo flash-sale --kill 3      see what it is for
  headrace start app.ts                  serve an app on http://127.0.0.1:8080
  headrace load order.buy --requests 10000 --input '{"sku":"a","buyer":"b{i % 1000}","quantity":1}'
  headrace dlq ls                        commands that failed and wait for you
  headrace migrate app.ts                Headrace's tables in PostgreSQL and MySQL
  headrace tx ls app.ts                  transactions in doubt
  headrace saga ls --url postgres://…    sagas that are parked, or go on
  headrace lock ls --url redis://…       who holds which lock
  headrace queue ls --url postgres://…   how deep message queues are
  headrace doctor                        is this machine fit for it

headrace <command> --help tells more about one of them.
${exitCodesHelp}`

// A reader that goes away early (| head) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? exitCodes.ok : exitCodes.failed))

const asJson = process.argv.includes('--json')
const program = new Command()
  .name('headrace')
  .description(
    'High-concurrency writes for TypeScript: every accepted write is applied once, in order per key, in all of its databases or in none.',
  )
  .version(version, '-V, --version', 'print the version')
  .helpOption('-h, --help', 'show this help')
  .option('--json', 'JSON on standard output, words on standard error')
  .addHelpText('after', help)
  .exitOverride()
  .configureOutput({ outputError: () => {} })

addStart(program)
addDemo(program)
addLoad(program)
addDlq(program)
addOutcomes(program)
addMigrate(program)
addTx(program)
addSaga(program)
addLock(program)
addQueue(program)
addDoctor(program)
addVersion(program)

try {
  await program.parseAsync()
} catch (error) {
  if (!(error instanceof CommanderError)) throw error
  const shown = ['commander.helpDisplayed', 'commander.version', 'commander.help'].includes(error.code)
  if (error.exitCode === 0) await leave(exitCodes.ok)
  // A command group without its command shows the help, which says what is missing.
  if (shown) await leave(exitCodes.usage)
  const [message = '', ...suggestion] = error.message.replace(/^error: /, '').split('\n')
  const proposal = suggestion.join(' ').replace(/^\((.*)\)$/, '$1 ')
  const hint = `${proposal}See ${commandPath()} --help.`
  await leave(report(createTerminal(asJson), new CliError(exitCodes.usage, 'usage', message, hint)))
}

/** The command that was called, as far as it is one: `headrace dlq show`. */
function commandPath(): string {
  let path = 'headrace'
  let command: Command | undefined = program
  for (const word of process.argv.slice(2)) {
    command = command.commands.find((candidate) => candidate.name() === word)
    if (command === undefined) break
    path += ` ${word}`
  }
  return path
}
