import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { ticketFor } from '../../test/support/tickets.ts'
import { type ErrorCode, HeadraceError } from '../contracts/errors.ts'
import { accept, command, type OnDeadLetter } from './command.ts'
import { judge, recordOfFailures, verdictOf } from './judgement.ts'
import { resolveOptions } from './options.ts'
import type { Ticket } from './ticket.ts'

const limits = resolveOptions({ retryBaseMs: 100, retryMaxMs: 1_000 }, {})

function failing(
  position: number,
  given: {
    readonly attempts?: number
    readonly retries?: number
    readonly onDeadLetter?: OnDeadLetter
    readonly queued?: boolean
    readonly key?: string
  } = {},
): Ticket {
  const { retries = 3, onDeadLetter = 'skip', ...entry } = given
  return ticketFor(position, entry, command('thing.do', { input: z.unknown(), key: () => 'k', retries, onDeadLetter, run: () => accept() }))
}

describe('a command that failed alone', () => {
  it('is tried again as often as it says, then skipped or blocked, as it says', () => {
    fc.assert(
      fc.property(fc.nat(10), fc.nat(10), fc.constantFrom<OnDeadLetter>('skip', 'block'), (attempts, retries, onDeadLetter) => {
        expect(verdictOf(failing(1, { attempts, retries, onDeadLetter }), new Error('x'))).toBe(attempts < retries ? 'retry' : onDeadLetter)
      }),
    )
  })

  it.each<ErrorCode>([
    'input-invalid',
    'command-unknown',
    'decide-impure',
    'decide-invalid',
    'result-invalid',
    'statement-refused',
    'table-without-key',
  ])('is not tried again after %s, which every try would meet', (code) => {
    expect(verdictOf(failing(1), new HeadraceError(code))).toBe('skip')
    expect(verdictOf(failing(1, { onDeadLetter: 'block' }), new HeadraceError(code))).toBe('block')
  })

  it('is tried again after an error that another try may not meet', () => {
    for (const error of [new HeadraceError('sql-failed'), new HeadraceError('handler-timeout'), new Error('x'), 'text', undefined])
      expect(verdictOf(failing(1), error)).toBe('retry')
  })

  it('that the app does not know any more is skipped', () => {
    expect(verdictOf(ticketFor(1), new HeadraceError('command-unknown'))).toBe('skip')
  })

  it('waits longer with each attempt, within its bound', () => {
    for (const [attempts, longest] of [
      [0, 100],
      [1, 200],
      [2, 400],
      [5, 1_000],
    ] as const) {
      const before = Date.now()
      const { retryAt } = judge(failing(1, { attempts, retries: 9 }), new Error('x'), limits)
      expect(retryAt).toBeGreaterThanOrEqual(before + longest / 2)
      expect(retryAt).toBeLessThanOrEqual(Date.now() + longest)
    }
  })

  it('keeps its code and message, whatever was thrown', () => {
    const ring: { self?: unknown } = {}
    ring.self = ring
    const odd = Object.assign(new Error('x'), { message: 5 })
    const cases: [unknown, string, RegExp][] = [
      [new Error('no stock'), 'handler-failed', /^no stock$/],
      [new HeadraceError('handler-timeout', 'too slow'), 'handler-timeout', /^too slow$/],
      ['a text', 'handler-failed', /^a text$/],
      [undefined, 'handler-failed', /undefined/],
      [null, 'handler-failed', /null/],
      [Symbol('odd'), 'handler-failed', /odd/],
      [Object.create(null), 'handler-failed', /null prototype/],
      [ring, 'handler-failed', /Circular/],
      [odd, 'handler-failed', /./],
      [
        {
          get message(): string {
            throw new Error('no')
          },
        },
        'handler-failed',
        /./,
      ],
      [new Error('x'.repeat(5_000)), 'handler-failed', /^x{2000}$/],
    ]
    for (const [error, code, message] of cases) {
      const judged = judge(failing(1, { retries: 0 }), error, limits)
      expect(judged.code).toBe(code)
      expect(judged.message).toMatch(message)
      expect(JSON.parse(judged.outcome?.body ?? '')).toMatchObject({ status: 'failed', code, detail: judged.message })
    }
  })
})

describe('the record of failures', () => {
  it('parks those that are tried again and those held, buries the others, and blocks the keys that must wait', () => {
    const again = judge(failing(1, { key: 'a', attempts: 1, queued: true }), new Error('x'), limits)
    const skipped = judge(failing(2, { key: 'b', retries: 0 }), new Error('y'), limits)
    const blocking = judge(failing(3, { key: 'c', retries: 0, onDeadLetter: 'block', queued: true }), new Error('z'), limits)
    const record = recordOfFailures([again, skipped, blocking], [failing(4, { key: 'a' })])
    expect(record.parked.map(({ position, attempts }) => [position, attempts])).toEqual([
      [4, 0],
      [1, 2],
    ])
    expect(record.blocked).toEqual([
      { key: 'a', partition: again.ticket.partition, retryAt: again.retryAt },
      { key: 'c', partition: blocking.ticket.partition, retryAt: null },
    ])
    expect(record.dead.map(({ position, attempts, message, blocks }) => [position, attempts, message, blocks])).toEqual([
      [2, 1, 'y', false],
      [3, 1, 'z', true],
    ])
    expect(record.outcomes.map(({ position, status }) => [position, status])).toEqual([
      [2, 'failed'],
      [3, 'failed'],
    ])
    // Only what the queue holds can leave it.
    expect(record.done.map(({ position }) => position)).toEqual([3])
  })
})
