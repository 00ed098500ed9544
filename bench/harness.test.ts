import { mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { bench, type Comparison, comparison, format, inTurn, type Opening, recordLatencies, runBench, type Sample } from './harness.ts'

let directory: string
beforeEach(async () => {
  directory = await mkdtemp(path.join(tmpdir(), 'headrace-bench-'))
})
afterEach(() => rm(directory, { recursive: true, force: true }))

/** A contender that measures what it is told to, round by round; the first number is that of the warm-up. */
function told(numbers: readonly (number | Sample)[], log: string[] = [], name = ''): Opening {
  return () => ({
    run: async ({ index }) => {
      log.push(`${name}${index}`)
      return numbers[index + 1] as number | Sample
    },
    close: () => {
      log.push(`close ${name}`)
    },
  })
}

const run = (target: Comparison, options = {}) => runBench(bench('trial', { comparisons: [target] }), { directory, ...options })

describe('rounds', () => {
  test('run every contender in turn, beginning with another each time, after one that is not counted', async () => {
    const log: string[] = []
    const target = comparison({
      unit: 'things/s',
      contenders: { a: told([1, 1, 1, 1], log, 'a'), b: told([1, 1, 1, 1], log, 'b') },
      figures: [{ name: 'a', of: 'a' }],
    })
    const [figure] = await run(target, { rounds: 3 })
    expect(log).toEqual(['b-1', 'a-1', 'a0', 'b0', 'b1', 'a1', 'a2', 'b2', 'close a', 'close b'])
    expect(figure?.rounds).toBe(3)
  })

  test('turn so that each contender begins equally often', () => {
    expect([0, 1, 2, 3].map((round) => inTurn(['a', 'b', 'c'], round).join(''))).toEqual(['abc', 'bca', 'cab', 'abc'])
  })

  test('are five unless told otherwise, one in a quick run, and as many as the comparison says', async () => {
    const count = async (target: Partial<Comparison>, options: object): Promise<number | undefined> => {
      const contenders = { a: told(Array.from({ length: 20 }, () => 1)) }
      const [figure] = await run({ unit: '', contenders, figures: [{ name: 'a', of: 'a' }], ...target }, options)
      return figure?.rounds
    }
    expect(await count({}, {})).toBe(5)
    expect(await count({}, { quick: true })).toBe(1)
    expect(await count({ rounds: 7 }, {})).toBe(7)
    expect(await count({ rounds: 7 }, { rounds: 2 })).toBe(2)
    expect(await count({ rounds: 7 }, { quick: true })).toBe(1)
  })
})

describe('a figure', () => {
  test('of one contender is its median, with the smallest and the largest, and leaves the warm-up out', async () => {
    const target = comparison({
      unit: 'orders/s',
      contenders: { a: told([9_999, 30, 10, 20]) },
      figures: [{ name: 'rate', of: 'a', goal: { atLeast: 20 } }],
    })
    expect(await run(target, { rounds: 3 })).toEqual([
      { name: 'rate', value: 20, unit: 'orders/s', goal: 20, goalIs: 'at least', met: true, median: 20, min: 10, max: 30, rounds: 3 },
    ])
  })

  test('of two is the ratio of their medians, beside the spread of the ratios of their rounds', async () => {
    const target = comparison({
      unit: 'orders/s',
      contenders: { fast: told([0, 100, 200, 600]), slow: told([0, 10, 10, 20]) },
      figures: [{ name: 'over slow', ratio: ['fast', 'slow'], goal: { atLeast: 20.5 } }],
    })
    expect(await run(target, { rounds: 3 })).toEqual([
      { name: 'over slow', value: 20, unit: '×', goal: 20.5, goalIs: 'at least', met: false, median: 20, min: 10, max: 30, rounds: 3 },
    ])
    const drifting = comparison({
      unit: '',
      contenders: { fast: told([0, 10, 20, 90]), slow: told([0, 10, 30, 30]) },
      figures: [{ name: 'ratio', ratio: ['fast', 'slow'] }],
    })
    const [figure] = await run(drifting, { rounds: 3 })
    expect(figure?.value, 'medians 20 and 30').toBeCloseTo(2 / 3)
    expect(figure?.median, 'pairs 1, 2/3, 3').toBe(1)
  })

  test('may take another number than the value, and shows latencies where they were measured', async () => {
    const sample = (value: number, p99Ms: number): Sample => ({ value, p50Ms: p99Ms / 2, p99Ms, rssMb: value * 10 })
    const target = comparison({
      unit: 'requests/s',
      contenders: { http: told([sample(1, 1), sample(10, 60), sample(20, 20), sample(30, 40)]) },
      figures: [
        { name: 'rate', of: 'http' },
        { name: 'p99', of: 'http', take: 'p99Ms', unit: 'ms', goal: { atMost: 50 } },
        { name: 'memory', of: 'http', take: 'rssMb', unit: 'MB', goal: { atMost: 100 } },
      ],
    })
    expect(await run(target, { rounds: 3 })).toMatchObject([
      { name: 'rate', value: 20, unit: 'requests/s', goal: null, goalIs: null, met: null, p50Ms: 20, p99Ms: 40 },
      { name: 'p99', value: 40, unit: 'ms', goal: 50, goalIs: 'at most', met: true, min: 20, max: 60 },
      { name: 'memory', value: 200, unit: 'MB', met: false },
    ])
  })

  test('that names no contender, or takes what was not measured, is refused', async () => {
    const contenders = { a: told([1, 1]) }
    // @ts-expect-error the types refuse it too
    expect(() => comparison({ unit: '', contenders, figures: [{ name: 'x', of: 'b' }] })).toThrow("the figure 'x' names no contender: b")
    const target = comparison({ unit: '', contenders, figures: [{ name: 'x', of: 'a', take: 'p99Ms' }] })
    await expect(run(target, { rounds: 1 })).rejects.toThrow("takes 'p99Ms', which a did not measure")
  })
})

describe('a run', () => {
  test('gives each contender a directory of its own, and leaves nothing behind', async () => {
    const seen: string[] = []
    const open: Opening = async (workplace) => {
      await writeFile(path.join(workplace.directory, 'data'), 'x')
      seen.push(workplace.directory)
      return { run: async () => (await stat(path.join(workplace.directory, 'data'))).size }
    }
    await run(comparison({ unit: '', contenders: { 'one/two': open, three: open }, figures: [] }), { rounds: 1 })
    expect(new Set(seen).size).toBe(2)
    expect(await readdir(directory)).toEqual([])
  })

  test('that fails closes what it opened', async () => {
    const log: string[] = []
    const failing: Opening = () => ({ run: () => Promise.reject(new Error('the disk is full')) })
    const target = comparison({ unit: '', contenders: { a: told([1, 1], log, 'a'), b: failing }, figures: [] })
    await expect(run(target)).rejects.toThrow('the disk is full')
    expect(log).toContain('close a')
    expect(await readdir(directory)).toEqual([])
  })

  test('refuses what is no measurement', async () => {
    const target = comparison({ unit: '', contenders: { a: told([1, Number.NaN]) }, figures: [] })
    await expect(run(target)).rejects.toThrow('a measured no number')
  })

  test('stops before the next contender when it is interrupted', async () => {
    const interrupted = new AbortController()
    const log: string[] = []
    const stopping: Opening = () => ({
      run: async () => {
        interrupted.abort(new Error('interrupted'))
        return 1
      },
    })
    const target = comparison({ unit: '', contenders: { a: told([1, 1], log, 'a'), b: stopping }, figures: [] })
    await expect(run(target, { signal: interrupted.signal })).rejects.toThrow('interrupted')
    expect(log).toEqual(['close a'])
  })
})

test('latencies are recorded to a microsecond', () => {
  const latencies = recordLatencies()
  for (let ms = 1; ms <= 100; ms++) latencies.record(ms)
  const { p50Ms, p99Ms } = latencies.percentiles()
  expect(p50Ms).toBeCloseTo(50, 0)
  expect(p99Ms).toBeCloseTo(99, 0)
  const short = recordLatencies()
  short.record(0.004)
  expect(short.percentiles().p50Ms).toBe(0.004)
})

test('numbers are shown with three digits that mean something', () => {
  expect([0, 1234567, 123.456, 1.23456, 0.0123456, -2.5].map(format)).toEqual(['0', '1,234,567', '123', '1.23', '0.0123', '-2.5'])
})
