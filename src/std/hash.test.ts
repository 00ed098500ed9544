import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { digestOf, hash32, hash53 } from './hash.ts'

const shapes: Readonly<Record<string, (index: number) => string>> = {
  'numbers': (index) => String(index),
  'a prefix and numbers': (index) => `sku-${index}`,
  'numbers with leading zeros': (index) => String(index).padStart(12, '0'),
  'two parts': (index) => `tenant-${index % 7}/order-${Math.floor(index / 7)}`,
  'characters beyond ASCII': (index) => String.fromCharCode(0x4e00 + (index % 20_000), 0x4e00 + Math.floor(index / 20_000)),
}

/** Any text of JavaScript: unpaired surrogates and zeros too. */
const anyText = fc.string({ unit: fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)) })

/** Pearson's chi-square of the counts against an even spread; about its degrees of freedom when even. */
function chiSquare(counts: readonly number[]): number {
  const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length
  return counts.reduce((sum, count) => sum + (count - mean) ** 2 / mean, 0)
}

function spread(hash: (text: string) => number, shape: (index: number) => string, places: number, texts: number): number[] {
  const counts = new Array<number>(places).fill(0)
  for (let index = 0; index < texts; index++) counts[hash(shape(index)) % places]! += 1
  return counts
}

describe('hash32', () => {
  for (const [name, shape] of Object.entries(shapes)) {
    it(`spreads ${name} evenly over partitions`, () => {
      for (const partitions of [4, 16, 63, 64]) {
        // Six standard deviations above the mean of the distribution: an even hash is past it about once in 10^8.
        const freedom = partitions - 1
        expect(chiSquare(spread(hash32, shape, partitions, 20_000))).toBeLessThan(freedom + 6 * Math.sqrt(2 * freedom))
      }
    })
  }

  it('keeps to these numbers for ever: another one would move keys between partitions of existing data', () => {
    expect([hash32(''), hash32('a'), hash32('sku-1'), hash32('日本')]).toEqual([2872998923, 444641715, 1636000271, 236567117])
  })

  it('gives a whole number of 32 bits for any text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const hash = hash32(text)
        expect(Number.isInteger(hash) && hash >= 0 && hash < 2 ** 32).toBe(true)
        expect(hash32(text)).toBe(hash)
      }),
    )
  })
})

describe('hash53', () => {
  it('gives a safe integer, and the same one for the same text', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const hash = hash53(text)
        expect(Number.isSafeInteger(hash) && hash >= 0).toBe(true)
        expect(hash53(text)).toBe(hash)
      }),
    )
  })

  for (const [name, shape] of Object.entries(shapes)) {
    it(`has no two equal hashes among 200,000 of ${name}`, () => {
      const seen = new Set<number>()
      for (let index = 0; index < 200_000; index++) seen.add(hash53(shape(index)))
      // By chance alone: 200,000² / 2^54, about once in 450,000 runs.
      expect(seen.size).toBe(200_000)
    })

    it(`spreads ${name} evenly by its low and by its high bits`, () => {
      for (const bits of [(hash: number) => hash % 256, (hash: number) => Math.floor(hash / 2 ** 45)]) {
        expect(chiSquare(spread((text) => bits(hash53(text)), shape, 256, 50_000))).toBeLessThan(255 + 6 * Math.sqrt(2 * 255))
      }
    })
  }

  it('keeps to these numbers for ever: the journal holds them', () => {
    expect([hash53(''), hash53('a'), hash53('order.buy/default/1')]).toEqual([3338908027751811, 7929297801672961, 1257778783762832])
  })
})

describe('a digest', () => {
  it('tells inputs apart and stays the same for ever', () => {
    expect(digestOf('{"a":1}')).toBe('AVq9f1zFei3ZS3WQ8ErYCE')
    expect(digestOf('{"a":2}')).not.toBe(digestOf('{"a":1}'))
    expect(digestOf('x')).toHaveLength(22)
  })
})
