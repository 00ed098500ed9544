import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isMet, median, pairRatios, spread } from './statistics.ts'

const values = fc.array(fc.double({ min: 0.001, max: 1e9, noNaN: true }), { minLength: 1, maxLength: 30 })

describe('the median', () => {
  test('is the middle value, or the mean of the two middle ones', () => {
    expect(median([5])).toBe(5)
    expect(median([9, 1, 5])).toBe(5)
    expect(median([100, 1, 3, 2])).toBe(2.5)
  })

  test('sorts numbers as numbers, and leaves its input alone', () => {
    const given = [10, 9, 100]
    expect(median(given)).toBe(10)
    expect(given).toEqual([10, 9, 100])
  })

  test('has as many values at or below it as at or above it', () => {
    fc.assert(
      fc.property(values, (given) => {
        const middle = median(given)
        const below = given.filter((each) => each <= middle).length
        const above = given.filter((each) => each >= middle).length
        expect(Math.min(below, above) * 2).toBeGreaterThanOrEqual(given.length)
      }),
    )
  })

  test('of nothing is refused', () => {
    expect(() => median([])).toThrow(RangeError)
  })
})

test('a spread has its median between its ends', () => {
  fc.assert(
    fc.property(values, (given) => {
      const { median: middle, min, max } = spread(given)
      expect(min).toBeLessThanOrEqual(middle)
      expect(middle).toBeLessThanOrEqual(max)
      expect(given).toContain(min)
      expect(given).toContain(max)
    }),
  )
})

describe('ratios of pairs', () => {
  test('compare what was measured in the same round', () => {
    expect(pairRatios([10, 20, 30], [5, 5, 10])).toEqual([2, 4, 3])
  })

  test('do not see a drift that hits both', () => {
    expect(spread(pairRatios([10, 100, 1_000], [5, 50, 500]))).toEqual({ median: 2, min: 2, max: 2 })
  })

  test('of unequal lengths are refused', () => {
    expect(() => pairRatios([1, 2], [1])).toThrow(RangeError)
  })
})

test('a goal is met at its very number, and never by what is no number', () => {
  expect(isMet(20, { atLeast: 20 })).toBe(true)
  expect(isMet(19.999, { atLeast: 20 })).toBe(false)
  expect(isMet(50, { atMost: 50 })).toBe(true)
  expect(isMet(50.001, { atMost: 50 })).toBe(false)
  expect(isMet(Number.NaN, { atLeast: 0 })).toBe(false)
  expect(isMet(Number.NaN, { atMost: 0 })).toBe(false)
})
