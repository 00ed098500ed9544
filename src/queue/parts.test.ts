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
            expect(progress.open).toEqual([])
            expect(grew).toBe(progress.reached > before)
            expect(progress.span).toBe(open === -1 ? 0 : positions.length - open)
          }
        },
      ),
    )
  })
})

describe('progress around what is not done', () => {
  it('tells at every moment exactly what is done, never takes a position back, and keeps no more than what is not told', () => {
    fc.assert(
      fc.property(fc.infiniteStream(fc.nat()), fc.integer({ min: 1, max: 40 }), (choices, count) => {
        const next = (below: number): number => (choices.next().value as number) % below
        const progress = new Progress()
        const begun: number[] = []
        const done = new Set<number>()
        let told = { position: 0, open: [] as readonly number[] }
        for (let step = 0; step < count * 3; step++) {
          const waiting = begun.filter((position) => !done.has(position))
          const what = next(5)
          if (what < 2 || waiting.length === 0) {
            const position = (begun.at(-1) ?? 0) + 1 + next(3)
            begun.push(position)
            progress.begin(position)
          } else if (what < 4) {
            const position = waiting[next(waiting.length)] as number
            done.add(position)
            const changed = progress.finish(position)
            expect(changed).toBe(position <= told.position || progress.reached > told.position)
          } else {
            progress.passOpen()
            expect(progress.reached).toBe(Math.max(told.position, ...[...done]))
            expect(progress.held).toBe(0)
            expect(progress.span).toBe(begun.length - done.size)
          }
          const { reached: position, open } = progress
          expect(position).toBeGreaterThanOrEqual(told.position)
          expect(open).toEqual(begun.filter((each) => each <= position && !done.has(each)))
          told = { position, open }
        }
      }),
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

describe('a key that failed', () => {
  const item = (key: string, position: number): Item => ({
    message: { key, position } as QueueMessage,
    value: position,
    malformed: null,
    attempts: 0,
    alone: false,
  })
  const keysOf = (taken: readonly Taken[]): string[] => taken.flatMap(({ items }) => items.map(({ message }) => message.key))

  it('is tried alone from then on, until a message of it is done at its first try', () => {
    const lanes = new KeyLanes()
    lanes.push(item('bad', 1))
    const [failed] = lanes.take(10) as [Taken]
    failed.items[0]!.attempts += 1
    lanes.park(failed)
    lanes.resume(failed)
    for (const [index, key] of ['a', 'b', 'bad', 'c'].entries()) lanes.push(item(key, index + 2))
    const again = lanes.take(10)
    expect(keysOf(again)).toEqual(['bad'])
    // Done at a later try: the next one may fail as well.
    for (const each of again) lanes.finish(each)
    expect(keysOf(lanes.take(10))).toEqual(['a', 'b', 'c'])
    const first = lanes.take(10)
    expect(keysOf(first)).toEqual(['bad'])
    for (const each of first) lanes.finish(each)
    for (const [index, key] of ['bad', 'd'].entries()) lanes.push(item(key, index + 6))
    expect(keysOf(lanes.take(10))).toEqual(['bad', 'd'])
  })

  it('is forgotten past the bound, the oldest first', () => {
    const lanes = new KeyLanes()
    for (let index = 0; index <= 10_000; index++) {
      lanes.push(item(`k${index}`, index))
      const [taken] = lanes.take(1) as [Taken]
      taken.items[0]!.attempts += 1
      lanes.park(taken)
      lanes.resume(taken)
      const [again] = lanes.take(1) as [Taken]
      lanes.finish(again)
    }
    for (const [index, key] of ['k0', 'other', 'k1'].entries()) lanes.push(item(key, 20_000 + index))
    expect(keysOf(lanes.take(10))).toEqual(['k0', 'other'])
    expect(keysOf(lanes.take(10))).toEqual(['k1'])
  })
})

describe('prefetch', () => {
  let now = 0
  const settle = (tuner: PrefetchTuner, perMs: number, takeMs: number, late = false): void => {
    for (let round = 0; round < 100; round++) {
      now += 40
      tuner.took(takeMs, late)
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

  it('doubles with each take that comes when nothing is left to do, up to its bound, and falls back once takes come in time', () => {
    const late = new PrefetchTuner({ min: 8, max: 1_000 }, undefined, now)
    const sizes = Array.from({ length: 8 }, () => {
      late.took(1, true)
      return late.size
    })
    expect(sizes).toEqual([16, 32, 64, 128, 256, 512, 1_000, 1_000])
    late.took(1, false)
    expect(late.size).toBeGreaterThan(900)
    settle(late, 0, 0)
    expect(late.size).toBeLessThan(20)
  })

  it('finds the size that an engine with a cost for each take is fastest with', () => {
    // A virtual engine: a take costs 2 ms and 0.02 ms a message; the handlers need 0.01 ms a message.
    const perSecond = (tuner: PrefetchTuner): number => {
      const start = now
      let handled = 0
      for (let round = 0; round < 200; round++) {
        const size = tuner.size
        const takeMs = 2 + size * 0.02
        // Half of it is in hand while the other half is taken.
        const idle = (size / 2) * 0.01 < takeMs
        now += Math.max(takeMs, (size / 2) * 0.01)
        handled += size
        tuner.took(takeMs, idle)
        tuner.handled(size, now)
      }
      return handled / (now - start)
    }
    const bounds = { min: 16, max: 2_000 }
    const best = Math.max(...[16, 64, 256, 1_024, 2_000].map((size) => perSecond(new PrefetchTuner(bounds, size, now))))
    expect(perSecond(new PrefetchTuner(bounds, undefined, now))).toBeGreaterThan(0.9 * best)
  })

  it('stays where it is set', () => {
    const fixed = new PrefetchTuner({ min: 8, max: 1_000 }, 33, now)
    settle(fixed, 50, 50, true)
    expect(fixed.size).toBe(33)
  })
})
