/**
 * How values become bytes for the shared store. The id is part of the
 * namespace: apps that share a namespace must share it.
 */
export interface Serializer {
  /** Names the format, and its version where that changed: 'json', 'msgpack-2'. At most 32 visible ASCII characters. */
  readonly id: string
  /** Throws when the value cannot be written. */
  write(value: unknown): Uint8Array
  /** The value of the bytes. Throws when they are not of this format. */
  read(bytes: Uint8Array): unknown
}

export const json: Serializer = Object.freeze({
  id: 'json',
  write(value: unknown): Uint8Array {
    const text = JSON.stringify(value) as string | undefined
    if (text === undefined) throw new TypeError(`JSON has no ${typeof value}`)
    return Buffer.from(text)
  },
  read(bytes: Uint8Array): unknown {
    return JSON.parse(asBuffer(bytes).toString())
  },
})

/** The same bytes as a Buffer; most are one already. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
