import { describe, expect, it } from 'vitest'
import { createRandom } from '../std/random.ts'
import { measuredShare, retriesFor, successOfTry, successWithRetries } from './model.ts'

describe('the success of a transaction over several databases', () => {
  it('is the product of theirs', () => {
    expect(successOfTry([])).toBe(1)
    expect(successOfTry([0.99, 0.98, 0.97])).toBeCloseTo(0.941, 3)
    expect(successOfTry([0.5, 0])).toBe(0)
  })

  it('grows with retries as drawn lots do', () => {
    const random = createRandom(5)
    const lots = 200_000
    let hits = 0
    for (let lot = 0; lot < lots; lot += 1) {
      for (let attempt = 0; attempt <= 2; attempt += 1) {
        const all = [0.8, 0.7].map((p) => random.chance(p))
        if (all.every(Boolean)) {
          hits += 1
          break
        }
      }
    }
    expect(Math.abs(hits / lots - successWithRetries([0.8, 0.7], 2))).toBeLessThan(0.005)
  })

  it('tells how many retries reach a goal, no more and no fewer', () => {
    for (const goal of [0.5, 0.9, 0.99, 0.99999]) {
      const retries = retriesFor([0.9, 0.8], goal)
      expect(successWithRetries([0.9, 0.8], retries)).toBeGreaterThanOrEqual(goal - 1e-9)
      if (retries > 0) expect(successWithRetries([0.9, 0.8], retries - 1)).toBeLessThan(goal)
    }
    expect(retriesFor([0], 0.5)).toBe(Infinity)
    expect(retriesFor([1], 1)).toBe(0)
  })

  it('refuses what is no probability', () => {
    expect(() => successOfTry([1.1])).toThrow(RangeError)
    expect(() => successOfTry([Number.NaN])).toThrow(RangeError)
    expect(() => successWithRetries([1], -1)).toThrow(RangeError)
  })

  it('is measured with the range that holds the true one', () => {
    expect(measuredShare(0, 0)).toEqual({ share: 1, low: 0, high: 1 })
    const random = createRandom(9)
    let inside = 0
    for (let run = 0; run < 1_000; run += 1) {
      const hits = Array.from({ length: 300 }, () => random.chance(0.93)).filter(Boolean).length
      const { low, high } = measuredShare(hits, 300)
      if (low <= 0.93 && 0.93 <= high) inside += 1
    }
    expect(inside).toBeGreaterThan(920)
  })
})
