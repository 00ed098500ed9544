/**
 * A value as bytes for the shared store:
 *
 *     byte 0       format, 1
 *     byte 1       kind (0 value, 1 null, 2 undefined), + 4 when compressed
 *     bytes 2..9   how long the load took, in milliseconds, float64
 *     byte 10      length of the serializer's id, then the id
 *     1 byte       number of tags, then for each: 2 bytes length, tag, 1 byte length, stamp
 *     the rest     the value, as the serializer wrote it
 */
import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { HeadraceError } from '../contracts/errors.ts'
import { asBuffer, type Serializer } from './serializer.ts'

const format = 1
const idAt = 11
const kinds = { value: 0, null: 1, undefined: 2 } as const
const compressedBit = 4

/** A value that grows beyond this when it is unpacked is not ours. */
const unpackedBytesMax = 1024 ** 3

export interface Packed {
  readonly value: unknown
  readonly loadMs: number
  readonly tags: readonly { readonly tag: string; readonly stamp: string }[]
}

/** Throws 'cache-value-invalid' when the serializer cannot write the value. */
export function pack({ value, loadMs, tags }: Packed, serializer: Serializer, compressOverBytes: number): Uint8Array {
  let kind: number = value === null ? kinds.null : value === undefined ? kinds.undefined : kinds.value
  let payload: Uint8Array = kind === kinds.value ? write(value, serializer) : new Uint8Array(0)
  if (payload.length > compressOverBytes) {
    const packed = deflateRawSync(payload, { level: 1 })
    if (packed.length < payload.length) {
      payload = packed
      kind |= compressedBit
    }
  }
  const head = Buffer.alloc(idAt)
  head[0] = format
  head[1] = kind
  head.writeDoubleLE(loadMs, 2)
  head[10] = serializer.id.length
  const parts: Uint8Array[] = [head, Buffer.from(serializer.id, 'latin1'), Uint8Array.of(tags.length)]
  for (const { tag, stamp } of tags) {
    const name = Buffer.from(tag)
    const mark = Buffer.from(stamp, 'latin1')
    parts.push(Uint8Array.of(name.length >> 8, name.length & 255), name, Uint8Array.of(mark.length), mark)
  }
  parts.push(payload)
  return Buffer.concat(parts)
}

function write(value: unknown, serializer: Serializer): Uint8Array {
  try {
    return serializer.write(value)
  } catch (error) {
    throw new HeadraceError(
      'cache-value-invalid',
      `The serializer '${serializer.id}' cannot write the value: ${error instanceof Error ? error.message : String(error)}. Return plain data, or give the namespace another serializer.`,
      { cause: error },
    )
  }
}

/** Null when the bytes were not written by this serializer, or are damaged. */
export function unpack(bytes: Uint8Array, serializer: Serializer): Packed | null {
  try {
    const body = asBuffer(bytes)
    const kind = body[1]
    const idBytes = body[10]
    if (body[0] !== format || kind === undefined || idBytes === undefined || !isId(body, idBytes, serializer.id)) return null
    const loadMs = body.readDoubleLE(2)
    let at = idAt + idBytes
    let left = body.readUInt8(at++)
    const tags: { tag: string; stamp: string }[] = []
    for (; left > 0; left--) {
      const tagEnd = at + 2 + body.readUInt16BE(at)
      const stampEnd = tagEnd + 1 + body.readUInt8(tagEnd)
      tags.push({ tag: body.toString('utf8', at + 2, tagEnd), stamp: body.toString('latin1', tagEnd + 1, stampEnd) })
      at = stampEnd
    }
    return { value: read(kind, body.subarray(at), serializer), loadMs, tags }
  } catch {
    return null
  }
}

/** Compared in place: this is part of every hit in the store. */
function isId(body: Buffer, idBytes: number, id: string): boolean {
  if (idBytes !== id.length) return false
  for (let place = 0; place < idBytes; place++) {
    if (body[idAt + place] !== id.charCodeAt(place)) return false
  }
  return true
}

function read(kind: number, payload: Uint8Array, serializer: Serializer): unknown {
  if ((kind & 3) === kinds.null) return null
  if ((kind & 3) === kinds.undefined) return undefined
  return serializer.read((kind & compressedBit) === 0 ? payload : inflateRawSync(payload, { maxOutputLength: unpackedBytesMax }))
}
