/** Distributed locks: `headrace/lock`. */
export { FencedError, type Fenceable, type LockEngine } from '../contracts/lock.ts'
export { type LockClock, monotonicClock } from './clock.ts'
export { breakLock, listLocks, type LockListing } from './inspect.ts'
export type { Lease } from './lease.ts'
export { createLocks, type Locks, type Semaphore, type SemaphoreOptions } from './locks.ts'
export type { AcquireOptions, LocksOptions } from './options.ts'
