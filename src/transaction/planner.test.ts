import { describe, expect, it } from 'vitest'
import { chooseHome, type HomeCandidate, type PlanBranch, planCommit } from './planner.ts'

const flags = [true, false]
/** Every branch there can be, by what it did and what it can. */
const kinds = flags.flatMap((wrote) => flags.flatMap((canPrepare) => flags.map((canDecide) => ({ wrote, canPrepare, canDecide }))))

/** Every set of up to three branches, and every home: one of them, another, a log outside, none. */
function everyInput(): { branches: PlanBranch[]; home: string | null; externalHome: boolean }[] {
  const sets: PlanBranch[][] = [[]]
  for (const name of ['a', 'b', 'c']) {
    for (const set of sets.filter((each) => each.length === name.charCodeAt(0) - 97))
      for (const kind of kinds) sets.push([...set, { name, ...kind }])
  }
  return sets.flatMap((branches) => [
    { branches, home: null, externalHome: false },
    { branches, home: 'journal', externalHome: true },
    { branches, home: 'other', externalHome: false },
    ...branches.map(({ name }) => ({ branches, home: name, externalHome: false })),
  ])
}

describe('the planner, over every set of up to three branches and every home', () => {
  const inputs = everyInput()
  const writersOf = (branches: readonly PlanBranch[]): PlanBranch[] => branches.filter((each) => each.wrote)

  it('looks at all of them', () => {
    expect(inputs.length).toBe(3 + 8 * 4 + 64 * 5 + 512 * 6)
  })

  it('has every branch that wrote commit by the decision, and once', () => {
    for (const input of inputs) {
      const plan = planCommit(input)
      if (plan.protocol === 'unavailable') continue
      const ending = [...plan.prepare, ...(plan.commit === null ? [] : [plan.commit])]
      expect([...ending].sort(), JSON.stringify(input)).toEqual(writersOf(input.branches).map((each) => each.name))
    }
  })

  it('prepares only what can be prepared', () => {
    for (const input of inputs) {
      for (const name of planCommit(input).prepare) expect(input.branches.find((each) => each.name === name)?.canPrepare).toBe(true)
    }
  })

  it('never prepares without a home that keeps the decision', () => {
    for (const input of inputs) {
      const plan = planCommit(input)
      if (plan.prepare.length === 0) continue
      expect(plan.home).not.toBeNull()
      expect(plan.home).toBe(input.home)
    }
  })

  it('lets a branch of several commit unprepared only when it is home, and can decide', () => {
    for (const input of inputs) {
      const plan = planCommit(input)
      if (plan.commit === null || plan.prepare.length === 0) continue
      expect(plan).toMatchObject({ protocol: 'last-resource', commit: input.home })
      expect(input.branches.find((each) => each.name === plan.commit)?.canDecide).toBe(true)
    }
  })

  it('names every branch that only read, and asks nothing of it', () => {
    for (const input of inputs) {
      expect(planCommit(input).readOnly).toEqual(input.branches.filter((each) => !each.wrote).map((each) => each.name))
    }
  })

  it('refuses only what has no protocol, and says why', () => {
    for (const input of inputs) {
      const plan = planCommit(input)
      expect(plan.reasons.length).toBeGreaterThan(0)
      const writers = writersOf(input.branches)
      const unable = writers.filter((each) => !each.canPrepare)
      const home = writers.find((each) => each.name === input.home)
      const possible =
        writers.length === 0 ||
        (input.externalHome
          ? unable.length === 0
          : writers.length === 1 ||
            (input.home !== null && unable.every((each) => each.name === input.home) && (home === undefined || home.canDecide)))
      expect(plan.protocol !== 'unavailable', JSON.stringify(input)).toBe(possible)
    }
  })

  it('takes the cheapest: waits for the disk grow with what is needed', () => {
    for (const input of inputs) {
      const plan = planCommit(input)
      const expected = { 'none': input.externalHome ? 1 : 0, 'one-phase': 1, 'last-resource': 2, 'two-phase': 3, 'unavailable': 0 }
      expect(plan.waitsForDisk).toBe(expected[plan.protocol])
      if (writersOf(input.branches).length === 1 && !input.externalHome) expect(plan.protocol).toBe('one-phase')
    }
  })
})

describe('the choice of home', () => {
  const database = (name: string, canPrepare = true, canDecide = true): HomeCandidate => ({ name, canPrepare, canDecide })

  it('follows the one that is asked for', () => {
    expect(chooseHome([database('a')], [database('b')], 'b')).toBe('b')
  })

  it('takes the database that cannot prepare, since it must commit last', () => {
    expect(chooseHome([database('a'), database('b', false)], [], null)).toBe('b')
  })

  it('takes the first that can decide, of the transaction before others', () => {
    expect(chooseHome([database('a', true, false), database('b'), database('c')], [database('d')], null)).toBe('b')
    expect(chooseHome([database('a', true, false)], [database('d', true, false), database('e')], null)).toBe('e')
    expect(chooseHome([database('a', true, false)], [], null)).toBeNull()
  })
})
