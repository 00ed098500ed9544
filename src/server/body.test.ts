import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HeadraceError } from '../contracts/errors.ts'
import { jsonDepth } from '../std/json.ts'
import { parseBody, tooDeep } from './body.ts'

function codeOf(body: string | Buffer, depthMax = 32): string {
  try {
    parseBody(Buffer.from(body as string), depthMax)
  } catch (error) {
    return HeadraceError.is(error) ? error.code : String(error)
  }
  return 'none'
}

test('any JSON value without forbidden keys comes through unchanged', () => {
  fc.assert(
    fc.property(fc.json({ depthSize: 'small' }), (text) => {
      fc.pre(!/__proto__|constructor/.test(text))
      expect(parseBody(Buffer.from(text), 1_000)).toEqual(JSON.parse(text))
    }),
  )
})

describe('depth', () => {
  test('is counted as the value nests, and brackets in strings do not count', () => {
    fc.assert(
      fc.property(fc.json({ depthSize: 'medium' }), fc.integer({ min: 0, max: 6 }), (text, max) => {
        const bytes = Buffer.from(text)
        expect(tooDeep(bytes, 0, bytes.length, max)).toBe(jsonDepth(JSON.parse(text), 1_000) > max)
      }),
    )
  })

  test('of exactly the limit is taken, one more is not', () => {
    const nested = (levels: number): string => '['.repeat(levels) + ']'.repeat(levels)
    expect(codeOf(nested(32))).toBe('none')
    expect(codeOf(nested(33))).toBe('body-too-deep')
    expect(codeOf(`{"a":"${'['.repeat(100)}\\"${'['.repeat(100)}"}`)).toBe('none')
  })

  test('of a megabyte of brackets is refused without exhausting the stack', () => {
    expect(codeOf('['.repeat(1024 * 1024))).toBe('body-too-deep')
    expect(codeOf('{"a":'.repeat(200_000))).toBe('body-too-deep')
    expect(codeOf('['.repeat(500_000) + ']'.repeat(500_000))).toBe('body-too-deep')
  })
})

describe('forbidden keys', () => {
  test.each([
    '{"__proto__":{"admin":true}}',
    '{"__proto__":1}',
    '[{"a":{"__proto__":null}}]',
    '{"__pr\\u006fto__":{}}',
    '{"\\u005f_proto__" : {}}',
    '{"constructor":{"prototype":{}}}',
    '{"c\\u006fnstructor":{"prototype":1}}',
    '{"constructor":{"prot\\u006ftype":1}}',
  ])('%s is refused', (text) => {
    expect(codeOf(text)).toBe('body-forbidden-key')
  })

  test.each([
    '{"constructor":"Bob the builder"}',
    '{"prototype":1}',
    '{"a":"__proto__"}',
    '{"a":"\\"__proto__\\":"}',
    '{"constructor":null}',
  ])('%s is harmless', (text) => {
    expect(codeOf(text)).toBe('none')
  })
})

test.each([
  ['', 'an empty text'],
  ['{"a":', 'a text that ends too early'],
  ['{"a":1}x', 'something behind the value'],
  ["{'a':1}", 'the wrong quotes'],
  ['{"a":NaN}', 'a word that JSON does not have'],
  ['\uFEFF{}', 'a byte order mark'],
])('%s is not JSON: %s', (text) => {
  expect(codeOf(text)).toBe('body-not-json')
})

test('bytes that are not UTF-8 are refused, not replaced', () => {
  expect(codeOf(Buffer.from([0x22, 0xff, 0x22]))).toBe('body-not-json')
  expect(codeOf(Buffer.from('"\u{1F600}"').subarray(0, 4))).toBe('body-not-json')
})

test('the message never repeats the text', () => {
  try {
    parseBody(Buffer.from('{"password":"hunter2" "x"}'), 32)
    expect.unreachable()
  } catch (error) {
    expect(String(error)).not.toContain('hunter2')
  }
})
