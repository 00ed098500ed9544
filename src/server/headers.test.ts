import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HeadraceError } from '../contracts/errors.ts'
import { checkId, readIdempotencyKey, readPrefer, readTenant } from './headers.ts'

const limits = { waitMsDefault: 30_000, waitMsMax: 60_000 }

function codeOf(action: () => unknown): string {
  try {
    action()
  } catch (error) {
    return HeadraceError.is(error) ? error.code : String(error)
  }
  return 'none'
}

const visible = fc
  .string({ unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)), minLength: 1, maxLength: 128 })
  .filter((id) => id !== '.' && id !== '..')

describe('the Idempotency-Key', () => {
  test('names the same id quoted and bare', () => {
    fc.assert(
      fc.property(visible, (id) => {
        expect(readIdempotencyKey(`"${id.replace(/["\\]/g, '\\$&')}"`)).toBe(id)
        if (!id.startsWith('"')) expect(readIdempotencyKey(id)).toBe(id)
      }),
    )
  })

  test.each([
    ['nothing', undefined, 'id-missing'],
    ['an empty value', '', 'id-invalid'],
    ['an empty string', '""', 'id-invalid'],
    ['a space', 'a b', 'id-invalid'],
    ['two headers, which Node joins', 'a, b', 'id-invalid'],
    ['an open quotation', '"a', 'id-invalid'],
    ['an escape that means nothing', '"a\\n"', 'id-invalid'],
    ['something behind the quotation', '"a";b=1', 'id-invalid'],
    ['129 characters', 'x'.repeat(129), 'id-invalid'],
    ['129 characters, quoted', `"${'x'.repeat(129)}"`, 'id-invalid'],
    ['a character beyond ASCII', 'ü', 'id-invalid'],
    ['a path that no URL can name', '..', 'id-invalid'],
  ])('is refused with %s', (_what, header, code) => {
    expect(codeOf(() => readIdempotencyKey(header))).toBe(code)
  })

  test('of 128 characters is taken', () => {
    expect(checkId('x'.repeat(128))).toHaveLength(128)
  })
})

test('the tenant is "default" unless told, and a plain name', () => {
  expect(readTenant(undefined)).toBe('default')
  expect(readTenant('acme.eu-1_x')).toBe('acme.eu-1_x')
  for (const bad of ['', 'a/b', 'a b', 'x'.repeat(65), 'ü']) expect(codeOf(() => readTenant(bad))).toBe('tenant-invalid')
})

describe('Prefer', () => {
  test.each([
    [undefined, 30_000, undefined],
    ['wait=2', 2_000, 'wait=2'],
    ['Wait=2', 2_000, 'wait=2'],
    ['wait="3"', 3_000, 'wait=3'],
    ['wait = 4; x=1', 4_000, 'wait=4'],
    ['wait=1, wait=9', 1_000, 'wait=1'],
    ['wait=0', 0, 'wait=0'],
    ['wait=99999', 60_000, 'wait=60'],
    ['respond-async', 0, 'respond-async'],
    ['respond-async, wait=5', 5_000, 'respond-async, wait=5'],
    ['wait=5, respond-async', 5_000, 'respond-async, wait=5'],
    ['handling=lenient', 30_000, undefined],
    ['wait=-1', 30_000, undefined],
    ['wait=soon', 30_000, undefined],
    ['wait', 30_000, undefined],
    ['', 30_000, undefined],
  ])('%s waits %d ms', (header, waitMs, applied) => {
    expect(readPrefer(header, limits)).toEqual({ waitMs, applied })
  })

  test('never asks for more than the longest wait, whatever it says', () => {
    fc.assert(
      fc.property(fc.string(), (header) => {
        const { waitMs } = readPrefer(header, limits)
        expect(waitMs).toBeGreaterThanOrEqual(0)
        expect(waitMs).toBeLessThanOrEqual(limits.waitMsMax)
      }),
    )
  })
})
