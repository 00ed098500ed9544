import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { isStorable } from './text.ts'

describe('a text that databases keep as it is', () => {
  it('is any that goes through UTF-8 unchanged and has no zero character', () => {
    const unit = fc.oneof(fc.integer({ min: 1, max: 0x7f }), fc.integer({ min: 0, max: 0xffff }), fc.integer({ min: 0xd7f0, max: 0xe010 }))
    fc.assert(
      fc.property(fc.array(unit, { maxLength: 20 }), (units) => {
        const text = String.fromCharCode(...units)
        expect(isStorable(text)).toBe(Buffer.from(text).toString() === text && !units.includes(0))
      }),
    )
  })
})
