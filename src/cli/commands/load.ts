/** `headrace load`: sends many commands to a running node and tells what became of them. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { type Command, Option } from 'commander'
import { createRandom, type Random } from '../../std/random.ts'
import { act } from '../action.ts'
import { importFile } from '../app-file.ts'
import { CliError, exitCodes, exitCodesHelp } from '../exit.ts'
import { address, lengthOfTime, share, wholeNumber } from '../flags.ts'
import { runLoad } from '../load/engine.ts'
import { ExpressionError } from '../load/expression.ts'
import { probe } from '../load/probe.ts'
import { printSummary } from '../load/report.ts'
import { bulkSender, type SenderOptions, singleSender } from '../load/sender.ts'
import { type Generator, generatorSource, lineSource, type NextInput, templateSource } from '../load/source.ts'
import { isClean, Tally } from '../load/tally.ts'
import { createTransport } from '../load/transport.ts'
import { showProgress } from '../progress.ts'
import { defaultUrl } from '../remote.ts'
import { count, counted, duration, type Terminal } from '../terminal.ts'

interface Options {
  readonly url: string
  readonly input?: string
  readonly generator?: string
  readonly from?: string
  readonly requests?: number
  readonly duration?: number
  readonly connections: number
  readonly rate?: number
  readonly repeat: number
  readonly bulk?: number | true
  readonly seed?: number
  readonly idPrefix?: string
  readonly retryFor: number
  readonly timeout: number
  readonly prefer?: string
  readonly tenant?: string
}

const help = `
Inputs come from one of
  --input      a JSON template. {i} counts the commands; a text may hold
               arithmetic and random choices:
               {i % 1000}  {random(1, 5)}  {zipf(100)}  {pick('a', 'b')}
  --generator  a module: export default (i, random) => ({ … }); null ends it
  --from       a file with one JSON input a line, or - for standard input

Without --rate each connection sends its next command when it has the answer
(closed loop). With --rate commands are due at fixed times, and latency counts
from then, also for those that had to wait for a slow answer (open loop).

Commands that got no answer, or 429 or 503, are sent again with the same
Idempotency-Key; the server applies each of them once.

Examples:
  headrace load order.buy --requests 20000 --input '{"sku":"sku-{zipf(10)}","buyer":"b{i % 1000}","quantity":"{random(1, 5)}"}'
  headrace load order.buy --generator orders.ts --duration 30s --rate 2000
  headrace load stock.put --from stock.ndjson --bulk
  generate | headrace load order.buy --from - --json | jq .throughput

Exit code 1 when a command failed, had a problem or no answer, or when a repeat
was answered otherwise. Rejections are answers like any other.
${exitCodesHelp}`

export function addLoad(program: Command): void {
  program
    .command('load')
    .description('send many commands and tell what became of them')
    .argument('<command>', 'the name of the command, such as order.buy')
    .addOption(new Option('--url <address>', 'the node').env('HEADRACE_URL').default(defaultUrl).argParser(address))
    .option('--input <template>', 'the input, as a JSON template')
    .option('--generator <file>', 'a module that makes the inputs')
    .option('--from <file>', 'a file of inputs, one a line; - is standard input')
    .option('-n, --requests <n>', 'how many commands (10000, unless --duration or --from say otherwise)', wholeNumber(1))
    .option('-d, --duration <time>', 'how long, such as 30s or 2m', lengthOfTime)
    .option('-c, --connections <n>', 'connections, each with one request at a time', wholeNumber(1, 10_000), 64)
    .option('-r, --rate <n>', 'commands per second, whatever the answers (open loop)', wholeNumber(1, 1_000_000))
    .option('--repeat <share>', 'share of commands that are sent twice with the same Idempotency-Key, such as 0.1', share, 0)
    .option('--bulk [lines]', 'send NDJSON, this many commands in a request (500)', wholeNumber(1, 1_000_000))
    .option('--seed <n>', 'seed of everything random in the inputs and the repeats', wholeNumber(0))
    .option('--id-prefix <text>', 'what the Idempotency-Keys begin with (random)')
    .option('--retry-for <time>', 'how long a command without an answer is sent again', lengthOfTime, 30_000)
    .option('--timeout <time>', 'longest wait for an answer', lengthOfTime, 60_000)
    .option('--prefer <value>', "the Prefer header, such as respond-async or 'wait=2'")
    .option('--tenant <name>', 'whose commands they are')
    .option('--json', 'the summary as one JSON object')
    .addHelpText('after', help)
    .action(act<Options>(async ({ terminal, options, words }) => load(terminal, options, words[0] ?? '')))
}

const defaultRequests = 10_000
const defaultBulk = 500

async function load(terminal: Terminal, options: Options, command: string): Promise<number> {
  const seed = options.seed ?? randomBytes(4).readUInt32BE()
  const random = createRandom(seed)
  const next = await sourceOf(options, random.fork('inputs'))
  const prefix = options.idPrefix ?? randomBytes(6).toString('base64url')
  const bulk = options.bulk === true ? defaultBulk : options.bulk
  const commandsMax = options.requests ?? (options.duration === undefined && options.from === undefined ? defaultRequests : undefined)

  const transport = createTransport({ url: options.url, connections: options.connections, requestTimeoutMs: options.timeout })
  const stop = new AbortController()
  const onSignal = (): void => (stop.signal.aborted ? process.exit(exitCodes.interrupted) : stop.abort())
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  try {
    await probe(transport, options.url, command)
    const target: SenderOptions = { command, prefer: options.prefer, tenant: options.tenant }
    const sender = bulk === undefined ? singleSender(transport, target) : bulkSender(transport, target, bulk)
    terminal.note(`${terminal.style('bold', command)} at ${options.url}: ${described(options, bulk)}, seed ${seed}`)
    const tally = new Tally()
    const progress = showProgress(terminal, 'sent', commandsMax ?? null, () => ({ done: tally.answered, p99Ms: tally.percentile(99), remark: tally.retries > 0 ? `${count(tally.retries)} sent again` : '' }))
    const end = await runLoad({
      sender,
      next,
      idOf: (index) => `${prefix}-${index}`,
      commandsMax,
      durationMs: options.duration,
      connections: options.connections,
      rate: options.rate,
      repeat: options.repeat,
      random,
      retryForMs: options.retryFor,
      signal: stop.signal,
      onAnswer: (answered) => tally.add(answered),
      onRetry: (answer) => tally.retry(answer),
    }).finally(() => progress.stop())
    const summary = tally.summary(end)
    const ok = isClean(summary)
    terminal.document({ ok, command, url: options.url, loop: options.rate === undefined ? 'closed' : 'open', connections: options.connections, rate: options.rate ?? null, bulk: bulk ?? null, seed, ...summary })
    printSummary(terminal, summary)
    if (stop.signal.aborted) return exitCodes.interrupted
    return ok ? exitCodes.ok : exitCodes.failed
  } catch (error) {
    if (error instanceof ExpressionError) throw new CliError(exitCodes.usage, 'input-template', `--input: ${error.message}`)
    throw error
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
    await transport.close()
  }
}

async function sourceOf({ input, generator, from }: Options, random: Random): Promise<NextInput> {
  const given = [input, generator, from].filter((source) => source !== undefined).length
  if (given !== 1) throw new CliError(exitCodes.usage, 'usage', given === 0 ? 'Where do the inputs come from?' : 'The inputs come from one place.', 'Give one of --input, --generator and --from.')
  if (input !== undefined) return templateOf(input, random)
  if (generator !== undefined) return generatorOf(generator, random)
  const file = from ?? '-'
  if (file !== '-' && !existsSync(file)) throw new CliError(exitCodes.usage, 'file-missing', `There is no file ${file}.`)
  return lineSource(file)
}

function templateOf(input: string, random: Random): NextInput {
  try {
    return templateSource(input, random)
  } catch (error) {
    if (error instanceof ExpressionError) throw new CliError(exitCodes.usage, 'input-template', `--input: ${error.message}`)
    throw error
  }
}

async function generatorOf(file: string, random: Random): Promise<NextInput> {
  const { default: exported, generate } = await importFile(file)
  const generator = exported ?? generate
  if (typeof generator !== 'function') throw new CliError(exitCodes.usage, 'generator-missing', `${file} exports no function.`, 'export default (i, random) => ({ … })')
  return generatorSource(generator as Generator, random)
}

function described({ rate, connections, duration: length, repeat }: Options, bulk: number | undefined): string {
  return [
    rate === undefined ? `closed loop, ${counted(connections, 'connection')}` : `open loop, ${count(rate)} a second over at most ${counted(connections, 'connection')}`,
    bulk === undefined ? '' : `${counted(bulk, 'command')} in a request`,
    length === undefined ? '' : `for ${duration(length)}`,
    repeat === 0 ? '' : `${Math.round(repeat * 100)} % sent twice`,
  ]
    .filter((part) => part !== '')
    .join(', ')
}
