/**
 * The clock and the timers that leases run on. It only ever goes forward:
 * a lease on the wall clock would end early or late when somebody sets that.
 */
export interface LockClock {
  /** Milliseconds since some moment in the past; monotonic. */
  now(): number
  /** Calls back once after `ms`. A timer that is `idle` does not keep the process alive. */
  set(callback: () => void, ms: number, kind: 'busy' | 'idle'): unknown
  clear(timer: unknown): void
}

export const monotonicClock: LockClock = {
  now: () => performance.now(),
  set(callback, ms, kind) {
    const timer = setTimeout(callback, ms)
    if (kind === 'idle') timer.unref()
    return timer
  },
  clear: (timer) => clearTimeout(timer as NodeJS.Timeout),
}
