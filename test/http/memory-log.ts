/** A logger that keeps its lines, for tests that read them. */
import type { FastifyBaseLogger } from 'fastify'

export interface LogLine {
  readonly level: string
  readonly message: string
  readonly fields: Readonly<Record<string, unknown>>
}

export function memoryLog(): { log: FastifyBaseLogger; lines: LogLine[] } {
  const lines: LogLine[] = []
  const at =
    (level: string) =>
    (first: unknown, message?: string): void => {
      lines.push({
        level,
        message: message ?? String(first),
        fields: typeof first === 'object' && first !== null ? (first as Record<string, unknown>) : {},
      })
    }
  const log = { level: 'trace', silent: () => {}, child: () => log } as unknown as FastifyBaseLogger
  for (const level of ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const) log[level] = at(level)
  return { log, lines }
}

/** Where a server said that it listens. */
export function listeningUrl(lines: readonly LogLine[]): string {
  const url = lines.map(({ message }) => /http:\/\/\S+/.exec(message)?.[0]).find((found) => found !== undefined)
  if (url === undefined) throw new Error('The server never said where it listens.')
  return url
}
