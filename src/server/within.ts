/** A bounded wait. */

/** What `within` gives when the time was up first. */
export const late: unique symbol = Symbol('late')

/**
 * Waits for a promise, at most `ms` milliseconds. The promise goes on either
 * way, and its rejection counts as handled even when it comes too late.
 */
export function within<T>(promise: Promise<T>, ms: number): Promise<T | typeof late> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms, late)
    promise.then(
      (value) => {
        clearTimeout(timer)
        resolve(value)
      },
      (error: unknown) => {
        clearTimeout(timer)
        reject(error)
      },
    )
  })
}
