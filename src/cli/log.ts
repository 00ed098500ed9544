/** The log of `start` for people: a line per event on standard error, in the interface that Fastify asks of a logger. */
import type { FastifyBaseLogger } from 'fastify'
import type { Terminal } from './terminal.ts'

export const logLevels = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = (typeof logLevels)[number]

const nothing = (): void => {}

export function createLog(terminal: Terminal, level: LogLevel): FastifyBaseLogger {
  const writer = (own: Exclude<LogLevel, 'silent'>): ((...given: readonly unknown[]) => void) => {
    if (level === 'silent' || logLevels.indexOf(own) > logLevels.indexOf(level)) return nothing
    const style = own === 'warn' ? 'yellow' : own === 'error' || own === 'fatal' ? 'red' : 'dim'
    return (...given) => {
      const [fields, message] = typeof given[0] === 'string' ? [{}, given[0]] : [given[0] as object, String(given[1] ?? '')]
      const time = new Date().toISOString().slice(11, 23)
      terminal.note(
        [`  ${terminal.style('dim', time)}`, terminal.style(style, own.padEnd(5)), message, terminal.style('dim', fieldsText(fields))]
          .join('  ')
          .trimEnd(),
      )
    }
  }
  const log = {
    level,
    silent: nothing,
    fatal: writer('fatal'),
    error: writer('error'),
    warn: writer('warn'),
    info: writer('info'),
    debug: writer('debug'),
    trace: writer('trace'),
    child: () => log,
  }
  return log as unknown as FastifyBaseLogger
}

/** Characters of one field; the rest is in the log with --json. */
const fieldLengthMax = 300

function fieldsText(fields: object): string {
  return Object.entries(fields)
    .filter(([name]) => name !== 'app')
    .map(([name, value]) => `${name}=${fieldText(value)}`)
    .join(' ')
}

function fieldText(value: unknown): string {
  const text = value instanceof Error ? value.message : typeof value === 'string' ? value : JSON.stringify(value)
  return text === undefined || text.length <= fieldLengthMax ? String(text) : `${text.slice(0, fieldLengthMax)}…`
}
