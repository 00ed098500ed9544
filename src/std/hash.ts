/** Hashes and digests: where a key goes, and whether two inputs are the same. */
import { hash } from 'node:crypto'

/** A short digest of a text: 128 bits of SHA-256, base64url. For telling inputs apart, not for secrets. */
export function digestOf(text: string): string {
  return hash('sha256', text, 'base64url').slice(0, 22)
}

/** 32-bit FNV-1a over UTF-16 units with a final mix (as in MurmurHash3): places a key in a partition, on every node alike. */
export function hash32(text: string): number {
  let state = 0x811c9dc5
  for (let index = 0; index < text.length; index++) {
    state = Math.imul(state ^ text.charCodeAt(index), 0x01000193)
  }
  state = Math.imul(state ^ (state >>> 16), 0x85ebca6b)
  state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
  return (state ^ (state >>> 16)) >>> 0
}

/** 53 bits of hash, as a safe integer: cyrb53 (public domain), two interleaved multiplicative streams. */
export function hash53(text: string): number {
  let high = 0xdeadbeef
  let low = 0x41c6ce57
  for (let index = 0; index < text.length; index++) {
    const unit = text.charCodeAt(index)
    high = Math.imul(high ^ unit, 2654435761)
    low = Math.imul(low ^ unit, 1597334677)
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909)
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909)
  return 4294967296 * (2097151 & low) + (high >>> 0)
}
