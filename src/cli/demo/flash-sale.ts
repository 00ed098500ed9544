/**
 * The flash sale from beginning to end: start the server as its own process,
 * fill stock and wallets, send the orders, kill the server on the way, ask for
 * every outcome again, read the databases, judge.
 */
import { createRandom } from '../../std/random.ts'
import { CliError, exitCodes } from '../exit.ts'
import type { Answered } from '../load/answer.ts'
import { type LoadEnd, runLoad } from '../load/engine.ts'
import { bulkSender, singleSender } from '../load/sender.ts'
import { type LoadSummary, Tally } from '../load/tally.ts'
import { createTransport, type Transport } from '../load/transport.ts'
import { readSale, type SaleState } from './databases.ts'
import { inTurn, type Kill, Killer } from './killer.ts'
import { NodeProcess } from './node-process.ts'
import { openPlaces, type Places, startsServers } from './places.ts'
import { checkOutcomes, resolvePending } from './outcome-check.ts'
import { openQueuePlace, type QueuePlace, startsQueueServer } from './queue-place.ts'
import { orderId, orderInput, planSale, type SaleOptions, type SalePlan } from './plan.ts'
import { SaleRecord } from './record.ts'
import { judge, type Verdict } from './verdict.ts'

export interface FlashSaleOptions extends SaleOptions {
  /** The file of the app. */
  readonly app: string
  readonly dataDir: string
  readonly connections: number
  readonly kills: number
  /** Where the databases are; as `openPlaces` takes it. */
  readonly databases?: string
  readonly databaseKills: number
  /** The queue that orders go through; as `openQueuePlace` takes it. */
  readonly queue?: string
  readonly queueKills: number
  readonly signal: AbortSignal
}

/** What a watcher may show while it runs. */
export interface FlashSaleProgress {
  readonly tally: Tally
  readonly killer: Killer
  readonly databaseKiller: Killer
  readonly queueKiller: Killer
}

export interface FlashSaleSteps {
  started(node: NodeProcess, plan: SalePlan, readyMs: number, places: Places, queue: QueuePlace): void
  stocked(ms: number): void
  ordering(progress: FlashSaleProgress): void
  ordered(): void
  checking(): void
}

export interface FlashSaleResult {
  /** Still running. */
  readonly node: NodeProcess
  readonly places: Places
  readonly plan: SalePlan
  readonly verdict: Verdict
  readonly state: SaleState
  readonly load: LoadSummary
  readonly kills: readonly Kill[]
  readonly databaseKills: readonly Kill[]
  readonly queue: QueuePlace
  readonly queueKills: readonly Kill[]
}

/** Share of orders that are sent twice with the same Idempotency-Key. */
const repeatShare = 0.1
/** How long an order is sent again while the server is away, in milliseconds. */
const retryForMs = 120_000
const requestTimeoutMs = 60_000
const bulkLines = 500
const bulkConnections = 2

export async function runFlashSale(options: FlashSaleOptions, steps: FlashSaleSteps): Promise<FlashSaleResult> {
  const plan = planSale(options)
  const random = createRandom(options.seed)
  const crash = new AbortController()
  const signal = AbortSignal.any([options.signal, crash.signal])
  if (options.databaseKills > 0 && !startsServers(options.databases))
    throw new CliError(
      exitCodes.usage,
      'usage',
      'There is no database server that may be killed.',
      'Let the sale start its own: --databases postgres,mariadb',
    )
  if (options.queueKills > 0 && !startsQueueServer(options.queue))
    throw new CliError(
      exitCodes.usage,
      'usage',
      'There is no server of a queue that may be killed.',
      'Let the sale start its own: --queue rabbitmq',
    )
  const queue = await openQueuePlace(options.queue, options.dataDir)
  const places = await openPlaces(options.databases, options.app, options.dataDir).catch(async (error: unknown) => {
    await queue.close()
    throw error
  })
  const environment = { ...places.environment, ...(queue.url === null ? {} : { HEADRACE_QUEUE: queue.url }) }
  const node = new NodeProcess({ app: options.app, dataDir: options.dataDir, environment, onCrash: (error) => crash.abort(error) })
  let transport: Transport | null = null
  try {
    const readyMs = await node.start()
    steps.started(node, plan, readyMs, places, queue)
    transport = createTransport({ url: node.url, connections: options.connections, requestTimeoutMs })
    steps.stocked(await fill(transport, plan, signal))

    const record = new SaleRecord(plan.orders)
    const tally = new Tally()
    const killer = new Killer(node, options.kills, plan.orders, random.fork('kills'))
    const databaseKiller = new Killer(inTurn(places.servers), options.databaseKills, plan.orders, random.fork('database kills'))
    const queueKiller = new Killer(queue.server ?? inTurn([]), options.queueKills, plan.orders, random.fork('queue kills'))
    steps.ordering({ tally, killer, databaseKiller, queueKiller })
    const killers = [killer, databaseKiller, queueKiller]
    const end = await order({ transport, plan, record, tally, killers, signal, connections: options.connections, seed: options.seed })
    await Promise.all(killers.map((each) => each.settled()))
    steps.ordered()
    signal.throwIfAborted()

    steps.checking()
    const target = { transport, command: 'order.buy', connections: options.connections }
    await resolvePending(target, record)
    const outcomes = await checkOutcomes(target, plan, record, random.fork('outcomes'))
    const inDoubt = await places.inDoubt()
    const state = await readSale(places.read)
    const verdict = judge({ plan, record, state, outcomes, inDoubt, repeats: { sent: end.repeats.sent, different: end.repeats.different } })
    return {
      node,
      places,
      plan,
      verdict,
      state,
      load: tally.summary(end),
      kills: killer.kills,
      databaseKills: databaseKiller.kills,
      queue,
      queueKills: queueKiller.kills,
    }
  } catch (error) {
    await node.stop()
    await places.close()
    await queue.close()
    throw crash.signal.aborted ? crash.signal.reason : error
  } finally {
    await transport?.close()
  }
}

/** Puts stock and balances in place through the same write path as the orders, as NDJSON. */
async function fill(transport: Transport, plan: SalePlan, signal: AbortSignal): Promise<number> {
  const startedAt = performance.now()
  await putAll(
    transport,
    signal,
    'stock.put',
    plan.items.map(({ sku, price, stock }) => ({ sku, price, remaining: stock })),
  )
  await putAll(transport, signal, 'wallet.put', plan.wallets)
  return performance.now() - startedAt
}

async function putAll(transport: Transport, signal: AbortSignal, command: string, inputs: readonly object[]): Promise<void> {
  let refused: Answered | null = null
  await runLoad({
    sender: bulkSender(transport, { command }, bulkLines),
    next: (index) => JSON.stringify(inputs[index]),
    idOf: (index) => `put-${index}`,
    commandsMax: inputs.length,
    connections: bulkConnections,
    repeat: 0,
    random: createRandom(0),
    retryForMs,
    signal,
    onAnswer: (answered) => {
      if (answered.answer.kind !== 'committed') refused ??= answered
    },
  })
  signal.throwIfAborted()
  if (refused !== null)
    throw new CliError(
      exitCodes.failed,
      'fill-refused',
      `${command} was refused: ${(refused as Answered).answer.body || (refused as Answered).answer.code}`,
    )
}

interface Ordering {
  readonly transport: Transport
  readonly plan: SalePlan
  readonly record: SaleRecord
  readonly tally: Tally
  readonly killers: readonly Killer[]
  readonly signal: AbortSignal
  readonly connections: number
  readonly seed: number
}

function order({ transport, plan, record, tally, killers, signal, connections, seed }: Ordering): Promise<LoadEnd> {
  return runLoad({
    sender: singleSender(transport, { command: 'order.buy' }),
    next: (index) => JSON.stringify(orderInput(plan, index)),
    idOf: orderId,
    commandsMax: plan.orders,
    connections,
    repeat: repeatShare,
    random: createRandom(seed).fork('load'),
    retryForMs,
    signal,
    onAnswer: (answered) => {
      record.add(answered)
      tally.add(answered)
      if (!answered.job.repeat) for (const killer of killers) killer.answered(tally.answered)
    },
    onRetry: (answer) => tally.retry(answer),
  })
}
