/**
 * What a queue will do: depth and wait from the rates of arrival and service.
 *
 * Messages arrive at λ per second. One handler serves μ = 1 / s per second, and
 * c of them work side by side, so the load is ρ = λ / (c·μ). For ρ ≥ 1 the queue
 * grows by λ − c·μ each second. Below that the wait is that of an M/G/c queue:
 * Erlang's C for c servers (A. K. Erlang, 1917), times (1 + v²) / 2 for service
 * times that vary by v, their standard deviation over their mean (the
 * approximation of Lee and Longton, 1959). The depth follows by Little's law:
 * L = λ·W (J. D. C. Little, 1961).
 */
import { HeadraceError } from '../contracts/errors.ts'

export interface QueueModelInput {
  /** Messages that arrive, per second. */
  readonly arrivalPerSecond: number
  /** Mean time of one message in a handler, in milliseconds; of a batch handler, its time divided by the messages. */
  readonly serviceMs: number
  /** Handlers that work side by side: the concurrency, or the number of busy keys if that is less. */
  readonly concurrency: number
  /** Standard deviation of the service time over its mean: 0 for constant, 1 for exponential times. Default: 1. */
  readonly variation?: number
  /** Time from published to handed out in an idle queue, in milliseconds. Default: 0. */
  readonly transitMs?: number
  /** Messages that wait already. Default: 0. */
  readonly backlog?: number
}

export interface QueuePrediction {
  /** Share of the time that handlers are busy; 1 or more does not last. */
  readonly load: number
  /** Most messages per second that the handlers can do. */
  readonly capacityPerSecond: number
  /** False when more arrives than can be done. */
  readonly stable: boolean
  /** Mean wait until a handler begins, in milliseconds, once the backlog is gone; Infinity when it is not stable. */
  readonly waitMs: number
  /** Mean time from published to done, in milliseconds. */
  readonly totalMs: number
  /** Messages that wait, on average. */
  readonly depth: number
  /** Messages that are waiting, on their way, or being handled, on average. */
  readonly inSystem: number
  /** How fast the depth grows, per second; 0 when it is stable. */
  readonly growthPerSecond: number
  /** Seconds until the backlog is worked off; Infinity when it is not stable. */
  readonly drainSeconds: number
}

/** Depth and wait of a queue. Throws 'option-invalid'. */
export function predictQueue(input: QueueModelInput): QueuePrediction {
  const { arrivalPerSecond, serviceMs, concurrency, variation = 1, transitMs = 0, backlog = 0 } = input
  for (const [name, value, min] of [
    ['arrivalPerSecond', arrivalPerSecond, 0],
    ['serviceMs', serviceMs, 0],
    ['variation', variation, 0],
    ['transitMs', transitMs, 0],
    ['backlog', backlog, 0],
    ['concurrency', concurrency, 1],
  ] as const) {
    if (!Number.isFinite(value) || value < min)
      throw new HeadraceError('option-invalid', `${name} must be a number from ${min}, not ${value}.`)
  }
  if (!Number.isSafeInteger(concurrency)) throw new HeadraceError('option-invalid', 'concurrency must be a whole number.')
  const capacityPerSecond = serviceMs === 0 ? Infinity : (concurrency * 1_000) / serviceMs
  const load = serviceMs === 0 ? 0 : arrivalPerSecond / capacityPerSecond
  const stable = load < 1
  const queueMs = !stable
    ? Infinity
    : serviceMs === 0
      ? 0
      : ((erlangC(concurrency, load * concurrency) * serviceMs) / (concurrency * (1 - load))) * ((1 + variation ** 2) / 2)
  const waitMs = queueMs + transitMs
  const totalMs = waitMs + serviceMs
  return {
    load,
    capacityPerSecond,
    stable,
    waitMs,
    totalMs,
    depth: stable ? (arrivalPerSecond * waitMs) / 1_000 : Infinity,
    inSystem: stable ? (arrivalPerSecond * totalMs) / 1_000 : Infinity,
    growthPerSecond: stable ? 0 : arrivalPerSecond - capacityPerSecond,
    drainSeconds: stable
      ? capacityPerSecond === Infinity
        ? 0
        : backlog / (capacityPerSecond - arrivalPerSecond)
      : backlog === 0
        ? 0
        : Infinity,
  }
}

/** The share of arrivals that find all of c servers busy, with `offered` = λ/μ of them busy on average. By Erlang's B, which stays within numbers for any c. */
function erlangC(servers: number, offered: number): number {
  if (offered === 0) return 0
  let b = 1
  for (let n = 1; n <= servers; n++) b = (offered * b) / (n + offered * b)
  const load = offered / servers
  return b / (1 - load * (1 - b))
}
