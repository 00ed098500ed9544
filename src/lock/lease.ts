/** What a caller holds: one or several keys, together. */
import { HeadraceError } from '../contracts/errors.ts'
import type { Fenceable } from '../contracts/lock.ts'
import type { Hold } from './hold.ts'

export interface Lease extends Fenceable, AsyncDisposable {
  /** The keys, in the order in which they were taken. */
  readonly keys: readonly string[]
  /** The fencing token of the first key; of one key alone, in most uses. */
  readonly token: number
  /** The fencing token of each key: give it to the guard of every database that is written to under this lease. */
  readonly tokens: ReadonlyMap<string, number>
  /** Aborts, with 'lease-lost' as its reason, before somebody else can hold a key. */
  readonly signal: AbortSignal
  /** False once it is released, lost, or may be over. Read before each step of long work. */
  readonly held: boolean
  /** Milliseconds until it is over unless it is extended. */
  readonly remainingMs: number
  /** Throws 'lease-lost' unless it is held. */
  assertHeld(): void
  /** Extends it now, by ttlMs; it does so by itself as well. Rejects with 'lease-lost'. */
  extend(ttlMs?: number): Promise<void>
  /** Gives all keys back. True when they were held until now. Does not reject: what the engine does not hear runs out by itself. */
  release(): Promise<boolean>
}

export class KeysLease implements Lease {
  readonly keys: readonly string[]
  readonly token: number
  readonly tokens: ReadonlyMap<string, number>
  readonly #holds: readonly Hold[]
  #controller: AbortController | null = null
  #lost: HeadraceError | null = null
  #released: Promise<boolean> | null = null

  constructor(holds: readonly Hold[]) {
    this.#holds = holds
    this.keys = holds.map((hold) => hold.key)
    this.tokens = new Map(holds.map((hold) => [hold.key, hold.token]))
    this.token = (holds[0] as Hold).token
    for (const hold of holds) hold.onLost = this.#onLost
  }

  get signal(): AbortSignal {
    if (this.#controller === null) {
      this.#controller = new AbortController()
      if (this.#lost !== null) this.#controller.abort(this.#lost)
    }
    return this.#controller.signal
  }

  get held(): boolean {
    return this.#released === null && this.#holds.every((hold) => hold.held)
  }

  get lost(): HeadraceError | null {
    return this.#lost
  }

  get remainingMs(): number {
    return this.#released === null ? Math.min(...this.#holds.map((hold) => hold.remainingMs)) : 0
  }

  assertHeld(): void {
    if (this.held) return
    const why = this.#released === null ? 'it may be over' : 'it was released'
    throw (
      this.#lost ??
      new HeadraceError('lease-lost', `The lease of ${this.keys.map((key) => JSON.stringify(key)).join(', ')} is not held: ${why}.`)
    )
  }

  async extend(ttlMs?: number): Promise<void> {
    if (this.#released !== null) this.assertHeld()
    await Promise.all(this.#holds.map((hold) => hold.extend(ttlMs)))
  }

  release(): Promise<boolean> {
    this.#released ??= this.#releaseAll()
    return this.#released
  }

  async #releaseAll(): Promise<boolean> {
    const [only, ...more] = this.#holds
    if (more.length === 0 && only !== undefined) return only.release()
    const ends = await Promise.all([...this.#holds].reverse().map((hold) => hold.release()))
    return ends.every((held) => held)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }

  #onLost = (reason: HeadraceError): void => {
    this.#lost ??= reason
    this.#controller?.abort(this.#lost)
  }
}

/** A key taken again by the one who holds it: the same lease, given back only by the outer one. */
export class NestedLease implements Lease {
  readonly #outer: KeysLease
  #released = false

  constructor(outer: KeysLease) {
    this.#outer = outer
  }

  get keys(): readonly string[] {
    return this.#outer.keys
  }

  get token(): number {
    return this.#outer.token
  }

  get tokens(): ReadonlyMap<string, number> {
    return this.#outer.tokens
  }

  get signal(): AbortSignal {
    return this.#outer.signal
  }

  get held(): boolean {
    return !this.#released && this.#outer.held
  }

  get remainingMs(): number {
    return this.#released ? 0 : this.#outer.remainingMs
  }

  assertHeld(): void {
    if (this.#released) throw new HeadraceError('lease-lost', 'This nested lease was released.')
    this.#outer.assertHeld()
  }

  async extend(ttlMs?: number): Promise<void> {
    this.assertHeld()
    await this.#outer.extend(ttlMs)
  }

  release(): Promise<boolean> {
    const held = this.held
    this.#released = true
    return Promise.resolve(held)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.release()
  }
}
