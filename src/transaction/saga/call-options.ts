/** How often and how long something of a run is called: the bounds of a step, a try, a confirm, a cancel. */
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'

export interface CallLimits {
  /** How often it is called again after a failure that may pass. */
  readonly retriesMax: number
  /** First pause before it is called again; doubles, with jitter. Milliseconds. */
  readonly retryBaseMs: number
  /** Longest pause before it is called again, in milliseconds; a service that asks for more gets this. */
  readonly retryMaxMs: number
  /** Longest time of one attempt, in milliseconds; then its signal aborts, and the attempt has failed. */
  readonly timeoutMs: number
}

const hour = 3_600_000

/** Of what goes forward, and may fail. */
export const forwardLimits: CallLimits = Object.freeze({ retriesMax: 5, retryBaseMs: 100, retryMaxMs: 10_000, timeoutMs: 30_000 })
/** Of what must succeed in the end: undo, confirm, cancel. */
export const finishLimits: CallLimits = Object.freeze({ retriesMax: 20, retryBaseMs: 100, retryMaxMs: 30_000, timeoutMs: 30_000 })

export const callLimitNames = ['retriesMax', 'retryBaseMs', 'retryMaxMs', 'timeoutMs'] as const

/** Throws 'option-invalid', naming whose option it is. */
export function checkCallLimits(owner: string, given: Partial<CallLimits>, defaults: CallLimits): CallLimits {
  const limits = {
    retriesMax: given.retriesMax ?? defaults.retriesMax,
    retryBaseMs: given.retryBaseMs ?? defaults.retryBaseMs,
    retryMaxMs: given.retryMaxMs ?? defaults.retryMaxMs,
    timeoutMs: given.timeoutMs ?? defaults.timeoutMs,
  }
  checkWhole(`retriesMax of ${owner}`, limits.retriesMax, 0, 1_000)
  checkWhole(`retryBaseMs of ${owner}`, limits.retryBaseMs, 1, hour)
  checkWhole(`retryMaxMs of ${owner}`, limits.retryMaxMs, 1, 24 * hour)
  checkWhole(`timeoutMs of ${owner}`, limits.timeoutMs, 1, 24 * hour)
  if (limits.retryBaseMs > limits.retryMaxMs)
    throw new HeadraceError(
      'option-invalid',
      `retryMaxMs of ${owner} (${limits.retryMaxMs}) must be at least retryBaseMs (${limits.retryBaseMs}).`,
    )
  return Object.freeze(limits)
}
