import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { checkOrchestratorOptions, orchestratorLimitTable } from './options.ts'

describe('the options of an orchestrator', () => {
  it('stand in the documentation, each with its default', () => {
    const page = readFileSync(new URL('../../../docs/saga.md', import.meta.url), 'utf8')
    const missing = Object.entries(orchestratorLimitTable)
      .map(([name, { default: value }]) => `| \`${name}\` | ${value.toLocaleString('en-US')} |`)
      .filter((line) => !page.includes(line))
    expect(missing).toEqual([])
  })

  it('have bounds around their default, and bounds that are held', () => {
    const given = { deployment: 'test', runs: [] }
    expect(checkOrchestratorOptions(given)).toMatchObject({ runsMax: 100, leaseMs: 5_000 })
    for (const [name, { default: value, min, max }] of Object.entries(orchestratorLimitTable)) {
      expect(min <= value && value <= max, name).toBe(true)
      for (const wrong of [min - 1, max + 1, 1.5, '1'])
        expect(() => checkOrchestratorOptions({ ...given, [name]: wrong }), name).toThrow(name)
    }
  })
})
