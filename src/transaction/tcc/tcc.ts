/**
 * TCC: try, confirm, cancel. Each participant first reserves what it would do
 * (try); when all have, all are told to do it (confirm), else all to let it go
 * (cancel).
 *
 *   const order = defineTcc('order', {
 *     input: z.object({ sku: z.string(), buyer: z.string() }),
 *     participants: (tcc) => tcc.participant('stock', { try, confirm, cancel }).participant('wallet', httpParticipant(http, { … })),
 *   })
 *
 * States: trying → (all tried) confirming → completed; trying → (one did not, or
 * time is up) cancelling → undone.
 *
 * What must hold:
 * - the decision is in the journal before the first confirm or cancel;
 * - everyone who may have tried is cancelled: one whose answer was lost, too;
 * - confirm and cancel are repeated until they are done, or parked at their bound.
 *
 * After P. Helland, "Life beyond Distributed Transactions" (2007), and G. Pardon,
 * "Try-Cancel/Confirm".
 */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { checkWhole } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { type CallLimits, checkCallLimits, finishLimits, forwardLimits } from '../saga/call-options.ts'
import { checkBranch, checkFunction, checkKeys, type RunDefinition, type RunFinish, storedName } from '../saga/definition.ts'
import { ParkRun, type RunError, runError, type RunState } from '../saga/records.ts'
import { allSettled, type CallContext, type CallEnd, type OwnedRun } from '../saga/run.ts'

export interface TccTryContext<Input> extends CallContext {
  readonly input: Input
}

export interface TccFinishContext<Input, Result> extends TccTryContext<Input> {
  /** What `try` returned; in `cancel` undefined when its answer was lost: then it may have happened, or not. */
  readonly result: Result
}

export interface TccParticipant<Input, Result> {
  /** Reserves. Returns JSON. Throws StepRefused to say no. */
  try(context: TccTryContext<Input>): Result | Promise<Result>
  /** Makes what was reserved true; must succeed in the end. */
  confirm(context: TccFinishContext<Input, Result>): unknown
  /** Lets go what was reserved, if anything was; must succeed in the end. */
  cancel(context: TccFinishContext<Input, Result | undefined>): unknown
  /** Bounds of `try`. Default: 5 retries. */
  readonly tryLimits?: Partial<CallLimits>
  /** Bounds of `confirm` and `cancel`. Default: 20 retries; then the run is parked. */
  readonly finishLimits?: Partial<CallLimits>
}

export interface TccParticipants<Input, Results> {
  participant<const Name extends string, Result>(
    name: Name,
    participant: TccParticipant<Input, Result>,
  ): TccParticipants<Input, { readonly [K in keyof Results | Name]: K extends keyof Results ? Results[K] : Awaited<Result> }>
}

export type Tcc<Name extends string = string, Input = unknown, Results = unknown> = RunDefinition<Name, Input, Results>

interface KnownParticipant {
  readonly name: string
  readonly tryLimits: CallLimits
  readonly finishLimits: CallLimits
  readonly given: TccParticipant<unknown, unknown>
}

const hour = 3_600_000

/** Defines a TCC. Throws 'saga-invalid', 'option-unknown' and 'option-invalid'. */
export function defineTcc<const Name extends string, Input, Results>(
  name: Name,
  definition: {
    /** Any Standard Schema. What it gives out is kept as JSON. */
    readonly input: StandardSchemaV1<unknown, Input>
    // biome-ignore lint/complexity/noBannedTypes: no results yet.
    readonly participants: (tcc: TccParticipants<Input, {}>) => TccParticipants<Input, Results>
    /** Longest time from the start until it is decided, in milliseconds; past it, it is cancelled. Default: 60000. */
    readonly deadlineMs?: number
  },
): Tcc<Name, Input, Results> {
  const owner = `the TCC '${name}'`
  checkKeys(owner, definition, ['input', 'participants', 'deadlineMs'])
  const stored = storedName('tcc', name, definition.input)
  const { deadlineMs = 60_000 } = definition
  checkWhole(`deadlineMs of ${owner}`, deadlineMs, 1, 24 * hour)
  checkFunction(owner, 'participants', definition.participants)
  // biome-ignore lint/complexity/noBannedTypes: no results yet.
  const given: unknown = definition.participants(new Participants(owner, []) as unknown as TccParticipants<Input, {}>)
  if (!(given instanceof Participants) || given.all.length === 0)
    throw new HeadraceError('saga-invalid', `${owner} has no participants: return tcc.participant(…).participant(…).`)
  const { all } = given
  return Object.freeze({
    kind: 'tcc',
    name,
    storedName: stored,
    input: definition.input,
    drive: (run: OwnedRun) => drive(run, all, deadlineMs),
    results: (state: RunState) => Object.fromEntries(all.map((each) => [each.name, state.call(each.name, 'try').result])) as Results,
  })
}

class Participants {
  readonly all: readonly KnownParticipant[]
  readonly #owner: string

  constructor(owner: string, all: readonly KnownParticipant[]) {
    this.#owner = owner
    this.all = all
  }

  participant(name: string, given: TccParticipant<unknown, unknown>): Participants {
    checkBranch(
      this.#owner,
      name,
      this.all.map((each) => each.name),
    )
    const owner = `the participant '${name}' of ${this.#owner}`
    checkKeys(owner, given, ['try', 'confirm', 'cancel', 'tryLimits', 'finishLimits'])
    for (const each of ['try', 'confirm', 'cancel'] as const) checkFunction(owner, each, given[each])
    return new Participants(this.#owner, [
      ...this.all,
      {
        name,
        given,
        tryLimits: checkCallLimits(`try of ${owner}`, given.tryLimits ?? {}, forwardLimits),
        finishLimits: checkCallLimits(`confirm and cancel of ${owner}`, given.finishLimits ?? {}, finishLimits),
      },
    ])
  }
}

async function drive(run: OwnedRun, participants: readonly KnownParticipant[], deadlineMs: number): Promise<RunFinish> {
  checkKnown(run, participants)
  if (run.state.decision === null) await tryAll(run, participants, deadlineMs)
  const forward = run.state.decision === 'forward'
  const wanted = forward ? participants : participants.filter(({ name }) => run.state.maybe(name, 'try'))
  await finishAll(run, wanted, forward ? 'confirm' : 'cancel')
  return forward ? { status: 'completed', error: null } : { status: 'undone', error: run.state.error }
}

/** Ends with a decision in line; it is durable before the calls that follow from it, since those are written behind it. */
async function tryAll(run: OwnedRun, participants: readonly KnownParticipant[], deadlineMs: number): Promise<void> {
  const stop = new AbortController()
  const leftMs = Math.min(deadlineMs, Math.max(0, run.startedAt + deadlineMs - Date.now()))
  const late = new HeadraceError('transaction-timeout', `It was not decided within ${deadlineMs} ms (deadlineMs).`)
  const deadline = run.after(leftMs, () => stop.abort(late))
  const failures: (CallEnd & { readonly kind: 'failed' })[] = []
  try {
    await allSettled(
      participants.map(async ({ name, given, tryLimits }) => {
        const end = await run.call({
          branch: name,
          operation: 'try',
          limits: tryLimits,
          run: (context) => given.try({ ...context, input: run.input }),
          signal: stop.signal,
        })
        if (end.kind === 'done') return
        failures.push(end)
        stop.abort(new HeadraceError('saga-failed', `The try of '${name}' beside it failed.`))
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
  const error = stop.signal.reason === late ? runError(late, first.error.branch, 'try') : first.error
  for (const each of failures)
    run.note({ kind: 'failed', branch: each.error.branch, operation: 'try', error: each.error, certain: each.certain })
  run.note({ kind: 'decided', decision: 'back', error })
}

async function finishAll(run: OwnedRun, participants: readonly KnownParticipant[], operation: 'confirm' | 'cancel'): Promise<void> {
  const failures: RunError[] = []
  await allSettled(
    participants.map(async ({ name, given, finishLimits: limits }) => {
      const { result } = run.state.call(name, 'try')
      const end = await run.call({
        branch: name,
        operation,
        limits,
        run: (context) => given[operation]({ ...context, input: run.input, result }),
      })
      if (end.kind === 'failed') failures.push(end.error)
    }),
  )
  const [first] = failures
  if (first !== undefined) throw new ParkRun(first)
}

function checkKnown(run: OwnedRun, participants: readonly KnownParticipant[]): void {
  const missing = run.state.called.find(({ branch }) => participants.every(({ name }) => name !== branch))
  if (missing === undefined) return
  const error = new HeadraceError(
    'saga-changed',
    `The TCC '${run.name}' has no participant '${missing.branch}' any more, which the run '${run.id}' has called.`,
  )
  throw new ParkRun(runError(error, missing.branch, missing.operation))
}
