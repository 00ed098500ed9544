/** `headrace dlq`: commands that failed for good, and what becomes of them. */
import { type Command, Option } from 'commander'
import { act } from '../action.ts'
import { localDeadLetters, type LetterDocument } from '../journal-reader.ts'
import { CliError, exitCodes, exitCodesHelp } from '../exit.ts'
import { address, wholeNumber } from '../flags.ts'
import { askNodeJson, defaultUrl } from '../remote.ts'
import { count, counted, duration, table, type Terminal } from '../terminal.ts'

interface Options {
  readonly url: string
  readonly adminToken?: string
  readonly data?: string
  readonly after?: number
  readonly limit?: number
}

const help = `
A command is dead-lettered when its code fails again and again while it runs
alone. Its outcome is 'failed'. Redrive queues it again, ahead of what waits
behind it; drop gives it up and lets its key go on.

Examples:
  headrace dlq ls
  headrace dlq show 1042
  headrace dlq redrive 1042              after you have corrected the app
  headrace dlq drop 1042
  headrace dlq ls --json | jq -r .position | xargs -n1 headrace dlq redrive
  headrace dlq ls --data ./data          while no node runs there
${exitCodesHelp}`

export function addDlq(program: Command): void {
  const group = program.command('dlq').description('dead letters: list, show, redrive, drop').addHelpText('after', help)

  reading(group.command('ls').description('list dead letters, oldest first'))
    .option('--after <position>', 'only those past this position', wholeNumber(0), 0)
    .option('--limit <n>', 'at most this many', wholeNumber(1, 1_000), 100)
    .action(act<Options>(async ({ terminal, options }) => list(terminal, options)))

  reading(
    group.command('show').description('show one dead letter, with its input and error').argument('<position>', 'as ls shows it'),
  ).action(act<Options>(async ({ terminal, options, words }) => show(terminal, options, position(words[0] ?? ''))))

  for (const verb of ['redrive', 'drop'] as const) {
    connected(group.command(verb).description(verb === 'redrive' ? 'queue dead letters again' : 'give dead letters up'))
      .argument('<position...>', 'as ls shows them')
      .action(act<Options>(async ({ terminal, options, words }) => change(terminal, options, verb, words.map(position))))
  }
}

function connected(command: Command): Command {
  return command
    .addOption(new Option('--url <address>', 'the node to ask').env('HEADRACE_URL').default(defaultUrl).argParser(address))
    .addOption(new Option('--admin-token <token>', 'as the node was started with').env('HEADRACE_ADMIN_TOKEN'))
    .option('--json', 'JSON on standard output, one line each')
    .addHelpText('after', exitCodesHelp)
}

function reading(command: Command): Command {
  return connected(command).option('--data <folder>', 'read this data directory instead of asking a node')
}

function position(text: string): number {
  const value = /^\d{1,16}$/.test(text) ? Number(text) : Number.NaN
  if (!Number.isSafeInteger(value))
    throw new CliError(exitCodes.usage, 'usage', `'${text}' is no position.`, 'headrace dlq ls shows the positions.')
  return value
}

async function list(terminal: Terminal, options: Options): Promise<number> {
  const { after = 0, limit = 100 } = options
  const { deadLetters, more } =
    options.data === undefined
      ? await askNodeJson<{ deadLetters: LetterDocument[]; more: boolean }>(
          options,
          'GET',
          `/admin/dead-letters?after=${after}&limit=${limit}`,
        )
      : await localDeadLetters(options.data, { after, limit })
  for (const letter of deadLetters) terminal.document(letter)
  if (deadLetters.length === 0) {
    terminal.print(after === 0 ? 'No dead letters.' : `No dead letters past ${after}.`)
    return exitCodes.ok
  }
  const rows = deadLetters.map((letter) => [
    String(letter.position),
    letter.command,
    letter.key,
    letter.id,
    letter.code,
    age(letter.diedAt),
    letter.blocks ? terminal.style('yellow', 'blocks its key') : '',
  ])
  const heading = ['position', 'command', 'key', 'id', 'code', 'age', ''].map((name) => terminal.style('dim', name))
  for (const line of table([heading, ...rows], ['right'])) terminal.print(line)
  terminal.print()
  terminal.print(
    more
      ? `The first ${count(deadLetters.length)}; go on with --after ${deadLetters.at(-1)?.position}.`
      : `${counted(deadLetters.length, 'dead letter')}. headrace dlq show <position> tells more.`,
  )
  return exitCodes.ok
}

async function show(terminal: Terminal, options: Options, at: number): Promise<number> {
  const letter =
    options.data === undefined
      ? await askNodeJson<LetterDocument>(options, 'GET', `/admin/dead-letters/${at}`)
      : await localLetter(options.data, at)
  terminal.document(letter)
  const rows = [
    ['command', letter.command],
    ['key', letter.key],
    ['id', letter.id],
    ['tenant', letter.tenant],
    ['position', String(letter.position)],
    ['accepted', new Date(letter.acceptedAt).toISOString()],
    ['failed', `${new Date(letter.diedAt).toISOString()}, after ${counted(letter.attempts, 'attempt')}`],
    ['its key', letter.blocks ? terminal.style('yellow', 'blocked until redrive or drop') : 'goes on'],
    ['error', `${terminal.style('red', letter.code)}  ${letter.message}`],
  ]
  for (const line of table(rows.map(([name = '', value = '']) => [terminal.style('dim', name), value]))) terminal.print(line)
  terminal.print()
  terminal.print(`  ${terminal.style('dim', 'input')}`)
  for (const line of JSON.stringify(letter.input, null, 2).split('\n')) terminal.print(`  ${line}`)
  return exitCodes.ok
}

async function localLetter(data: string, at: number): Promise<LetterDocument> {
  const { deadLetters } = await localDeadLetters(data, { after: at - 1, limit: 1 })
  const [letter] = deadLetters
  if (letter?.position !== at)
    throw new CliError(exitCodes.failed, 'dead-letter-unknown', `There is no dead letter at position ${at}.`, 'List them: headrace dlq ls.')
  return letter
}

async function change(terminal: Terminal, options: Options, verb: 'redrive' | 'drop', positions: readonly number[]): Promise<number> {
  let refused = 0
  for (const at of positions) {
    try {
      terminal.document(await askNodeJson(options, 'POST', `/admin/dead-letters/${at}/${verb}`))
      terminal.print(`${at}  ${verb === 'redrive' ? 'queued again' : 'dropped'}`)
    } catch (error) {
      if (!(error instanceof CliError) || error.code !== 'dead-letter-unknown') throw error
      refused += 1
      terminal.document({ position: at, error: { code: error.code, message: error.message } })
      terminal.print(`${at}  ${terminal.style('red', error.message)}`)
    }
  }
  return refused === 0 ? exitCodes.ok : exitCodes.failed
}

function age(at: number): string {
  return duration(Math.max(0, Date.now() - at))
}
