/** `headrace lock`: which locks are held and waited for, and taking one away. */
import { type Command, Option } from 'commander'
import { act } from '../action.ts'
import { exitCodesHelp } from '../exit.ts'
import { wholeNumber } from '../flags.ts'
import type { BreakFlags, LockFlags } from '../locks.ts'

const help = `
Where the locks are: redis://… (or rediss://), postgres://…, or the path of the
SQLite file. Looking changes nothing there.

Breaking a lock gives it to the next waiter, with a higher token. The old holder
is told at once if it can be reached, and at its next extension otherwise. Until
then only the guard in the database stops what it writes (docs/lock.md).

A password on a command line can be seen by others on the machine; one in the
environment variable HEADRACE_LOCK_URL cannot.

Examples:
  headrace lock ls --url redis://127.0.0.1:6379
  headrace lock ls --url ./locks.sqlite --json | jq -r 'select(.waiting > 100).key'
  headrace lock show sku:1 --url postgres://db/shop
  headrace lock break sku:1 --url redis://127.0.0.1:6379
  headrace lock break pool --id 'web1:4242:9f2c…/17' --url redis://127.0.0.1:6379
`

const breakHelp = `
Exit code 1 when nobody held it.
${exitCodesHelp}`

export function addLock(program: Command): void {
  const group = program
    .command('lock')
    .description('locks: list, show, break')
    .addHelpText('after', help + exitCodesHelp)

  placed(group.command('ls').description('list the locks that are held or waited for, by key'))
    .option('--max <n>', 'at most this many', wholeNumber(1, 100_000), 1_000)
    .addHelpText('after', exitCodesHelp)
    .action(
      act<LockFlags & { readonly max: number }>(async ({ terminal, options }) => (await import('../locks.ts')).list(terminal, options)),
    )

  placed(group.command('show').description('show who holds a lock').argument('<key>', 'as ls shows it'))
    .addHelpText('after', exitCodesHelp)
    .action(act<LockFlags>(async ({ terminal, options, words: [key = ''] }) => (await import('../locks.ts')).show(terminal, options, key)))

  placed(group.command('break').description('take a lock away from its holders').argument('<key>', 'as ls shows it'))
    .option('--id <id>', 'only from this holder, as show tells it')
    .option('--yes', 'do it without being asked')
    .addHelpText('after', breakHelp)
    .action(
      act<BreakFlags>(async ({ terminal, options, words: [key = ''] }) => (await import('../locks.ts')).breakOne(terminal, options, key)),
    )
}

function placed(command: Command): Command {
  return command
    .addOption(new Option('--url <place>', 'where the locks are: redis://…, postgres://…, or a SQLite file').env('HEADRACE_LOCK_URL'))
    .option('--prefix <text>', 'redis: what its keys begin with (headrace:lock:)')
    .option('--schema <name>', 'postgres: the schema of its tables (public)')
    .option('--json', 'JSON on standard output, one lock a line')
}
