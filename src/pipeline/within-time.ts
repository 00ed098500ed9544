/** The bound on the time of the app's own code. */
import { HeadraceError } from '../contracts/errors.ts'

/** Runs `action` and waits at most `ms` for it; its signal aborts when the time is up. Throws 'handler-timeout'. */
export async function withinTime<T>(
  what: string,
  ms: number,
  action: (signal: AbortSignal) => Promise<T> | T,
  code: 'handler-timeout' | 'query-timeout' = 'handler-timeout',
): Promise<T> {
  const control = new AbortController()
  const running = action(control.signal)
  if (!isThenable(running)) return running
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      const error = new HeadraceError(code, `The ${what} did not end within ${ms} ms. Bound its waits, or allow it more time.`)
      control.abort(error)
      reject(error)
    }, ms)
  })
  try {
    return await Promise.race([running, late])
  } finally {
    clearTimeout(timer)
  }
}

/** A promise, or what can be awaited like one: a query builder, a promise of another realm. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return (typeof value === 'object' || typeof value === 'function') && value !== null && 'then' in value && typeof value.then === 'function'
}
