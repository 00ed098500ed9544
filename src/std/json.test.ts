import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { jsonDepth } from './json.ts'

/** The definition, as plain recursion. */
function depthOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0
  return 1 + Math.max(0, ...Object.values(value).map(depthOf))
}

const nested = (levels: number): unknown => JSON.parse('['.repeat(levels) + ']'.repeat(levels))

describe('the depth of a JSON value', () => {
  it('is the number of levels of arrays and objects around its deepest value', () => {
    expect(jsonDepth(1, 10)).toBe(0)
    expect(jsonDepth(null, 10)).toBe(0)
    expect(jsonDepth([], 10)).toBe(1)
    expect(jsonDepth({ a: 1 }, 10)).toBe(1)
    expect(jsonDepth({ a: [{}] }, 10)).toBe(3)
  })

  it('agrees with its definition for any JSON value', () => {
    fc.assert(fc.property(fc.jsonValue({ maxDepth: 8 }), (value) => void expect(jsonDepth(value, 100)).toBe(depthOf(value))))
  })

  it('is counted one past the limit and no further', () => {
    expect(jsonDepth(nested(32), 32)).toBe(32)
    expect(jsonDepth(nested(33), 32)).toBe(33)
    expect(jsonDepth(nested(5_000), 32)).toBe(33)
  })

  it('is found in a megabyte of nested arrays without exhausting the stack, whatever the limit', () => {
    const value = nested(524_288)
    expect(jsonDepth(value, 32)).toBe(33)
    expect(jsonDepth(value, 1_000_000)).toBe(524_288)
  })

  it('ends for a value that holds itself', () => {
    const self: unknown[] = []
    self.push(self)
    expect(jsonDepth(self, 32)).toBe(33)
  })
})
