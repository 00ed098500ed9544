import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { inputSchema } from '../server/openapi.ts'
import { shellQuoted } from './invitation.ts'
import { sampleOf } from './sample.ts'

describe('a sample input', () => {
  it.each([
    ['an order', z.object({ sku: z.string().min(1), quantity: z.int().min(1).max(5), note: z.string().optional() })],
    [
      'bounds',
      z.object({ a: z.int().min(10).max(20), b: z.number().max(0.5), c: z.int().min(-5), d: z.string().min(12), e: z.string().max(3) }),
    ],
    [
      'choices',
      z.object({ kind: z.enum(['a', 'b']), one: z.literal('only'), either: z.union([z.string(), z.number()]), maybe: z.boolean() }),
    ],
    [
      'nesting',
      z.object({
        list: z.array(z.object({ x: z.int() })).min(1),
        empty: z.array(z.string()),
        deep: z.object({ er: z.object({ y: z.null() }) }),
      }),
    ],
    ['a default', z.object({ size: z.string().default('large') })],
  ])('fits its schema: %s', (_name, schema) => {
    expect(schema.safeParse(sampleOf(inputSchema(schema))).error).toBeUndefined()
  })

  it('tells which field a text is', () => {
    expect(sampleOf({ type: 'object', required: ['sku'], properties: { sku: { type: 'string' } } })).toEqual({ sku: 'sku-1' })
  })

  it('ends for a schema that holds itself, and for one that says nothing', () => {
    const tree: Record<string, unknown> = { type: 'object', required: ['child'] }
    tree['properties'] = { child: tree }
    expect(JSON.stringify(sampleOf(tree))).toContain('null')
    expect(sampleOf(undefined)).toBe(null)
  })
})

describe('text for a shell', () => {
  it('is one word, whatever it holds', () => {
    expect(shellQuoted(`it's "x" $y`)).toBe(`'it'\\''s "x" $y'`)
  })
})
