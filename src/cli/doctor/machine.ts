/** Checks of the machine: Node, SQLite, open files, memory, clock. */
import { readFileSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { bytes, count } from '../terminal.ts'
import { type Finding, finding } from './finding.ts'

const nodeMin = [20, 20, 0] as const

export function checkNode(version: string = process.versions.node): Finding {
  const parts = version.split('.').map(Number)
  const difference = nodeMin.map((part, index) => (parts[index] ?? 0) - part).find((each) => each !== 0) ?? 0
  if (difference < 0) return finding('node', 'error', `Node ${version}`, `Install Node ${nodeMin.join('.')} or newer.`)
  return finding('node', 'ok', `Node ${version}`)
}

export async function checkSqlite(): Promise<Finding> {
  try {
    const { DatabaseSync } = await import('@photostructure/sqlite')
    const memory = new DatabaseSync(':memory:')
    const { version } = memory.prepare('select sqlite_version() as version').get() as { version: string }
    const options = (memory.prepare('pragma compile_options').all() as { compile_options: string }[]).map((row) => row.compile_options)
    memory.close()
    const threads = options.find((option) => option.startsWith('THREADSAFE='))?.slice('THREADSAFE='.length) ?? '1'
    if (threads === '0')
      return finding(
        'sqlite',
        'error',
        `SQLite ${version}, built for one thread only`,
        'Install the packages again, so that the driver brings its own SQLite.',
      )
    const sessions = options.includes('ENABLE_SESSION')
    if (!sessions)
      return finding(
        'sqlite',
        'error',
        `SQLite ${version}, without sessions`,
        'Install the packages again, so that the driver brings its own SQLite.',
      )
    return finding('sqlite', 'ok', `SQLite ${version}, safe with threads, with sessions`)
  } catch (error) {
    return finding(
      'sqlite',
      'error',
      `the driver does not load: ${error instanceof Error ? error.message.split('\n')[0] : String(error)}`,
      `Install the packages again on this machine (npm ci); they hold a binary for ${process.platform} ${process.arch}.`,
    )
  }
}

/** A connection and a file take one each; the server allows 10,000 connections. */
const filesWanted = 12_000
const filesMin = 1_024

export function checkOpenFiles(limits: string | null = readOrNull('/proc/self/limits')): Finding {
  const match = /^Max open files\s+(\d+|unlimited)\s+(\d+|unlimited)/m.exec(limits ?? '')
  if (match === null) return finding('open-files', 'info', 'this system does not tell its limit')
  const soft = match[1] === 'unlimited' ? Number.POSITIVE_INFINITY : Number(match[1])
  const found = soft === Number.POSITIVE_INFINITY ? 'unlimited' : `${count(soft)} allowed`
  if (soft < filesMin)
    return finding(
      'open-files',
      'error',
      found,
      `Raise it: ulimit -n ${filesWanted} before the start, or LimitNOFILE=${filesWanted} in the unit of systemd.`,
    )
  if (soft < filesWanted)
    return finding(
      'open-files',
      'warn',
      found,
      `Enough for about ${count(soft - 200)} connections; for more: ulimit -n ${filesWanted}, or LimitNOFILE=${filesWanted} in the unit of systemd.`,
    )
  return finding('open-files', 'ok', found)
}

const memoryMin = 512 * 1024 ** 2

/** Memory is bounded by the limits of the node; a control group may allow less than the machine has. */
export function checkMemory(
  total: number = Math.min(totalmem(), controlGroupMemory() ?? Number.POSITIVE_INFINITY),
  cores: number = availableParallelism(),
): Finding {
  const found = `${bytes(total)} of memory, ${count(cores)} ${cores === 1 ? 'core' : 'cores'}`
  if (total < memoryMin) return finding('memory', 'warn', found, 'Lower windowBytesMax, inFlightMax and outcomesMax, or give it 512 MiB.')
  return finding('memory', 'ok', found)
}

function controlGroupMemory(): number | null {
  const text = readOrNull('/sys/fs/cgroup/memory.max')?.trim()
  return text === undefined || text === 'max' || !/^\d+$/.test(text) ? null : Number(text)
}

/** Both clocks at one moment, in milliseconds. */
export interface ClockReading {
  readonly wall: number
  readonly monotonic: number
}

export function readClock(): ClockReading {
  return { wall: Date.now(), monotonic: performance.now() }
}

/** No version of Headrace is older than this. */
const wallMin = Date.UTC(2025, 0, 1)
const driftMsMax = 100

/** Retention and expiry of outcomes go by the wall clock: it must be about right, and not jump. `newestFile` is a time that has surely passed. */
export function checkClock(before: ClockReading, after: ClockReading, newestFile: number | null): Finding {
  const text = new Date(after.wall).toISOString()
  const drift = Math.round(after.wall - before.wall - (after.monotonic - before.monotonic))
  if (after.wall < wallMin)
    return finding('clock', 'error', `${text}, which is in the past`, 'Set the clock, and keep it with NTP (timedatectl set-ntp true).')
  if (newestFile !== null && newestFile > after.wall + 60_000)
    return finding(
      'clock',
      'warn',
      `${text}; the data was written at ${new Date(newestFile).toISOString()}`,
      'The clock was set back since. Outcomes are kept longer by that much; keep the clock with NTP.',
    )
  if (Math.abs(drift) > driftMsMax)
    return finding(
      'clock',
      'warn',
      `${text}; it jumped by ${count(drift)} ms just now`,
      'Something sets the clock in steps; let NTP slew it.',
    )
  return finding('clock', 'ok', text)
}

function readOrNull(file: string): string | null {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null
  }
}
