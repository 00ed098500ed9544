import { describe, expect, it } from 'vitest'
import { createRandom } from '../../std/random.ts'
import { compileExpression, createZipf, ExpressionError } from './expression.ts'
import { compileTemplate } from './template.ts'

const random = () => createRandom(1)

describe('a template of inputs', () => {
  it('replaces expressions inside of texts, and keeps numbers numbers', () => {
    const make = compileTemplate('{"buyer":"b{i % 1000}","quantity":"{i + 1}","fixed":2,"list":["{i}",null,true]}')
    expect(JSON.parse(make(1234, random()))).toEqual({ buyer: 'b234', quantity: 1235, fixed: 2, list: [1234, null, true] })
  })

  it('gives JSON whatever the texts hold', () => {
    const make = compileTemplate(JSON.stringify({ 'a"b': 'line\n{i}"\\', other: `{pick('x"\\')}`, inside: `<{pick('x"\\')}>` }))
    expect(JSON.parse(make(5, random()))).toEqual({ 'a"b': 'line\n5"\\', other: 'x"\\', inside: '<x"\\>' })
  })

  it('takes doubled braces for braces', () => {
    expect(JSON.parse(compileTemplate('{"a":"{{i}} is {i}"}')(3, random()))).toEqual({ a: '{i} is 3' })
  })

  it('gives the same inputs for the same seed', () => {
    const make = compileTemplate(`{"sku":"s{zipf(10)}","q":"{random(1, 5)}","c":"{pick('a','b','c')}"}`)
    const draw = (seed: number): string[] => {
      const numbers = createRandom(seed)
      return Array.from({ length: 50 }, (_, index) => make(index, numbers))
    }
    expect(draw(4)).toEqual(draw(4))
    expect(draw(4)).not.toEqual(draw(5))
    for (const text of draw(4)) {
      const { q } = JSON.parse(text) as { q: number }
      expect(q >= 1 && q <= 5 && Number.isInteger(q)).toBe(true)
    }
  })

  it.each([
    ['not json', 'not JSON'],
    ['{"a":"{nope(1)}"}', "there is no 'nope'"],
    ['{"a":"{i +}"}', 'ends too early'],
    ['{"a":"{random(1)}"}', 'takes 2 values'],
    ['{"a":"{i $ 2}"}', 'not understood'],
    ['{"a":"{(i}"}', "')' is missing"],
    ['{"a":"{i 2}"}', 'where it should end'],
  ])('refuses %s in words', (source, words) => {
    expect(() => compileTemplate(source)).toThrow(ExpressionError)
    expect(() => compileTemplate(source)).toThrow(words)
  })

  it('refuses at the first command what only shows in numbers', () => {
    expect(() => compileTemplate('{"a":"{random(5, 1)}"}')(0, random())).toThrow('lower bound first')
    expect(() => compileTemplate('{"a":"{i % 0}"}')(0, random())).toThrow('divides by zero')
    expect(() => compileTemplate(`{"a":"{'x' * 2}"}`)(0, random())).toThrow('calculates with a text')
  })
})

describe('an expression', () => {
  it.each([
    ['i * 2 + 1', 11],
    ['1 + i * 2', 11],
    ['(1 + i) * 2', 12],
    ['-i + 7', 2],
    ['10 - 3 - 2', 5],
    ['17 / 5', 3],
    ['17 % 5 * 2', 4],
  ])('%s is %d for i = 5', (source, value) => {
    expect(compileExpression(source)(5, random())).toBe(value)
  })

  it('draws the first of n most often with zipf, and every one at times', () => {
    const draw = createZipf(5)
    const numbers = createRandom(2)
    const counts = [0, 0, 0, 0, 0]
    for (let n = 0; n < 20_000; n++) counts[draw(numbers)]! += 1
    const harmonic = 1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5
    for (const [k, count] of counts.entries()) expect(Math.abs(count - 20_000 / (k + 1) / harmonic)).toBeLessThan(500)
  })
})
