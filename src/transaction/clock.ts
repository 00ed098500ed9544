/** Time as the coordinator uses it: for bounds and pauses, never to decide anything. A simulation hands in its own. */
import { pause } from '../std/backoff.ts'

export interface TransactionClock {
  /** Milliseconds since some moment in the past; monotonic. */
  now(): number
  /** Resolves after `ms`, or at once when the signal aborts; never rejects. */
  pause(ms: number, signal?: AbortSignal): Promise<void>
}

export const processClock: TransactionClock = { now: () => performance.now(), pause }

/** The value, or `late` when it is not there in time. The timer ends with it. */
export async function inTime<T, L>(clock: TransactionClock, value: Promise<T>, ms: number, late: L): Promise<T | L> {
  const stop = new AbortController()
  try {
    return await Promise.race([value, clock.pause(ms, stop.signal).then(() => late)])
  } finally {
    // With a reason: without one, an error with its stack is made.
    stop.abort(null)
  }
}
