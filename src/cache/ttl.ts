/** How long a value is fresh. */
import type { Settings } from './options.ts'

/** How long a value is fresh; "there is nothing" has a time of its own. */
export function ttlOf(value: unknown, settings: Pick<Settings, 'ttlMs' | 'negativeTtlMs'>): number {
  return value === null || value === undefined ? Math.min(settings.negativeTtlMs, settings.ttlMs) : settings.ttlMs
}
