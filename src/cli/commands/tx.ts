/** `headrace tx`: what is in doubt in the databases, and ending it by the will of a person. */
import { type Command, Option } from 'commander'
import { act } from '../action.ts'
import { exitCodesHelp } from '../exit.ts'
import { address, lengthOfTime, wholeNumber } from '../flags.ts'
import { type DatabaseFlags, urlOption } from '../participants.ts'
import { defaultUrl } from '../remote.ts'
import type { StatsFlags } from '../transactions/stats.ts'
import type { ListFlags, ResolveFlags } from '../transactions/run.ts'

const help = `
A transaction over several databases is in doubt while a branch of it is prepared
in one of them and has not been ended. Recovery ends it by proof, within seconds
after its databases are back. A person is needed for two things only: bringing
databases back, and what somebody ended by hand otherwise than decided.

  undecided, unfinished  recovery has not come to it yet: nothing to do
  away                   a database of it does not answer: bring it back
  home-unknown           the database with its decision is not given here
  heuristic              ended by hand, otherwise than decided: compare the
                         databases, repair, then resolve it with 'forget'

The databases are those of an app file, or are given by name: a branch carries
the name that its database has in the app. What an app commits is decided in the
journal of its data directory, which is read there, beside a node that runs.

Examples:
  headrace tx ls app.ts
  headrace tx ls --url stock=postgres://db/shop --url wallet=mysql://db/wallet
  headrace tx ls app.ts --still-after 5s --json | jq '.doubts | length'
  headrace tx show shop_n1_1zk3f9q2x_04ht2b_2s app.ts
  headrace tx resolve shop_n1_1zk3f9q2x_04ht2b_2s forget app.ts
  headrace tx stats
`

const listHelp = `
Exit code 1 when something is in doubt, 3 when a database could not be asked.
A transaction that is under way shows for a moment; with --still-after only what
is there at both of two looks counts.
${exitCodesHelp}`

const resolveHelp = `
  commit, abort  end its prepared branches so. Refused while the database that
                 keeps its decision answers and says otherwise.
  forget         drop what is known about one that was ended by hand

Exit code 1 when it was refused, or is in doubt still.
${exitCodesHelp}`

const statsHelp = `
Reads /metrics of a running node, which counts the transactions of its process
since its start. Beside what was measured stands what the model says: a try over
databases that succeed with p1 … pn succeeds with their product.

Examples:
  headrace tx stats --url http://127.0.0.1:8080
  headrace tx stats --json | jq '.sets[] | {databases, measuredTry, predictedTry}'
${exitCodesHelp}`

export function addTx(program: Command): void {
  const group = program
    .command('tx')
    .description('transactions in doubt: list, show, resolve; how transactions went: stats')
    .addHelpText('after', help + exitCodesHelp)

  databases(group.command('ls').description('list transactions in doubt, oldest first').argument('[app]', 'the file of the app'))
    .option('--deployment <name>', 'only those of this deployment (all)')
    .option('--still-after <time>', 'look twice, this far apart, and list what is there both times', lengthOfTime)
    .addHelpText('after', listHelp)
    .action(
      act<ListFlags>(async ({ terminal, options, words: [app] }) =>
        (await import('../transactions/run.ts')).list(terminal, { ...options, ...named(app) }),
      ),
    )

  databases(
    group
      .command('show')
      .description('show the evidence about one')
      .argument('<gid>', 'as ls shows it')
      .argument('[app]', 'the file of the app'),
  )
    .addHelpText('after', exitCodesHelp)
    .action(
      act<DatabaseFlags>(async ({ terminal, options, words: [gid = '', app] }) =>
        (await import('../transactions/run.ts')).show(terminal, { ...options, ...named(app) }, gid),
      ),
    )

  databases(
    group
      .command('resolve')
      .description('end one by your will, or forget one that ended by hand')
      .argument('<gid>', 'as ls shows it')
      .argument('<verdict>', 'commit, abort or forget')
      .argument('[app]', 'the file of the app'),
  )
    .option('--yes', 'do it without being asked')
    .addHelpText('after', resolveHelp)
    .action(
      act<ResolveFlags>(async ({ terminal, options, words: [gid = '', verdict = '', app] }) =>
        (await import('../transactions/run.ts')).resolve(terminal, { ...options, ...named(app) }, gid, verdict),
      ),
    )

  group
    .command('stats')
    .description('how transactions went: what was measured beside what the model says')
    .addOption(new Option('--url <address>', 'the node to ask').env('HEADRACE_URL').default(defaultUrl).argParser(address))
    .option('--retries <n>', 'retries that the model allows: retriesMax of the coordinator', wholeNumber(0, 100), 5)
    .option('--json', 'as one JSON object')
    .addHelpText('after', statsHelp)
    .action(act<StatsFlags>(async ({ terminal, options }) => (await import('../transactions/stats.ts')).stats(terminal, options)))
}

function databases(command: Command): Command {
  return command
    .addOption(urlOption())
    .option('--data <folder>', 'the data directory of the app, whose journal decides (that of the app, or ./data)')
    .option('--json', 'as one JSON object')
}

const named = (app: string | undefined): DatabaseFlags => (app === undefined ? {} : { app })
