import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { HeadraceError } from '../contracts/errors.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { accept, command, reject } from './command.ts'
import { query } from './query.ts'

const good = { input: z.object({ n: z.number() }), key: ({ n }: { readonly n: number }) => n }
const run = () => accept()
const make = (definition: object, name = 'thing.do'): unknown =>
  (command as (name: string, definition: object) => unknown)(name, definition)
const ask = (definition: object, name = 'thing.get'): unknown => (query as (name: string, definition: object) => unknown)(name, definition)

function refusal(action: () => unknown): HeadraceError {
  try {
    action()
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It was not refused.')
}

describe('a command', () => {
  it('needs a name, a schema, a key, and either run or all of load, decide and save', () => {
    for (const name of ['', 'Upper', 'a b', 'a..b', '.a', 'a/b', 'x'.repeat(65)])
      expect(refusal(() => make({ ...good, run }, name)).code).toBe('app-invalid')
    for (const name of ['a', 'order.buy', 'order-2_buy.now', 'x'.repeat(64)])
      expect(make({ ...good, run }, name)).toMatchObject({ kind: 'command', name })
    for (const definition of [
      {},
      { ...good },
      { ...good, input: undefined, run },
      { ...good, input: {}, run },
      { ...good, key: 'n', run },
      { ...good, load: run, decide: run },
      { ...good, run, load: run, decide: run, save: run },
      { ...good, run: 5 },
      { ...good, load: run, decide: {}, save: run },
    ]) {
      expect(refusal(() => make(definition)).code).toBe('app-invalid')
    }
  })

  it.each([
    ['retries', [-1, 1.5, '3', 1001, Number.NaN], [0, 1000]],
    ['timeoutMs', [0, -1, '5', 3_600_001], [1, 3_600_000]],
    ['onDeadLetter', ['stop', true, ''], ['skip', 'block']],
    ['invalidates', ['stock', []], [() => []]],
  ])('is refused for a %s that makes no sense', (option, bad, fine) => {
    for (const value of bad) {
      const refused = refusal(() => make({ ...good, run, [option]: value }))
      expect(refused.code).toBe('option-invalid')
      expect(refused.message).toContain(option)
      expect(refused.message).toContain("'thing.do'")
    }
    for (const value of fine) expect(make({ ...good, run, [option]: value })).toMatchObject({ options: { [option]: value } })
  })

  it('is refused for an option that does not exist, and for databases that are none', () => {
    expect(refusal(() => make({ ...good, run, retrys: 1 })).message).toContain("did you mean 'retries'?")
    for (const bad of [null, {}, 'stock', sqlite])
      expect(refusal(() => make({ ...good, run, databases: { stock: bad } })).code).toBe('app-invalid')
  })

  it('cannot be changed afterwards', () => {
    expect(Object.isFrozen(make({ ...good, run }))).toBe(true)
    expect(Object.isFrozen((make({ ...good, run }) as { options: object }).options)).toBe(true)
  })
})

describe('a query', () => {
  it('needs a name, a schema and a load, and sensible options', () => {
    const fine = { input: z.object({}), load: () => 1 }
    expect(ask(fine)).toMatchObject({ kind: 'query', name: 'thing.get' })
    for (const definition of [{}, { input: z.object({}) }, { load: () => 1 }, { ...fine, databases: { a: {} } }])
      expect(refusal(() => ask(definition)).code).toBe('app-invalid')
    for (const option of [{ timeoutMs: 0 }, { timeoutMs: '5' }, { ttlMs: -1, key: () => 'k' }, { key: 'k' }])
      expect(refusal(() => ask({ ...fine, ...option })).code).toBe('option-invalid')
    expect(refusal(() => ask({ ...fine, timeout: 5 })).message).toContain("did you mean 'timeoutMs'?")
    expect(refusal(() => ask(fine, 'Bad')).code).toBe('app-invalid')
  })
})

describe('a decision', () => {
  it('carries its result, or its code and detail', () => {
    expect(accept()).toEqual({ accepted: true, result: null })
    expect(accept({ a: 1 })).toEqual({ accepted: true, result: { a: 1 } })
    expect(reject('sold-out')).toEqual({ accepted: false, code: 'sold-out', detail: undefined })
    expect(reject('sold-out', 'none left')).toEqual({ accepted: false, code: 'sold-out', detail: 'none left' })
  })
})
