/** What `headrace queue ls` shows. */
import type { QueueTopic } from '../../contracts/queue.ts'
import { pause } from '../../std/backoff.ts'
import { CliError, exitCodes } from '../exit.ts'
import { type Align, count, counted, duration, table, type Terminal } from '../terminal.ts'
import { openTopics, type QueueFlags, withQueues } from './engine.ts'
import { type GroupRow, groupRows, type Look, look, type PartitionRow, partitionRows, type Rates, withAges } from './look.ts'

export interface ListFlags extends QueueFlags {
  readonly group?: readonly string[]
  readonly partitions?: boolean
  /** Between two looks, in milliseconds; 0 looks once, and tells no rates. */
  readonly interval: number
  readonly watch?: boolean
  /** Finds out by a look at messages how old they are, where the engine does not tell. */
  readonly ages?: boolean
}

/** Shortest time between two looks of `--watch`, in milliseconds. */
const watchMsMin = 100
const clearScreen = '\u001b[H\u001b[2J'

/** Resolves with the exit code. */
export function list(terminal: Terminal, flags: ListFlags, name: string | undefined): Promise<number> {
  const { interval, watch = false, group: only = [] } = flags
  if (watch && interval < watchMsMin)
    throw new CliError(exitCodes.usage, 'usage', `--watch needs an --interval of at least ${watchMsMin}ms.`)
  return withQueues(flags, async (engine) => {
    const topics = await openTopics(engine, name, only)
    await mustHave(topics, only)
    let before: Look | null = null
    let now = await look(engine, topics, only)
    for (;;) {
      if (interval > 0 && now.groups.length > 0) {
        await pause(interval)
        before = now
        now = await look(engine, topics, only)
      }
      const rows = partitionRows(engine, flags.ages === true ? await withAges(topics, now) : now, before)
      // In a pipe, one table comes after the other.
      if (watch && !terminal.json && process.stdout.isTTY) process.stdout.write(clearScreen)
      show(terminal, rows, flags.partitions === true)
      if (!watch || rows.length === 0) return exitCodes.ok
      terminal.print()
    }
  })
}

async function mustHave(topics: readonly QueueTopic[], only: readonly string[]): Promise<void> {
  const known = new Set((await Promise.all(topics.map((topic) => topic.groups()))).flat())
  const unknown = only.find((group) => !known.has(group))
  if (unknown === undefined) return
  throw new CliError(
    exitCodes.failed,
    'topic-unknown',
    `No topic there has a group '${unknown}'.`,
    known.size === 0 ? undefined : `There are ${[...known].sort().join(', ')}.`,
  )
}

function show(terminal: Terminal, rows: readonly PartitionRow[], perPartition: boolean): void {
  const groups = groupRows(rows)
  for (const row of perPartition ? rows : groups) terminal.document(row)
  if (rows.length === 0) {
    terminal.print('No topic was declared there.')
    return
  }
  const lines = perPartition ? partitionLines(terminal, rows) : groupLines(terminal, groups)
  for (const line of lines) terminal.print(line)
  const topics = new Set(rows.map(({ topic }) => topic)).size
  terminal.print()
  terminal.print(
    `${counted(topics, 'topic')}, ${counted(groups.length, 'group')}.${perPartition ? '' : ' --partitions shows them by partition.'}`,
  )
}

function groupLines(terminal: Terminal, rows: readonly GroupRow[]): string[] {
  return columnsOf<GroupRow>(terminal, rows, [
    ['topic', 'left', ({ topic }, index) => (rows[index - 1]?.topic === topic ? '' : topic)],
    ['group', 'left', ({ group }) => group],
    ...depthColumns(terminal),
    ...rateColumns(rows),
    [
      'consumed',
      'right',
      ({ leased, partitions, depth }) => {
        const text = `${leased}/${partitions}`
        return leased === 0 && depth > 0 ? terminal.style('red', text) : text
      },
    ],
    ['', 'left', (row) => remark(terminal, row, row.leased === 0)],
  ])
}

function partitionLines(terminal: Terminal, rows: readonly PartitionRow[]): string[] {
  return columnsOf<PartitionRow>(terminal, rows, [
    ['topic', 'left', ({ topic }, index) => (rows[index - 1]?.topic === topic ? '' : topic)],
    ['group', 'left', ({ topic, group }, index) => (rows[index - 1]?.topic === topic && rows[index - 1]?.group === group ? '' : group)],
    ['partition', 'right', ({ partition }) => String(partition)],
    ...depthColumns(terminal),
    ...rateColumns(rows),
    ['epoch', 'right', ({ epoch }) => (epoch === 0 ? '–' : String(epoch))],
    ['consumed', 'right', ({ leased, depth }) => (leased ? 'yes' : depth > 0 ? terminal.style('red', 'no') : 'no')],
    ['', 'left', (row) => remark(terminal, row, !row.leased)],
  ])
}

type Column<Row> = readonly [heading: string, align: Align, cell: (row: Row, index: number) => string]
type Depths = Pick<PartitionRow, 'depth' | 'delayed' | 'dead' | 'oldestAgeMs' | 'paused'>

function columnsOf<Row>(terminal: Terminal, rows: readonly Row[], columns: readonly Column<Row>[]): string[] {
  const heading = columns.map(([name]) => terminal.style('dim', name))
  const cells = rows.map((row, index) => columns.map(([, , cell]) => cell(row, index)))
  return table(
    [heading, ...cells],
    columns.map(([, align]) => align),
  )
}

const depthColumns = (terminal: Terminal): Column<Depths>[] => [
  ['depth', 'right', ({ depth }) => count(depth)],
  ['delayed', 'right', ({ delayed }) => count(delayed)],
  ['dead', 'right', ({ dead }) => (dead === 0 ? '0' : terminal.style('yellow', count(dead)))],
  ['oldest', 'right', ({ oldestAgeMs }) => (oldestAgeMs === null ? '–' : duration(oldestAgeMs))],
]

/** Rates in and out where the engine tells them; else how fast it grows; nothing after a single look. */
function rateColumns(rows: readonly Rates[]): Column<Rates>[] {
  if (rows.some(({ outPerSecond }) => outPerSecond !== null))
    return [
      ['in/s', 'right', ({ inPerSecond }) => rate(inPerSecond)],
      ['out/s', 'right', ({ outPerSecond }) => rate(outPerSecond)],
    ]
  if (rows.some(({ growthPerSecond }) => growthPerSecond !== null))
    return [['growth/s', 'right', ({ growthPerSecond: growth }) => `${growth !== null && growth > 0 ? '+' : ''}${rate(growth)}`]]
  return []
}

function rate(perSecond: number | null): string {
  if (perSecond === null) return '–'
  return Math.abs(perSecond) >= 10 || Number.isInteger(perSecond) ? count(perSecond) : perSecond.toFixed(1)
}

function remark(terminal: Terminal, { paused, depth }: Depths, unconsumed: boolean): string {
  if (paused === true) return terminal.style('yellow', 'paused')
  return unconsumed && depth > 0 ? terminal.style('red', 'nobody consumes it') : ''
}
