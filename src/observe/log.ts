/**
 * Turns what the parts tell into log lines, for whatever logger is handed in.
 *
 * A flood is cut: of each kind at most `linesMax` lines are written in
 * `windowMs`; the first line after it says how many were left out.
 */
import { type DiagnosticEvents, listen } from '../contracts/diagnostics.ts'
import type { AppEventName } from './app-events.ts'

/** The part of a pino logger that is used. */
export interface Logger {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
  error(fields: object, message: string): void
}

export interface LogOptions {
  /** Lines of one kind per window. Default: 20. */
  readonly linesMax?: number
  /** Milliseconds. Default: 1,000. */
  readonly windowMs?: number
  /** Milliseconds that only grow. Default: the monotonic clock. */
  readonly now?: () => number
}

/** Logs notices, dead letters, retries and recoveries of the app, and parked sagas of the process; returns the way to stop. */
export function logEvents(app: string, logger: Logger, options: LogOptions = {}): () => void {
  const { linesMax = 20, windowMs = 1_000, now = () => performance.now() } = options
  const on = <Name extends AppEventName | 'headrace:saga-parked'>(
    name: Name,
    write: (event: DiagnosticEvents[Name], leftOut: { readonly leftOut?: number }) => void,
  ): (() => void) => {
    let windowStart = now()
    let lines = 0
    let leftOut = 0
    return listen(name, (event) => {
      if ('app' in event && event.app !== app) return
      if (now() - windowStart >= windowMs) {
        windowStart = now()
        lines = 0
      }
      lines += 1
      if (lines > linesMax) {
        leftOut += 1
        return
      }
      const told = leftOut
      leftOut = 0
      write(event, told === 0 ? {} : { leftOut: told })
    })
  }

  const closers = [
    on('headrace:notice', (event, leftOut) => logger[event.level]({ app, ...event.details, ...leftOut }, event.message)),
    on('headrace:dead-letter', ({ command, key, id, position, code, message }, leftOut) =>
      logger.error({ app, command, key, id, position, code, ...leftOut }, `Command '${command}' was dead-lettered: ${message}`),
    ),
    on('headrace:retry', ({ commands, way, error }, leftOut) =>
      logger.warn({ app, commands, way, err: error, ...leftOut }, retryWords[way]),
    ),
    // Sagas belong to the process, not to an app.
    on('headrace:saga-parked', ({ kind, name, id, branch, operation, code, message }, leftOut) =>
      logger.error(
        { kind, name, id, branch, operation, code, ...leftOut },
        `The ${kind} '${name}' is parked and waits for you (headrace saga show ${id}): ${message}`,
      ),
    ),
    on('headrace:recovery', ({ queued, redone, ms }, leftOut) =>
      logger.info(
        { app, queued, redone, ms, ...leftOut },
        `Recovered: ${queued} commands wait in the queue, ${redone} batches were redone.`,
      ),
    ),
  ]
  return () => {
    for (const close of closers.splice(0)) close()
  }
}

const retryWords: Readonly<Record<DiagnosticEvents['headrace:retry']['way'], string>> = {
  whole: 'A batch failed and is tried again whole.',
  split: 'A batch failed and is split in half.',
  alone: 'A command failed alone and is tried again.',
}
