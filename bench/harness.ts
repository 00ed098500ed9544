/**
 * The frame of every bench: contenders that run in turn, round by round, and
 * figures drawn from what they measured.
 *
 * What must hold, so that two figures of one run may be compared:
 *
 * - Contenders are interleaved: every round runs each of them once, and the one
 *   that begins changes with the round, so that none always runs on a warm disk.
 * - One round before the first is run and thrown away.
 * - A figure is a median over rounds, with its smallest and largest value. A
 *   ratio is the ratio of the medians, beside it the spread of the ratios of
 *   the single rounds: when the two disagree, the run was not quiet.
 *
 * A file bench/NAME.bench.ts exports a bench as its default:
 *
 *     export default bench('embedded', {
 *       comparisons: [
 *         comparison({
 *           unit: 'orders/s',
 *           contenders: { headrace: openHeadrace, single: openSingle },
 *           figures: [{ name: 'over one transaction per order', ratio: ['headrace', 'single'], goal: { atLeast: 20 } }],
 *         }),
 *       ],
 *     })
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import path from 'node:path'
import { performance } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { build } from 'hdr-histogram-js'
import { type Goal, goalNumber, isMet, pairRatios, spread } from './statistics.ts'

export interface Round {
  /** From 0; -1 is the round that is not counted. */
  readonly index: number
  /** True in a sanity run: do just enough to see that it works. */
  readonly quick: boolean
  /** Aborts when the run is interrupted. */
  readonly signal: AbortSignal
}

/** What one round of one contender measured. `value` is what figures take by default; other names are for figures that ask for them. */
export type Sample = Readonly<Record<string, number>> & { readonly value: number; readonly p50Ms?: number; readonly p99Ms?: number }

export interface Contender {
  /** One round of work. A number stands for `{ value }`. */
  run(round: Round): Promise<Sample | number>
  close?(): Promise<void> | void
}

export interface Workplace {
  /** An empty directory of this contender, on the disk of the repository (a temporary file system would make fsync free). Deleted after the run. */
  readonly directory: string
  readonly quick: boolean
  readonly signal: AbortSignal
}

/** Opens a contender before the first round; what it opens is closed after the last. */
export type Opening = (workplace: Workplace) => Promise<Contender> | Contender

interface FigureBase {
  readonly name: string
  /** Which number of the samples. Default: 'value'. */
  readonly take?: string
  readonly goal?: Goal
}

/** A figure of one contender, or the ratio of one to another. */
export type FigureOptions<Name extends string> =
  | (FigureBase & { readonly of: Name; readonly unit?: string })
  | (FigureBase & { readonly ratio: readonly [Name, Name] })

export interface Comparison<Name extends string = string> {
  /** The unit of `value`. */
  readonly unit: string
  readonly contenders: Readonly<Record<Name, Opening>>
  readonly figures: readonly FigureOptions<NoInfer<Name>>[]
  /** Rounds of this comparison, where one takes long. Default: those of the run. */
  readonly rounds?: number
}

export interface Bench {
  readonly name: string
  readonly comparisons: readonly Comparison[]
}

export interface Figure {
  readonly name: string
  readonly value: number
  readonly unit: string
  readonly goal: number | null
  /** Whether the goal is a floor or a ceiling; null without a goal. */
  readonly goalIs: 'at least' | 'at most' | null
  readonly met: boolean | null
  readonly median: number
  readonly min: number
  readonly max: number
  readonly rounds: number
  readonly p50Ms?: number
  readonly p99Ms?: number
}

export interface RunOptions {
  /** Counted rounds. Default: 5, and 1 in a quick run. */
  readonly rounds?: number
  readonly quick?: boolean
  readonly signal?: AbortSignal
  /** Where contenders get their directories. Default: .cache/bench of the repository. */
  readonly directory?: string
  /** Hears of each finished round. */
  readonly progress?: (line: string) => void
}

export const roundsDefault = 5
const quickRounds = 1

export function bench(name: string, definition: { readonly comparisons: readonly Comparison[] }): Bench {
  return { name, comparisons: definition.comparisons }
}

/** Checks that figures name contenders of the comparison, at compile time and at run time. */
export function comparison<Name extends string>(definition: Comparison<Name>): Comparison {
  for (const figure of definition.figures) {
    for (const name of 'ratio' in figure ? figure.ratio : [figure.of]) {
      if (!Object.hasOwn(definition.contenders, name)) throw new Error(`the figure '${figure.name}' names no contender: ${name}`)
    }
  }
  return definition as unknown as Comparison
}

/** Runs every comparison, one after the other, and returns their figures in order. */
export async function runBench(target: Bench, options: RunOptions = {}): Promise<Figure[]> {
  const figures: Figure[] = []
  for (const each of target.comparisons) figures.push(...(await compare(target.name, each, options)))
  return figures
}

interface Entrant {
  readonly name: string
  readonly contender: Contender
  readonly samples: Sample[]
}

async function compare(name: string, target: Comparison, options: RunOptions): Promise<Figure[]> {
  const quick = options.quick ?? false
  const rounds = options.rounds ?? (quick ? quickRounds : (target.rounds ?? roundsDefault))
  const signal = options.signal ?? new AbortController().signal
  const parent = options.directory ?? fileURLToPath(new URL('../.cache/bench', import.meta.url))
  await mkdir(parent, { recursive: true })
  const base = await mkdtemp(path.join(parent, `${name}-`))
  const opened: Entrant[] = []
  try {
    for (const [contenderName, open] of Object.entries(target.contenders)) {
      const directory = path.join(base, contenderName.replace(/[^\w-]+/g, '-'))
      await mkdir(directory)
      opened.push({ name: contenderName, contender: await open({ directory, quick, signal }), samples: [] })
    }
    for (let index = -1; index < rounds; index++) {
      for (const each of inTurn(opened, index)) {
        signal.throwIfAborted()
        // What one contender left on the heap is not to be collected in the time of the next.
        globalThis.gc?.()
        const measured = await each.contender.run({ index, quick, signal })
        const sample = typeof measured === 'number' ? { value: measured } : measured
        if (!Number.isFinite(sample.value)) throw new Error(`${each.name} measured no number: ${sample.value}`)
        if (index >= 0) each.samples.push(sample)
        options.progress?.(
          `${index < 0 ? 'warm-up' : `round ${index + 1}/${rounds}`}  ${each.name}  ${format(sample.value)} ${target.unit}`,
        )
      }
    }
  } finally {
    const closings = await Promise.allSettled(opened.map(async (each) => each.contender.close?.()))
    await rm(base, { recursive: true, force: true })
    for (const each of closings) if (each.status === 'rejected') options.progress?.(`closing failed: ${String(each.reason)}`)
  }
  const samples = new Map(opened.map((each) => [each.name, each.samples]))
  return target.figures.map((figure) => draw(figure, target.unit, samples))
}

/** The same contenders, beginning with another one each round. */
export function inTurn<T>(contenders: readonly T[], round: number): T[] {
  const first = (round + contenders.length) % contenders.length
  return [...contenders.slice(first), ...contenders.slice(0, first)]
}

function draw(figure: FigureOptions<string>, unit: string, samples: ReadonlyMap<string, readonly Sample[]>): Figure {
  const take = figure.take ?? 'value'
  const of = (name: string, key: string): number[] =>
    (samples.get(name) ?? []).map((sample) => {
      const number = sample[key]
      if (number === undefined) throw new Error(`the figure '${figure.name}' takes '${key}', which ${name} did not measure`)
      return number
    })
  const subject = 'ratio' in figure ? figure.ratio[0] : figure.of
  const values = of(subject, take)
  const measured = spread(values)
  const ratio = 'ratio' in figure ? of(figure.ratio[1], take) : null
  const value = ratio === null ? measured.median : measured.median / spread(ratio).median
  const first = samples.get(subject)?.[0]
  const goal = figure.goal ?? null
  return {
    name: figure.name,
    value,
    unit: 'ratio' in figure ? '×' : (figure.unit ?? unit),
    goal: goal === null ? null : goalNumber(goal),
    goalIs: goal === null ? null : 'atLeast' in goal ? 'at least' : 'at most',
    met: goal === null ? null : isMet(value, goal),
    ...(ratio === null ? measured : spread(pairRatios(values, ratio))),
    rounds: values.length,
    ...(first?.p50Ms === undefined ? {} : { p50Ms: spread(of(subject, 'p50Ms')).median }),
    ...(first?.p99Ms === undefined ? {} : { p99Ms: spread(of(subject, 'p99Ms')).median }),
  }
}

/** Three digits that mean something, and no exponent. */
export function format(value: number): string {
  if (!Number.isFinite(value)) return String(value)
  const digits = value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))))
  return value.toLocaleString('en-US', { maximumFractionDigits: Math.min(digits, 6) })
}

/** Latencies of one round. */
export interface Latencies {
  record(ms: number): void
  /** To spread into a sample. */
  percentiles(): { readonly p50Ms: number; readonly p99Ms: number }
}

const latencyUsMax = 600_000_000

/** Records latencies to a microsecond, up to ten minutes. */
export function recordLatencies(): Latencies {
  const histogram = build({ lowestDiscernibleValue: 1, highestTrackableValue: latencyUsMax, numberOfSignificantValueDigits: 3 })
  return {
    record: (ms) => histogram.recordValue(Math.min(latencyUsMax, Math.max(1, Math.round(ms * 1_000)))),
    percentiles: () => ({ p50Ms: histogram.getValueAtPercentile(50) / 1_000, p99Ms: histogram.getValueAtPercentile(99) / 1_000 }),
  }
}

/** Runs `work`, which did `count` things, and returns how many of them were done in a second. */
export async function perSecond(count: number, work: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  await work()
  return count / ((performance.now() - started) / 1_000)
}
