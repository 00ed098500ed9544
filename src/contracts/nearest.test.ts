import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { nearest } from './nearest.ts'

const known = ['batchCommandsMax', 'batchBytesMax', 'lanes', 'partitions', 'retryBaseMs', 'retryMaxMs']

describe('the nearest word', () => {
  it('is found over a slip, a swap and another case', () => {
    expect(nearest('batchComandsMax', known)).toBe('batchCommandsMax')
    expect(nearest('lane', known)).toBe('lanes')
    expect(nearest('RETRYMAXMS', known)).toBe('retryMaxMs')
    expect(nearest('partitons', known)).toBe('partitions')
  })

  it('is the closer one of two that are near', () => {
    expect(nearest('retryBaxeMs', known)).toBe('retryBaseMs')
    expect(nearest('retryMaxM', known)).toBe('retryMaxMs')
  })

  it('is none when nothing is near', () => {
    expect(nearest('colour', known)).toBeNull()
    expect(nearest('x', [])).toBeNull()
  })

  it('is the word itself when it is known', () => {
    fc.assert(fc.property(fc.constantFrom(...known), (word) => void expect(nearest(word, known)).toBe(word)))
  })

  it('is found over any one change of a character', () => {
    fc.assert(
      fc.property(fc.constantFrom(...known), fc.nat(), fc.constantFrom('', 'q', 'qq'), (word, at, put) => {
        const place = at % word.length
        expect(nearest(word.slice(0, place) + put + word.slice(place + 1), known)).toBe(word)
      }),
    )
  })
})
