import { afterEach, expect, test } from 'vitest'
import { tell } from '../contracts/diagnostics.ts'
import { logEvents, type Logger } from './log.ts'

interface Line {
  readonly level: string
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>>
}

const stops: (() => void)[] = []
afterEach(() => {
  for (const stop of stops.splice(0)) stop()
})

function logOf(app: string, options: Parameters<typeof logEvents>[2] = {}): { lines: Line[]; stop: () => void } {
  const lines: Line[] = []
  const at =
    (level: string) =>
    (fields: object, message: string): void =>
      void lines.push({ level, message, fields: fields as Record<string, unknown> })
  const logger: Logger = { info: at('info'), warn: at('warn'), error: at('error') }
  const stop = logEvents(app, logger, options)
  stops.push(stop)
  return { lines, stop }
}

const letter = { app: 'a', command: 'order.buy', key: 'k', id: 'i', position: 9, code: 'handler-failed', message: 'no such column' }

test('notices keep their level and details', () => {
  const { lines } = logOf('a')
  tell('headrace:notice', () => ({ app: 'a', level: 'error', message: 'The disk is full', details: { path: '/d' } }))
  expect(lines).toEqual([{ level: 'error', message: 'The disk is full', fields: { app: 'a', path: '/d' } }])
})

test('dead letters, retries and recoveries become lines that name them', () => {
  const { lines } = logOf('a')
  const error = new Error('deadlock')
  tell('headrace:dead-letter', () => letter)
  tell('headrace:retry', () => ({ app: 'a', commands: 5, way: 'whole', error }))
  tell('headrace:recovery', () => ({ app: 'a', queued: 3, redone: 1, ms: 2 }))
  expect(lines).toMatchObject([
    {
      level: 'error',
      message: "Command 'order.buy' was dead-lettered: no such column",
      fields: { key: 'k', id: 'i', position: 9, code: 'handler-failed' },
    },
    { level: 'warn', fields: { commands: 5, way: 'whole', err: error } },
    { level: 'info', fields: { queued: 3, redone: 1 } },
  ])
})

test('a parked saga is an alarm, whatever the app: which one, where it stands, and how to look at it', () => {
  const { lines } = logOf('a')
  const parked = {
    kind: 'saga',
    name: 'trip',
    id: 'trip-1',
    branch: 'flight',
    operation: 'undo',
    code: 'call-refused',
    message: 'HTTP 409',
  }
  tell('headrace:saga-parked', () => parked)
  expect(lines).toEqual([
    {
      level: 'error',
      message: "The saga 'trip' is parked and waits for you (headrace saga show trip-1): HTTP 409",
      fields: { kind: 'saga', name: 'trip', id: 'trip-1', branch: 'flight', operation: 'undo', code: 'call-refused' },
    },
  ])
})

test('another app is not logged, and nothing is after the stop', () => {
  const { lines, stop } = logOf('a')
  tell('headrace:dead-letter', () => ({ ...letter, app: 'b' }))
  stop()
  tell('headrace:dead-letter', () => letter)
  expect(lines).toEqual([])
})

test('a flood of one kind is cut, told of, and does not silence the others', () => {
  let now = 0
  const { lines } = logOf('a', { linesMax: 3, windowMs: 100, now: () => now })
  for (let number = 0; number < 1_000; number++) tell('headrace:dead-letter', () => letter)
  tell('headrace:notice', () => ({ app: 'a', level: 'info', message: 'still here' }))
  expect(lines.map(({ level }) => level)).toEqual(['error', 'error', 'error', 'info'])
  now = 100
  tell('headrace:dead-letter', () => letter)
  expect(lines.at(-1)?.fields).toMatchObject({ leftOut: 997 })
})
