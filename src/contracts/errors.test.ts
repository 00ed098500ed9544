import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { type ErrorCode, type ErrorEntry, errorTable, HeadraceError } from './errors.ts'

const entries = Object.entries(errorTable) as [ErrorCode, ErrorEntry][]

describe('the table of errors', () => {
  it('says for each code what happened and what to do', () => {
    for (const [code, { status, title, remedy }] of entries) {
      expect(code).toMatch(/^[a-z]+(?:-[a-z]+)*$/)
      expect(status).toBeGreaterThanOrEqual(400)
      expect(status).toBeLessThan(600)
      expect(title).toMatch(/^(?:[A-Z]|\w+\(\)).*[^.]$/)
      expect(remedy).toMatch(/^[A-Z].*\.$/)
    }
  })

  it('tells a caller to come back only with a status that means so', () => {
    for (const [code, { status, retryable }] of entries) {
      if ([429, 503, 504].includes(status)) expect([code, retryable]).toEqual([code, true])
      if ([404, 405, 413, 415, 422, 431].includes(status)) expect([code, retryable]).toEqual([code, false])
    }
  })

  it('has no code that nothing uses', () => {
    const source = fileURLToPath(new URL('..', import.meta.url))
    const texts = readdirSync(source, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts') && !/\.test(-d)?\.ts$/.test(file) && !file.endsWith('contracts/errors.ts'))
      .map((file) => readFileSync(join(source, file), 'utf8'))
    const unused = entries.map(([code]) => code).filter((code) => !texts.some((text) => text.includes(`'${code}'`)))
    expect(unused).toEqual([])
  })
})

describe('an error', () => {
  it('says by itself what its code means when nothing better is known', () => {
    const error = new HeadraceError('queue-full')
    expect(error.message).toBe('The queue is full. Send the command again after Retry-After seconds.')
    expect(error.status).toBe(503)
    expect(error.retryable).toBe(true)
    expect(error).not.toHaveProperty('cause')
  })

  it('keeps its details, its pause and its cause', () => {
    const cause = new Error('below')
    const error = new HeadraceError('input-invalid', 'No.', { details: { field: 'a' }, retryAfterMs: 5, cause })
    expect([error.message, error.details, error.retryAfterMs, error.cause]).toEqual(['No.', { field: 'a' }, 5, cause])
  })

  it('is known by its shape, so that two copies of the package understand each other', () => {
    const foreign = Object.assign(new Error('from another copy'), { name: 'HeadraceError', code: 'queue-full' })
    expect(HeadraceError.is(foreign)).toBe(true)
    expect(HeadraceError.is(Object.assign(new Error('x'), { name: 'HeadraceError', code: 'no-such-code' }))).toBe(false)
    expect(HeadraceError.is(Object.assign(new Error('x'), { code: 'queue-full' }))).toBe(false)
    expect(HeadraceError.is({ name: 'HeadraceError', code: 'queue-full' })).toBe(false)
    expect(HeadraceError.is(null)).toBe(false)
  })
})
