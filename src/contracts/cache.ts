/**
 * What the cache asks of a store that processes share (L2) and of the bus
 * between them.
 *
 * Versions and floors. Every key has a *floor*: the lowest version that a
 * cached value of it may have. A floor only grows. A store keeps value, version,
 * floor and load lease of a key together, so that they are lost together: a
 * loader whose lease is gone cannot fill, and a value below the floor is never
 * a hit.
 *
 * The cache sets a timeout on every call, and drops what comes later. A driver
 * rejects at once when it has no connection, and keeps nothing of a call that
 * nobody waits for any more.
 */

/** A value as a store keeps it. The bytes are made by the cache; a store does not look inside. */
export interface StoredEntry {
  readonly version: number
  readonly body: Uint8Array
  /** How long the value is fresh from now on, in milliseconds; negative when it is over. */
  readonly freshMs: number
}

export interface StoreRead {
  /** What is stored, fresh or not, at or above the floor or not; null when there is no value. */
  readonly entry: StoredEntry | null
  readonly floor: number
  /** How long ago the floor went above the stored value, in milliseconds; 0 while it is not above. */
  readonly belowMs: number
}

export const nothingStored: StoreRead = Object.freeze({ entry: null, floor: 0, belowMs: 0 })

export interface LeaseRequest {
  readonly key: string
  /** The floor that the asker knows; the store takes it over when it is higher than its own. */
  readonly floor: number
  /** The asker needs at least this version; the floor is left as it is. */
  readonly minVersion: number
  /** How long the lease lasts unless it is extended, in milliseconds. */
  readonly leaseMs: number
  /** Take the lease although the stored value is a hit (early refresh). */
  readonly refresh: boolean
}

export type LeaseAnswer =
  /** Somebody filled the key in the meantime. */
  | { readonly state: 'hit'; readonly read: StoreRead }
  /** The asker loads, and fills with `token`. */
  | { readonly state: 'leased'; readonly token: string; readonly read: StoreRead }
  /** Another loads. `filled` resolves when it has filled or given up, or after `forMs`; it never rejects. */
  | { readonly state: 'wait'; readonly read: StoreRead; readonly filled: (forMs: number, signal?: AbortSignal) => Promise<void> }

export interface FillRequest {
  readonly key: string
  /** The lease under which the value was loaded; null for a value that the caller sets, which ends the lease there is. */
  readonly token: string | null
  /** Null: at the floor, whatever it is. */
  readonly version: number | null
  /** Raises the floor to the version as well: what is set is the newest there is. */
  readonly raise: boolean
  readonly body: Uint8Array
  readonly freshMs: number
  /** How long to keep the value; at least freshMs. */
  readonly keepMs: number
}

/** `superseded`: the lease was lost, or cut by an invalidation. */
export type FillAnswer = 'stored' | 'below-floor' | 'superseded' | 'too-large'

/** An invalidation of a key or a tag. With a version: raises the floor. Without: drops the value and cuts loads in flight. */
export interface Change {
  readonly kind: 'key' | 'tag'
  readonly name: string
  readonly version: number | null
}

/** Where a tag stands. An entry is a hit only while the stamp is the one it was loaded under, and its version is at or above the floor. */
export interface TagMark {
  readonly stamp: string
  readonly floor: number
}

export interface CacheStore {
  /** For messages and metrics; no password. */
  readonly name: string
  readonly engine: string
  /** True when waiters are woken by the store; false when they look again from time to time. */
  readonly push: boolean
  /** Largest body it takes, in bytes. */
  readonly bodyBytesMax: number
  /** Reads one key; `nothingStored` when it is not there. */
  read(key: string): Promise<StoreRead>
  /** Asks for the right to load a key. */
  lease(request: LeaseRequest): Promise<LeaseAnswer>
  /** Extends a lease; false when it is lost. */
  extend(key: string, token: string, leaseMs: number): Promise<boolean>
  /** Stores a value, unless the floor or the lease forbid it, and wakes the waiters. */
  fill(request: FillRequest): Promise<FillAnswer>
  /** Gives a lease back without a value, and wakes the waiters. */
  release(key: string, token: string): Promise<void>
  /** Applies invalidations; resolves when all of them are in force. Repeating one with a version changes nothing. */
  change(changes: readonly Change[], floorKeepMs: number): Promise<void>
  /** The marks of tags, in their order; a tag that is not known gets a new stamp. */
  marks(tags: readonly string[]): Promise<TagMark[]>
  /** Writes a small text under a name unless there is one; returns what is there then. */
  claim(name: string, text: string): Promise<string>
  /** Writes a small text under a name, and reads it back; null when there is none. */
  note(name: string, text: string, keepMs: number): Promise<void>
  recall(name: string): Promise<string | null>
  close(): Promise<void>
}

/** What one node tells the others. */
export interface BusMessage {
  readonly namespace: string
  readonly changes: readonly Change[]
}

/**
 * The bus. While a node holds its *trust*, it has seen every message whose
 * `publish` has resolved: a publisher waits until each node that holds trust
 * has applied the message, or has lost its trust because its lease of it ran
 * out (leases as in Gray and Cheriton, 1989).
 */
export interface CacheBus {
  readonly name: string
  /** Longest time that a dead or paused node holds a publisher up, in milliseconds. */
  readonly trustMs: number
  /** Joins, and goes on trying when that fails; the promise tells of the first try. */
  join(listener: BusListener): Promise<void>
  /** The moment, on `performance.now()`, until which nothing is missed; 0 while out of touch. */
  trustedUntil(): number
  /** Resolves when no other node trusts anything older than the messages. Rejects when they may not have got through. */
  publish(messages: readonly BusMessage[]): Promise<void>
  close(): Promise<void>
}

export interface BusListener {
  /** A message of another node. It must have taken full effect when this returns. */
  apply(message: BusMessage): void
  /** Out of touch: messages may be missed from now on. */
  lost(reason: string): void
  /** In touch, for the first time or again. `missed` when messages may have been missed. */
  regained(missed: boolean): void
}
