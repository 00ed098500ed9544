import fc from 'fast-check'
import { Counter, Histogram, Registry } from 'prom-client'
import { expect, test } from 'vitest'
import { Counters, Histograms, seriesMax } from './series.ts'

test('counters and histograms are scraped as those of the metrics client are', async () => {
  const observation = fc.record({
    command: fc.constantFrom('a', 'b', 'c"\\\n'),
    status: fc.constantFrom('x', 'y'),
    value: fc.double({ min: 0, max: 20, noNaN: true }),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(observation, { minLength: 1, maxLength: 40 }), async (observations) => {
      const ours = new Registry()
      const theirs = new Registry()
      const labelNames = ['command', 'status']
      const buckets = [0.5, 1, 10]
      const counters = new Counters(ours, 'c_total', 'help', labelNames)
      const histograms = new Histograms(ours, 'h_seconds', 'help', labelNames, buckets)
      const counter = new Counter({ name: 'c_total', help: 'help', labelNames, registers: [theirs] })
      const histogram = new Histogram({ name: 'h_seconds', help: 'help', labelNames, buckets, registers: [theirs] })
      for (const { command, status, value } of observations) {
        counters.add(2, command, status)
        histograms.observe(value, command, status)
        counter.inc({ command, status }, 2)
        histogram.observe({ command, status }, value)
      }
      expect(sorted(await ours.metrics())).toEqual(sorted(await theirs.metrics()))
    }),
    { numRuns: 50 },
  )
})

/** Lines, with labels in alphabetical order: only their order differs. */
function sorted(text: string): string[] {
  return text
    .split('\n')
    .map((line) =>
      line.replace(
        /\{(.*)\}/,
        (_all, labels: string) =>
          `{${labels
            .split(/,(?=[a-z]+=")/)
            .sort()
            .join(',')}}`,
      ),
    )
    .sort()
}

test('a series without labels is one line', async () => {
  const registry = new Registry()
  new Counters(registry, 'c_total', 'help', []).add(3)
  expect(await registry.metrics()).toContain('\nc_total 3')
})

test('past the limit of series, new label values are counted as other, and nothing is lost', async () => {
  const registry = new Registry()
  const counters = new Counters(registry, 'c_total', 'help', ['code'])
  for (let code = 0; code < seriesMax + 50; code++) counters.add(1, `code-${code}`)
  const { values } = await counters.get()
  expect(values.length).toBe(seriesMax + 1)
  expect(values.find(({ labels }) => labels['code'] === 'other')?.value).toBe(50)
  expect(values.reduce((sum, { value }) => sum + value, 0)).toBe(seriesMax + 50)
})
