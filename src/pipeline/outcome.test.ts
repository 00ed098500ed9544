import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ticketFor } from '../../test/support/tickets.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { callerId, committedOutcome, failedOutcome, rejectedOutcome, scopedId } from './outcome.ts'

const bytesMax = 1_000
const visible = fc.string({
  unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)),
  minLength: 1,
  maxLength: 128,
})

function codeOf(action: () => unknown): string {
  try {
    action()
    return 'nothing'
  } catch (error) {
    return HeadraceError.is(error) ? error.code : String(error)
  }
}

describe('a scoped id', () => {
  it('gives back the id of the caller, and is another for every other tenant, command or id', () => {
    const names = fc.constantFrom('a', 'b', 'a.b', 'a-b')
    const ids = fc.oneof(fc.constantFrom('x', '/x', 'b/x', 'x/', '/'), visible)
    fc.assert(
      fc.property(names, names, ids, names, names, ids, (command, tenant, id, otherCommand, otherTenant, otherId) => {
        const scoped = scopedId(command, tenant, id)
        expect(callerId(scoped)).toBe(id)
        const same = command === otherCommand && tenant === otherTenant && id === otherId
        expect(scopedId(otherCommand, otherTenant, otherId) === scoped).toBe(same)
      }),
      { numRuns: 1_000 },
    )
  })
})

describe('an outcome document', () => {
  it('is JSON that says what became of the command, for any id and any text', () => {
    fc.assert(
      fc.property(visible, fc.jsonValue({ maxDepth: 2 }), fc.string(), fc.string({ minLength: 1 }), (callerId, result, detail, code) => {
        const ticket = ticketFor(7, { callerId })
        const head = { id: callerId, command: 'thing.do', position: 7 }
        const asJson: unknown = JSON.parse(JSON.stringify(result))
        expect(JSON.parse(committedOutcome(ticket, result, 100_000).body)).toEqual({ ...head, status: 'committed', result: asJson })
        expect(JSON.parse(rejectedOutcome(ticket, code, detail, 100_000).body)).toEqual({ ...head, status: 'rejected', code, detail })
        expect(JSON.parse(failedOutcome(ticket, code, detail).body)).toEqual({ ...head, status: 'failed', code, detail })
      }),
    )
  })

  it('leaves out the detail of a rejection that has none', () => {
    expect(JSON.parse(rejectedOutcome(ticketFor(1), 'sold-out', undefined, bytesMax).body)).not.toHaveProperty('detail')
  })

  it('keeps what identifies the command beside it', () => {
    const ticket = ticketFor(3, { key: 'k' })
    const { id, partition, digest } = ticket.entry
    expect(committedOutcome(ticket, 1, bytesMax)).toEqual({
      id,
      status: 'committed',
      digest,
      body: expect.any(String),
      position: 3,
      partition,
      at: expect.any(Number),
    })
  })

  it('is refused past its bytes, and taken up to them', () => {
    const ticket = ticketFor(1)
    for (const [letter, bytes] of [
      ['x', 1],
      ['é', 2],
      ['日', 3],
    ] as const) {
      const most = Math.floor((bytesMax - 2) / bytes)
      expect(codeOf(() => committedOutcome(ticket, letter.repeat(most), bytesMax))).toBe('nothing')
      expect(codeOf(() => committedOutcome(ticket, letter.repeat(most + 1), bytesMax))).toBe('result-invalid')
      expect(codeOf(() => rejectedOutcome(ticket, 'no', letter.repeat(most + 1), bytesMax))).toBe('result-invalid')
    }
  })

  it('is refused when the result is no JSON', () => {
    const ring: unknown[] = []
    ring.push(ring)
    for (const result of [1n, ring, { toJSON: () => 1n }])
      expect(codeOf(() => committedOutcome(ticketFor(1), result, bytesMax))).toBe('result-invalid')
    for (const result of [undefined, () => 1, Symbol('x')])
      expect(JSON.parse(committedOutcome(ticketFor(1), result, bytesMax).body)).toMatchObject({ result: null })
  })
})
