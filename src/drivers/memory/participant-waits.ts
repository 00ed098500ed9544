/** Waits that a signal ends. */
import { HeadraceError } from '../../contracts/errors.ts'

export function ended(what: string): HeadraceError {
  return new HeadraceError('wait-aborted', `The wait for ${what} was ended by its signal.`)
}

/** Resolves when one of the signals aborts. */
export function aborted(signal: AbortSignal, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    const end = (): void => {
      signal.removeEventListener('abort', end)
      stop.removeEventListener('abort', end)
      resolve()
    }
    signal.addEventListener('abort', end)
    stop.addEventListener('abort', end)
  })
}
