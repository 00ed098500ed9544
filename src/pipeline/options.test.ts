import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { HeadraceError } from '../contracts/errors.ts'
import { environmentName, type LimitName, type Limits, limitTable, resolveOptions } from './options.ts'

function refusal(action: () => unknown): HeadraceError {
  try {
    action()
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It was not refused.')
}

const names = Object.keys(limitTable) as LimitName[]
/** Limits that are checked against another one, which these move out of the way. */
const partners: Partial<Record<LimitName, Partial<Limits>>> = {
  windowCommandsMax: { batchCommandsMax: 1 },
  batchCommandsMax: { windowCommandsMax: limitTable.windowCommandsMax.max },
  retryBaseMs: { retryMaxMs: limitTable.retryMaxMs.max },
  retryMaxMs: { retryBaseMs: 1 },
}

describe('the options of an app', () => {
  it('have defaults within their own bounds, and fit together', () => {
    const options = resolveOptions({}, {})
    for (const name of names) {
      const { min, max, default: defaultValue } = limitTable[name]
      expect(options[name]).toBe(defaultValue)
      expect(defaultValue).toBeGreaterThanOrEqual(min)
      expect(defaultValue).toBeLessThanOrEqual(max)
    }
    expect(options.dataDir).toBe('data')
    expect(Object.isFrozen(options)).toBe(true)
  })

  it('are each explained in a sentence', () => {
    for (const name of names) expect(limitTable[name].about).toMatch(/^[A-Z].*\.$/)
  })

  it.each(names)('%s is taken at its bounds and refused past them, from code and from the environment', (name) => {
    const { min, max } = limitTable[name]
    const partner = partners[name] ?? {}
    for (const value of [min, max]) {
      expect(resolveOptions({ ...partner, [name]: value }, {})[name]).toBe(value)
      expect(resolveOptions(partner, { [environmentName(name)]: String(value) })[name]).toBe(value)
    }
    for (const value of [min - 1, max + 1, 1.5, Number.NaN, '5', true, {}]) {
      const refused = refusal(() => resolveOptions({ [name]: value } as never, {}))
      expect(refused.code).toBe('option-invalid')
      expect(refused.message).toContain(name)
    }
    for (const text of [String(min - 1), 'many', '1.5', '0x']) {
      const refused = refusal(() => resolveOptions({}, { [environmentName(name)]: text }))
      expect(refused.code).toBe('option-invalid')
      expect(refused.message).toContain(environmentName(name))
    }
  })

  it('come from code first, then from the environment, then from the default', () => {
    const environment = { HEADRACE_BATCH_COMMANDS_MAX: '7', HEADRACE_LANES: '' }
    expect(resolveOptions({ batchCommandsMax: 9 }, environment).batchCommandsMax).toBe(9)
    expect(resolveOptions({}, environment).batchCommandsMax).toBe(7)
    expect(resolveOptions({}, environment).lanes).toBe(1)
    expect(resolveOptions({ dataDir: 'here' }, { HEADRACE_DATA_DIR: 'there' }).dataDir).toBe('here')
    expect(resolveOptions({}, { HEADRACE_DATA_DIR: 'there' }).dataDir).toBe('there')
  })

  it('are named in the environment in capitals', () => {
    expect(environmentName('batchCommandsMax')).toBe('HEADRACE_BATCH_COMMANDS_MAX')
    expect(environmentName('lanes')).toBe('HEADRACE_LANES')
    expect(new Set(names.map(environmentName)).size).toBe(names.length)
  })

  it('that do not exist are refused, with the nearest one that does', () => {
    fc.assert(
      fc.property(fc.constantFrom(...names), fc.nat(), (name, at) => {
        const place = at % name.length
        const slip = name.slice(0, place) + name.slice(place + 1)
        if (slip in limitTable) return
        const refused = refusal(() => resolveOptions({ [slip]: 1 } as never, {}))
        expect(refused.code).toBe('option-unknown')
        expect(refused.message).toContain('did you mean')
        expect(refused.details?.['option']).toBe(slip)
      }),
    )
    expect(refusal(() => resolveOptions({ zzz: 1 } as never, {})).message).not.toContain('did you mean')
  })

  it('that contradict each other are refused', () => {
    expect(refusal(() => resolveOptions({ windowCommandsMax: 16, batchCommandsMax: 17 }, {})).message).toContain('windowCommandsMax')
    expect(refusal(() => resolveOptions({ retryBaseMs: 100, retryMaxMs: 99 }, {})).message).toContain('retryMaxMs')
  })

  it('want a directory that is a path', () => {
    for (const dataDir of ['', 'a\0b', 7])
      expect(refusal(() => resolveOptions({ dataDir: dataDir as string }, {})).code).toBe('option-invalid')
  })
})
