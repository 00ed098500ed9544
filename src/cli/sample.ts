/** An input that fits a JSON Schema, for an example that a person can copy. Not a generator: the simplest value of each kind. */
type Schema = Readonly<Record<string, unknown>>

/** Levels that are filled in; what lies deeper is left out. */
const depthMax = 5

export function sampleOf(schema: unknown, name = 'value', depth = 0): unknown {
  if (typeof schema !== 'object' || schema === null || depth > depthMax) return null
  const { const: constant, default: given, examples, enum: choices, anyOf, oneOf } = schema as Schema
  if (constant !== undefined) return constant
  if (given !== undefined) return given
  if (Array.isArray(examples) && examples.length > 0) return examples[0]
  if (Array.isArray(choices) && choices.length > 0) return choices[0]
  const variants = anyOf ?? oneOf
  if (Array.isArray(variants)) return sampleOf(variants[0], name, depth)
  return sampleOfType(schema as Schema, name, depth)
}

function sampleOfType(schema: Schema, name: string, depth: number): unknown {
  const { type, minimum, maximum, exclusiveMinimum, minLength, maxLength, properties, required, items, minItems } = schema
  switch (Array.isArray(type) ? type[0] : type) {
    case 'object': {
      const wanted = new Set(Array.isArray(required) ? (required as string[]) : [])
      const members = Object.entries((properties ?? {}) as Schema).filter(([member]) => wanted.has(member))
      return Object.fromEntries(members.map(([member, of]) => [member, sampleOf(of, member, depth + 1)]))
    }
    case 'array':
      return typeof minItems === 'number' && minItems > 0 ? [sampleOf(items, name, depth + 1)] : []
    case 'integer':
    case 'number':
      return numberFrom(minimum ?? (typeof exclusiveMinimum === 'number' ? exclusiveMinimum + 1 : undefined), maximum)
    case 'boolean':
      return true
    case 'null':
      return null
    default:
      return textOf(name, minLength, maxLength)
  }
}

function numberFrom(minimum: unknown, maximum: unknown): number {
  const low = typeof minimum === 'number' && minimum > Number.MIN_SAFE_INTEGER ? minimum : 1
  return typeof maximum === 'number' ? Math.min(Math.max(low, 1), maximum) : Math.max(low, 1)
}

/** A text that tells which field it is: sku-1. */
function textOf(name: string, minLength: unknown, maxLength: unknown): string {
  const text = `${name.toLowerCase().replace(/[^a-z0-9]+/g, '-')}-1`
  const padded = typeof minLength === 'number' ? text.padEnd(minLength, '1') : text
  return typeof maxLength === 'number' ? padded.slice(0, maxLength) : padded
}
