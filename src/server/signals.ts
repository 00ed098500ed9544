/** Closes a server when the process is asked to end. */
import type { RunningServer } from './serve.ts'

/**
 * On SIGTERM or SIGINT closes the server and ends the process: with 0 when it
 * closed well, with 1 when it did not. A second signal ends it at once.
 * Returns the way to stop listening.
 */
export function closeOnSignals(server: Pick<RunningServer, 'close'>, exit: (code: number) => void = process.exit): () => void {
  let asked = false
  const end = (): void => {
    if (asked) return exit(1)
    asked = true
    server.close().then(
      () => exit(0),
      () => exit(1),
    )
  }
  process.on('SIGTERM', end).on('SIGINT', end)
  return () => {
    process.off('SIGTERM', end).off('SIGINT', end)
  }
}
