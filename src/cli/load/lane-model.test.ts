import { describe, expect, it } from 'vitest'
import { createRandom } from '../../std/random.ts'
import { type BatchTime, fitBatchTime, type LaneWorkload, predictLanes } from './lane-model.ts'

interface Walk {
  readonly batchCommands: number
  readonly batchMs: number
  readonly oldestWaitMs: number
  readonly totalMs: number
  readonly inSystem: number
}

/** One lane, command by command: it takes what waits, up to the bound, and takes again when that is done. */
function walk(arrivalPerSecond: number, max: number, time: BatchTime, commands: number): Walk {
  const random = createRandom(3)
  const arrivals: number[] = []
  let at = 0
  for (let number = 0; number < commands; number += 1) {
    at -= (Math.log(1 - random.next()) * 1_000) / arrivalPerSecond
    arrivals.push(at)
  }
  let free = 0
  let next = 0
  let [batches, busyMs, oldestMs, totalMs] = [0, 0, 0, 0]
  while (next < commands) {
    const start = Math.max(free, arrivals[next] as number)
    let end = next
    while (end < commands && end - next < max && (arrivals[end] as number) <= start) end += 1
    const ms = time.fixedMs + time.commandMs * (end - next)
    batches += 1
    busyMs += ms
    oldestMs += start - (arrivals[next] as number)
    free = start + ms
    for (; next < end; next += 1) totalMs += free - (arrivals[next] as number)
  }
  return {
    batchCommands: commands / batches,
    batchMs: busyMs / batches,
    oldestWaitMs: oldestMs / batches,
    totalMs: totalMs / commands,
    inSystem: totalMs / free,
  }
}

const time = { fixedMs: 2, commandMs: 0.05 }
const lane = (arrivalPerSecond: number, more: Partial<LaneWorkload> = {}): LaneWorkload => ({
  arrivalPerSecond,
  lanes: 1,
  batchCommandsMax: 512,
  time,
  variation: 0,
  ...more,
})

describe('the model of the lanes', () => {
  it.each([20, 500, 2_000, 5_000, 12_000])(
    'is within a few percent of a lane that is walked through, at %i commands a second',
    (arrivalPerSecond) => {
      const walked = walk(arrivalPerSecond, 512, time, 40_000)
      const predicted = predictLanes(lane(arrivalPerSecond))
      expect(predicted.stable).toBe(true)
      for (const name of ['batchCommands', 'batchMs', 'totalMs', 'inSystem'] as const)
        expect(Math.abs(predicted[name] / walked[name] - 1), `${name}: ${predicted[name]} and ${walked[name]}`).toBeLessThan(0.12)
      expect(Math.abs(predicted.oldestWaitMs - walked.oldestWaitMs)).toBeLessThan(0.1 * walked.batchMs)
    },
  )

  it('says what full batches can do, and how fast the queue grows past that', () => {
    const { capacityPerSecond } = predictLanes(lane(1))
    expect(capacityPerSecond).toBeCloseTo(512_000 / (2 + 0.05 * 512), 6)
    expect(predictLanes(lane(1, { lanes: 3 })).capacityPerSecond).toBeCloseTo(3 * capacityPerSecond, 6)
    expect(predictLanes(lane(capacityPerSecond + 1_000))).toMatchObject({ stable: false, totalMs: Infinity, batchCommands: 512 })
    expect(predictLanes(lane(capacityPerSecond + 1_000)).growthPerSecond).toBeCloseTo(1_000, 6)
    expect(predictLanes(lane(capacityPerSecond * 0.99)).stable).toBe(true)
  })

  it('takes nothing for nothing', () => {
    expect(predictLanes(lane(0))).toMatchObject({ batchCommands: 1, oldestWaitMs: 0, inSystem: 0 })
  })
})

describe('the time of a batch', () => {
  const batch = (commands: number, ms: number, batches = 10) => ({ batches, commands: commands * batches, ms: ms * batches })

  it('is told by its size, from samples of several sizes', () => {
    const found = fitBatchTime([batch(10, 2.5), batch(20, 3), batch(40, 4), batch(80, 6), batch(0, 0, 0)])
    expect(found?.fixedMs).toBeCloseTo(2, 6)
    expect(found?.commandMs).toBeCloseTo(0.05, 6)
  })

  it('is not told by sizes that are much alike, by few samples, or where sizes explain nothing', () => {
    expect(fitBatchTime([batch(30, 3), batch(31, 3), batch(32, 4), batch(33, 3)])).toBeNull()
    expect(fitBatchTime([batch(10, 2.5), batch(80, 6)])).toBeNull()
    expect(fitBatchTime([batch(10, 5), batch(20, 3), batch(40, 6), batch(80, 4.5)])).toBeNull()
    expect(fitBatchTime([batch(10, 9), batch(20, 8), batch(40, 6), batch(80, 2)])).toBeNull()
  })
})
