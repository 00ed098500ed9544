import { afterEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { memorySagaLog, MemorySagaStore } from '../../drivers/memory/index.ts'
import { createRandom, type Random } from '../../std/random.ts'
import { createOrchestrator } from '../saga/orchestrator.ts'
import type { Orchestrator } from '../saga/orchestrator-contract.ts'
import { StepRefused } from '../saga/records.ts'
import { onTimeout, terminate, type ThreePhaseState } from './termination.ts'
import { defineThreePhase, type ThreePhaseParticipant } from './three-phase.ts'

const quick = { retryBaseMs: 1, retryMaxMs: 2, retriesMax: 2 } as const
const limits = { voteLimits: quick, preLimits: quick, finishLimits: quick }
const input = z.object({ item: z.string() })

const opened: Orchestrator[] = []
afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()))
})

function open(runs: readonly ReturnType<typeof move>[], store = new MemorySagaStore()): Orchestrator {
  const log = memorySagaLog({ store })
  const orchestrator = createOrchestrator({ deployment: 'test', log, runs, pollMs: 5, beatMs: 5, leaseMs: 40, closeTimeoutMs: 100 })
  opened.push(orchestrator)
  return orchestrator
}

type Faults = Readonly<Record<string, (attempt: number) => void>>

function move(said: string[], faults: Faults = {}) {
  const act =
    (name: string, call: string) =>
    ({ attempt }: { readonly attempt: number }) => {
      said.push(`${call} ${name}`)
      faults[`${call} ${name}`]?.(attempt)
    }
  const participant = (name: string): ThreePhaseParticipant<unknown> => ({
    canCommit: act(name, 'can'),
    preCommit: act(name, 'pre'),
    doCommit: act(name, 'do'),
    abort: act(name, 'abort'),
    ...limits,
  })
  return defineThreePhase('move', { input, participants: { a: participant('a'), b: participant('b') } })
}

const fail =
  (error: Error, times = Infinity) =>
  (attempt: number): void => {
    if (attempt <= times) throw error
  }

describe('a three-phase commit', () => {
  it('asks all, tells all that all said yes, and then lets all do it', async () => {
    const said: string[] = []
    const definition = move(said)
    expect(await (await open([definition]).start(definition, 'one', { item: 'x' })).wait()).toEqual({ status: 'completed', results: null })
    expect(said).toEqual(['can a', 'can b', 'pre a', 'pre b', 'do a', 'do b'])
  })

  it('aborts those who may have voted yes when one votes no, or does not answer', async () => {
    for (const [error, aborted] of [
      [new StepRefused('no'), ['abort a']],
      [new Error('lost'), ['abort a', 'abort b']],
    ] as const) {
      const said: string[] = []
      const definition = move(said, { 'can b': fail(error) })
      expect(await (await open([definition]).start(definition, 'one', { item: 'x' })).wait()).toMatchObject({ status: 'undone' })
      expect(said.filter((each) => !each.startsWith('can'))).toEqual(aborted)
    }
  })

  it('aborts nobody once one may be pre-committed: who does not answer is told later, and the others do it', async () => {
    const said: string[] = []
    const definition = move(said, { 'pre b': fail(new Error('stopped'), 4) })
    const orchestrator = open([definition])
    const run = await orchestrator.start(definition, 'one', { item: 'x' })
    expect(await run.wait()).toMatchObject({ status: 'parked', error: { branch: 'b', operation: 'pre-commit' } })
    expect(said.filter((each) => each.startsWith('do') || each.startsWith('abort'))).toEqual(['do a'])
    await orchestrator.redrive('one')
    expect(await run.wait()).toMatchObject({ status: 'completed' })
    expect(said.filter((each) => each.startsWith('do'))).toEqual(['do a', 'do b'])
  })

  it('has its decision in the journal before the first pre-commit', async () => {
    const store = new MemorySagaStore()
    let decided = false
    const definition = move([], {
      'pre a': () => {
        decided = (store.journals.get('one') ?? []).some((record) => record.includes('"decided"'))
      },
    })
    await (await open([definition], store).start(definition, 'one', { item: 'x' })).wait()
    expect(decided).toBe(true)
  })

  it('refuses a definition that is not whole', () => {
    expect(() => defineThreePhase('bad', { input, participants: {} })).toThrow('no participants')
    expect(() =>
      defineThreePhase('bad', { input, participants: { a: { canCommit() {}, preCommit() {}, doCommit() {} } as never } }),
    ).toThrow('abort')
  })
})

describe('the rules of termination', () => {
  it('commit when anybody knows that all voted yes, abort when anybody may not have', () => {
    expect(terminate(['waiting', 'pre-committed'])).toBe('commit')
    expect(terminate(['waiting', 'committed'])).toBe('commit')
    expect(terminate(['waiting', 'waiting'])).toBe('abort')
    expect(terminate(['waiting', 'unasked'])).toBe('abort')
    expect(terminate(['pre-committed', 'aborted'])).toBe('abort')
    expect((['unasked', 'waiting', 'pre-committed', 'committed', 'aborted'] as const).map(onTimeout)).toEqual([
      'abort',
      'abort',
      'commit',
      null,
      null,
    ])
  })

  const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)

  it(`let those who are left end alike, wherever the coordinator stops for good (HEADRACE_SEED=${seed})`, () => {
    const met = new Set<string>()
    for (let number = 0; number < 2_000; number += 1) {
      const states = stopped(createRandom(seed + number))
      const verdict = terminate(states)
      met.add(verdict)
      // Whoever has ended already has ended like that.
      const wrong = verdict === 'commit' ? 'aborted' : 'committed'
      expect(states, `HEADRACE_SEED=${seed + number}`).not.toContain(wrong)
    }
    expect(met.size).toBe(2)
  })

  it('cannot help when the network is parted: two sides may end differently', () => {
    // One heard of the pre-commit, the other did not, and neither reaches the other.
    expect([terminate(['pre-committed']), terminate(['waiting'])]).toEqual(['commit', 'abort'])
  })
})

/** The states of the participants when a coordinator stops at a random message, as the driver above sends them. */
function stopped(random: Random): ThreePhaseState[] {
  const states: ThreePhaseState[] = Array.from({ length: random.between(1, 4) }, () => 'unasked')
  let messages = random.int(states.length * 3 + 1)
  const sends = (): boolean => messages-- > 0
  for (const index of order(states, random)) if (sends()) states[index] = random.chance(0.9) ? 'waiting' : 'unasked'
  if (messages < 0) return states
  if (states.includes('unasked')) {
    for (const index of order(states, random)) if (sends() && states[index] === 'waiting') states[index] = 'aborted'
    return states
  }
  for (const index of order(states, random)) if (sends()) states[index] = 'pre-committed'
  if (messages < 0) return states
  for (const index of order(states, random)) if (sends()) states[index] = 'committed'
  return states
}

function order(states: readonly ThreePhaseState[], random: Random): number[] {
  return random.shuffle([...states.keys()])
}
