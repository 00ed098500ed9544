/**
 * A client of a shared store as the suites of `cache-conformance.ts` use it: one
 * process, with short words for what it does.
 */
import assert from 'node:assert/strict'
import type { CacheStore, FillAnswer, LeaseAnswer, StoreRead } from '../contracts/cache.ts'

export const longMs = 30_000
export const floorKeepMs = 60_000
let keys = 0
export const newKey = (): string => `conformance:${process.pid}:${Date.now().toString(36)}:${keys++}`

const bytes = (text: string): Uint8Array => Buffer.from(text)
export const textOf = (read: StoreRead): string | null => (read.entry === null ? null : Buffer.from(read.entry.body).toString())

/** One process. */
export class StoreClient {
  readonly store: CacheStore

  constructor(store: CacheStore) {
    this.store = store
  }

  ask(
    key: string,
    options: { readonly floor?: number; readonly minVersion?: number; readonly refresh?: boolean; readonly leaseMs?: number } = {},
  ): Promise<LeaseAnswer> {
    return this.store.lease({ key, floor: 0, minVersion: 0, refresh: false, leaseMs: longMs, ...options })
  }

  /** Takes a lease that must be free. */
  async lease(key: string, options: Parameters<StoreClient['ask']>[1] = {}): Promise<string> {
    const answer = await this.ask(key, options)
    assert.equal(answer.state, 'leased')
    return (answer as { token: string }).token
  }

  fill(
    key: string,
    token: string | null,
    version: number | null,
    text: string,
    options: { readonly freshMs?: number; readonly keepMs?: number; readonly raise?: boolean } = {},
  ): Promise<FillAnswer> {
    return this.store.fill({ key, token, version, raise: false, body: bytes(text), freshMs: longMs, keepMs: longMs, ...options })
  }

  raise(key: string, version: number): Promise<void> {
    return this.store.change([{ kind: 'key', name: key, version }], floorKeepMs)
  }

  cut(key: string): Promise<void> {
    return this.store.change([{ kind: 'key', name: key, version: null }], floorKeepMs)
  }
}
