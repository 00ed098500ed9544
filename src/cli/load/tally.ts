/** Counts the answers of a load run, and their latency. */
import { build, type Histogram } from 'hdr-histogram-js'
import type { Answer, Answered, AnswerKind } from './answer.ts'
import type { LoadEnd } from './engine.ts'
import type { Difference, RepeatCounts } from './repeats.ts'

/** Counts by code, the most frequent first. */
export type CodeCounts = Readonly<Record<string, number>>

export interface Latency {
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly p999: number
  readonly max: number
  readonly mean: number
}

export interface HistogramBar {
  /** Upper end of the bar, in milliseconds. */
  readonly upToMs: number
  readonly count: number
}

export interface LoadSummary {
  readonly commands: number
  readonly elapsedMs: number
  /** Commands answered per second. */
  readonly throughput: number
  readonly answers: {
    readonly committed: number
    readonly rejected: CodeCounts
    readonly failed: CodeCounts
    readonly pending: number
    readonly problem: CodeCounts
    readonly transport: CodeCounts
  }
  /** Tries that were made again, by what was answered. */
  readonly retries: CodeCounts
  readonly repeats: Readonly<RepeatCounts>
  readonly differences: readonly Difference[]
  readonly latencyMs: Latency
  readonly histogram: readonly HistogramBar[]
}

/** The queries of a run. */
export interface ReadSummary {
  readonly query: string
  readonly requests: number
  readonly elapsedMs: number
  /** Queries answered per second. */
  readonly throughput: number
  readonly answers: { readonly answered: number; readonly problem: CodeCounts; readonly transport: CodeCounts }
  readonly retries: CodeCounts
  readonly latencyMs: Latency
  readonly histogram: readonly HistogramBar[]
}

/** Longest latency that is told apart, in microseconds: one hour. */
const latencyMaxUs = 3_600_000_000

/** Ends of the bars in milliseconds: 1, 2 and 5 of every decade. */
const barEndsMs = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 3_600_000]

export class Tally {
  readonly #histogram: Histogram = build({
    bitBucketSize: 32,
    lowestDiscernibleValue: 1,
    highestTrackableValue: latencyMaxUs,
    numberOfSignificantValueDigits: 3,
    useWebAssembly: false,
  })
  readonly #bars = new Array<number>(barEndsMs.length).fill(0)
  readonly #codes: Record<AnswerKind, Map<string, number>> = {
    committed: new Map(),
    rejected: new Map(),
    failed: new Map(),
    pending: new Map(),
    problem: new Map(),
    transport: new Map(),
  }
  readonly #retries = new Map<string, number>()
  #answered = 0

  /** Commands that have their last answer. */
  get answered(): number {
    return this.#answered
  }

  /** Answers of one kind. */
  count(kind: AnswerKind): number {
    let sum = 0
    for (const count of this.#codes[kind].values()) sum += count
    return sum
  }

  get retries(): number {
    let sum = 0
    for (const count of this.#retries.values()) sum += count
    return sum
  }

  /** Latency so far, in milliseconds. */
  percentile(percent: number): number {
    return this.#histogram.totalCount === 0 ? Number.NaN : this.#histogram.getValueAtPercentile(percent) / 1000
  }

  /** Repeats are not counted here: the engine compares them, and their answers, found ready, would flatter the latency. */
  add({ job, answer, answeredAt }: Answered): void {
    if (job.repeat) return
    this.#answered += 1
    increment(this.#codes[answer.kind], answer.code ?? answer.kind)
    // Without an answer there is no latency; the run counts it as transport.
    if (answer.kind === 'transport') return
    const ms = answeredAt - job.dueAt
    this.#histogram.recordValue(Math.min(latencyMaxUs, Math.max(1, Math.round(ms * 1000))))
    const bar = barEndsMs.findIndex((end) => ms <= end)
    this.#bars[bar === -1 ? barEndsMs.length - 1 : bar]! += 1
  }

  retry(answer: Answer): void {
    increment(this.#retries, answer.status === 0 ? (answer.code ?? 'unknown') : `${answer.status} ${answer.code ?? ''}`.trim())
  }

  /** Of a tally that was given the answers of queries. */
  readSummary(query: string, end: LoadEnd): ReadSummary {
    const { elapsedMs, throughput, answers, retries, latencyMs, histogram } = this.summary(end)
    const { committed: answered, problem, transport } = answers
    return { query, requests: end.queries, elapsedMs, throughput, answers: { answered, problem, transport }, retries, latencyMs, histogram }
  }

  summary(end: LoadEnd): LoadSummary {
    const used = this.#bars.map((count, index) => ({ upToMs: barEndsMs[index] as number, count }))
    const first = used.findIndex((bar) => bar.count > 0)
    const last = used.findLastIndex((bar) => bar.count > 0)
    const empty = this.#histogram.totalCount === 0
    return {
      commands: end.commands,
      elapsedMs: end.elapsedMs,
      throughput: end.elapsedMs === 0 ? 0 : (this.#answered - this.count('transport')) / (end.elapsedMs / 1000),
      answers: {
        committed: this.count('committed'),
        rejected: sorted(this.#codes.rejected),
        failed: sorted(this.#codes.failed),
        pending: this.count('pending'),
        problem: sorted(this.#codes.problem),
        transport: sorted(this.#codes.transport),
      },
      retries: sorted(this.#retries),
      repeats: end.repeats,
      differences: end.differences,
      latencyMs: {
        p50: this.percentile(50),
        p90: this.percentile(90),
        p99: this.percentile(99),
        p999: this.percentile(99.9),
        max: empty ? Number.NaN : this.#histogram.maxValue / 1000,
        mean: empty ? Number.NaN : this.#histogram.mean / 1000,
      },
      histogram: first === -1 ? [] : used.slice(first, last + 1),
    }
  }
}

/** Whether every command got an outcome, or was accepted, and no repeat was answered otherwise. */
export function isClean(summary: LoadSummary): boolean {
  const { failed, problem, transport } = summary.answers
  return total(failed) + total(problem) + total(transport) + summary.repeats.different === 0
}

/** Whether every query was answered. */
export function isReadClean({ answers: { problem, transport } }: ReadSummary): boolean {
  return total(problem) + total(transport) === 0
}

export function total(counts: CodeCounts): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0)
}

function increment(counts: Map<string, number>, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1)
}

function sorted(counts: ReadonlyMap<string, number>): CodeCounts {
  return Object.fromEntries([...counts].sort(([, a], [, b]) => b - a))
}
