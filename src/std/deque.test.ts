import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { Deque } from './deque.ts'

type Step = { readonly do: 'push' | 'unshift'; readonly item: number } | { readonly do: 'shift' | 'peek' }

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constantFrom('push', 'unshift'), item: fc.integer() }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constantFrom('shift', 'peek') }) },
)

describe('a deque', () => {
  it('does what an array does, whatever is put in and taken out at its ends', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 600, size: 'max' }), (steps) => {
        const deque = new Deque<number>()
        const model: number[] = []
        for (const each of steps) {
          if (each.do === 'push' || each.do === 'unshift') {
            deque[each.do](each.item)
            model[each.do](each.item)
          } else if (each.do === 'shift') expect(deque.shift()).toBe(model.shift())
          else expect(deque.peek()).toBe(model[0])
          expect(deque.length).toBe(model.length)
        }
        expect([...deque]).toEqual(model)
      }),
      { numRuns: 60 },
    )
  })

  it('keeps its order when it grows while its front is in the middle of the ring', () => {
    const deque = new Deque<number>()
    for (let item = 0; item < 50; item++) deque.push(item)
    for (let item = 0; item < 40; item++) expect(deque.shift()).toBe(item)
    for (let item = 50; item < 500; item++) deque.push(item)
    deque.unshift(39)
    expect([...deque]).toEqual(Array.from({ length: 461 }, (_, index) => index + 39))
  })

  it('is empty after the last item is taken, and stays so', () => {
    const deque = new Deque<string>()
    deque.push('only')
    expect(deque.shift()).toBe('only')
    expect(deque.shift()).toBeUndefined()
    expect(deque.peek()).toBeUndefined()
    expect(deque.length).toBe(0)
  })
})
