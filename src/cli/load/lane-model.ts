/**
 * What the lanes of a node will do: batch, wait and depth from the rate of arrivals.
 *
 * A lane takes what waits, up to a bound, and takes again when that is committed.
 * A batch of n commands takes S = a + b·n: a for its begin and commit, b for each
 * command. Commands that arrive at λ a second, at independent moments, fill the
 * next batch while one is on its way; when none has come by then, the lane waits
 * for the first one, 1/λ on average. So a round takes S + e^(-λS)/λ, and its batch
 * has λ times that:
 *
 *   n = λ·S + e^(-λS)          busy = S / (S + e^(-λS)/λ)
 *
 * Who finds the lane busy waits for the rest of its batch, S·(1 + v²)/2 for times
 * that vary by v (their standard deviation over their mean), and is then applied
 * within one batch more. The oldest command of a batch has waited S - (1 - e^(-λS))/λ.
 * How many there are follows by Little's law, L = λ·W (J. D. C. Little, 1961).
 *
 * Most that can be done is batches that are always full: max / (a + b·max). Past
 * that the queue grows, and nothing here holds.
 */

/** The time of a batch, in milliseconds, by its commands. */
export interface BatchTime {
  readonly fixedMs: number
  readonly commandMs: number
}

export interface LaneWorkload {
  /** Commands per second, for all lanes. */
  readonly arrivalPerSecond: number
  readonly lanes: number
  readonly batchCommandsMax: number
  readonly time: BatchTime
  /** Standard deviation of a batch's time over its mean. */
  readonly variation: number
}

export interface LanePrediction {
  readonly capacityPerSecond: number
  /** False when more arrives than can be done; then the rest is what full batches would give, or Infinity. */
  readonly stable: boolean
  readonly batchCommands: number
  readonly batchMs: number
  /** Mean wait of the oldest command of a batch, until the batch begins. */
  readonly oldestWaitMs: number
  /** Mean time from arrival to commit. */
  readonly totalMs: number
  /** Commands that wait or are being applied, on average. */
  readonly inSystem: number
  /** How fast the queue grows, per second; 0 when it is stable. */
  readonly growthPerSecond: number
}

const stepsMax = 500

export function predictLanes({ arrivalPerSecond, lanes, batchCommandsMax, time, variation }: LaneWorkload): LanePrediction {
  const fullMs = time.fixedMs + time.commandMs * batchCommandsMax
  const capacityPerSecond = (lanes * batchCommandsMax * 1_000) / fullMs
  const perMs = arrivalPerSecond / lanes / 1_000
  const stable = arrivalPerSecond < capacityPerSecond
  if (!stable)
    return {
      capacityPerSecond,
      stable,
      batchCommands: batchCommandsMax,
      batchMs: fullMs,
      oldestWaitMs: Infinity,
      totalMs: Infinity,
      inSystem: Infinity,
      growthPerSecond: arrivalPerSecond - capacityPerSecond,
    }
  let batchMs = time.fixedMs + time.commandMs
  let batchCommands = 1
  for (let step = 0; step < stepsMax; step += 1) {
    batchCommands = perMs === 0 ? 1 : Math.min(batchCommandsMax, perMs * batchMs + Math.exp(-perMs * batchMs))
    const next = time.fixedMs + time.commandMs * batchCommands
    const moved = Math.abs(next - batchMs)
    batchMs = next
    if (moved < 1e-9 * batchMs) break
  }
  const idleMs = perMs === 0 ? Infinity : Math.exp(-perMs * batchMs) / perMs
  const busy = idleMs === Infinity ? 0 : batchMs / (batchMs + idleMs)
  const waitMs = (busy * batchMs * (1 + variation ** 2)) / 2
  const oldestWaitMs = perMs === 0 ? 0 : batchMs + Math.expm1(-perMs * batchMs) / perMs
  const totalMs = waitMs + batchMs
  return {
    capacityPerSecond,
    stable,
    batchCommands,
    batchMs,
    oldestWaitMs,
    totalMs,
    inSystem: (arrivalPerSecond * totalMs) / 1_000,
    growthPerSecond: 0,
  }
}

/** Some batches that were watched together. */
export interface BatchSample {
  readonly batches: number
  readonly commands: number
  readonly ms: number
}

/** Fewer samples, or sizes that differ by less, tell the two parts of a batch's time not apart. */
const samplesMin = 4
const spreadMin = 1.5
/** Least share of the differences of time that the sizes must explain. */
const explainedMin = 0.5

/**
 * The time of a batch by its size, from samples, by least squares, each batch
 * with the same weight; null when the sizes are too much alike, or do not
 * explain the times: something else made batches slow.
 */
export function fitBatchTime(samples: readonly BatchSample[]): BatchTime | null {
  const points = samples
    .filter(({ batches }) => batches > 0)
    .map(({ batches, commands, ms }) => ({ weight: batches, size: commands / batches, ms: ms / batches }))
  const sizes = points.map(({ size }) => size)
  if (points.length < samplesMin || Math.max(...sizes) < spreadMin * Math.min(...sizes)) return null
  const weight = points.reduce((sum, point) => sum + point.weight, 0)
  const mean = (of: (point: (typeof points)[number]) => number): number =>
    points.reduce((sum, point) => sum + point.weight * of(point), 0) / weight
  const size = mean((point) => point.size)
  const ms = mean((point) => point.ms)
  const together = mean((point) => (point.size - size) * (point.ms - ms))
  const ofSize = mean((point) => (point.size - size) ** 2)
  const ofTime = mean((point) => (point.ms - ms) ** 2)
  const commandMs = together / ofSize
  const fixedMs = ms - commandMs * size
  const explained = ofTime === 0 ? 1 : together ** 2 / (ofSize * ofTime)
  return explained < explainedMin || commandMs < 0 || fixedMs < 0 ? null : { fixedMs, commandMs }
}
