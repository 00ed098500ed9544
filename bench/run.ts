/**
 * `npm run bench -- NAME [--json] [--quick] [--rounds N]`
 *
 * With --json, standard output is one JSON object on one line and nothing else,
 * whatever the bench and its libraries print; all the rest goes to standard
 * error. A run that ends exits with 0, whether goals are met or not: `met` says
 * so. 1: the bench failed. 2: it was called wrongly.
 */
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import os from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { type Bench, type Figure, format, roundsDefault, runBench } from './harness.ts'

const here = fileURLToPath(new URL('.', import.meta.url))
const roundsMax = 1_000

const usage = `npm run bench -- NAME [--json] [--quick] [--rounds N]

  NAME         ${knownNames().join(', ') || '(there is no bench yet)'}
  --json       one JSON object on standard output
  --quick      a sanity run: one small round, its figures mean nothing
  --rounds N   counted rounds, 1 to ${roundsMax} (default: ${roundsDefault})
`

function knownNames(): string[] {
  return readdirSync(here)
    .filter((file) => file.endsWith('.bench.ts'))
    .map((file) => file.slice(0, -'.bench.ts'.length))
    .sort()
}

interface Call {
  readonly name: string
  readonly json: boolean
  readonly quick: boolean
  readonly rounds: number | undefined
}

function readCall(args: readonly string[]): Call {
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: { json: { type: 'boolean' }, quick: { type: 'boolean' }, rounds: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
    })
    if (values.help === true) {
      process.stdout.write(usage)
      process.exit(0)
    }
    const [name, ...more] = positionals
    if (name === undefined) throw new Error('Name a bench.')
    if (more.length > 0) throw new Error(`One bench at a time, not also ${more.join(' ')}.`)
    if (!knownNames().includes(name)) throw new Error(`There is no bench '${name}'.`)
    const rounds = values.rounds === undefined ? undefined : Number(values.rounds)
    if (rounds !== undefined && !(Number.isSafeInteger(rounds) && rounds >= 1 && rounds <= roundsMax)) {
      throw new Error(`--rounds is a whole number from 1 to ${roundsMax}, not '${values.rounds}'.`)
    }
    return { name, json: values.json ?? false, quick: values.quick ?? false, rounds }
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`)
    process.exit(2)
  }
}

function git(...args: string[]): string | null {
  try {
    return execFileSync('git', args, { cwd: here, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return null
  }
}

function environment(quick: boolean): Record<string, unknown> {
  const changes = git('status', '--porcelain')
  return {
    node: process.version,
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cpus: os.availableParallelism(),
    memoryGiB: Math.round((os.totalmem() / 2 ** 30) * 10) / 10,
    platform: `${process.platform} ${process.arch} ${os.release()}`,
    date: new Date().toISOString(),
    commit: git('rev-parse', 'HEAD'),
    changed: changes === null ? null : changes !== '',
    quick,
  }
}

function table(figures: readonly Figure[]): string {
  const header = ['figure', 'value', 'unit', 'goal', 'met', 'median', 'min', 'max', 'rounds', 'p50 ms', 'p99 ms']
  const rows = figures.map((each) => [
    each.name,
    format(each.value),
    each.unit,
    each.goal === null ? '' : `${each.goalIs === 'at least' ? '≥' : '≤'} ${format(each.goal)}`,
    each.met === null ? '' : each.met ? 'yes' : 'NO',
    format(each.median),
    format(each.min),
    format(each.max),
    String(each.rounds),
    each.p50Ms === undefined ? '' : format(each.p50Ms),
    each.p99Ms === undefined ? '' : format(each.p99Ms),
  ])
  const widths = header.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)))
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => (column === 0 || column === 2 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd()
  return [header, ...rows].map((row) => line(row)).join('\n')
}

async function main(): Promise<void> {
  const call = readCall(process.argv.slice(2))
  const interrupted = new AbortController()
  // The first signal ends the run after its round and closes what is open; a second one ends the process.
  process.once('SIGINT', () => interrupted.abort(new Error('interrupted')))
  process.once('SIGTERM', () => interrupted.abort(new Error('interrupted')))
  const write = process.stdout.write.bind(process.stdout)
  const print = (text: string): Promise<void> => new Promise((resolve) => write(text, () => resolve()))
  if (call.json) process.stdout.write = process.stderr.write.bind(process.stderr) as typeof process.stdout.write

  const loaded = (await import(`./${call.name}.bench.ts`)) as { readonly default?: Bench }
  if (loaded.default?.comparisons === undefined) throw new Error(`bench/${call.name}.bench.ts exports no bench as its default`)
  const figures = await runBench(loaded.default, {
    quick: call.quick,
    ...(call.rounds === undefined ? {} : { rounds: call.rounds }),
    signal: interrupted.signal,
    progress: (line) => process.stderr.write(`${line}\n`),
  })
  const about = environment(call.quick)
  if (call.json) await print(`${JSON.stringify({ bench: call.name, environment: about, figures })}\n`)
  else {
    const machine = `${about.cpus} × ${about.cpu}, ${about.platform}, Node ${about.node}`
    const commit = `commit ${about.commit ?? 'unknown'}${about.changed === true ? ' with changes' : ''}`
    const warning = call.quick ? 'A sanity run: these figures mean nothing.\n' : ''
    await print(`\n${call.name}: ${machine}, ${commit}\n${warning}\n${table(figures)}\n`)
  }
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`The bench failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
    process.exit(1)
  },
)
