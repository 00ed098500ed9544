import { describe, expect, it } from 'vitest'
import { createRandom } from './random.ts'

describe('seeded randomness', () => {
  it('gives the same numbers for the same seed, and others for another', () => {
    const draw = (seed: number): number[] => {
      const random = createRandom(seed)
      return Array.from({ length: 20 }, () => random.int(1_000_000))
    }
    expect(draw(7)).toEqual(draw(7))
    expect(draw(7)).not.toEqual(draw(8))
    expect(draw(1)).not.toEqual(draw(1 + 2 ** 32))
  })

  it('keeps to these numbers for ever, so that a seed in a bug report stays of use', () => {
    const random = createRandom(1)
    expect([random.int(1000), random.int(1000), random.int(1000), random.int(1000)]).toEqual([91, 888, 434, 746])
  })

  it('spreads evenly', () => {
    const random = createRandom(3)
    const counts = new Array<number>(10).fill(0)
    for (let i = 0; i < 100_000; i++) counts[random.int(10)]! += 1
    for (const count of counts) expect(Math.abs(count - 10_000)).toBeLessThan(500)
  })

  it('stays within its bounds', () => {
    const random = createRandom(5)
    for (let i = 0; i < 10_000; i++) {
      const value = random.between(3, 5)
      expect(value === 3 || value === 4 || value === 5).toBe(true)
      expect(random.next()).toBeLessThan(1)
    }
    expect(() => random.int(0)).toThrow(RangeError)
    expect(() => random.pick([])).toThrow(RangeError)
  })

  it('gives a fork its own numbers, whatever the parent drew before', () => {
    const parent = createRandom(9)
    const early = parent.fork('kills').int(1e9)
    parent.next()
    expect(parent.fork('kills').int(1e9)).toBe(early)
    expect(parent.fork('orders').int(1e9)).not.toBe(early)
  })

  it('shuffles without losing anything', () => {
    const items = Array.from({ length: 100 }, (_, i) => i)
    const shuffled = createRandom(11).shuffle(items)
    expect(shuffled).not.toEqual(items)
    expect([...shuffled].sort((a, b) => a - b)).toEqual(items)
  })
})
