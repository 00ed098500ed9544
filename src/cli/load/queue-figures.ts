/** The queue of a node in a run: what was measured at the node, and beside it what the model of its lanes says. */
import { type BatchSample, type BatchTime, fitBatchTime, type LanePrediction, predictLanes } from './lane-model.ts'
import type { NodeSample, Observation } from './node-watch.ts'

export interface QueueRun {
  /** Commands per second that were due; null in the closed loop. */
  readonly rate: number | null
  /** Commands that were sent, per second of the run. */
  readonly sentPerSecond: number
}

export interface QueueFigures {
  readonly measured: {
    /** Commands taken and ended, per second. */
    readonly arrivalPerSecond: number
    readonly servedPerSecond: number
    readonly batchCommands: number
    readonly batchMs: number
    /** Wait of the oldest command of a batch. */
    readonly oldestWaitMs: number
    /** From the door to the outcome. */
    readonly totalMs: number
    /** Commands between door and outcome, on average over the run: the sum of their times, over that of the run. */
    readonly inFlight: number
    /** Mean of the looks during the run; null when there was none. */
    readonly queuedOnDisk: number | null
    /** How fast what waits grew between the first and the last of them, per second; null with fewer than two. */
    readonly growthPerSecond: number | null
  }
  /** Null when the model does not fit; `why` then says why. */
  readonly predicted: {
    readonly batchCommands: number
    readonly batchMs: number
    readonly oldestWaitMs: number
    readonly totalMs: number
    readonly inFlight: number
  } | null
  readonly why: string | null
  /** Most commands per second, with full batches; null when the batches were too small, or too much alike, to tell. */
  readonly capacityPerSecond: number | null
  /** The time of a batch by its size, where it could be told. */
  readonly batchTime: BatchTime | null
  readonly lanes: number
  readonly batchCommandsMax: number
}

/** More than this share refused is overload; so is more than this share not served, or not sent. */
const refusedMax = 0.01
const behindMax = 0.05
const unsentMax = 0.1

/** Null when the node applied nothing in the run. */
export function queueFigures(observation: Observation, run: QueueRun): QueueFigures | null {
  const { first, last, between } = observation
  const seconds = (last.at - first.at) / 1_000
  const by = (read: (sample: NodeSample) => number): number => read(last) - read(first)
  const batches = by((sample) => sample.batches)
  if (batches <= 0 || seconds <= 0) return null
  const { lanes, batchCommandsMax } = last
  const ended = by((sample) => sample.commands)
  const measured = {
    arrivalPerSecond: by((sample) => sample.taken) / seconds,
    servedPerSecond: ended / seconds,
    batchCommands: by((sample) => sample.batchCommands) / batches,
    batchMs: by((sample) => sample.batchMs) / batches,
    oldestWaitMs: by((sample) => sample.oldestWaitMs) / batches,
    totalMs: ended === 0 ? Number.NaN : by((sample) => sample.commandMs) / ended,
    inFlight: by((sample) => sample.commandMs) / seconds / 1_000,
    queuedOnDisk: between.length === 0 ? null : between.reduce((sum, sample) => sum + sample.queued, 0) / between.length,
    growthPerSecond: growthOf(between),
  }
  const samples = batchSamples([first, ...between, last])
  const batchTime = fitBatchTime(samples)
  const load = { arrivalPerSecond: measured.arrivalPerSecond, lanes, batchCommandsMax, variation: variationOf(first, last) }
  const byParts = batchTime === null ? null : predictLanes({ ...load, time: batchTime })
  const capacityPerSecond = capacityOf(measured, lanes, batchCommandsMax, samples, byParts)
  const known = { measured, batchTime, lanes, batchCommandsMax, capacityPerSecond }
  const growth = byParts === null || capacityPerSecond === null || byParts.stable ? null : byParts.growthPerSecond
  const why = whyNot(observation, run, measured, growth)
  if (why !== null) return { ...known, predicted: null, why }
  // Without the parts of a batch's time, the batches as they were stand for those to come.
  const { batchCommands, batchMs, oldestWaitMs, totalMs, inSystem, stable } =
    byParts?.stable === true ? byParts : predictLanes({ ...load, time: { fixedMs: measured.batchMs, commandMs: 0 } })
  if (!stable)
    return {
      ...known,
      predicted: null,
      why: 'Batches were full all the time: that is the edge, where there is no steady state to predict.',
    }
  return { ...known, predicted: { batchCommands, batchMs, oldestWaitMs, totalMs, inFlight: inSystem }, why: null }
}

/** Batches of less than this share of the bound say little about full ones. */
const tellingShare = 1 / 8

/** What full batches do, as far as batches that were large enough tell. */
function capacityOf(
  { batchCommands, batchMs }: QueueFigures['measured'],
  lanes: number,
  batchCommandsMax: number,
  samples: readonly BatchSample[],
  byParts: LanePrediction | null,
): number | null {
  const largest = Math.max(...samples.map(({ batches, commands }) => (batches === 0 ? 0 : commands / batches)))
  if (byParts !== null && largest >= batchCommandsMax * tellingShare) return byParts.capacityPerSecond
  return batchCommands < batchCommandsMax / 2 ? null : (lanes * batchCommands * 1_000) / batchMs
}

/** Why there is no steady state to predict; null when there is one. */
function whyNot(
  { first, last, between }: Observation,
  { rate, sentPerSecond }: QueueRun,
  { arrivalPerSecond, servedPerSecond, growthPerSecond }: QueueFigures['measured'],
  predictedGrowth: number | null,
): string | null {
  if (first.process !== last.process || between.some((sample) => sample.process !== first.process))
    return 'The node was started again during the run, or several nodes answer there: its figures cannot be put together.'
  const refused = last.refused - first.refused
  const tries = refused + last.taken - first.taken
  if (tries > 0 && refused / tries > refusedMax)
    return `Overload: the node refused ${share(refused / tries)} of the tries for want of room. It has no steady state.`
  if (servedPerSecond < arrivalPerSecond * (1 - behindMax) && (growthPerSecond ?? 0) > arrivalPerSecond * behindMax)
    return `Overload: ${whole(arrivalPerSecond)} commands a second came, ${whole(servedPerSecond)} were served. The queue grew by ${whole(growthPerSecond ?? 0)} a second${predictedGrowth === null ? '' : ` (predicted: ${whole(predictedGrowth)})`}, and has no steady state.`
  if (rate !== null && sentPerSecond < rate * (1 - unsentMax))
    return `Overload: ${whole(rate)} commands a second were due, and ${whole(sentPerSecond)} could be sent: all connections waited for answers. The rest queued before the node.`
  return null
}

/** By how much what waits grew, from the first look to the last. */
function growthOf(between: readonly NodeSample[]): number | null {
  const [from, to] = [between[0], between.at(-1)]
  if (from === undefined || to === undefined || to.at <= from.at) return null
  return ((to.inFlight + to.queued - from.inFlight - from.queued) * 1_000) / (to.at - from.at)
}

function batchSamples(samples: readonly NodeSample[]): BatchSample[] {
  return samples.slice(1).map((sample, index) => {
    const before = samples[index] as NodeSample
    return {
      batches: sample.batches - before.batches,
      commands: sample.batchCommands - before.batchCommands,
      ms: sample.batchMs - before.batchMs,
    }
  })
}

/** Of the times of batches, from their histogram: each taken to lie in the middle of its bucket. */
function variationOf(first: NodeSample, last: NodeSample): number {
  let count = 0
  let sum = 0
  let squares = 0
  let low = 0
  for (const [place, [upToMs, batches]] of last.batchTimes.entries()) {
    const own = batches - (first.batchTimes[place]?.[1] ?? 0)
    const middle = upToMs === Infinity ? low : (low + upToMs) / 2
    count += own
    sum += own * middle
    squares += own * middle ** 2
    low = upToMs
  }
  if (count <= 0 || sum <= 0) return 0
  return Math.sqrt(Math.max(0, (squares * count) / sum ** 2 - 1))
}

const whole = (value: number): string => Math.round(value).toLocaleString('en-US')
const share = (value: number): string => `${(value * 100).toFixed(1)} %`
