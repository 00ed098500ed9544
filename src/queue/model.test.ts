import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createRandom } from '../std/random.ts'
import { predictQueue, type QueueModelInput } from './model.ts'

/** A queue with c servers played out with seeded arrivals: the mean wait, in milliseconds. */
function played({ arrivalPerSecond, serviceMs, concurrency }: QueueModelInput, exponential: boolean, messages: number): number {
  const random = createRandom(7)
  const draw = (mean: number): number => -Math.log(1 - random.next()) * mean
  const free = new Array<number>(concurrency).fill(0)
  let now = 0
  let waited = 0
  for (let index = 0; index < messages; index++) {
    now += draw(1_000 / arrivalPerSecond)
    const server = free.indexOf(Math.min(...free))
    const begin = Math.max(now, free[server] as number)
    waited += begin - now
    free[server] = begin + (exponential ? draw(serviceMs) : serviceMs)
  }
  return waited / messages
}

describe('the model of a queue', () => {
  it('gives the textbook values of M/M/1 and M/D/1', () => {
    // ρ = 0.8, 1/μ = 10 ms: W = 10 / 0.2 = 50 ms, of which 40 are waiting.
    expect(predictQueue({ arrivalPerSecond: 80, serviceMs: 10, concurrency: 1 }).waitMs).toBeCloseTo(40, 9)
    expect(predictQueue({ arrivalPerSecond: 80, serviceMs: 10, concurrency: 1 }).inSystem).toBeCloseTo(4, 9)
    expect(predictQueue({ arrivalPerSecond: 80, serviceMs: 10, concurrency: 1, variation: 0 }).waitMs).toBeCloseTo(20, 9)
  })

  it('agrees with a queue that is played out', () => {
    for (const exponential of [true, false]) {
      for (const concurrency of [1, 4]) {
        const input = { arrivalPerSecond: concurrency * 75, serviceMs: 10, concurrency, variation: exponential ? 1 : 0 }
        const predicted = predictQueue(input).waitMs
        const measured = played(input, exponential, 200_000)
        expect(
          Math.abs(predicted - measured) / measured,
          `${concurrency} servers, predicted ${predicted}, measured ${measured}`,
        ).toBeLessThan(0.12)
      }
    }
  })

  it('says how fast a queue grows that cannot keep up, and how long a backlog takes', () => {
    const over = predictQueue({ arrivalPerSecond: 150, serviceMs: 10, concurrency: 1 })
    expect(over).toMatchObject({ stable: false, growthPerSecond: 50, waitMs: Infinity, depth: Infinity })
    expect(predictQueue({ arrivalPerSecond: 60, serviceMs: 10, concurrency: 1, backlog: 400 }).drainSeconds).toBeCloseTo(10, 9)
    expect(predictQueue({ arrivalPerSecond: 60, serviceMs: 0, concurrency: 1, transitMs: 2 })).toMatchObject({ load: 0, waitMs: 2 })
  })

  it("keeps Little's law, and waits less with more handlers", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 900 }),
        fc.integer({ min: 1, max: 20 }),
        fc.integer({ min: 1, max: 64 }),
        (rate, serviceMs, concurrency) => {
          const one = predictQueue({ arrivalPerSecond: rate, serviceMs, concurrency })
          if (!one.stable) return
          expect(one.depth).toBeCloseTo((rate * one.waitMs) / 1_000, 6)
          expect(predictQueue({ arrivalPerSecond: rate, serviceMs, concurrency: concurrency + 1 }).waitMs).toBeLessThanOrEqual(
            one.waitMs + 1e-9,
          )
        },
      ),
    )
  })

  it('refuses what is no rate', () => {
    for (const bad of [{ arrivalPerSecond: -1 }, { serviceMs: Number.NaN }, { concurrency: 0 }, { concurrency: 1.5 }])
      expect(() => predictQueue({ arrivalPerSecond: 1, serviceMs: 1, concurrency: 1, ...bad })).toThrow(/must be/)
  })
})
