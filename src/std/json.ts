/** Levels of nesting of a JSON value; stops counting past `max`. Iterative, so that no input can exhaust the stack. */
export function jsonDepth(value: unknown, max: number): number {
  let depth = 0
  let level: unknown[] = [value]
  while (level.length > 0 && depth <= max) {
    const next: unknown[] = []
    for (const item of level) {
      if (typeof item !== 'object' || item === null) continue
      for (const child of Array.isArray(item) ? item : Object.values(item)) {
        if (typeof child === 'object' && child !== null) next.push(child)
      }
    }
    if (level.some((item) => typeof item === 'object' && item !== null)) depth += 1
    level = next
  }
  return depth
}
