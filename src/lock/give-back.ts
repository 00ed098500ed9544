/** Tells the engine that an acquisition is over, until it has heard it or the lease has run out by itself. */
import { HeadraceError } from '../contracts/errors.ts'
import type { LockEnd, LockEngine } from '../contracts/lock.ts'
import { backoffMs } from '../std/backoff.ts'
import type { LockClock } from './clock.ts'

const retryBaseMs = 20
const retryMaxMs = 1_000

/**
 * Tries once and answers what the engine said; null when it did not answer.
 * Then it goes on in the background, until `until` at most.
 */
export async function giveBack(engine: LockEngine, clock: LockClock, key: string, id: string, until: number): Promise<LockEnd | null> {
  try {
    return await engine.release(key, id)
  } catch (error) {
    if (worthRepeating(error)) void goOn(engine, clock, key, id, until)
    return null
  }
}

async function goOn(engine: LockEngine, clock: LockClock, key: string, id: string, until: number): Promise<void> {
  for (let attempt = 0; clock.now() < until; attempt++) {
    await new Promise<void>((resolve) => {
      clock.set(resolve, backoffMs(attempt, retryBaseMs, retryMaxMs), 'idle')
    })
    try {
      await engine.release(key, id)
      return
    } catch (error) {
      if (!worthRepeating(error)) return
    }
  }
}

export function worthRepeating(error: unknown): boolean {
  return HeadraceError.is(error) && error.retryable
}
