/**
 * Watches a node during a run through its /metrics: once before, now and then
 * while it goes on, once after. A node that does not answer there is not watched.
 */
import { type MetricSample, samplesIn } from '../metrics-text.ts'
import type { Transport } from './transport.ts'

/** What is kept of one scrape. Counters are sums over all commands and queries of the node. */
export interface NodeSample {
  /** On the monotonic clock, in milliseconds. */
  readonly at: number
  /** When the process of the node was started, in seconds since 1970: another one is another process. */
  readonly process: number
  readonly lanes: number
  readonly batchCommandsMax: number
  readonly taken: number
  readonly refused: number
  readonly commands: number
  readonly commandMs: number
  readonly batches: number
  readonly batchCommands: number
  readonly batchMs: number
  /** Batches by their time: up to so many milliseconds, how many; not cumulative. */
  readonly batchTimes: readonly (readonly [upToMs: number, batches: number])[]
  readonly oldestWaitMs: number
  readonly inFlight: number
  readonly queued: number
  readonly cache: CacheSample
}

export interface CacheSample {
  readonly hits: number
  readonly misses: number
  readonly sharedHits: number
  readonly joined: number
  readonly loads: number
  readonly loadMs: number
  readonly floorsRaised: number
  readonly evictions: number
  readonly entries: number
  readonly entriesMax: number
  readonly bytes: number
  readonly bytesMax: number
}

export interface Observation {
  readonly first: NodeSample
  readonly last: NodeSample
  /** Those between, in order. */
  readonly between: readonly NodeSample[]
}

/** Pause between two scrapes, in milliseconds. */
const everyMs = 250
/** Scrapes that are kept; past it every other one is dropped, and the pause doubled. */
const samplesMax = 400
/** Answers of the door that took nothing for want of room. */
const refusals = new Set(['overloaded', 'queue-full', 'queue-slow'])

export class NodeWatch {
  readonly #transport: Transport
  readonly #first: NodeSample
  #between: NodeSample[] = []
  #pauseMs = everyMs
  #timer: NodeJS.Timeout | undefined
  #scrape: Promise<void> = Promise.resolve()
  #over = false

  private constructor(transport: Transport, first: NodeSample) {
    this.#transport = transport
    this.#first = first
    this.#next()
  }

  /** Null when the node tells nothing, or is none of ours. */
  static async begin(transport: Transport): Promise<NodeWatch | null> {
    const first = await scrape(transport)
    return first === null ? null : new NodeWatch(transport, first)
  }

  /** Null when the node stopped telling. */
  async end(): Promise<Observation | null> {
    this.stop()
    await this.#scrape
    const last = await scrape(this.#transport)
    return last === null ? null : { first: this.#first, last, between: this.#between }
  }

  /** Looks no more. */
  stop(): void {
    this.#over = true
    clearTimeout(this.#timer)
  }

  #next(): void {
    if (this.#over) return
    this.#timer = setTimeout(() => {
      this.#scrape = this.#look().finally(() => this.#next())
    }, this.#pauseMs)
  }

  async #look(): Promise<void> {
    const sample = await scrape(this.#transport)
    if (sample === null) return
    this.#between.push(sample)
    if (this.#between.length < samplesMax) return
    this.#between = this.#between.filter((_, index) => index % 2 === 0)
    this.#pauseMs *= 2
  }
}

async function scrape(transport: Transport): Promise<NodeSample | null> {
  const at = performance.now()
  const reply = await transport.send('GET', '/metrics', [], null).catch(() => null)
  return reply?.status === 200 ? nodeSample(reply.body, (at + performance.now()) / 2) : null
}

/** What a scrape tells; null when it is none of a node of this version. */
export function nodeSample(text: string, at: number): NodeSample | null {
  const samples = samplesIn(text, 'headrace_')
  const lanes = sumOf(samples, 'headrace_lanes')
  if (lanes === 0) return null
  const cache = (name: string): number => sumOf(samples, `headrace_cache_${name}`)
  return {
    at,
    process: sumOf(samplesIn(text, 'process_start_time_seconds'), 'process_start_time_seconds'),
    lanes,
    batchCommandsMax: sumOf(samples, 'headrace_batch_commands_max'),
    taken: sumOf(samples, 'headrace_admissions_total', ({ answer }) => answer === 'taken'),
    refused: sumOf(samples, 'headrace_admissions_total', ({ answer = '' }) => refusals.has(answer)),
    commands: sumOf(samples, 'headrace_command_duration_seconds_count'),
    commandMs: sumOf(samples, 'headrace_command_duration_seconds_sum') * 1_000,
    batches: sumOf(samples, 'headrace_batch_size_commands_count'),
    batchCommands: sumOf(samples, 'headrace_batch_size_commands_sum'),
    batchMs: sumOf(samples, 'headrace_batch_duration_seconds_sum') * 1_000,
    batchTimes: bucketsOf(samples, 'headrace_batch_duration_seconds_bucket'),
    oldestWaitMs: sumOf(samples, 'headrace_queue_wait_seconds_sum') * 1_000,
    inFlight: sumOf(samples, 'headrace_in_flight_commands'),
    queued: sumOf(samples, 'headrace_queued_commands'),
    cache: {
      hits: sumOf(samples, 'headrace_cache_hits_total', ({ tier }) => tier === 'l1'),
      sharedHits: sumOf(samples, 'headrace_cache_hits_total', ({ tier }) => tier === 'shared'),
      misses: cache('misses_total'),
      joined: cache('joined_loads_total'),
      loads: cache('loads_total'),
      loadMs: cache('load_duration_seconds_sum') * 1_000,
      floorsRaised: cache('floors_raised_total'),
      evictions: cache('evictions_total'),
      entries: cache('entries'),
      entriesMax: cache('entries_max'),
      bytes: cache('bytes'),
      bytesMax: cache('bytes_max'),
    },
  }
}

/** The sum over all labels that count; a series that nothing was counted in yet is not there. */
function sumOf(samples: readonly MetricSample[], name: string, is: (labels: MetricSample['labels']) => boolean = () => true): number {
  let sum = 0
  for (const sample of samples) if (sample.name === name && is(sample.labels)) sum += sample.value
  return sum
}

function bucketsOf(samples: readonly MetricSample[], name: string): (readonly [number, number])[] {
  let below = 0
  return samples
    .filter((sample) => sample.name === name)
    .map(({ labels: { le = '' }, value }): readonly [number, number] => {
      const own = value - below
      below = value
      return [le === '+Inf' ? Infinity : Number(le) * 1_000, own]
    })
}
