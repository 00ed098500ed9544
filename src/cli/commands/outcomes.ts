/** `headrace outcomes get`: what became of a command. */
import { Option, type Command } from 'commander'
import { act } from '../action.ts'
import { CliError, exitCodes, exitCodesHelp } from '../exit.ts'
import { address } from '../flags.ts'
import { localOutcome } from '../journal-reader.ts'
import { askNodeJson, defaultUrl } from '../remote.ts'
import { table } from '../terminal.ts'

interface Options {
  readonly url: string
  readonly tenant?: string
  readonly data?: string
}

interface OutcomeDocument {
  readonly id: string
  readonly command: string
  readonly status: 'committed' | 'rejected' | 'failed' | 'pending'
  readonly position?: number
  readonly code?: string
  readonly detail?: string
  readonly result?: unknown
}

const help = `
Examples:
  headrace outcomes get order.buy k1
  headrace outcomes get order.buy k1 --json | jq .status
  headrace outcomes get order.buy k1 --data ./data     while no node runs there

Exit code 1 when the outcome is 'failed', or there is none.
${exitCodesHelp}`

export function addOutcomes(program: Command): void {
  const group = program.command('outcomes').description('look up what became of commands')
  group
    .command('get')
    .description('show the outcome of one command')
    .argument('<command>', 'the name of the command, such as order.buy')
    .argument('<id>', 'the Idempotency-Key it was sent with')
    .addOption(new Option('--url <address>', 'the node to ask').env('HEADRACE_URL').default(defaultUrl).argParser(address))
    .option('--tenant <name>', 'whose command it was')
    .option('--data <folder>', 'read this data directory instead of asking a node')
    .option('--json', 'the outcome document as it is stored')
    .addHelpText('after', help)
    .action(
      act<Options>(async ({ terminal, options, words }) => {
        const [command = '', id = ''] = words
        const outcome = options.data === undefined ? await ask(options, command, id) : await look(options.data, options, command, id)
        terminal.document(outcome)
        const style = outcome.status === 'committed' ? 'green' : outcome.status === 'failed' ? 'red' : 'yellow'
        const rows = [
          ['command', outcome.command],
          ['id', outcome.id],
          ['status', terminal.style(style, outcome.status)],
          ['position', outcome.position],
          ['code', outcome.code],
          ['detail', outcome.detail],
          ['result', outcome.result === undefined ? undefined : JSON.stringify(outcome.result)],
        ].filter((row): row is [string, string | number] => row[1] !== undefined)
        for (const line of table(rows.map(([name, value]) => [terminal.style('dim', name), String(value)]))) terminal.print(line)
        return outcome.status === 'failed' ? exitCodes.failed : exitCodes.ok
      }),
    )
}

function ask({ url, tenant }: Options, command: string, id: string): Promise<OutcomeDocument> {
  const headers = tenant === undefined ? {} : { 'headrace-tenant': tenant }
  return askNodeJson<OutcomeDocument>({ url }, 'GET', `/outcomes/${encodeURIComponent(command)}/${encodeURIComponent(id)}`, headers)
}

async function look(dataDir: string, { tenant = 'default' }: Options, command: string, id: string): Promise<OutcomeDocument> {
  const outcome = await localOutcome(dataDir, command, tenant, id)
  if (outcome === null)
    throw new CliError(exitCodes.failed, 'outcome-unknown', `${dataDir} has no outcome ${JSON.stringify(id)} of command '${command}'.`)
  return outcome as OutcomeDocument
}
