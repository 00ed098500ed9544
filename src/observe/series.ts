/**
 * Counters and histograms for what happens with every command.
 *
 * A series is found by one lookup in a map, and an observation is a few
 * additions: about a tenth of what a general metrics client takes, which
 * shows at tens of thousands of commands a second. They speak to a registry
 * of prom-client through the one method that it calls.
 *
 * The number of series is bounded: past `seriesMax` label values are told
 * as `other`, so that no caller can fill the memory with labels.
 */
import type { Metric, Registry } from 'prom-client'

export const seriesMax = 1_000

interface Sample {
  readonly metricName: string
  readonly labels: Readonly<Record<string, string | number>>
  readonly value: number
}

abstract class Family<Series> {
  readonly name: string
  readonly help: string
  readonly labelNames: readonly string[]
  abstract readonly type: 'counter' | 'histogram'
  readonly #series = new Map<string, { readonly labels: Readonly<Record<string, string>>; readonly series: Series }>()

  constructor(registry: Registry, name: string, help: string, labelNames: readonly string[]) {
    this.name = name
    this.help = help
    this.labelNames = labelNames
    registry.registerMetric(this as unknown as Metric)
  }

  protected abstract create(): Series
  protected abstract samples(labels: Readonly<Record<string, string>>, series: Series): Sample[]

  protected find(labels: readonly string[]): Series {
    const key = labels.length === 1 ? (labels[0] as string) : labels.join('\n')
    return this.#series.get(key)?.series ?? this.#add(key, labels)
  }

  #add(key: string, values: readonly string[]): Series {
    if (this.#series.size >= seriesMax && values.some((value) => value !== 'other')) return this.find(values.map(() => 'other'))
    const series = this.create()
    this.#series.set(key, { labels: Object.fromEntries(this.labelNames.map((name, index) => [name, values[index] ?? ''])), series })
    return series
  }

  /** What a registry asks for. */
  async get(): Promise<{ name: string; help: string; type: string; aggregator: string; values: Sample[] }> {
    const values = [...this.#series.values()].flatMap(({ labels, series }) => this.samples(labels, series))
    return { name: this.name, help: this.help, type: this.type, aggregator: 'sum', values }
  }

  reset(): void {
    this.#series.clear()
  }
}

export class Counters extends Family<{ value: number }> {
  readonly type = 'counter'

  add(amount: number, ...labels: readonly string[]): void {
    this.find(labels).value += amount
  }

  protected create(): { value: number } {
    return { value: 0 }
  }

  protected samples(labels: Readonly<Record<string, string>>, series: { value: number }): Sample[] {
    return [{ metricName: this.name, labels, value: series.value }]
  }
}

interface Distribution {
  readonly buckets: Float64Array
  sum: number
  count: number
}

export class Histograms extends Family<Distribution> {
  readonly type = 'histogram'
  readonly #bounds: readonly number[]

  constructor(registry: Registry, name: string, help: string, labelNames: readonly string[], bounds: readonly number[]) {
    super(registry, name, help, labelNames)
    this.#bounds = bounds
  }

  observe(value: number, ...labels: readonly string[]): void {
    const series = this.find(labels)
    let index = 0
    while (index < this.#bounds.length && value > (this.#bounds[index] as number)) index += 1
    series.buckets[index] = (series.buckets[index] as number) + 1
    series.sum += value
    series.count += 1
  }

  protected create(): Distribution {
    return { buckets: new Float64Array(this.#bounds.length + 1), sum: 0, count: 0 }
  }

  protected samples(labels: Readonly<Record<string, string>>, { buckets, sum, count }: Distribution): Sample[] {
    const samples: Sample[] = []
    let below = 0
    this.#bounds.forEach((bound, index) => {
      below += buckets[index] as number
      samples.push({ metricName: `${this.name}_bucket`, labels: { ...labels, le: bound }, value: below })
    })
    samples.push({ metricName: `${this.name}_bucket`, labels: { ...labels, le: '+Inf' }, value: count })
    samples.push({ metricName: `${this.name}_sum`, labels, value: sum }, { metricName: `${this.name}_count`, labels, value: count })
    return samples
  }
}
