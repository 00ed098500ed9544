/**
 * How likely a transaction over several databases succeeds.
 *
 * With independent databases a try succeeds when each of them does: P = ∏ pᵢ.
 * With r retries of a failure that passes: 1 − (1 − P)^(r + 1). The product is
 * why each database added to a transaction costs availability, and why what
 * need not be in it should not be.
 */

/** P = ∏ pᵢ. */
export function successOfTry(probabilities: readonly number[]): number {
  return probabilities.reduce((product, each) => product * checked(each), 1)
}

/** The success of a transaction that is tried again up to `retries` times. */
export function successWithRetries(probabilities: readonly number[], retries: number): number {
  if (!Number.isSafeInteger(retries) || retries < 0) throw new RangeError(`retries must be a whole number from 0, not ${retries}`)
  return 1 - (1 - successOfTry(probabilities)) ** (retries + 1)
}

/** Retries until the success of a transaction reaches `goal`; Infinity when they never do. */
export function retriesFor(probabilities: readonly number[], goal: number): number {
  const once = successOfTry(probabilities)
  if (once >= checked(goal)) return 0
  if (once === 0 || goal === 1) return Infinity
  return Math.ceil(Math.log(1 - goal) / Math.log(1 - once) - 1e-9) - 1
}

/** The measured share, and the range that holds the true one with 95%: the score interval of Wilson (1927). */
export interface Share {
  readonly share: number
  readonly low: number
  readonly high: number
}

export function measuredShare(hits: number, tries: number): Share {
  if (tries === 0) return { share: 1, low: 0, high: 1 }
  const z = 1.959964
  const share = hits / tries
  const middle = (share + z ** 2 / (2 * tries)) / (1 + z ** 2 / tries)
  const half = (z / (1 + z ** 2 / tries)) * Math.sqrt((share * (1 - share)) / tries + z ** 2 / (4 * tries ** 2))
  return { share, low: Math.max(0, middle - half), high: Math.min(1, middle + half) }
}

function checked(probability: number): number {
  if (probability >= 0 && probability <= 1) return probability
  throw new RangeError(`a probability is from 0 to 1, not ${probability}`)
}
