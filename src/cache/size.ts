/**
 * How many bytes a value takes in memory, estimated, and the freezing of it.
 *
 * A cached value is handed to everybody who asks: one who changed it would
 * change it for all. So plain objects and arrays are frozen, all the way down,
 * in the same walk that measures them.
 */
import { HeadraceError } from '../contracts/errors.ts'

/** What an entry costs besides its key and value: the node, its place in the map, and the slack of both. */
export const entryBytes = 240

/** Past this many objects, a value is no value for a cache. */
const objectsMax = 1_000_000

const beyondLatin1 = /[\u0100-\uffff]/

export function stringBytes(text: string): number {
  return 16 + (beyondLatin1.test(text) ? text.length * 2 : text.length)
}

/** Bytes of a value, as V8 lays it out on 64 bits, roughly. Freezes it when asked to. Throws 'cache-value-invalid' for functions, symbols and values without end. */
export function measure(value: unknown, freeze: boolean): number {
  switch (typeof value) {
    case 'string':
      return stringBytes(value)
    case 'number':
    case 'bigint':
      return 16
    case 'boolean':
    case 'undefined':
      return 8
    case 'object':
      return value === null ? 8 : measureObject(value, freeze)
    default:
      throw new HeadraceError('cache-value-invalid', `A ${typeof value} cannot be cached: return plain data.`)
  }
}

/** Breadth first with a list of its own, so that a deep value does not end the stack. */
function measureObject(root: object, freeze: boolean): number {
  let bytes = 0
  const seen = new Set<object>([root])
  for (const object of seen) {
    if (seen.size > objectsMax)
      throw new HeadraceError('cache-value-invalid', `The value has more than ${objectsMax} objects: cache smaller parts of it.`)
    bytes += ownBytes(object)
    const items: readonly unknown[] = children(object)
    if (freeze && isPlain(object)) Object.freeze(object)
    for (const item of items) {
      if (typeof item === 'object' && item !== null) seen.add(item)
      else bytes += measure(item, false)
    }
  }
  return bytes
}

function children(object: object): readonly unknown[] {
  if (Array.isArray(object)) return object
  if (object instanceof Map) return [...object.keys(), ...object.values()]
  if (object instanceof Set) return [...object]
  return ArrayBuffer.isView(object) || object instanceof ArrayBuffer || object instanceof Date ? [] : Object.values(object)
}

function ownBytes(object: object): number {
  if (ArrayBuffer.isView(object) || object instanceof ArrayBuffer) return 96 + object.byteLength
  if (Array.isArray(object)) return 32 + object.length * 8
  if (object instanceof Map) return 64 + object.size * 40
  if (object instanceof Set) return 64 + object.size * 24
  return 56 + Object.keys(object).length * 8
}

function isPlain(object: object): boolean {
  if (Array.isArray(object)) return true
  const prototype: unknown = Object.getPrototypeOf(object)
  return prototype === Object.prototype || prototype === null
}
