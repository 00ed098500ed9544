/** Runs a load and shows it: what `headrace load` does. */
import { randomBytes } from 'node:crypto'
import { createRandom, type Random } from '../../std/random.ts'
import { CliError, exitCodes } from '../exit.ts'
import { showProgress } from '../progress.ts'
import { count, counted, duration, type Terminal } from '../terminal.ts'
import { cacheFigures } from './cache-figures.ts'
import { type LoadEnd, runLoad } from './engine.ts'
import { ExpressionError } from './expression.ts'
import { type InputFlags, sourceOf, templateOf } from './inputs.ts'
import { NodeWatch, type Observation } from './node-watch.ts'
import { type DescribedQuery, probe } from './probe.ts'
import { queueFigures } from './queue-figures.ts'
import { Reads } from './reads.ts'
import { printReads, printSummary } from './report.ts'
import { printCache, printQueue } from './report-node.ts'
import { bulkSender, mixedSender, querySender, type Sender, singleSender } from './sender.ts'
import type { NextInput } from './source.ts'
import { isClean, isReadClean, Tally } from './tally.ts'
import { createTransport, type Transport } from './transport.ts'

export interface LoadFlags extends InputFlags {
  readonly url: string
  readonly query?: string
  readonly queryInput?: string
  readonly queriesPerCommand?: number
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

/** What is sent, and in what order: so many queries after each command, or one of the two alone. */
interface Mix {
  readonly command: string | null
  readonly query: string | null
  /** Queries for each command; 0 without a query. */
  readonly perCommand: number
}

/** Resolves with the exit code. */
export async function load(terminal: Terminal, options: LoadFlags, command: string | null): Promise<number> {
  const mix = mixOf(options, command)
  const seed = options.seed ?? randomBytes(4).readUInt32BE()
  const random = createRandom(seed)
  const inputs = command === null ? null : await sourceOf(options, random.fork('inputs'))
  const parameters = mix.query === null ? null : await parametersOf(options, mix, random.fork('queries'))
  const prefix = options.idPrefix ?? randomBytes(6).toString('base64url')
  const bulk = options.bulk === true ? defaultBulk : options.bulk
  const requests = options.requests ?? (options.duration === undefined && options.from === undefined ? defaultRequests : undefined)
  const each = command === null ? 1 : 1 + mix.perCommand

  const connect = (connections: number): Transport => createTransport({ url: options.url, connections, requestTimeoutMs: options.timeout })
  // Looks at the node do not wait behind its load.
  const [transport, side] = [connect(options.connections), connect(1)]
  let watch: NodeWatch | null = null
  const stop = new AbortController()
  const onSignal = (): void => (stop.signal.aborted ? process.exit(exitCodes.interrupted) : stop.abort())
  process.on('SIGINT', onSignal).on('SIGTERM', onSignal)
  try {
    const described = await probe(side, options.url, { command, query: mix.query })
    const reads = described === null || parameters === null ? null : new Reads(described, parameters)
    // One is drawn on trial: what every query lacks is known before anything is sent.
    if (described !== null && options.from === undefined && options.generator === undefined)
      await new Reads(described, await parametersOf(options, mix, random.fork('trial'))).next(0)
    terminal.note(`${terminal.style('bold', named(mix))} at ${options.url}: ${saidOf(options, bulk, mix)}, seed ${seed}`)
    const [tally, readTally] = [new Tally(), new Tally()]
    const startedAt = performance.now()
    const elapsed = (): string =>
      options.duration === undefined ? '' : `${duration(performance.now() - startedAt)} of ${duration(options.duration)}`
    watch = await NodeWatch.begin(side)
    const progress = showProgress(terminal, 'sent', requests === undefined ? null : requests * each, () => ({
      done: tally.answered + readTally.answered,
      p99Ms: (command === null ? readTally : tally).percentile(99),
      remark: [elapsed(), tally.retries > 0 ? `${count(tally.retries)} sent again` : ''].filter((part) => part !== '').join('   '),
    }))
    const isQuery = (index: number): boolean => command === null || index % each !== 0
    const end = await runLoad({
      sender: senderOf(transport, options, mix, bulk),
      next: nextOf(inputs, reads, each, isQuery),
      idOf: (index) => `${prefix}-${Math.floor(index / each)}`,
      kindOf: (index) => (isQuery(index) ? 'query' : 'command'),
      commandsMax: requests === undefined ? undefined : requests * each,
      durationMs: options.duration,
      connections: options.connections,
      rate: options.rate === undefined ? undefined : options.rate * each,
      repeat: options.repeat,
      random,
      retryForMs: options.retryFor,
      signal: stop.signal,
      onAnswer: (answered) => (answered.job.kind === 'query' ? readTally : tally).add(answered),
      onRetry: (answer, { kind }) => (kind === 'query' ? readTally : tally).retry(answer),
    }).finally(() => progress.stop())
    const observation = (await watch?.end()) ?? null
    const ok = conclude(terminal, options, { mix, seed, bulk, end, tally, readTally, reads, described, observation })
    if (stop.signal.aborted) return exitCodes.interrupted
    return ok ? exitCodes.ok : exitCodes.failed
  } catch (error) {
    if (error instanceof ExpressionError) throw new CliError(exitCodes.usage, 'input-template', error.message)
    throw error
  } finally {
    process.off('SIGINT', onSignal).off('SIGTERM', onSignal)
    watch?.stop()
    await Promise.all([transport.close(), side.close()])
  }
}

interface Ended {
  readonly mix: Mix
  readonly seed: number
  readonly bulk: number | undefined
  readonly end: LoadEnd
  readonly tally: Tally
  readonly readTally: Tally
  readonly reads: Reads | null
  readonly described: DescribedQuery | null
  /** Null when the node tells nothing of itself. */
  readonly observation: Observation | null
}

/** Shows what became of a run; true when it was clean. */
function conclude(terminal: Terminal, options: LoadFlags, ended: Ended): boolean {
  const { mix, end, reads, observation } = ended
  const { command, query } = mix
  const summary = ended.tally.summary(end)
  const readSummary = query === null ? null : ended.readTally.readSummary(query, end)
  const sentPerSecond = (end.commands * 1_000) / end.elapsedMs
  const queue = observation === null || command === null ? null : queueFigures(observation, { rate: options.rate ?? null, sentPerSecond })
  const answered = ended.readTally.count('committed')
  const cache =
    reads === null ? null : cacheFigures(observation, { reads: answered, drawn: reads.drawn, ttlMs: ended.described?.ttlMs ?? null })
  const ok = isClean(summary) && (readSummary === null || isReadClean(readSummary))
  terminal.document({
    ok,
    command,
    query,
    queriesPerCommand: mix.perCommand,
    url: options.url,
    loop: options.rate === undefined ? 'closed' : 'open',
    connections: options.connections,
    rate: options.rate ?? null,
    bulk: ended.bulk ?? null,
    seed: ended.seed,
    ...summary,
    reads: readSummary,
    queue,
    cache,
  })
  if (command !== null) printSummary(terminal, summary)
  if (readSummary !== null) printReads(terminal, readSummary)
  if (queue !== null) printQueue(terminal, queue, options.rate === undefined)
  if (cache !== null) printCache(terminal, cache, observation?.last.cache ?? null)
  if (observation === null && command !== null) {
    terminal.print()
    terminal.print(`  ${options.url}/metrics tells nothing: only what was answered is shown.`)
  }
  return ok
}

function mixOf({ query, queryInput, queriesPerCommand, bulk }: LoadFlags, command: string | null): Mix {
  const usage = (message: string, hint: string): CliError => new CliError(exitCodes.usage, 'usage', message, hint)
  if (command === null && query === undefined)
    throw usage('What is to be sent?', 'Name a command, such as order.buy, or --query stock.left.')
  if (query === undefined && (queryInput !== undefined || queriesPerCommand !== undefined))
    throw usage('Which query?', 'Name it: --query stock.left.')
  if (query !== undefined && bulk !== undefined)
    throw usage('--bulk and --query do not go together.', 'Queries are asked one by one: run two loads side by side.')
  if (command === null && queriesPerCommand !== undefined) throw usage('For each of which commands?', 'Name one, such as order.buy.')
  return { command, query: query ?? null, perCommand: query === undefined || command === null ? 0 : (queriesPerCommand ?? 1) }
}

/** Where the parameters of queries come from: a template of their own, or what the inputs come from, drawn anew. */
async function parametersOf(options: LoadFlags, { command }: Mix, random: Random): Promise<NextInput> {
  if (options.queryInput !== undefined) return templateOf('--query-input', options.queryInput, random)
  if (command !== null && options.from !== undefined)
    throw new CliError(
      exitCodes.usage,
      'usage',
      'The lines of --from are the commands: where do the queries come from?',
      'Give --query-input.',
    )
  return sourceOf(options, random)
}

function senderOf(transport: Transport, { prefer, tenant }: LoadFlags, { command, query }: Mix, bulk: number | undefined): Sender {
  const queries = query === null ? null : querySender(transport, query)
  if (command === null) return queries as Sender
  const target = { command, prefer, tenant }
  const commands = bulk === undefined ? singleSender(transport, target) : bulkSender(transport, target, bulk)
  return queries === null ? commands : mixedSender(commands, queries)
}

/** What stands at each place of the mix; commands and queries are counted apart. */
function nextOf(inputs: NextInput | null, reads: Reads | null, each: number, isQuery: (index: number) => boolean): NextInput {
  if (inputs === null) return (index) => reads?.next(index) ?? null
  if (reads === null) return inputs
  const noted = (text: string | null): string | null => {
    if (text !== null) reads.wrote(text)
    return text
  }
  return (index) => {
    const command = Math.floor(index / each)
    if (isQuery(index)) return reads.next(index - command - 1)
    const input = inputs(command)
    return input instanceof Promise ? input.then(noted) : noted(input)
  }
}

function named({ command, query, perCommand }: Mix): string {
  if (command === null) return query ?? ''
  return query === null ? command : `${command} and ${count(perCommand)} × ${query}`
}

function saidOf({ rate, connections, duration: length, repeat }: LoadFlags, bulk: number | undefined, { command }: Mix): string {
  return [
    rate === undefined
      ? `closed loop, ${counted(connections, 'connection')}`
      : `open loop, ${counted(rate, command === null ? 'query' : 'command', command === null ? 'queries' : 'commands')} a second over at most ${counted(connections, 'connection')}`,
    bulk === undefined ? '' : `${counted(bulk, 'command')} in a request`,
    length === undefined ? '' : `for ${duration(length)}`,
    repeat === 0 ? '' : `${Math.round(repeat * 100)} % sent twice`,
  ]
    .filter((part) => part !== '')
    .join(', ')
}
