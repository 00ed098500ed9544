/** Runs the flash sale and shows it: what `headrace demo flash-sale` does. */
import { randomBytes } from 'node:crypto'
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { CliError, exitCodes } from '../exit.ts'
import { type Progress, showProgress } from '../progress.ts'
import { count, counted, duration, type Terminal } from '../terminal.ts'
import { type FlashSaleOptions, type FlashSaleResult, type FlashSaleSteps, runFlashSale } from './flash-sale.ts'
import { printInvitation, printVerdict, summaryOf } from './report.ts'

export interface FlashSaleFlags {
  readonly orders: number
  readonly skus: number
  readonly stock?: number
  readonly buyers: number
  readonly connections: number
  readonly kill: number
  readonly databases?: string
  readonly killDatabases: number
  readonly queue?: string
  readonly killQueue: number
  readonly seed?: number
  readonly data?: string
  readonly app: string
  readonly once?: boolean
}

/** Resolves with the exit code. */
export async function flashSale(terminal: Terminal, options: FlashSaleFlags): Promise<number> {
  const { path, temporary } = dataFolder(options.data)
  const interrupt = interruption()
  const sale: FlashSaleOptions = {
    app: resolve(options.app),
    seed: options.seed ?? randomBytes(4).readUInt32BE(),
    orders: options.orders,
    skus: options.skus,
    buyers: options.buyers,
    stock: options.stock ?? null,
    dataDir: path,
    connections: options.connections,
    kills: options.kill,
    ...(options.databases === undefined ? {} : { databases: options.databases }),
    databaseKills: options.killDatabases,
    ...(options.queue === undefined ? {} : { queue: options.queue }),
    queueKills: options.killQueue,
    signal: interrupt.signal,
  }
  let keep = !temporary
  try {
    const result = await runFlashSale(sale, show(terminal, sale))
    keep ||= !result.verdict.ok
    terminal.document(summaryOf(result))
    printVerdict(terminal, result, sale)
    if (options.once !== true && !interrupt.signal.aborted) await stayUp(terminal, result, interrupt.signal)
    await result.node.stop()
    await result.places.close()
    await result.queue.close()
    return result.verdict.ok ? exitCodes.ok : exitCodes.failed
  } catch (error) {
    if (interrupt.signal.aborted) return exitCodes.interrupted
    keep = true
    throw error
  } finally {
    if (!keep) rmSync(path, { recursive: true, force: true })
  }
}

async function stayUp(terminal: Terminal, result: FlashSaleResult, signal: AbortSignal): Promise<void> {
  printInvitation(terminal, result)
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve()
    else signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

function dataFolder(given: string | undefined): { readonly path: string; readonly temporary: boolean } {
  if (given === undefined) return { path: mkdtempSync(join(tmpdir(), 'headrace-flash-sale-')), temporary: true }
  const path = resolve(given)
  if (existsSync(path) && readdirSync(path).length > 0)
    throw new CliError(
      exitCodes.usage,
      'data-not-empty',
      `${path} is not empty: the sale counts from nothing.`,
      'Name a new folder, or remove this one.',
    )
  return { path, temporary: false }
}

/** The first signal ends the run, or the wait after it; a second one ends the process at once. */
function interruption(): { readonly signal: AbortSignal } {
  const controller = new AbortController()
  const heard = (): void =>
    controller.signal.aborted
      ? process.exit(exitCodes.interrupted)
      : controller.abort(new CliError(exitCodes.interrupted, 'interrupted', 'Interrupted.'))
  process.on('SIGINT', heard).on('SIGTERM', heard)
  return { signal: controller.signal }
}

/** What a person sees while the sale runs. */
function show(terminal: Terminal, sale: FlashSaleOptions): FlashSaleSteps {
  const line = (name: string, text: string): void => terminal.note(`  ${terminal.style('dim', name.padEnd(8))}  ${text}`)
  let progress: Progress | null = null
  let orderedAt = 0
  return {
    started(node, plan, readyMs, places, queue) {
      const units = plan.items.reduce((sum, item) => sum + item.stock, 0)
      terminal.note(
        terminal.style(
          'bold',
          `Flash sale: ${count(sale.orders)} orders by ${counted(sale.buyers, 'buyer')} for ${counted(sale.skus, 'SKU')} with ${counted(units, 'unit')}, seed ${sale.seed}`,
        ),
      )
      terminal.note('')
      line('server', `${node.url}, process ${node.pid}, ready after ${duration(readyMs)}`)
      line('data', places.about)
      if (queue.url !== null) line('queue', queue.about)
    },
    stocked: (ms) =>
      line('stock', `${counted(sale.skus, 'SKU')} and ${counted(sale.buyers, 'wallet')} put in place over NDJSON in ${duration(ms)}`),
    ordering({ tally, killer, databaseKiller, queueKiller }) {
      orderedAt = performance.now()
      const remark = (): string => {
        if (killer.down) return terminal.style('yellow', 'killed, starting again')
        if (databaseKiller.down) return terminal.style('yellow', 'database killed, starting again')
        if (queueKiller.down) return terminal.style('yellow', 'queue killed, starting again')
        const done = [
          ...(sale.kills === 0 ? [] : [`killed ${killer.kills.length} of ${sale.kills}`]),
          ...(sale.databaseKills === 0 ? [] : [`databases ${databaseKiller.kills.length} of ${sale.databaseKills}`]),
          ...(sale.queueKills === 0 ? [] : [`queue ${queueKiller.kills.length} of ${sale.queueKills}`]),
        ]
        return done.join(', ')
      }
      progress = showProgress(terminal, terminal.style('dim', 'orders  '), sale.orders, () => ({
        done: tally.answered,
        p99Ms: tally.percentile(99),
        remark: remark(),
      }))
    },
    ordered() {
      progress?.stop()
      line(
        'orders',
        `${count(sale.orders)} sent over ${counted(sale.connections, 'connection')} in ${duration(performance.now() - orderedAt)}`,
      )
    },
    checking: () => line('check', 'asking for every outcome again, then reading the databases'),
  }
}
