/**
 * Three-phase commit, for services that can pre-commit: they end by themselves
 * when the coordinator is gone for good, by the rules of `termination.ts`.
 *
 *   const move = defineThreePhase('move', {
 *     input: z.object({ … }),
 *     participants: { stock: { canCommit, preCommit, doCommit, abort }, wallet: { … } },
 *   })
 *
 * States: voting → (all yes) committing: pre-commit, then do-commit → completed;
 * voting → (a no, an answer that is lost for good, time is up) aborting → undone.
 *
 * What must hold:
 * - once all have voted yes it is decided, in the journal, before the first
 *   pre-commit: from then on a participant may commit by itself, so nobody is
 *   told to abort any more;
 * - nobody is told to commit before everyone who can be reached is pre-committed;
 * - whoever may have voted yes is told the end.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { type CallLimits, checkCallLimits, finishLimits, forwardLimits } from '../saga/call-options.ts'
import { checkBranch, checkFunction, checkKeys, type RunDefinition, type RunFinish, storedName } from '../saga/definition.ts'
import { ParkRun, type RunError, runError } from '../saga/records.ts'
import { allSettled, type CallContext, type CallEnd, type OwnedRun } from '../saga/run.ts'

export interface ThreePhaseContext<Input> extends CallContext {
  readonly input: Input
}

export interface ThreePhaseParticipant<Input> {
  /** Votes yes by returning, and can then do it until it is told otherwise; throws StepRefused to vote no. */
  canCommit(context: ThreePhaseContext<Input>): unknown
  /** Learns that all have voted yes; must succeed in the end. */
  preCommit(context: ThreePhaseContext<Input>): unknown
  /** Does it; must succeed in the end. */
  doCommit(context: ThreePhaseContext<Input>): unknown
  /** Lets it go, if it was held at all; must succeed in the end. */
  abort(context: ThreePhaseContext<Input>): unknown
  /** Bounds of `canCommit`. Default: 5 retries. */
  readonly voteLimits?: Partial<CallLimits>
  /** Bounds of `preCommit`. Default: 5 retries; who does not answer then is taken for stopped, and told later. */
  readonly preLimits?: Partial<CallLimits>
  /** Bounds of `doCommit` and `abort`. Default: 20 retries; then the run is parked. */
  readonly finishLimits?: Partial<CallLimits>
}

export type ThreePhase<Name extends string = string, Input = unknown> = RunDefinition<Name, Input, null>

const operations = { canCommit: 'can-commit', preCommit: 'pre-commit', doCommit: 'do-commit', abort: 'abort' } as const
type Call = keyof typeof operations

interface KnownParticipant {
  readonly name: string
  readonly given: ThreePhaseParticipant<unknown>
  readonly limits: Readonly<Record<Call, CallLimits>>
}

const hour = 3_600_000

/** Defines a three-phase commit. Throws 'saga-invalid', 'option-unknown' and 'option-invalid'. */
export function defineThreePhase<const Name extends string, Input>(
  name: Name,
  definition: {
    /** Any Standard Schema. What it gives out is kept as JSON. */
    readonly input: StandardSchemaV1<unknown, Input>
    readonly participants: Readonly<Record<string, ThreePhaseParticipant<NoInfer<Input>>>>
    /** Longest time of the vote, from the start, in milliseconds; past it, it is aborted. Default: 60000. */
    readonly deadlineMs?: number
  },
): ThreePhase<Name, Input> {
  const owner = `the three-phase commit '${name}'`
  checkKeys(owner, definition, ['input', 'participants', 'deadlineMs'])
  const stored = storedName('three-phase', name, definition.input)
  const { deadlineMs = 60_000, participants } = definition
  checkWhole(`deadlineMs of ${owner}`, deadlineMs, 1, 24 * hour)
  const known: KnownParticipant[] = []
  for (const [each, given] of Object.entries(participants ?? {})) {
    checkBranch(
      owner,
      each,
      known.map((other) => other.name),
    )
    const its = `the participant '${each}' of ${owner}`
    checkKeys(its, given, [...Object.keys(operations), 'voteLimits', 'preLimits', 'finishLimits'])
    for (const call of Object.keys(operations) as Call[]) checkFunction(its, call, given[call])
    const finish = checkCallLimits(`doCommit and abort of ${its}`, given.finishLimits ?? {}, finishLimits)
    known.push({
      name: each,
      given: given as ThreePhaseParticipant<unknown>,
      limits: {
        canCommit: checkCallLimits(`canCommit of ${its}`, given.voteLimits ?? {}, forwardLimits),
        preCommit: checkCallLimits(`preCommit of ${its}`, given.preLimits ?? {}, forwardLimits),
        doCommit: finish,
        abort: finish,
      },
    })
  }
  if (known.length === 0) throw new HeadraceError('saga-invalid', `${owner} has no participants.`)
  return Object.freeze({
    kind: 'three-phase',
    name,
    storedName: stored,
    input: definition.input,
    drive: (run: OwnedRun) => drive(run, known, deadlineMs),
    results: () => null,
  })
}

async function drive(run: OwnedRun, participants: readonly KnownParticipant[], deadlineMs: number): Promise<RunFinish> {
  checkKnown(run, participants)
  if (run.state.decision === null) await vote(run, participants, deadlineMs)
  if (run.state.decision === 'back') {
    const asked = participants.filter(({ name }) => run.state.maybe(name, operations.canCommit))
    mustBeDone(await callAll(run, asked, 'abort'))
    return { status: 'undone', error: run.state.error }
  }
  const unheard = await callAll(run, participants, 'preCommit')
  const heard = participants.filter(({ name }) => unheard.every(({ branch }) => branch !== name))
  // Who stopped is taken out of the way of the others, and told when it is back.
  const undone = await callAll(run, heard, 'doCommit')
  mustBeDone([...undone, ...unheard])
  return { status: 'completed', error: null }
}

async function vote(run: OwnedRun, participants: readonly KnownParticipant[], deadlineMs: number): Promise<void> {
  const stop = new AbortController()
  const late = new HeadraceError('transaction-timeout', `The vote did not end within ${deadlineMs} ms (deadlineMs).`)
  const leftMs = Math.min(deadlineMs, Math.max(0, run.startedAt + deadlineMs - Date.now()))
  const deadline = run.after(leftMs, () => stop.abort(late))
  const failures: (CallEnd & { readonly kind: 'failed' })[] = []
  try {
    await allSettled(
      participants.map(async (participant) => {
        const end = await callOne(run, participant, 'canCommit', stop.signal)
        if (end.kind === 'done') return
        failures.push(end)
        stop.abort(new HeadraceError('saga-failed', `'${participant.name}' did not vote yes.`))
      }),
    )
  } finally {
    deadline.cancel()
  }
  const [first] = failures
  if (first === undefined) {
    run.note({ kind: 'decided', decision: 'forward' })
    return
  }
  for (const { error, certain } of failures)
    run.note({ kind: 'failed', branch: error.branch, operation: operations.canCommit, error, certain })
  run.note({ kind: 'decided', decision: 'back', error: first.error })
}

/** The failures of those that did not do it within their bounds. */
async function callAll(run: OwnedRun, participants: readonly KnownParticipant[], call: Call): Promise<RunError[]> {
  const ends = await allSettled(participants.map((each) => callOne(run, each, call)))
  return ends.flatMap((end) => (end.kind === 'failed' ? [end.error] : []))
}

function callOne(run: OwnedRun, { name, given, limits }: KnownParticipant, call: Call, signal?: AbortSignal): Promise<CallEnd> {
  return run.call({
    branch: name,
    operation: operations[call],
    limits: limits[call],
    run: async (context) => {
      await given[call]({ ...context, input: run.input })
    },
    ...(signal === undefined ? {} : { signal }),
  })
}

function mustBeDone([first]: readonly RunError[]): void {
  if (first !== undefined) throw new ParkRun(first)
}

function checkKnown(run: OwnedRun, participants: readonly KnownParticipant[]): void {
  const missing = run.state.called.find(({ branch }) => participants.every(({ name }) => name !== branch))
  if (missing === undefined) return
  const error = new HeadraceError(
    'saga-changed',
    `The three-phase commit '${run.name}' has no participant '${missing.branch}' any more, which the run '${run.id}' has called.`,
  )
  throw new ParkRun(runError(error, missing.branch, missing.operation))
}
