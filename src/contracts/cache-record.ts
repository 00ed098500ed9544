/**
 * A key of the cache as one run of bytes, the same in every store: all that
 * belongs to the key is read with one get, and lost together.
 *
 *     bytes  0..1    'H', format
 *     bytes  2..9    floor
 *     bytes 10..17   version of the value; -1 when there is none
 *     bytes 18..25   fresh until
 *     bytes 26..33   below its floor since; 0 while it is not
 *     bytes 34..41   lease until; 0 when there is none
 *     bytes 42..57   token of the lease
 *     bytes 58..65   floor when the lease was given
 *     from  66       the value
 *
 * Numbers are float64, big end first; times are milliseconds since 1970 on the
 * clock that the store goes by. Redis reads and writes the same layout in Lua.
 */
import { randomBytes } from 'node:crypto'
import { nothingStored, type StoreRead } from './cache.ts'

export const recordFormat = 1
export const headBytes = 66
export const noToken = '-'.repeat(16)

const magic = 0x48

export interface CacheRecord {
  floor: number
  version: number
  freshUntil: number
  belowSince: number
  leaseUntil: number
  token: string
  leaseFloor: number
  body: Uint8Array
}

export function emptyRecord(): CacheRecord {
  return { floor: 0, version: -1, freshUntil: 0, belowSince: 0, leaseUntil: 0, token: noToken, leaseFloor: 0, body: new Uint8Array(0) }
}

/** What is not of this layout reads as nothing. */
export function decodeRecord(bytes: Buffer | null): CacheRecord | null {
  if (bytes === null || bytes.length < headBytes || bytes[0] !== magic || bytes[1] !== recordFormat) return null
  return {
    floor: bytes.readDoubleBE(2),
    version: bytes.readDoubleBE(10),
    freshUntil: bytes.readDoubleBE(18),
    belowSince: bytes.readDoubleBE(26),
    leaseUntil: bytes.readDoubleBE(34),
    token: bytes.toString('latin1', 42, 58),
    leaseFloor: bytes.readDoubleBE(58),
    body: bytes.subarray(headBytes),
  }
}

export function encodeRecord({ floor, version, freshUntil, belowSince, leaseUntil, token, leaseFloor, body }: CacheRecord): Buffer {
  const bytes = Buffer.allocUnsafe(headBytes + body.length)
  bytes[0] = magic
  bytes[1] = recordFormat
  bytes.writeDoubleBE(floor, 2)
  bytes.writeDoubleBE(version, 10)
  bytes.writeDoubleBE(freshUntil, 18)
  bytes.writeDoubleBE(belowSince, 26)
  bytes.writeDoubleBE(leaseUntil, 34)
  bytes.write(token, 42, 16, 'latin1')
  bytes.writeDoubleBE(leaseFloor, 58)
  bytes.set(body, headBytes)
  return bytes
}

/** The record as a reader sees it at this moment of the store's clock. What is not of this layout reads as nothing. */
export function viewRecord(bytes: Buffer | null, now: number): StoreRead {
  // The few fields that a hit needs, without building the rest.
  if (bytes === null || bytes.length < headBytes || bytes[0] !== magic || bytes[1] !== recordFormat) return nothingStored
  const version = bytes.readDoubleBE(10)
  const belowSince = bytes.readDoubleBE(26)
  return {
    entry: version < 0 ? null : { version, freshMs: bytes.readDoubleBE(18) - now, body: bytes.subarray(headBytes) },
    floor: bytes.readDoubleBE(2),
    belowMs: belowSince === 0 ? 0 : Math.max(now - belowSince, 1),
  }
}

/** 16 characters that nobody else draws. */
export function newToken(): string {
  return randomBytes(12).toString('base64url')
}
