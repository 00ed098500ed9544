/** `headrace migrate`: makes the tables that transactions over several databases need. */
import type { Command } from 'commander'
import { act } from '../action.ts'
import { exitCodesHelp } from '../exit.ts'
import type { MigrateFlags } from '../migration.ts'
import type { ReleaseFlags } from '../release.ts'
import { gathered, urlOption } from '../participants.ts'

const help = `
Makes or upgrades Headrace's four tables in each PostgreSQL and MySQL database
of the app, runs the schema that the app gives for it, and then looks at what
would fail later: settings, rights, version. A second run changes nothing.
SQLite files are left out: the app makes their tables when it starts.

It needs an account that may create tables; the app itself needs much less
(docs/postgres.md and docs/mysql.md list the rights). Migrate with the one, then
look with the other: --check changes nothing.

A password on a command line can be seen by others on the machine; one that the
app file reads from the environment cannot.

Examples:
  headrace migrate app.ts
  STOCK_URL=postgres://admin@db/shop headrace migrate app.ts
  headrace migrate app.ts --url stock=postgres://admin@db/shop
  headrace migrate app.ts --check          as the account of the app
  headrace migrate app.ts --print --only stock >stock.sql
  headrace migrate --url stock=postgres://db/shop --url wallet=mysql://db/wallet

A database belongs to the data directory of the app that first wrote to it, whose
journal knows what was decided. When that is gone for good, --release lets the
next one have the database.

Exit code 1 when something must be put right, 3 when a database was not reached.
${exitCodesHelp}`

export function addMigrate(program: Command): void {
  program
    .command('migrate')
    .description("make or upgrade Headrace's tables in the databases of an app, and check them")
    .argument('[app]', 'the file of the app, such as app.ts; or one that exports databases')
    .addOption(urlOption())
    .option('--only <name>', 'only this database; may be given several times', gathered)
    .option('--print', 'show the SQL and change nothing; connects to nothing')
    .option('--check', 'only check; changes nothing')
    .option('--release', 'let another data directory take the databases; only when theirs is gone for good')
    .option('--yes', 'with --release: do it without being asked')
    .option('--json', 'what was done and found, as one JSON object')
    .addHelpText('after', help)
    .action(
      act<MigrateFlags & ReleaseFlags>(async ({ terminal, options, words: [file] }) =>
        options.release === true
          ? (await import('../release.ts')).release(terminal, options, file)
          : (await import('../migration.ts')).migrate(terminal, options, file),
      ),
    )
}
