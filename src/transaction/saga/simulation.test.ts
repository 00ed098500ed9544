/**
 * Whole histories of sagas, TCCs and three-phase commits on a clock of their own:
 * steps fail, refuse, hang, and lose their answers; orchestrators die at any
 * moment, are taken for dead while they live, and work two at a time; the log
 * loses calls and answers. Whatever happens, nothing is called that is not
 * written down, back is the reverse of forward, decisions come before what
 * follows from them, and at the end each run is done everywhere or nowhere.
 */
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { VirtualClock } from '../../../test/support/virtual-clock.ts'
import { memorySagaLog, type MemorySagaLog, MemorySagaStore } from '../../drivers/memory/index.ts'
import { createRandom, type Random } from '../../std/random.ts'
import { defineTcc } from '../tcc/tcc.ts'
import { defineThreePhase } from '../three-phase/three-phase.ts'
import type { RunDefinition } from './definition.ts'
import { createOrchestrator } from './orchestrator.ts'
import type { Orchestrator } from './orchestrator-contract.ts'
import { RunState, StepRefused } from './records.ts'
import type { CallContext } from './run.ts'
import { defineSaga } from './saga.ts'

/** A history that takes longer goes round in circles. */
const virtualMsMax = 600_000

const forwardOf: Readonly<Record<string, string>> = { undo: 'do', cancel: 'try', abort: 'can-commit' }
const limits = { retriesMax: 2, retryBaseMs: 5, retryMaxMs: 20, timeoutMs: 60 }
const input = z.object({ number: z.number() })

class History {
  readonly #random: Random
  readonly #clock = new VirtualClock(virtualMsMax)
  readonly #store = new MemorySagaStore()
  readonly #definitions: readonly RunDefinition[]
  readonly #faulty: number
  readonly #logFaulty: number
  /** Of the services: what is held, by gid and branch, and which places are taken, as the barrier keeps them. */
  readonly #held = new Set<string>()
  readonly #places = new Map<string, string>()
  readonly #alarm: Error[] = []
  #troubled = true

  constructor(seed: number) {
    this.#random = createRandom(seed)
    this.#faulty = this.#random.pick([0.05, 0.15, 0.3])
    this.#logFaulty = this.#random.pick([0, 0.02, 0.1])
    this.#definitions = [this.#saga(), this.#tcc(), this.#threePhase()]
  }

  async run(): Promise<void> {
    await this.#clock.run(this.#play())
    this.#check()
  }

  #saga(): RunDefinition {
    const act = (context: CallContext): Promise<string> => this.#serve(context)
    const step = { ...limits, do: act, undo: act, undoLimits: limits }
    const withFinal = this.#random.chance(0.5)
    return defineSaga('s', {
      input,
      steps: (saga) => {
        const steps = saga
          .step('a', step)
          .group((group) => group.step('b', step).step('c', step))
          .step('d', step)
        return withFinal ? steps.step('e', { ...limits, do: act, final: true }) : steps
      },
    }) as RunDefinition
  }

  #tcc(): RunDefinition {
    const act = (context: CallContext): Promise<string> => this.#serve(context)
    const each = { try: act, confirm: act, cancel: act, tryLimits: limits, finishLimits: limits }
    return defineTcc('t', {
      input,
      participants: (tcc) => tcc.participant('a', each).participant('b', each).participant('c', each),
    }) as RunDefinition
  }

  #threePhase(): RunDefinition {
    const act = (context: CallContext): Promise<string> => this.#serve(context)
    const each = { canCommit: act, preCommit: act, doCommit: act, abort: act, voteLimits: limits, preLimits: limits, finishLimits: limits }
    return defineThreePhase('p', { input, participants: { a: each, b: each, c: each } }) as RunDefinition
  }

  /** A service behind the barrier, and a network before it. */
  async #serve(context: CallContext): Promise<string> {
    this.#mustBeWritten(context)
    const random = this.#random
    const { operation, gid, branch } = context
    await this.#clock.pause(random.int(10))
    const fault = this.#troubled && random.chance(this.#faulty) ? random.pick(['no', 'before', 'after', 'hang', 'late'] as const) : null
    const forward = operation === 'do' || operation === 'try' || operation === 'can-commit'
    if (fault === 'no' && forward) throw new StepRefused('no')
    if (fault === 'before') throw new Error('lost before')
    if (fault === 'hang') return new Promise(() => undefined)
    if (fault === 'late') {
      void this.#clock.pause(random.int(500)).then(() => this.#apply(operation, `${gid}/${branch}`))
      throw new Error('late')
    }
    if (!this.#apply(operation, `${gid}/${branch}`)) throw new StepRefused('late')
    await this.#clock.pause(random.int(10))
    if (fault === 'after') throw new Error('lost after')
    return `${branch} done`
  }

  /** False when it comes too late. */
  #apply(operation: string, place: string): boolean {
    const forward = forwardOf[operation]
    const taken = this.#places.get(`${place}/${forward ?? operation}`)
    if (forward !== undefined) {
      if (taken === undefined) this.#places.set(`${place}/${forward}`, operation)
      this.#held.delete(place)
      this.#places.set(`${place}/${operation}`, operation)
      return true
    }
    if (taken !== undefined) return taken === operation
    this.#places.set(`${place}/${operation}`, operation)
    if (operation === 'do' || operation === 'try' || operation === 'can-commit') this.#held.add(place)
    return true
  }

  /** What is called stands in the journal, and what must come before it too. */
  #mustBeWritten({ id, branch, operation, attempt }: CallContext): void {
    const state = RunState.of(this.#store.journals.get(id) ?? [])
    const told = `${id}: ${operation} of ${branch}, attempt ${attempt}`
    const must = (holds: boolean, what: string): void => {
      if (!holds) this.#alarm.push(new Error(`${told}: ${what}`))
    }
    must(state.call(branch, operation).attempts >= attempt, 'is not in the journal')
    if (['confirm', 'pre-commit', 'do-commit'].includes(operation)) must(state.decision === 'forward', 'comes without a decision')
    if (['undo', 'cancel', 'abort'].includes(operation)) must(state.decision === 'back', 'comes without a decision')
    const stages = ['a', 'bc', 'd', 'e']
    const stage = stages.findIndex((each) => each.includes(branch))
    const later = stages.slice(stage + 1).flatMap((each) => [...each])
    const earlier = stages.slice(0, stage).flatMap((each) => [...each])
    if (operation === 'undo')
      for (const each of later) must(!state.maybe(each, 'do') || state.call(each, 'undo').done, `comes before the undo of ${each}`)
    if (operation === 'do') for (const each of earlier) must(state.call(each, 'do').done, `comes before ${each}`)
  }

  async #play(): Promise<void> {
    const random = this.#random
    const runs = random.between(1, 5)
    for (let number = 0; number < runs; number += 1) {
      const definition = random.pick(this.#definitions)
      const starter = this.#orchestrator(`start${number}`)
      for (let tries = 0; !this.#store.runs.has(`r${number}`); tries += 1) {
        if (tries > 1_000) throw new Error('it cannot be started')
        await starter.orchestrator.start(definition, `r${number}`, { number }).catch(() => undefined)
      }
      if (random.chance(0.5)) {
        await this.#clock.pause(random.int(200))
        starter.log.kill()
      }
      void starter.orchestrator.close()
    }
    // Two at a time, and each may die.
    for (let generation = 0; generation < random.between(1, 3); generation += 1) {
      await Promise.all([0, 1].map((each) => this.#life(`life${generation}.${each}`)))
    }
    // Then peace.
    this.#troubled = false
    const last = this.#orchestrator('last', true)
    for (;;) {
      await this.#clock.pause(200)
      const parked = [...this.#store.runs.values()].filter(({ status }) => status === 'parked')
      for (const { id } of parked) await last.orchestrator.redrive(id)
      if (parked.length > 0) seen.set('parked', (seen.get('parked') ?? 0) + parked.length)
      if ([...this.#store.runs.values()].every(({ status }) => status === 'completed' || status === 'undone')) break
    }
    // What was sent late has arrived by then.
    await this.#clock.pause(1_000)
    await last.orchestrator.close()
  }

  async #life(name: string): Promise<void> {
    const { orchestrator, log } = this.#orchestrator(name)
    await this.#clock.pause(this.#random.int(800))
    if (this.#random.chance(0.6)) log.kill()
    await orchestrator.close()
  }

  #orchestrator(name: string, peace = false): { orchestrator: Orchestrator; log: MemorySagaLog } {
    const random = this.#random.fork(name)
    // Now and then a process is so slow that it is taken for dead.
    const slow = !peace && random.chance(0.3)
    const log = memorySagaLog({
      store: this.#store,
      fault: () => (!peace && random.chance(this.#logFaulty) ? random.pick(['lost-before', 'lost-after'] as const) : null),
      travel: () => this.#clock.pause(slow && random.chance(0.1) ? random.int(400) : random.int(4)),
    })
    const orchestrator = createOrchestrator({
      deployment: 'sim',
      log,
      runs: this.#definitions,
      clock: this.#clock,
      random: () => random.next(),
      pollMs: 20,
      beatMs: 20,
      leaseMs: 60,
      logRetryBaseMs: 5,
      logRetryMaxMs: 40,
      closeTimeoutMs: random.pick([0, 100]),
    })
    return { orchestrator, log }
  }

  #check(): void {
    const [first] = this.#alarm
    if (first !== undefined) throw first
    for (const { id, gid, name, status } of this.#store.runs.values()) {
      const state = RunState.of(this.#store.journals.get(id) ?? [])
      const held = [...this.#held].filter((place) => place.startsWith(`${gid}/`)).map((place) => place.slice(gid.length + 1))
      if (status === 'undone') expect(held, `${id} (${name}) was undone`).toEqual([])
      else {
        const all =
          name === 'saga/s' ? state.called.filter(({ operation }) => operation === 'do').map(({ branch }) => branch) : ['a', 'b', 'c']
        expect(held.sort(), `${id} (${name}) was completed`).toEqual(all.sort())
        if (name === 'tcc/t') for (const branch of all) expect(this.#places.has(`${gid}/${branch}/confirm`), `${id}: ${branch}`).toBe(true)
        if (name === 'three-phase/p')
          for (const branch of all) expect(this.#places.has(`${gid}/${branch}/do-commit`), `${id}: ${branch}`).toBe(true)
      }
      seen.set(`${name} ${status}`, (seen.get(`${name} ${status}`) ?? 0) + 1)
    }
  }
}

const seen = new Map<string, number>()
const histories = Number(process.env['HEADRACE_HISTORIES'] ?? 150)
const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)

describe('hundreds of histories', () => {
  it(`end everywhere or nowhere, and call nothing that is not written down (HEADRACE_SEED=${seed} HEADRACE_HISTORIES=${histories} npx vitest run src/transaction/saga/simulation)`, {
    timeout: 120_000,
  }, async () => {
    for (let number = 0; number < histories; number += 1) {
      try {
        await new History(seed + number).run()
      } catch (error) {
        throw new Error(`HEADRACE_SEED=${seed + number} HEADRACE_HISTORIES=1: ${String(error)}`, { cause: error })
      }
    }
    if (process.env['HEADRACE_TELL'] !== undefined) process.stderr.write(`${JSON.stringify([...seen])}\n`)
    // Every kind of end was met, or the histories are too tame.
    if (histories < 150) return
    const kinds = ['saga/s', 'tcc/t', 'three-phase/p'].flatMap((name) => [`${name} completed`, `${name} undone`])
    for (const kind of [...kinds, 'parked']) expect(seen.get(kind) ?? 0, kind).toBeGreaterThan(2)
  })
})
