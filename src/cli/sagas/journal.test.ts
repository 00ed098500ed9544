import { describe, expect, it } from 'vitest'
import type { RunRecord } from '../../transaction/index.ts'
import { journalLines } from './journal.ts'

const call = (branch: string, operation: string, attempt: number): RunRecord => ({ kind: 'call', branch, operation, attempt })
const done = (branch: string, operation: string, result?: unknown): RunRecord => ({ kind: 'done', branch, operation, result })
const error = (branch: string, operation: string, code: string) => ({ branch, operation, code, message: code })

const shown = (records: readonly RunRecord[]): string[] =>
  journalLines(records).map(({ number, step, operation, attempts, end }) =>
    [number, step, operation, attempts?.join('–') ?? '', end].filter((word) => word !== '').join(' '),
  )

describe('the lines of a journal', () => {
  it('join the attempts of a call, also of calls that went side by side', () => {
    expect(
      shown([
        call('flight', 'do', 1),
        done('flight', 'do', 'f1'),
        call('hotel', 'do', 1),
        call('car', 'do', 1),
        call('hotel', 'do', 2),
        { kind: 'failed', branch: 'hotel', operation: 'do', error: error('hotel', 'do', 'full'), certain: false },
        done('car', 'do'),
        { kind: 'decided', decision: 'back', error: error('hotel', 'do', 'full') },
      ]),
    ).toEqual(['1 flight do 1–1 done', '3 hotel do 1–2 failed', '4 car do 1–1 done', '8 back'])
  })

  it('say what was parked, and tell what came after a redrive apart', () => {
    const lines = [
      call('flight', 'undo', 1),
      call('flight', 'undo', 2),
      { kind: 'parked', error: error('flight', 'undo', 'away') },
      { kind: 'redriven', at: 5 },
      call('flight', 'undo', 3),
    ] as const satisfies readonly RunRecord[]
    expect(shown(lines)).toEqual(['1 flight undo 1–2 failed', '3 parked', '4 redriven', '5 flight undo 3–3 open'])
    expect(journalLines(lines)[2]).toMatchObject({ at: 5 })
  })

  it('tell a no that changed nothing from a failure that may have', () => {
    const refused = { kind: 'failed', branch: 'a', operation: 'do', error: error('a', 'do', 'no'), certain: true } as const
    expect(journalLines([call('a', 'do', 1), refused])).toMatchObject([{ end: 'refused', error: { code: 'no' } }])
  })
})
