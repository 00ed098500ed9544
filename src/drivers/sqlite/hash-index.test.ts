import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { hash53 } from '../../std/hash.ts'
import { HashIndex } from './hash-index.ts'

type Step = { readonly do: 'add' | 'remove' | 'find'; readonly id: number; readonly row: number }

/** Few ids and few rows, so that steps meet each other. */
const step: fc.Arbitrary<Step> = fc.record({
  do: fc.constantFrom('add', 'add', 'add', 'remove', 'remove', 'find'),
  id: fc.nat(40),
  row: fc.nat(5),
})

describe('the index of ids', () => {
  it('finds what a map finds, after any adding and removing', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400, size: 'max' }), (steps) => {
        const index = new HashIndex(1)
        const model = new Map<string, number[]>()
        for (const { do: what, id: number, row } of steps) {
          const id = `id-${number}`
          const rows = model.get(id) ?? []
          if (what === 'add' && !rows.includes(row)) {
            index.add(id, row)
            model.set(id, [...rows, row])
          } else if (what === 'remove') {
            index.remove(hash53(id), row)
            model.set(
              id,
              rows.filter((each) => each !== row),
            )
          }
        }
        for (let number = 0; number <= 40; number++) {
          const id = `id-${number}`
          expect(index.find(id).sort()).toEqual([...(model.get(id) ?? [])].sort())
        }
        expect(index.size).toBe([...model.values()].flat().length)
      }),
      { numRuns: 60 },
    )
  })

  it('gives every row whose id has the same hash, and leaves it to the caller to compare ids', () => {
    const index = new HashIndex(1)
    const hash = hash53('twin')
    for (const row of [7, 8, 9]) index.addHash(hash, row)
    expect(index.find('twin')).toEqual([7, 8, 9])
    index.remove(hash, 8)
    expect(index.find('twin')).toEqual([7, 9])
  })

  it('finds ids behind one that was removed from the same run of slots', () => {
    const index = new HashIndex(1)
    // The same low bits: all of these want the same slot of a table of 16.
    const hashes = [1, 2, 3, 4, 5].map((high) => high * 2 ** 40)
    for (const [row, hash] of hashes.entries()) index.addHash(hash, row)
    index.remove(hashes[1] as number, 1)
    index.addHash(hash53('last'), 99)
    expect(index.find('last')).toEqual([99])
    expect(index.size).toBe(5)
    index.remove(hashes[4] as number, 4)
    expect(index.size).toBe(4)
  })

  it('keeps everything while it grows a thousandfold', () => {
    const index = new HashIndex(1)
    for (let row = 0; row < 20_000; row++) index.add(`id-${row}`, row)
    expect(index.size).toBe(20_000)
    for (let row = 0; row < 20_000; row++) expect(index.find(`id-${row}`)).toContain(row)
    expect(index.find('id-20000')).toEqual([])
  })

  it('stays whole when ids come and go for ever, as outcomes do', () => {
    const index = new HashIndex(64)
    for (let row = 0; row < 100_000; row++) {
      index.add(`id-${row}`, row)
      if (row >= 50) index.remove(hash53(`id-${row - 50}`), row - 50)
    }
    expect(index.size).toBe(50)
    for (let row = 99_950; row < 100_000; row++) expect(index.find(`id-${row}`)).toEqual([row])
    expect(index.find('id-1')).toEqual([])
  })

  it('does not mind the removal of what is not there', () => {
    const index = new HashIndex(1)
    index.add('a', 1)
    index.remove(hash53('a'), 2)
    index.remove(hash53('b'), 1)
    expect(index.find('a')).toEqual([1])
    expect(index.size).toBe(1)
  })
})
