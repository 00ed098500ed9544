/** The statistics of a bench: medians and ratios over rounds. Nothing here knows what was measured. */

export interface Spread {
  readonly median: number
  readonly min: number
  readonly max: number
}

/** The middle value, or the mean of the two middle ones. */
export function median(values: readonly number[]): number {
  if (values.length === 0) throw new RangeError('a median needs at least one value')
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  const upper = sorted[middle] as number
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] as number) + upper) / 2
}

export function spread(values: readonly number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) }
}

/** The ratio of each round: what drifts from round to round (heat, neighbours, the disk) hits both and falls out. */
export function pairRatios(values: readonly number[], baseline: readonly number[]): number[] {
  if (values.length !== baseline.length) throw new RangeError('ratios of pairs need as many values as baselines')
  return values.map((value, round) => value / (baseline[round] as number))
}

/** What a figure should reach. */
export type Goal = { readonly atLeast: number } | { readonly atMost: number }

export function goalNumber(goal: Goal): number {
  return 'atLeast' in goal ? goal.atLeast : goal.atMost
}

/** A value that is no number meets no goal. */
export function isMet(value: number, goal: Goal): boolean {
  return 'atLeast' in goal ? value >= goal.atLeast : value <= goal.atMost
}
