/**
 * Whether databases keep a text as it is: a zero character cuts it in some, and
 * half a surrogate pair has no UTF-8.
 */
export function isStorable(text: string): boolean {
  return !text.includes('\0') && (text as WellFormed).isWellFormed()
}

/** In Node 20, but not in the library of ES2023. */
type WellFormed = string & { isWellFormed(): boolean }
