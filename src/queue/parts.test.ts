import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import type { QueueMessage } from '../contracts/queue.ts'
import { type Item, KeyLanes, type Taken } from './key-lanes.ts'
import { partitionOf } from './partition.ts'
import { Progress } from './progress.ts'
import { PrefetchTuner } from './tuning.ts'

describe('partitionOf', () => {
  it('puts known keys where they have always been: a change would move keys away from their order', () => {
    expect(['', 'a', 'order-1', 'käse', '😀'].map((key) => partitionOf(key, 16))).toEqual([11, 3, 12, 2, 6])
    const counts = new Array<number>(16).fill(0)
    for (let index = 0; index < 16_000; index++)
      counts[partitionOf(`key-${index}`, 16)] = (counts[partitionOf(`key-${index}`, 16)] ?? 0) + 1
    for (const count of counts) expect(Math.abs(count - 1_000)).toBeLessThan(200)
  })
})

describe('progress', () => {
  it('reaches exactly as far as everything is done, in whatever order it is', () => {
    fc.assert(
      fc.property(
        fc
          .uniqueArray(fc.integer({ min: 1, max: 200 }), { minLength: 1 })
          .chain((positions) =>
            fc.tuple(fc.constant([...positions].sort((a, b) => a - b)), fc.shuffledSubarray(positions, { minLength: positions.length })),
          ),
        ([positions, order]) => {
          const progress = new Progress()
          for (const position of positions) progress.begin(position)
          const done = new Set<number>()
          for (const position of order) {
            const before = progress.reached
            done.add(position)
            const grew = progress.finish(position)
            const open = positions.findIndex((each) => !done.has(each))
            expect(progress.reached).toBe(open === -1 ? positions.at(-1) : (positions[open - 1] ?? 0))
            expect(grew).toBe(progress.reached > before)
            expect(progress.span).toBe(open === -1 ? 0 : positions.length - open)
          }
        },
      ),
    )
  })
})

describe('key lanes', () => {
  const item = (key: string, position: number): Item => ({
    message: { key, position } as QueueMessage,
    value: position,
    malformed: null,
    attempts: 0,
    alone: false,
  })

  it('never hand out two messages of a key at once, nor out of order, and count what waits', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.record({ do: fc.constant('push' as const), key: fc.constantFrom('a', 'b', 'c') }),
            fc.record({ do: fc.constant('take' as const), max: fc.integer({ min: 1, max: 4 }) }),
            fc.record({ do: fc.constantFrom('finish' as const, 'park' as const, 'putBack' as const, 'resume' as const), pick: fc.nat() }),
          ),
          { maxLength: 120 },
        ),
        (steps) => {
          const lanes = new KeyLanes()
          const running: Taken[] = []
          const parked: Taken[] = []
          const waiting = new Map<string, number[]>([
            ['a', []],
            ['b', []],
            ['c', []],
          ])
          let next = 1
          for (const step of steps) {
            if (step.do === 'push') {
              lanes.push(item(step.key, next))
              waiting.get(step.key)?.push(next++)
            } else if (step.do === 'take') {
              for (const taken of lanes.take(step.max)) {
                const { key } = taken.lane
                expect(running.some(({ lane }) => lane.key === key)).toBe(false)
                expect(parked.some(({ lane }) => lane.key === key)).toBe(false)
                expect(taken.items.map(({ message }) => message.position)).toEqual(waiting.get(key)?.slice(0, taken.items.length))
                running.push(taken)
              }
            } else if (step.do === 'resume') {
              const [taken] = parked.splice(step.pick % Math.max(1, parked.length), 1)
              if (taken !== undefined) lanes.resume(taken)
            } else {
              const [taken] = running.splice(step.pick % Math.max(1, running.length), 1)
              if (taken === undefined) continue
              if (step.do === 'finish') {
                waiting.get(taken.lane.key)?.splice(0, taken.items.length)
                lanes.finish(taken)
              } else if (step.do === 'park') {
                lanes.park(taken)
                parked.push(taken)
              } else lanes.putBack(taken)
            }
            const total = [...waiting.values()].reduce((sum, each) => sum + each.length, 0)
            const inParked = parked.reduce((sum, { lane }) => sum + (waiting.get(lane.key)?.length ?? 0), 0)
            expect(lanes.parked).toBe(inParked)
            expect(lanes.held).toBe(total - inParked)
          }
        },
      ),
    )
  })
})

describe('prefetch', () => {
  let now = 0
  const settle = (tuner: PrefetchTuner, perMs: number, takeMs: number): void => {
    for (let round = 0; round < 100; round++) {
      now += 40
      tuner.took(takeMs)
      tuner.handled(perMs * 40, now)
    }
  }

  it('covers twice what is handled while a take is on its way, within its bounds', () => {
    const slow = new PrefetchTuner({ min: 8, max: 1_000 }, undefined, now)
    settle(slow, 1, 5)
    expect(slow.size).toBeGreaterThan(15)
    expect(slow.size).toBeLessThan(22)
    const far = new PrefetchTuner({ min: 8, max: 1_000 }, undefined, now)
    settle(far, 10, 20)
    expect(far.size).toBeGreaterThan(380)
    expect(far.size).toBeLessThan(440)
    settle(far, 1_000, 20)
    expect(far.size).toBe(1_000)
    settle(far, 0, 0)
    expect(far.size).toBeLessThan(10)
  })

  it('stays where it is set', () => {
    const fixed = new PrefetchTuner({ min: 8, max: 1_000 }, 33, now)
    settle(fixed, 50, 50)
    expect(fixed.size).toBe(33)
  })
})
