/** The check of a bound that a caller sets: a whole number within limits. */
import { HeadraceError } from './errors.ts'

/** Throws 'option-invalid', naming the option and its limits. */
export function checkWhole(name: string, value: unknown, min: number, max: number): asserts value is number {
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max) return
  throw new HeadraceError(
    'option-invalid',
    `${name} must be a whole number from ${min} to ${max}, not ${typeof value === 'number' ? String(value) : typeof value}.`,
    {
      details: { option: name },
    },
  )
}
