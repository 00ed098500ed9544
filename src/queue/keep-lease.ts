/** Keeping the lease of a partition while its messages are handled. */
import { HeadraceError } from '../contracts/errors.ts'
import type { QueueLease } from '../contracts/queue.ts'

/** Whether the lease is gone: whatever else fails may be tried again under it. */
export function endsLease(error: unknown): boolean {
  return HeadraceError.is(error) && ['lease-lost', 'fenced', 'queue-closed'].includes(error.code)
}

/**
 * Extends the lease until it is stopped. When that has not succeeded for as long
 * as the lease lasts, somebody else may have the partition: `lose` is called, and
 * the work stops before harm is done.
 */
export function keepLease(lease: QueueLease, ttlMs: number, lose: () => void): { stop(): void } {
  let last = performance.now()
  const beat = setInterval(() => {
    const asked = performance.now()
    lease.extend().then(
      (held) => {
        if (held) last = asked
        else lose()
      },
      (error: unknown) => {
        if (endsLease(error)) lose()
      },
    )
    if (asked - last > ttlMs) lose()
  }, ttlMs / 3)
  return { stop: () => clearInterval(beat) }
}
