import { describe, expect, it } from 'vitest'
import { cacheFigures, type CacheRunGiven, fallsOf } from './cache-figures.ts'
import { type CacheSample, type NodeSample, nodeSample, type Observation } from './node-watch.ts'
import { queueFigures, type QueueRun } from './queue-figures.ts'

const scrape = `headrace_lanes 2
headrace_batch_commands_max 512
process_start_time_seconds 1700000000
headrace_admissions_total{command="order.buy",answer="taken"} 900
headrace_admissions_total{command="stock.put",answer="taken"} 100
headrace_admissions_total{command="order.buy",answer="joined"} 7
headrace_admissions_total{command="order.buy",answer="queue-full"} 30
headrace_command_duration_seconds_sum{command="order.buy",status="committed"} 4.5
headrace_command_duration_seconds_count{command="order.buy",status="committed"} 900
headrace_batch_size_commands_sum 1000
headrace_batch_size_commands_count 50
headrace_batch_duration_seconds_bucket{le="0.005"} 40
headrace_batch_duration_seconds_bucket{le="0.01"} 48
headrace_batch_duration_seconds_bucket{le="+Inf"} 50
headrace_batch_duration_seconds_sum 0.25
headrace_queue_wait_seconds_sum 0.1
headrace_in_flight_commands 5
headrace_queued_commands 11
headrace_cache_hits_total{tier="l1"} 80
headrace_cache_hits_total{tier="shared"} 4
headrace_cache_misses_total 20
headrace_cache_loads_total{ok="true"} 15
headrace_cache_loads_total{ok="false"} 1
headrace_cache_load_duration_seconds_sum{ok="true"} 0.03
headrace_cache_entries 12
headrace_cache_bytes 1200
headrace_cache_entries_max 1000000
headrace_cache_bytes_max 67108864
`

const noCache: CacheSample = {
  hits: 0,
  misses: 0,
  sharedHits: 0,
  joined: 0,
  loads: 0,
  loadMs: 0,
  floorsRaised: 0,
  evictions: 0,
  entries: 0,
  entriesMax: 1_000_000,
  bytes: 0,
  bytesMax: 1_000_000,
}

const empty: NodeSample = {
  at: 0,
  process: 1,
  lanes: 1,
  batchCommandsMax: 512,
  taken: 0,
  refused: 0,
  commands: 0,
  commandMs: 0,
  batches: 0,
  batchCommands: 0,
  batchMs: 0,
  batchTimes: [],
  oldestWaitMs: 0,
  inFlight: 0,
  queued: 0,
  cache: noCache,
}

/** A node that has run for `seconds` at a steady rate, in batches of 4 ms and so many commands. */
function ranFor(seconds: number, perSecond: number, more: Partial<NodeSample> = {}): NodeSample {
  const commands = seconds * perSecond
  const batches = seconds * 250
  return {
    ...empty,
    at: seconds * 1_000,
    taken: commands,
    commands,
    commandMs: commands * 6,
    batches,
    batchCommands: commands,
    batchMs: batches * 4,
    batchTimes: [
      [4, batches / 2],
      [5, batches / 2],
    ],
    oldestWaitMs: batches * 3.5,
    ...more,
  }
}

const watched = (last: NodeSample, between: readonly NodeSample[] = []): Observation => ({ first: empty, last, between })

describe('a scrape', () => {
  it('is read as sums over commands and labels, and is none of ours without lanes', () => {
    expect(nodeSample(scrape, 7)).toMatchObject({
      at: 7,
      process: 1_700_000_000,
      lanes: 2,
      taken: 1_000,
      refused: 30,
      commands: 900,
      commandMs: 4_500,
      batches: 50,
      batchCommands: 1_000,
      batchMs: 250,
      batchTimes: [
        [5, 40],
        [10, 8],
        [Infinity, 2],
      ],
      inFlight: 5,
      queued: 11,
      cache: { hits: 80, sharedHits: 4, misses: 20, loads: 16, loadMs: 30, entries: 12 },
    })
    expect(nodeSample('process_start_time_seconds 5\n', 7)).toBeNull()
  })
})

describe('the queue of a run', () => {
  const run: QueueRun = { rate: null, sentPerSecond: 5_000 }

  it('is measured per second and per batch, with what the model says beside it', () => {
    const figures = queueFigures(watched(ranFor(10, 5_000)), run)
    expect(figures?.measured).toMatchObject({
      arrivalPerSecond: 5_000,
      servedPerSecond: 5_000,
      batchCommands: 20,
      batchMs: 4,
      totalMs: 6,
      inFlight: 30,
    })
    // Busy all the time, with 20 commands a batch: they wait for half a batch, and are applied in one.
    expect(figures?.predicted?.totalMs).toBeGreaterThan(5.9)
    expect(figures?.predicted?.totalMs).toBeLessThan(6.3)
    expect(figures?.predicted?.oldestWaitMs).toBeCloseTo(4 - 1 / 5, 3)
    expect(figures?.predicted?.batchCommands).toBeCloseTo(20, 3)
    expect(figures).toMatchObject({ why: null, capacityPerSecond: null, batchTime: null })
  })

  it('says how many are possible only after batches that were large enough to tell', () => {
    const sizes = [10, 40, 100, 300]
    let last = empty
    const between = sizes.map((size, index) => {
      last = {
        ...last,
        at: (index + 1) * 1_000,
        taken: last.taken + size * 100,
        commands: last.commands + size * 100,
        batches: last.batches + 100,
        batchCommands: last.batchCommands + size * 100,
        batchMs: last.batchMs + 100 * (2 + size / 100),
      }
      return last
    })
    expect(queueFigures(watched(last, between), run)?.capacityPerSecond).toBeCloseTo(512_000 / 7.12, 3)
    const small = { ...last, batchCommandsMax: 10_000 }
    expect(queueFigures(watched(small, between), run)?.capacityPerSecond).toBeNull()
  })

  it('is not predicted under overload: refused, growing, or held back before the node', () => {
    const steady = ranFor(10, 5_000)
    const why = (last: NodeSample, between: readonly NodeSample[] = [], given = run): string =>
      ((figures) => `${figures?.predicted === null} ${figures?.why}`)(queueFigures(watched(last, between), given))
    expect(why({ ...steady, refused: 5_000 })).toMatch(/^true Overload: the node refused 9\.1 %/)
    const growing = { ...steady, taken: 80_000, queued: 30_000 }
    const looks = [
      { ...empty, at: 1_000, queued: 3_000 },
      { ...empty, at: 9_000, queued: 27_000 },
    ]
    expect(why(growing, looks)).toMatch(
      /^true Overload: 8,000 commands a second came, 5,000 were served\. The queue grew by 3,000 a second/,
    )
    expect(why(steady, [], { rate: 9_000, sentPerSecond: 5_000 })).toMatch(/^true Overload: 9,000 commands a second were due, and 5,000/)
    expect(why(steady, [], { rate: 5_100, sentPerSecond: 5_000 })).toBe('false null')
  })

  it('is not put together over a restart, and is nothing where nothing was applied', () => {
    expect(queueFigures(watched(ranFor(10, 5_000, { process: 2 })), run)).toMatchObject({
      predicted: null,
      why: expect.stringContaining('started again') as string,
    })
    expect(queueFigures(watched({ ...empty, at: 1_000 }), run)).toBeNull()
  })
})

describe('the cache of a run', () => {
  const cached = (cache: Partial<CacheSample>, more: Partial<NodeSample> = {}): Observation =>
    watched({ ...empty, at: 10_000, ...more, cache: { ...noCache, ...cache } })
  const drawn = Array.from({ length: 100 }, () => ({ reads: 100, writes: 0 }))

  it('is measured in this run alone, with what the model says beside it', () => {
    const figures = cacheFigures(cached({ hits: 9_890, misses: 110, joined: 10, loads: 100, loadMs: 200, entries: 100, bytes: 10_000 }), {
      reads: 10_000,
      drawn,
      ttlMs: 60_000,
    })
    expect(figures.measured).toMatchObject({ hitRatio: 0.989, loadsPerSecond: 10, loadsAvoidedPerSecond: 990, loadMs: 2 })
    expect(figures).toMatchObject({ keys: 100, room: 10_000, why: null })
    // A hundred keys, each loaded once; two milliseconds of a load are a fiftieth of a read.
    expect(figures.predicted?.loadsPerSecond).toBeCloseTo(10, 6)
    expect(figures.predicted?.hitRatio).toBeCloseTo(1 - (100 * 1.02) / 10_000, 6)
  })

  it('is not predicted where others asked too, where keys were not counted, or where nothing is cached', () => {
    const seen = cached({ hits: 9_000, misses: 1_000, loads: 1_000 })
    const why = (observation: Observation | null, given: Partial<CacheRunGiven>): string =>
      ((figures) => `${figures.predicted === null} ${figures.why}`)(
        cacheFigures(observation, { reads: 10_000, drawn, ttlMs: 60_000, ...given }),
      )
    expect(why(seen, { reads: 5_000 })).toMatch(/^true The node was asked 10000 times, this run asked 5000/)
    expect(why(seen, { drawn: null })).toMatch(/^true Too many different keys/)
    expect(why(seen, { ttlMs: null })).toMatch(/^true The query has no key/)
    expect(why(null, {})).toMatch(/^true The node tells nothing/)
    expect(why(cached({ hits: 1, misses: 1 }, { process: 9 }), {})).toMatch(/^true The node was started again/)
  })

  it('takes a key to fall once in a batch, however many commands of it write the key, and no oftener than was measured', () => {
    const keys = [
      { reads: 50, writes: 900 },
      { reads: 50, writes: 100 },
    ]
    const [hot, cold] = fallsOf(keys, 1_000, 100, 1_000) as [number, number]
    expect(hot).toBeCloseTo(100, 6)
    expect(cold).toBeCloseTo(100 * (1 - 0.9 ** 10), 6)
    const [fewer = 0, fewest = 0] = fallsOf(keys, (hot + cold) / 2, 100, 1_000)
    expect([fewer, fewest]).toEqual([expect.closeTo(hot / 2, 6), expect.closeTo(cold / 2, 6)])
    expect(fallsOf(keys, 0, 100, 1_000)).toEqual([0, 0])
    // Which keys the commands write is not known: what was measured is spread over the reads.
    expect(
      fallsOf(
        [
          { reads: 30, writes: 0 },
          { reads: 10, writes: 0 },
        ],
        8,
        5,
        50,
      ),
    ).toEqual([6, 2])
  })
})
