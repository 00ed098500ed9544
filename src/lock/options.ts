/** What a caller may ask for, and the check of it: bad input ends here, before an engine sees it. */
import { checkWhole } from '../contracts/bounds.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { lockKeyBytesMax, tokenFloorMax, ttlMsMax, ttlMsMin, waitMsMax } from '../contracts/lock.ts'
import { nearest } from '../contracts/nearest.ts'
import type { LockClock } from './clock.ts'

/** Keys in one lease. */
const leaseKeysMax = 64

export interface AcquireOptions {
  /** How long the lease lasts if this process dies, in milliseconds. While the process lives it extends it. Default: the ttlMs of the locks. */
  readonly ttlMs?: number
  /** Longest wait, in milliseconds; 0 does not wait. Default: the waitMs of the locks. */
  readonly waitMs?: number
  /** Ends the waiting: acquire rejects with the reason of the signal. */
  readonly signal?: AbortSignal
  /** `exclusive` is alone; any number of `shared` go together. Default: 'exclusive'. */
  readonly mode?: 'exclusive' | 'shared'
  /** Lets code inside `using(key)` take the key again: it gets the lease that is held. Default: false, it is refused. */
  readonly reentrant?: boolean
  /** The token must be higher than this: `FencedError.highest`, when the engine has lost its data and its clock. Default: 0. */
  readonly tokenFloor?: number
  /** Extends the lease while it is held. Default: true. */
  readonly extend?: boolean
}

export interface LocksOptions {
  /** Default lease of these locks, in milliseconds: 50 to 86400000. Default: 10000. */
  readonly ttlMs?: number
  /** Default wait of these locks, in milliseconds: 0 to 86400000. Default: 10000. */
  readonly waitMs?: number
  /** How many callers of this process may wait at once. Default: 20000. */
  readonly waitersMax?: number
  /** Monotonic time and timers. Default: those of the process. */
  readonly clock?: LockClock
  /** Spreads the calls of several processes in time. Default: Math.random. */
  readonly random?: () => number
}

export interface Acquisition {
  readonly ttlMs: number
  readonly waitMs: number
  readonly signal: AbortSignal | undefined
  readonly shared: boolean
  readonly reentrant: boolean
  readonly tokenFloor: number
  readonly extend: boolean
}

const acquireNames = ['ttlMs', 'waitMs', 'signal', 'mode', 'reentrant', 'tokenFloor', 'extend']
const locksNames = ['ttlMs', 'waitMs', 'waitersMax', 'clock', 'random']

export function checkAcquire(given: AcquireOptions | undefined, defaults: Acquisition): Acquisition {
  if (given === undefined) return defaults
  checkNames('acquire', given, acquireNames)
  const {
    ttlMs = defaults.ttlMs,
    waitMs = defaults.waitMs,
    signal,
    mode = 'exclusive',
    reentrant = false,
    tokenFloor = 0,
    extend = true,
  } = given
  checkWhole('ttlMs', ttlMs, ttlMsMin, ttlMsMax)
  checkWhole('waitMs', waitMs, 0, waitMsMax)
  checkWhole('tokenFloor', tokenFloor, 0, tokenFloorMax)
  if (mode !== 'exclusive' && mode !== 'shared') throw new HeadraceError('option-invalid', "mode must be 'exclusive' or 'shared'.")
  checkFlag('reentrant', reentrant)
  checkFlag('extend', extend)
  return { ttlMs, waitMs, signal, shared: mode === 'shared', reentrant, tokenFloor, extend }
}

export function checkLocks(given: LocksOptions): { readonly defaults: Acquisition; readonly waitersMax: number } {
  checkNames('createLocks', given, locksNames)
  const { ttlMs = 10_000, waitMs = 10_000, waitersMax = 20_000 } = given
  checkWhole('ttlMs', ttlMs, ttlMsMin, ttlMsMax)
  checkWhole('waitMs', waitMs, 0, waitMsMax)
  checkWhole('waitersMax', waitersMax, 1, 1_000_000)
  return { defaults: { ttlMs, waitMs, signal: undefined, shared: false, reentrant: false, tokenFloor: 0, extend: true }, waitersMax }
}

/** Keys in the order in which everybody takes them, so that two callers with the same keys cannot wait for each other. */
export function checkKeys(given: string | readonly string[]): readonly string[] {
  if (typeof given === 'string') {
    checkKey(given)
    return [given]
  }
  if (!Array.isArray(given) || given.length === 0 || given.length > leaseKeysMax) {
    throw new HeadraceError(
      'lock-key-invalid',
      `A lease takes 1 to ${leaseKeysMax} keys, not ${Array.isArray(given) ? given.length : typeof given}.`,
    )
  }
  for (const key of given) checkKey(key)
  return [...new Set<string>(given)].sort((a, b) => (a < b ? -1 : 1))
}

export function checkKey(key: unknown): asserts key is string {
  const fault = keyFault(key)
  if (fault !== null)
    throw new HeadraceError('lock-key-invalid', `The key of a lock ${fault}. Use a string of 1 to ${lockKeyBytesMax} bytes.`)
}

function keyFault(key: unknown): string | null {
  if (typeof key !== 'string') return `must be a string, not ${typeof key}`
  if (key === '') return 'is empty'
  if (key.length > lockKeyBytesMax || Buffer.byteLength(key) > lockKeyBytesMax) return `is longer than ${lockKeyBytesMax} bytes`
  if (key.includes('\0')) return 'has a zero byte'
  if (/\p{Surrogate}/u.test(key)) return 'has an unpaired surrogate'
  return null
}

function checkFlag(name: string, value: unknown): void {
  if (typeof value !== 'boolean') throw new HeadraceError('option-invalid', `${name} must be true or false.`)
}

function checkNames(owner: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue
    const proposal = nearest(name, known)
    throw new HeadraceError(
      'option-unknown',
      `${owner} has no option '${name}'${proposal === null ? '' : `; did you mean '${proposal}'?`} Known: ${known.join(', ')}.`,
    )
  }
}
