/** What an operator sees and does: which locks are held and waited for, and taking one away. */
import { checkWhole } from '../contracts/bounds.ts'
import { type LockEngine, type LockStatus, wholeLimit } from '../contracts/lock.ts'
import { checkKey } from './options.ts'

/** Keys in one listing. */
const listKeysMax = 100_000

export interface LockListing {
  readonly key: string
  readonly kind: 'exclusive' | 'shared' | 'semaphore'
  /** Of a semaphore: its limit. */
  readonly limit: number | null
  readonly holders: readonly {
    /** Names the acquisition: host, process, a random part and a number. */
    readonly id: string
    /** The process that holds it: host and process number. */
    readonly owner: string
    readonly token: number
    readonly permits: number
    /** When the lease ends unless it is extended. */
    readonly remainingMs: number
  }[]
  readonly waiting: number
  readonly lastToken: number
}

/** The locks that are held or waited for, by key; at most `max`, 1000 unless said. */
export async function listLocks(engine: LockEngine, options: { readonly max?: number } = {}): Promise<LockListing[]> {
  const { max = 1_000 } = options
  checkWhole('max', max, 1, listKeysMax)
  const found = await engine.list(max)
  return found.map(listing).sort((a, b) => (a.key < b.key ? -1 : 1))
}

/**
 * Takes a lock away from whoever holds it (from one of them, by `id`), and lets the next waiter in.
 * The holder is told at once if it can be reached; only the guard in the
 * database stops what it still writes. Returns how many leases were broken.
 */
export async function breakLock(engine: LockEngine, key: string, options: { readonly id?: string } = {}): Promise<number> {
  checkKey(key)
  return engine.break(key, options.id)
}

function listing(status: LockStatus): LockListing {
  const { key, limit, holders, waiting, lastToken } = status
  const whole = limit === wholeLimit
  const shared = whole && holders.length > 0 && holders.every((holder) => holder.permits < wholeLimit)
  return {
    key,
    kind: whole ? (shared ? 'shared' : 'exclusive') : 'semaphore',
    limit: whole ? null : limit,
    holders: holders.map((holder) => ({
      ...holder,
      permits: whole ? 1 : holder.permits,
      owner: holder.id.split(':').slice(0, 2).join(':'),
    })),
    waiting,
    lastToken,
  }
}
