/**
 * Where the command line writes.
 *
 * With --json, standard output carries JSON and nothing else; what people read
 * goes to standard error. Without it, results go to standard output and what
 * passes by (progress, notices) to standard error. Colours appear only on a
 * terminal, never with NO_COLOR (https://no-color.org) or TERM=dumb.
 */
import { stripVTControlCharacters } from 'node:util'

export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan'

const sequences: Readonly<Record<Style, readonly [string, string]>> = {
  bold: ['\u001b[1m', '\u001b[22m'],
  dim: ['\u001b[2m', '\u001b[22m'],
  red: ['\u001b[31m', '\u001b[39m'],
  green: ['\u001b[32m', '\u001b[39m'],
  yellow: ['\u001b[33m', '\u001b[39m'],
  cyan: ['\u001b[36m', '\u001b[39m'],
}

export interface Terminal {
  readonly json: boolean
  /** True when a person watches: standard error is a terminal. */
  readonly live: boolean
  readonly columns: number
  /** A line of the result, for people. */
  print(line?: string): void
  /** A line that passes by: progress, notices. */
  note(line: string): void
  /** One JSON document on a line of standard output; only with --json. */
  document(value: unknown): void
  style(style: Style, text: string): string
}

export interface TerminalStreams {
  readonly stdout: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number }
  readonly stderr: NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number }
  readonly environment: Readonly<Record<string, string | undefined>>
}

export function createTerminal(
  json: boolean,
  streams: TerminalStreams = { stdout: process.stdout, stderr: process.stderr, environment: process.env },
): Terminal {
  const { stdout, stderr, environment } = streams
  const results = json ? stderr : stdout
  const coloured = results.isTTY === true && !environment['NO_COLOR'] && environment['TERM'] !== 'dumb'
  return {
    json,
    live: stderr.isTTY === true,
    columns: results.columns ?? 100,
    print: (line = '') => void results.write(`${line}\n`),
    note: (line) => void stderr.write(`${line}\n`),
    document(value) {
      if (json) stdout.write(`${JSON.stringify(value)}\n`)
    },
    style: (style, text) => (coloured ? sequences[style].join(text) : text),
  }
}

/** How many columns a text takes; colours take none. */
export function widthOf(text: string): number {
  return [...stripVTControlCharacters(text)].length
}

export type Align = 'left' | 'right'

/** Rows as aligned columns with two spaces between them and an indent of two. */
export function table(rows: readonly (readonly string[])[], align: readonly Align[] = []): string[] {
  const widths: number[] = []
  for (const row of rows) {
    row.forEach((cell, column) => {
      widths[column] = Math.max(widths[column] ?? 0, widthOf(cell))
    })
  }
  return rows.map((row) => {
    const cells = row.map((cell, column) => {
      const gap = ' '.repeat((widths[column] ?? 0) - widthOf(cell))
      return align[column] === 'right' ? gap + cell : cell + gap
    })
    return `  ${cells.join('  ')}`.trimEnd()
  })
}

const whole = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })

/** 12,345 */
export function count(value: number): string {
  return whole.format(value)
}

/** 12 → "12 orders", 1 → "1 order". */
export function counted(value: number, one: string, many: string = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : many}`
}

/** Milliseconds as people read them: 8 µs, 0.82 ms, 12.0 ms, 3.4 s, 3 h 20 min, 5 d 2 h. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms)) return '–'
  if (ms >= 48 * 3_600_000) return `${Math.floor(ms / 86_400_000)} d ${Math.floor((ms % 86_400_000) / 3_600_000)} h`
  if (ms >= 2 * 3_600_000) return `${Math.floor(ms / 3_600_000)} h ${Math.floor((ms % 3_600_000) / 60_000)} min`
  if (ms >= 120_000) return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`
  if (ms < 0.1) return `${(ms * 1000).toFixed(0)} µs`
  return ms >= 100 ? `${ms.toFixed(0)} ms` : ms >= 10 ? `${ms.toFixed(1)} ms` : `${ms.toFixed(2)} ms`
}

/** 0.1234 → 12.3 % */
export function percent(share: number): string {
  return Number.isFinite(share) ? `${(share * 100).toFixed(1)} %` : '–'
}

export function bytes(value: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  let rest = value
  while (rest >= 1024 && unit < units.length - 1) {
    rest /= 1024
    unit += 1
  }
  return `${unit === 0 ? rest : rest.toFixed(rest >= 100 ? 0 : 1)} ${units[unit]}`
}

/** Cents as an amount: 123456 → 1,234.56 */
export function amount(cents: number): string {
  return `${cents < 0 ? '-' : ''}${whole.format(Math.floor(Math.abs(cents) / 100))}.${String(Math.abs(cents) % 100).padStart(2, '0')}`
}
