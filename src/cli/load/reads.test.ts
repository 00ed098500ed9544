import { describe, expect, it } from 'vitest'
import { Reads } from './reads.ts'

const left = { name: 'stock.left', parameters: ['sku', 'shop'], required: ['sku'], ttlMs: 60_000 }

describe('the queries of a run', () => {
  it('take the parameters that the query has from the inputs of commands, and count each key', async () => {
    const inputs = ['{"sku":"a","buyer":"b0"}', '{"buyer":"b1","sku":"b & c"}', '{"sku":"a","shop":7}', '{"sku":"a"}']
    const reads = new Reads(left, (index) => inputs[index] ?? null)
    expect([0, 1, 2, 3, 4].map((index) => reads.next(index))).toEqual(['sku=a', 'sku=b+%26+c', 'sku=a&shop=7', 'sku=a', null])
    reads.wrote('{"sku":"a","buyer":"b9"}')
    reads.wrote('{"sku":"z"}')
    reads.wrote('{"buyer":"nobody reads that"}')
    expect(reads.drawn).toEqual([
      { reads: 2, writes: 1 },
      { reads: 1, writes: 0 },
      { reads: 1, writes: 0 },
      { reads: 0, writes: 1 },
    ])
    const later = new Reads(left, () => Promise.resolve('{"sku":"a"}'))
    expect(await later.next(0)).toBe('sku=a')
  })

  it('take lists, and all members where the node does not describe the query', () => {
    const any = { name: 'any', parameters: null, required: null, ttlMs: null }
    expect(new Reads(any, () => '{"tag":["x","y"],"deep":null,"n":1}').next(0)).toBe('tag=x&tag=y&n=1')
  })

  it('refuse an input that lacks what the query needs, or has what no address can hold', () => {
    const next = (input: string) => (): unknown => new Reads(left, () => input).next(0)
    expect(next('{"buyer":"b"}')).toThrow("An input has not what 'stock.left' needs: sku")
    expect(next('{"sku":{"deep":1}}')).toThrow('text or a number')
    expect(next('[1]')).toThrow('an object')
  })
})
