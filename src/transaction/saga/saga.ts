/**
 * Sagas: steps that change things which cannot be changed together, and for each
 * step the way to undo it.
 *
 *   const trip = defineSaga('trip', {
 *     input: z.object({ person: z.string() }),
 *     steps: (saga) =>
 *       saga
 *         .step('flight', { do: ({ input }) => book(input.person), undo: ({ result }) => cancel(result) })
 *         .group((both) => both.step('hotel', { do, undo }).step('car', { do, undo }))
 *         .step('ticket', { do: ({ results }) => send(results.flight), final: true }),
 *   })
 *
 * States: forward → completed; forward → (a step failed) back → undone. A step
 * that is *final* has no way back: once one may have happened, the run only goes
 * forward. Where a run can go neither way, it is parked.
 *
 * What must hold:
 * - before a step is called, the journal says so;
 * - back is the reverse of forward, stage by stage, and takes every step that may
 *   have happened: one whose answer was lost, too;
 * - nothing is undone before everything that was under way has ended, or its time
 *   is up.
 *
 * After H. Garcia-Molina and K. Salem, "Sagas" (1987).
 */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { HeadraceError } from '../../contracts/errors.ts'
import { type CallLimits, callLimitNames, checkCallLimits, finishLimits, forwardLimits } from './call-options.ts'
import { checkBranch, checkFunction, checkKeys, type RunDefinition, type RunFinish, storedName } from './definition.ts'
import { ParkRun, type RunError, runError, type RunState } from './records.ts'
import { allSettled, type CallContext, type CallEnd, type OwnedRun } from './run.ts'

/** What a step is told. */
export interface StepContext<Input, Results> extends CallContext {
  readonly input: Input
  /** Results of the steps before it, by name. */
  readonly results: Results
}

export interface UndoContext<Input, Results, Result> extends StepContext<Input, Results> {
  /** What `do` returned; undefined when its answer was lost: then it may have happened, or not. */
  readonly result: Result | undefined
}

interface StepBase<Input, Results, Result> extends Partial<CallLimits> {
  /**
   * Does it. May be called again after a failure, with the same
   * `idempotencyKey`; returns JSON. Throws StepRefused to say no for good.
   */
  do(context: StepContext<Input, Results>): Result | Promise<Result>
}

export interface Step<Input, Results, Result> extends StepBase<Input, Results, Result> {
  /** Undoes it; must do no harm when it was not done, or is undone already. Throws StepRefused when it cannot be undone: the run is parked. */
  undo(context: UndoContext<Input, Results, Result>): unknown
  /** Bounds of `undo`. Default: 20 retries. */
  readonly undoLimits?: Partial<CallLimits>
  readonly final?: false
}

/** A step without a way back. */
export interface FinalStep<Input, Results, Result> extends StepBase<Input, Results, Result> {
  readonly final: true
  readonly undo?: never
  readonly undoLimits?: never
}

/** Steps in their order. Each call gives a new one. */
export interface SagaSteps<Input, Results> {
  step<const Name extends string, Result>(name: Name, step: Step<Input, Results, Result>): SagaSteps<Input, With<Results, Name, Result>>
  step<const Name extends string, Result>(
    name: Name,
    step: FinalStep<Input, Results, Result>,
  ): FinalSagaSteps<Input, With<Results, Name, Result>>
  /** Steps side by side: they see the results of the steps before the group. */
  group<Added>(
    define: (group: StepGroup<Input, Results, unknown>) => StepGroup<Input, Results, Added>,
  ): SagaSteps<Input, Flat<Results & Added>>
}

/** After a final step: only final ones may follow, since nothing goes back any more. */
export interface FinalSagaSteps<Input, Results> {
  step<const Name extends string, Result>(
    name: Name,
    step: FinalStep<Input, Results, Result>,
  ): FinalSagaSteps<Input, With<Results, Name, Result>>
}

export interface StepGroup<Input, Results, Added> {
  step<const Name extends string, Result>(
    name: Name,
    step: Step<Input, Results, Result>,
  ): StepGroup<Input, Results, With<Added, Name, Result>>
}

type Flat<T> = { readonly [K in keyof T]: T[K] }
type With<Results, Name extends string, Result> = Flat<Results & { readonly [K in Name]: Awaited<Result> }>

export type Saga<Name extends string = string, Input = unknown, Results = unknown> = RunDefinition<Name, Input, Results>

interface KnownStep {
  readonly name: string
  readonly final: boolean
  readonly limits: CallLimits
  readonly undoLimits: CallLimits
  do(context: StepContext<unknown, unknown>): unknown
  undo?(context: UndoContext<unknown, unknown, unknown>): unknown
}

type Stage = readonly KnownStep[]

/** Defines a saga. Throws 'saga-invalid', 'option-unknown' and 'option-invalid'. */
export function defineSaga<const Name extends string, Input, Results>(
  name: Name,
  definition: {
    /** Any Standard Schema. What it gives out is kept as JSON. */
    readonly input: StandardSchemaV1<unknown, Input>
    readonly steps: (saga: SagaSteps<Input, unknown>) => SagaSteps<Input, Results> | FinalSagaSteps<Input, Results>
  },
): Saga<Name, Input, Results> {
  const owner = `the saga '${name}'`
  checkKeys(owner, definition, ['input', 'steps'])
  const stored = storedName('saga', name, definition.input)
  checkFunction(owner, 'steps', definition.steps)
  const given: unknown = definition.steps(new Steps(owner, []) as unknown as SagaSteps<Input, unknown>)
  if (!(given instanceof Steps) || given.stages.length === 0)
    throw new HeadraceError('saga-invalid', `${owner} has no steps: return saga.step(…).step(…).`)
  const { stages } = given
  return Object.freeze({
    kind: 'saga',
    name,
    storedName: stored,
    input: definition.input,
    drive: (run: OwnedRun) => drive(run, stages),
    results: (state: RunState) => resultsOf(state, stages) as Results,
  })
}

/** All of the interfaces above in one, since their differences are of types only; the order of final steps is checked here as well. */
class Steps {
  readonly stages: readonly Stage[]
  readonly #owner: string
  readonly #inGroup: boolean

  constructor(owner: string, stages: readonly Stage[], inGroup = false) {
    this.#owner = owner
    this.stages = stages
    this.#inGroup = inGroup
  }

  step(name: string, step: Step<unknown, unknown, unknown> | FinalStep<unknown, unknown, unknown>): Steps {
    return new Steps(this.#owner, [...this.stages, [this.#known(name, step)]], this.#inGroup)
  }

  group(define: (group: Steps) => unknown): Steps {
    if (this.#inGroup) throw new HeadraceError('saga-invalid', `A group in ${this.#owner} is inside of another.`)
    checkFunction(`A group in ${this.#owner}`, '(group) => group.step(…)', define)
    const before = this.stages.length
    const group = define(new Steps(this.#owner, this.stages, true))
    const members = group instanceof Steps ? group.stages.slice(before).flat() : []
    if (members.length === 0) throw new HeadraceError('saga-invalid', `A group in ${this.#owner} has no steps.`)
    return new Steps(this.#owner, [...this.stages, members])
  }

  #known(name: string, step: Step<unknown, unknown, unknown> | FinalStep<unknown, unknown, unknown>): KnownStep {
    const steps = this.stages.flat()
    checkBranch(
      this.#owner,
      name,
      steps.map((each) => each.name),
    )
    const owner = `the step '${name}' of ${this.#owner}`
    checkKeys(owner, step, ['do', 'undo', 'final', 'undoLimits', ...callLimitNames])
    checkFunction(owner, 'do', step.do)
    const final = step.final === true
    if (final && this.#inGroup)
      throw new HeadraceError('saga-invalid', `${owner} is final: it cannot be in a group, which may have to go back.`)
    if (final && step.undo !== undefined)
      throw new HeadraceError('saga-invalid', `${owner} is final, and has an undo: it is one or the other.`)
    if (!final && steps.some((each) => each.final))
      throw new HeadraceError('saga-invalid', `${owner} comes after a final step, so it must be final too.`)
    if (!final) checkFunction(owner, 'undo (or final: true)', step.undo)
    const undo = step.undo
    return {
      name,
      final,
      limits: checkCallLimits(owner, step, forwardLimits),
      undoLimits: checkCallLimits(`undo of ${owner}`, step.undoLimits ?? {}, finishLimits),
      do: (context) => step.do(context),
      ...(undo === undefined ? {} : { undo: (context) => undo.call(step, context) }),
    }
  }
}

async function drive(run: OwnedRun, stages: readonly Stage[]): Promise<RunFinish> {
  checkKnown(run, stages)
  if (run.state.decision !== 'back') {
    if (await forward(run, stages)) return { status: 'completed', error: null }
  }
  await back(run, stages)
  return { status: 'undone', error: run.state.error }
}

/** True when all is done; false when it was decided to go back. */
async function forward(run: OwnedRun, stages: readonly Stage[]): Promise<boolean> {
  const { state } = run
  for (const [index, stage] of stages.entries()) {
    if (stage.every(({ name }) => state.call(name, 'do').done)) continue
    const results = resultsOf(state, stages.slice(0, index))
    const stop = new AbortController()
    const failures: (CallEnd & { readonly kind: 'failed' })[] = []
    await allSettled(
      stage.map(async (step) => {
        const end = await run.call({
          branch: step.name,
          operation: 'do',
          limits: step.limits,
          run: (context) => step.do({ ...context, input: run.input, results }),
          ...(stage.length === 1 ? {} : { signal: stop.signal }),
        })
        if (end.kind === 'done') return
        failures.push(end)
        stop.abort(new HeadraceError('saga-failed', `The step '${step.name}' beside it failed.`))
      }),
    )
    const [first] = failures
    if (first === undefined) continue
    if (isStuck(state, stages, failures)) throw new ParkRun(first.error)
    for (const { error, certain } of failures) run.note({ kind: 'failed', branch: error.branch, operation: 'do', error, certain })
    run.note({ kind: 'decided', decision: 'back', error: first.error })
    return false
  }
  return true
}

/** Whether a final step has happened, or may have. */
function isStuck(state: RunState, stages: readonly Stage[], failures: readonly (CallEnd & { readonly kind: 'failed' })[]): boolean {
  const harmless = new Set(failures.filter(({ certain }) => certain).map(({ error }) => error.branch))
  return stages.flat().some(({ name, final }) => final && state.maybe(name, 'do') && !harmless.has(name))
}

async function back(run: OwnedRun, stages: readonly Stage[]): Promise<void> {
  const { state } = run
  for (const [index, stage] of [...stages.entries()].reverse()) {
    const results = resultsOf(state, stages.slice(0, index))
    const failures: RunError[] = []
    await allSettled(
      stage
        .filter(({ name }) => state.maybe(name, 'do'))
        .map(async ({ name, undo, undoLimits }) => {
          const end = await run.call({
            branch: name,
            operation: 'undo',
            limits: undoLimits,
            run: (context) => undo?.({ ...context, input: run.input, results, result: state.call(name, 'do').result }),
          })
          if (end.kind === 'failed') failures.push(end.error)
        }),
    )
    const [first] = failures
    if (first !== undefined) throw new ParkRun(first)
  }
}

function resultsOf(state: RunState, stages: readonly Stage[]): Record<string, unknown> {
  const results = Object.create(null) as Record<string, unknown>
  for (const { name } of stages.flat()) {
    const call = state.call(name, 'do')
    if (call.done) results[name] = call.result
  }
  return Object.freeze(results)
}

/** A step that the journal knows and the definition does not could not be undone. */
function checkKnown(run: OwnedRun, stages: readonly Stage[]): void {
  const names = new Set(stages.flat().map(({ name }) => name))
  const missing = run.state.called.find(({ branch }) => !names.has(branch))
  if (missing === undefined) return
  const { branch, operation } = missing
  const error = new HeadraceError(
    'saga-changed',
    `The saga '${run.name}' has no step '${branch}' any more, which the run '${run.id}' has called.`,
  )
  throw new ParkRun(runError(error, branch, operation))
}
