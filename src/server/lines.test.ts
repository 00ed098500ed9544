import fc from 'fast-check'
import { expect, test } from 'vitest'
import { LineSplitter } from './lines.ts'

/** All lines of the bytes, cut at the given places; '!' stands for one that is too long. */
function split(bytes: Buffer, cuts: readonly number[], max: number): string[] {
  const splitter = new LineSplitter(max)
  const lines: string[] = []
  const take = (): void => void lines.push(splitter.bytes.toString('utf8', splitter.start, splitter.end))
  let from = 0
  for (const to of [...cuts, bytes.length]) {
    splitter.feed(bytes.subarray(from, to))
    from = to
    for (let found = splitter.next(); found !== 'more'; found = splitter.next()) {
      if (found === 'line') take()
      else lines.push('!')
    }
  }
  if (splitter.finish() === 'line') take()
  return lines
}

test('lines are the same wherever the stream is cut', () => {
  const line = fc.string({ unit: fc.constantFrom('a', 'ü', '€', '{', ' '), maxLength: 12 })
  fc.assert(
    fc.property(
      fc.array(line, { maxLength: 12 }),
      fc.boolean(),
      fc.array(fc.nat(200), { maxLength: 12 }),
      fc.integer({ min: 1, max: 40 }),
      (texts, closed, places, max) => {
        const bytes = Buffer.from(texts.map((text) => `${text}\n`).join('') + (closed ? '' : 'rest'))
        const expected = [...texts, ...(closed ? [] : ['rest'])].map((text) => (Buffer.byteLength(text) > max ? '!' : text))
        const cuts = places.map((place) => Math.min(place, bytes.length)).sort((a, b) => a - b)
        expect(split(bytes, cuts, max)).toEqual(expected)
      },
    ),
  )
})

test('a line that never ends is reported once, and the line after it is whole', () => {
  const splitter = new LineSplitter(10)
  const chunk = Buffer.alloc(8, 0x78)
  const found: string[] = []
  for (let round = 0; round < 1_000; round++) {
    splitter.feed(chunk)
    const next = splitter.next()
    if (next !== 'more') found.push(next)
  }
  expect(found).toEqual(['too-long'])
  splitter.feed(Buffer.from('xx\nnext\n'))
  expect(splitter.next()).toBe('line')
  expect(splitter.bytes.toString('utf8', splitter.start, splitter.end)).toBe('next')
})
