/** Texts of others on a terminal: keys, ids and bodies come from whoever publishes. */

/** Characters that move the cursor, change colours, or turn the direction of writing; and line breaks. */
const unseen = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu

/** A text on one line that cannot do anything to the terminal: what is not seen is written as its code. At most `max` characters. */
export function shown(text: string, max: number): string {
  // Cut first: a body may have megabytes.
  const start = text.slice(0, max * 2)
  const line = start.replace(unseen, (character) =>
    character === '\n' ? '\\n' : `\\u${character.codePointAt(0)?.toString(16).padStart(4, '0')}`,
  )
  const characters = [...line]
  return characters.length > max || start.length < text.length ? `${characters.slice(0, Math.max(0, max - 1)).join('')}…` : line
}
