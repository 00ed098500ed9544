/**
 * Bounds that a caller may set: whole numbers within limits, in tables that give
 * type, default, check and documentation; and the check of the names of options.
 */
import { HeadraceError } from './errors.ts'
import { nearest } from './nearest.ts'

/** What is checked of a bound. */
interface Bound {
  readonly default: number
  readonly min: number
  readonly max: number
}

export interface NumberOption extends Bound {
  /** For the documentation. */
  readonly about: string
}

export function numberOption(defaultValue: number, min: number, max: number, about: string): NumberOption {
  return { default: defaultValue, min, max, about }
}

/** Every bound of the table, as given or by its default. Throws 'option-invalid'. */
export function checkBounds<Name extends string>(
  table: { readonly [K in Name]: Bound },
  given: { readonly [K in NoInfer<Name>]?: number | undefined },
): { readonly [K in Name]: number } {
  const bounds = {} as Record<Name, number>
  for (const name of Object.keys(table) as Name[]) {
    const { default: defaultValue, min, max } = table[name]
    const value = given[name] ?? defaultValue
    checkWhole(name, value, min, max)
    bounds[name] = value
  }
  return Object.freeze(bounds)
}

/** Throws 'option-invalid' when the lower of two bounds is above the higher. */
export function checkOrder<Name extends string>(bounds: { readonly [K in Name]: number }, low: NoInfer<Name>, high: NoInfer<Name>): void {
  if (bounds[low] <= bounds[high]) return
  throw new HeadraceError('option-invalid', `${high} (${bounds[high]}) must be at least ${low} (${bounds[low]}).`)
}

/** Refuses a name that is not known, with the nearest one that is. Throws 'option-unknown'. */
export function checkNames(owner: string, given: object, known: readonly string[]): void {
  for (const name of Object.keys(given)) {
    if (known.includes(name)) continue
    const proposal = nearest(name, known)
    throw new HeadraceError(
      'option-unknown',
      `${owner} has no option '${name}'${proposal === null ? '' : `; did you mean '${proposal}'?`} Known: ${known.join(', ')}.`,
      { details: { option: name } },
    )
  }
}

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
