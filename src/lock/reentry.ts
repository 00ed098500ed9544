/**
 * Knows which keys the running code holds, so that taking one again is an
 * answer and not a wait for oneself. Code inside `using(key, …)` holds the key,
 * and so does everything that it calls and awaits. A bare `acquire` holds for
 * nobody in particular: its lease can be handed around.
 */
import { AsyncLocalStorage } from 'node:async_hooks'
import type { KeysLease } from './lease.ts'

interface Held {
  readonly owner: object
  readonly lease: KeysLease
  readonly shared: boolean
  readonly outer: Held | undefined
}

const storage = new AsyncLocalStorage<Held>()

/** The lease of `owner` under which the running code holds the key; work that outlived its lease holds nothing. */
export function heldHere(owner: object, key: string): Held | undefined {
  for (let held = storage.getStore(); held !== undefined; held = held.outer) {
    if (held.owner === owner && held.lease.held && held.lease.tokens.has(key)) return held
  }
  return undefined
}

export function runHolding<T>(owner: object, lease: KeysLease, shared: boolean, run: () => Promise<T>): Promise<T> {
  return storage.run({ owner, lease, shared, outer: storage.getStore() }, run)
}
