/** The journal of a run, as lines for a person: a line for each call with all of its attempts, and one for each turn of the run. */
import type { RunError, RunRecord } from '../../transaction/index.ts'

export interface JournalLine {
  /** The number of its first record, from 1. */
  readonly number: number
  /** Empty for what is of the whole run. */
  readonly step: string
  readonly operation: string
  /** From the first to the last attempt of this line; null for what is no call. */
  readonly attempts: readonly [number, number] | null
  /** 'open' is begun, and nobody knows how it ended. */
  readonly end: 'done' | 'failed' | 'refused' | 'open' | 'forward' | 'back' | 'parked' | 'redriven'
  readonly result?: unknown
  readonly error?: RunError
  /** Milliseconds since 1970, where the journal has it. */
  readonly at?: number
}

type Mutable = { -readonly [K in keyof JournalLine]: JournalLine[K] }

export function journalLines(records: readonly RunRecord[]): JournalLine[] {
  const lines: Mutable[] = []
  const open = new Map<string, Mutable>()
  for (const [index, record] of records.entries()) {
    const number = index + 1
    const whole = { number, step: '', operation: '', attempts: null }
    switch (record.kind) {
      case 'call': {
        const { branch, operation, attempt } = record
        const known = open.get(`${branch}/${operation}`)
        if (known?.attempts != null) {
          known.attempts = [known.attempts[0], attempt]
          break
        }
        const line: Mutable = { number, step: branch, operation, attempts: [attempt, attempt], end: 'open' }
        open.set(`${branch}/${operation}`, line)
        lines.push(line)
        break
      }
      case 'done':
      case 'failed': {
        const key = `${record.branch}/${record.operation}`
        const line = open.get(key)
        if (line === undefined) break
        open.delete(key)
        if (record.kind === 'done') {
          line.end = 'done'
          if (record.result !== undefined) line.result = record.result
        } else {
          line.end = record.certain ? 'refused' : 'failed'
          line.error = record.error
        }
        break
      }
      case 'decided':
        lines.push({ ...whole, end: record.decision, ...(record.error === undefined ? {} : { error: record.error }) })
        break
      case 'parked': {
        const key = `${record.error.branch}/${record.error.operation}`
        const line = open.get(key)
        if (line !== undefined) Object.assign(line, { end: 'failed', error: record.error })
        lines.push({ ...whole, end: 'parked', error: record.error })
        break
      }
      case 'redriven':
        // What is called from here on is told on lines of its own.
        open.clear()
        lines.push({ ...whole, end: 'redriven', ...(record.at === undefined ? {} : { at: record.at }) })
        break
    }
  }
  return lines
}
