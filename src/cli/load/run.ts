/** Runs a load and shows it: what `headrace load` does. */
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { createRandom, type Random } from '../../std/random.ts'
import { importFile } from '../app-file.ts'
import { CliError, exitCodes } from '../exit.ts'
import { showProgress } from '../progress.ts'
import { count, counted, duration, type Terminal } from '../terminal.ts'
import { runLoad } from './engine.ts'
import { ExpressionError } from './expression.ts'
import { probe } from './probe.ts'
import { printSummary } from './report.ts'
import { bulkSender, type SenderOptions, singleSender } from './sender.ts'
import { type Generator, generatorSource, lineSource, type NextInput, templateSource } from './source.ts'
import { isClean, Tally } from './tally.ts'
import { createTransport } from './transport.ts'

export interface LoadFlags {
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

const defaultRequests = 10_000
const defaultBulk = 500

/** Resolves with the exit code. */
export async function load(terminal: Terminal, options: LoadFlags, command: string): Promise<number> {
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
    const startedAt = performance.now()
    const elapsed = (): string =>
      options.duration === undefined ? '' : `${duration(performance.now() - startedAt)} of ${duration(options.duration)}`
    const progress = showProgress(terminal, 'sent', commandsMax ?? null, () => ({
      done: tally.answered,
      p99Ms: tally.percentile(99),
      remark: [elapsed(), tally.retries > 0 ? `${count(tally.retries)} sent again` : ''].filter((part) => part !== '').join('   '),
    }))
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
    terminal.document({
      ok,
      command,
      url: options.url,
      loop: options.rate === undefined ? 'closed' : 'open',
      connections: options.connections,
      rate: options.rate ?? null,
      bulk: bulk ?? null,
      seed,
      ...summary,
    })
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

async function sourceOf({ input, generator, from }: LoadFlags, random: Random): Promise<NextInput> {
  const given = [input, generator, from].filter((source) => source !== undefined).length
  if (given !== 1)
    throw new CliError(
      exitCodes.usage,
      'usage',
      given === 0 ? 'Where do the inputs come from?' : 'The inputs come from one place.',
      'Give one of --input, --generator and --from.',
    )
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
  if (typeof generator !== 'function')
    throw new CliError(exitCodes.usage, 'generator-missing', `${file} exports no function.`, 'export default (i, random) => ({ … })')
  return generatorSource(generator as Generator, random)
}

function described({ rate, connections, duration: length, repeat }: LoadFlags, bulk: number | undefined): string {
  return [
    rate === undefined
      ? `closed loop, ${counted(connections, 'connection')}`
      : `open loop, ${count(rate)} a second over at most ${counted(connections, 'connection')}`,
    bulk === undefined ? '' : `${counted(bulk, 'command')} in a request`,
    length === undefined ? '' : `for ${duration(length)}`,
    repeat === 0 ? '' : `${Math.round(repeat * 100)} % sent twice`,
  ]
    .filter((part) => part !== '')
    .join(', ')
}
