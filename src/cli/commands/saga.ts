/** `headrace saga`: sagas, TCCs and three-phase commits in a durable log, and letting parked ones go on. */
import { type Command, Option } from 'commander'
import { act } from '../action.ts'
import { exitCodesHelp } from '../exit.ts'
import { lengthOfTime, wholeNumber } from '../flags.ts'
import type { ListFlags, RedriveFlags, SagaFlags } from '../sagas/run.ts'

const help = `
A run is one saga, TCC or three-phase commit that was started. It is parked when
it can go neither forward nor back by itself: a step that cannot be undone, a
confirm that failed for good, a definition that changed. Repair what stopped it,
then redrive it: it tries again what it was parked for, and goes on from there.
Nothing that is done is called again.

Where the log is: postgres://…, mysql:// or mariadb://…, or the path of a SQLite
file. Looking changes nothing there. Redriving writes to the log alone: a process
whose orchestrator knows the run takes it at its next look (pollMs).

A password on a command line can be seen by others on the machine; one in the
environment variable HEADRACE_SAGA_URL cannot.

Examples:
  headrace saga ls --url ./data/sagas.sqlite
  headrace saga ls --url postgres://db/shop --status parked --json | jq -r .id
  headrace saga show trip-4711 --url postgres://db/shop
  headrace saga redrive trip-4711 --wait 30s --url postgres://db/shop
  headrace saga redrive --all --name trip --url postgres://db/shop
`

const listHelp = `
Without --status: those that are parked, then those that go on.
Exit code 1 when a parked one is among them.
${exitCodesHelp}`

const redriveHelp = `
Exit code 1 when one of them is not parked, or, with --wait, is parked again or
has not ended by then.
${exitCodesHelp}`

export function addSaga(program: Command): void {
  const group = program
    .command('saga')
    .description('sagas: list, show, redrive')
    .addHelpText('after', help + exitCodesHelp)

  placed(group.command('ls').description('list runs, with how far each came'))
    .addOption(new Option('--status <status>', 'only those').choices(['running', 'completed', 'undone', 'parked']))
    .option('--name <name>', 'only those of this definition, such as trip')
    .option('--after <id>', 'only those past this id; with --status')
    .option('--limit <n>', 'at most this many', wholeNumber(1, 1_000), 100)
    .addHelpText('after', listHelp)
    .action(act<ListFlags>(async ({ terminal, options }) => (await import('../sagas/run.ts')).list(terminal, options)))

  placed(group.command('show').description('show one run, with its journal and its error').argument('<id>', 'as ls shows it'))
    .addHelpText('after', exitCodesHelp)
    .action(
      act<SagaFlags>(async ({ terminal, options, words: [id = ''] }) => (await import('../sagas/run.ts')).show(terminal, options, id)),
    )

  placed(group.command('redrive').description('let parked runs go on').argument('[id...]', 'as ls shows them'))
    .option('--all', 'all that are parked')
    .option('--name <name>', 'with --all: only those of this definition')
    .option('--wait <time>', 'wait for their ends, such as 30s', lengthOfTime)
    .option('--yes', 'with --all: do it without being asked')
    .addHelpText('after', redriveHelp)
    .action(act<RedriveFlags>(async ({ terminal, options, words }) => (await import('../sagas/run.ts')).redrive(terminal, options, words)))
}

function placed(command: Command): Command {
  return command
    .addOption(new Option('--url <place>', 'where the log is: postgres://…, mysql://…, or a SQLite file').env('HEADRACE_SAGA_URL'))
    .option('--json', 'JSON on standard output, one run a line')
}
