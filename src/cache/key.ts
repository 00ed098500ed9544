/** What a cache key, a tag and the name of a namespace may be. Checked where a value is made or changed, not on a hit. */
import { HeadraceError } from '../contracts/errors.ts'

const keyBytesMax = 512

export function checkKey(what: 'key' | 'tag', key: unknown): asserts key is string {
  if (typeof key !== 'string')
    throw new HeadraceError('cache-key-invalid', `A cache ${what} must be a string, not ${key === null ? 'null' : typeof key}.`)
  if (key === '') throw new HeadraceError('cache-key-invalid', `A cache ${what} must not be empty.`)
  if (key.length > keyBytesMax || (key.length > keyBytesMax / 3 && Buffer.byteLength(key) > keyBytesMax)) {
    throw new HeadraceError(
      'cache-key-invalid',
      `The cache ${what} ${JSON.stringify(key.slice(0, 40))}… is longer than ${keyBytesMax} bytes: use a digest of it.`,
    )
  }
  if (hasLoneSurrogate(key))
    throw new HeadraceError(
      'cache-key-invalid',
      `The cache ${what} ${JSON.stringify(key.slice(0, 40))} has an unpaired surrogate, so two keys could become one in UTF-8.`,
    )
}

/** `String.prototype.isWellFormed`, which the types of this target do not have. */
function hasLoneSurrogate(text: string): boolean {
  return /[\ud800-\udfff]/.test(text) && /(?:[\ud800-\udbff](?![\udc00-\udfff]))|(?:(?<![\ud800-\udbff])[\udc00-\udfff])/.test(text)
}

const namespacePattern = /^[a-zA-Z0-9](?:[a-zA-Z0-9._-]*[a-zA-Z0-9])?$/

export function checkNamespace(name: unknown): asserts name is string {
  if (typeof name !== 'string' || name.length > 64 || !namespacePattern.test(name)) {
    throw new HeadraceError(
      'option-invalid',
      `The cache namespace ${JSON.stringify(name)} is not valid: use up to 64 letters and digits, with dots, dashes or underscores between them.`,
    )
  }
}

/** A version: a whole number from 0 to 2^53 - 1. */
export function checkVersion(version: unknown): asserts version is number {
  if (!Number.isSafeInteger(version) || (version as number) < 0) {
    throw new HeadraceError('option-invalid', `A cache version must be a whole number from 0 to 2^53 - 1, not ${String(version)}.`)
  }
}
