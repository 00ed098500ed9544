/**
 * Reads a JSON text that a stranger wrote.
 *
 * - Bytes that are not UTF-8 are refused: to replace them would change the
 *   input, and with it the meaning of a retry.
 * - Nesting is counted on the bytes, before anything is built, so that no
 *   text can exhaust the stack of what looks at the value later.
 * - `__proto__` as a key, and `prototype` inside of `constructor`, are refused:
 *   they poison prototypes as soon as somebody copies the value key by key.
 */
import { isUtf8 } from 'node:buffer'
import { HeadraceError } from '../contracts/errors.ts'

const quote = 0x22
const backslash = 0x5c

/** Whether the JSON text from `start` to `end` nests deeper than `max` levels. Brackets inside strings do not count. */
export function tooDeep(bytes: Uint8Array, start: number, end: number, max: number): boolean {
  // A text that nests n levels has at least n opening brackets and, to be whole, as many closing ones.
  if (end - start < 2 * max) return false
  let depth = 0
  for (let index = start; index < end; index++) {
    const byte = bytes[index] as number
    if (byte === quote) {
      index += 1
      while (index < end && bytes[index] !== quote) index += bytes[index] === backslash ? 2 : 1
    } else if (byte === 0x5b || byte === 0x7b) {
      depth += 1
      if (depth > max) return true
    } else if (byte === 0x5d || byte === 0x7d) {
      depth -= 1
    }
  }
  return false
}

/** Texts that may hold a forbidden key, written plainly or with escapes; all others need no second look. */
function suspicious(text: string): boolean {
  return text.includes('"__proto__"') || text.includes('"constructor"') || text.includes('\\u')
}

function hasForbiddenKey(value: unknown): boolean {
  const open: unknown[] = [value]
  while (open.length > 0) {
    const item = open.pop()
    if (typeof item !== 'object' || item === null) continue
    if (Array.isArray(item)) {
      for (const child of item) open.push(child)
      continue
    }
    for (const key of Object.keys(item)) {
      const child = (item as Record<string, unknown>)[key]
      if (key === '__proto__') return true
      if (key === 'constructor' && typeof child === 'object' && child !== null && Object.hasOwn(child, 'prototype')) return true
      open.push(child)
    }
  }
  return false
}

/** Parses a text whose depth was checked. Throws 'body-not-json' and 'body-forbidden-key'. */
function parseText(text: string): unknown {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new HeadraceError('body-not-json', `This is not JSON: ${reason(error, text)}`)
  }
  if (suspicious(text) && hasForbiddenKey(value)) throw new HeadraceError('body-forbidden-key')
  return value
}

/** What is wrong and where, without the text itself: it may be long, and it is not ours. */
function reason(error: unknown, text: string): string {
  const at = / at position (\d+)/.exec(error instanceof Error ? error.message : '')
  if (at !== null) return `it breaks off at character ${at[1]}.`
  return text.trim() === '' ? 'it is empty.' : 'it ends too early, or holds something that JSON has no word for.'
}

/** Parses the bytes of a body. Throws 'body-not-json', 'body-too-deep' and 'body-forbidden-key'. */
export function parseBody(bytes: Buffer, depthMax: number): unknown {
  if (!isUtf8(bytes)) throw new HeadraceError('body-not-json', 'This is not JSON: it is not encoded as UTF-8.')
  if (tooDeep(bytes, 0, bytes.length, depthMax))
    throw new HeadraceError('body-too-deep', `This nests more than ${depthMax} levels deep. Flatten the document, or raise jsonDepthMax.`)
  return parseText(bytes.toString('utf8'))
}
