/** Shows what a node did in a run to a person: what was measured, and beside it what the models say. */
import { bytes, count, duration, percent, table, type Terminal } from '../terminal.ts'
import type { CacheFigures } from './cache-figures.ts'
import type { CacheSample } from './node-watch.ts'
import type { QueueFigures } from './queue-figures.ts'

type Row = readonly [name: string, measured: string, predicted: string, remark?: string]

export function printCache(terminal: Terminal, figures: CacheFigures, cache: CacheSample | null): void {
  const { measured, predicted, why, keys, ttlMs, room } = figures
  title(terminal, 'Cache', measured !== null)
  if (measured !== null) {
    print(terminal, [
      ['hit ratio', percent(measured.hitRatio), shown(predicted?.hitRatio, percent)],
      ['reads per second', count(measured.readsPerSecond), ''],
      ['loads per second', rate(measured.loadsPerSecond), shown(predicted?.loadsPerSecond, rate), 'what is left to the databases'],
      ['loads avoided per second', rate(measured.loadsAvoidedPerSecond), shown(predicted?.loadsAvoidedPerSecond, rate)],
      ['time of a load', duration(measured.loadMs), ''],
      ['answers made old per second', rate(measured.floorsRaisedPerSecond), '', 'by commands, through invalidates'],
    ])
    const facts = [
      keys === null ? '' : `${count(keys)} different keys`,
      ttlMs === null ? '' : `kept for ${duration(ttlMs)}`,
      room === null ? '' : `room for ${count(room)}`,
      cache === null ? '' : `${count(cache.entries)} there now (${bytes(cache.bytes)})`,
      measured.evictions === 0 ? '' : `${count(measured.evictions)} pushed out`,
    ]
    terminal.print(`  ${terminal.style('dim', facts.filter((fact) => fact !== '').join(', '))}`)
  }
  if (why !== null) terminal.print(`  ${measured === null ? '' : 'Not predicted. '}${why}`)
}

/** `closed`: each connection sent its next command when it had its answer. */
export function printQueue(terminal: Terminal, figures: QueueFigures, closed: boolean): void {
  const { measured, predicted, why, capacityPerSecond, batchTime, lanes, batchCommandsMax } = figures
  title(terminal, 'Queue', true)
  const full = `${lanes === 1 ? 'one lane' : `${lanes} lanes`}, batches of ${count(batchCommandsMax)}`
  print(terminal, [
    ['commands that came, per second', count(measured.arrivalPerSecond), ''],
    [
      'commands served, per second',
      count(measured.servedPerSecond),
      capacityPerSecond === null ? '' : `≤ ${count(capacityPerSecond)}`,
      capacityPerSecond === null ? 'small batches do not tell how many are possible' : full,
    ],
    ['commands in a batch', decimal(measured.batchCommands), shown(predicted?.batchCommands, decimal)],
    ['time of a batch', duration(measured.batchMs), batchTime === null ? '' : shown(predicted?.batchMs, duration), partsOf(batchTime)],
    ['its oldest command has waited', duration(measured.oldestWaitMs), shown(predicted?.oldestWaitMs, duration)],
    ['from the door to the outcome', duration(measured.totalMs), shown(predicted?.totalMs, duration)],
    ['commands in flight', decimal(measured.inFlight), shown(predicted?.inFlight, decimal)],
    ...(measured.queuedOnDisk === null || measured.queuedOnDisk === 0
      ? []
      : [['commands waiting on disk', decimal(measured.queuedOnDisk), ''] as const]),
  ])
  if (why !== null) terminal.print(`  Not predicted. ${why}`)
  else if (closed)
    terminal.print(
      `  ${terminal.style('dim', 'closed loop: commands come when answers do; the model takes them to come at random moments')}`,
    )
}

function title(terminal: Terminal, name: string, beside: boolean): void {
  terminal.print()
  terminal.print(
    `${terminal.style('bold', name)}${beside ? `  ${terminal.style('dim', 'what the node measured, and what the model says')}` : ''}`,
  )
}

function print(terminal: Terminal, rows: readonly Row[]): void {
  const dim = (text: string): string => terminal.style('dim', text)
  const heading = ['', dim('measured'), dim('predicted'), '']
  const lines = rows.map(([name, measured, predicted, remark = '']) => [name, measured, terminal.style('cyan', predicted), dim(remark)])
  for (const line of table([heading, ...lines], ['left', 'right', 'right'])) terminal.print(line)
}

function shown(value: number | undefined, as: (value: number) => string): string {
  return value === undefined ? '' : as(value)
}

function partsOf(time: QueueFigures['batchTime']): string {
  return time === null ? '' : `${duration(time.fixedMs)}, and ${duration(time.commandMs)} for each command`
}

/** Few of them with a decimal, many without. */
const rate = (value: number): string => (value < 100 ? decimal(value) : count(value))
const decimal = (value: number): string => (value < 100 ? value.toFixed(1) : count(value))
