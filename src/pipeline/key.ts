/** The key of a command: what orders it. */
import { HeadraceError } from '../contracts/errors.ts'
import { isStorable } from '../std/text.ts'
import type { AnyCommand } from './command.ts'

const keyBytesMax = 512

/** What `key()` of the command gives for a checked input. Throws 'key-invalid'. */
export function keyOf(command: AnyCommand, value: unknown): string {
  let key: unknown
  try {
    key = command.options.key(value)
  } catch (error) {
    throw new HeadraceError(
      'key-invalid',
      `key() of command '${command.name}' failed: ${error instanceof Error ? error.message : String(error)}`,
      { cause: error },
    )
  }
  const text = typeof key === 'number' && Number.isSafeInteger(key) ? String(key) : key
  if (typeof text !== 'string' || text === '' || Buffer.byteLength(text) > keyBytesMax) {
    throw new HeadraceError(
      'key-invalid',
      `key() of command '${command.name}' gave ${typeof key === 'string' ? `a text of ${Buffer.byteLength(key)} bytes` : String(key)}: it must be a text of 1 to ${keyBytesMax} bytes, or a safe integer.`,
    )
  }
  if (!isStorable(text))
    throw new HeadraceError(
      'key-invalid',
      `key() of command '${command.name}' gave a text with a zero character or half a surrogate pair: ${JSON.stringify(text)}.`,
    )
  return text
}
