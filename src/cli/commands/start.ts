/** `headrace start app.ts`: serves an app over HTTP until it is told to stop. */
import { type Command, Option } from 'commander'
import { limitTable } from '../../pipeline/options.ts'
import { edgeTable, serverTable } from '../../server/options.ts'
import { act } from '../action.ts'
import { exitCodesHelp } from '../exit.ts'
import { addLimitFlags, wholeNumber } from '../flags.ts'
import { logLevels } from '../log.ts'
import type { StartOptions } from '../serve-app.ts'

const help = `
The file exports an app: export default defineApp({ … }). TypeScript runs as it
is, without a build.

Every limit has a flag and an environment variable (--batch-commands-max and
HEADRACE_BATCH_COMMANDS_MAX); flags weigh more. A limit that the app sets in its
code cannot be changed from outside.

SIGTERM and SIGINT stop it gracefully: what is in flight is finished, new
commands are refused. A second signal stops it at once; that loses nothing that
was acknowledged.

Examples:
  headrace start app.ts
  headrace start app.ts --port 3000 --data /var/lib/shop
  headrace start app.ts --json --log-level warn >node.log
  headrace start app.ts --batch-commands-max 1024
  headrace start app.ts --queue amqp://queue.internal

Exit code 3 when it cannot start, 1 when it had to stop by itself.
${exitCodesHelp}`

const { port: portLimit, ...serverLimits } = serverTable
const limitTables = { 'Limits of the write path:': limitTable, 'Limits of the routes:': edgeTable, 'Limits of the server:': serverLimits }

export function addStart(program: Command): void {
  const command = program
    .command('start')
    .description('serve an app over HTTP')
    .argument('<app>', 'the file of the app, such as app.ts')
    .option('--host <address>', 'where to listen; 0.0.0.0 for all addresses (127.0.0.1)')
    .option('--port <n>', `${portLimit.about} (${portLimit.default})`, wholeNumber(portLimit.min, portLimit.max))
    .option('--data <folder>', 'where the journal and the databases live (./data)')
    .addOption(
      new Option(
        '--queue <url>',
        "queue that commands go through: amqp://…, postgres://… or sqlite:file; 'none' leaves the one used before (the data folder)",
      ).env('HEADRACE_QUEUE'),
    )
    .addOption(new Option('--log-level <level>', 'how much the log tells (warn; info with --json)').choices(logLevels))
    .addOption(
      new Option('--admin-token <token>', 'lets callers from other machines use /admin, with this token').env('HEADRACE_ADMIN_TOKEN'),
    )
    .option('--json', 'events and log as JSON lines on standard output')
    .addHelpText('after', help)
  for (const [heading, limits] of Object.entries(limitTables)) addLimitFlags(command, heading, limits)
  command.action(
    act<StartOptions>(async ({ terminal, options, words }) => (await import('../serve-app.ts')).start(terminal, options, words[0] ?? '')),
  )
}
