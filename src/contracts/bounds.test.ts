import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { checkWhole } from './bounds.ts'
import { HeadraceError } from './errors.ts'

function codeOf(action: () => void): string | null {
  try {
    action()
    return null
  } catch (error) {
    return HeadraceError.is(error) ? error.code : String(error)
  }
}

describe('a bound that a caller sets', () => {
  it('is a whole number within its limits', () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer(), fc.nat(1_000_000), (value, min, width) => {
        const inside = value >= min && value <= min + width
        expect(codeOf(() => checkWhole('thingsMax', value, min, min + width))).toBe(inside ? null : 'option-invalid')
      }),
    )
  })

  it('is refused when it is no whole number at all', () => {
    for (const value of [1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 53, '5', null, undefined, 5n, {}]) {
      expect(codeOf(() => checkWhole('thingsMax', value, 0, 10))).toBe('option-invalid')
    }
  })

  it('is named in the refusal, with its limits', () => {
    expect(() => checkWhole('thingsMax', 11, 0, 10)).toThrow(/thingsMax must be a whole number from 0 to 10, not 11/)
    expect(() => checkWhole('thingsMax', 'x', 0, 10)).toThrow(/not string/)
  })
})
