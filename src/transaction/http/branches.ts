/**
 * HTTP services as steps of a saga and as participants of TCC and three-phase
 * commit. The run repeats calls, so that each attempt is in its journal; the
 * client does not.
 *
 * An answer of 4xx is a no, for good: the service has changed nothing. Any other
 * failure may have been done.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { HeadraceError } from '../../contracts/errors.ts'
import type { CallLimits } from '../saga/call-options.ts'
import { checkKeys } from '../saga/definition.ts'
import { StepRefused } from '../saga/records.ts'
import type { CallContext } from '../saga/run.ts'
import type { FinalStep, Step, StepContext, UndoContext } from '../saga/saga.ts'
import type { TccFinishContext, TccParticipant, TccTryContext } from '../tcc/tcc.ts'
import type { HttpClient, HttpRequest } from './client.ts'

type Build<Context> = (context: Context) => HttpRequest

export interface HttpStepOptions<Input, Results, Result> extends Partial<CallLimits> {
  readonly do: Build<StepContext<Input, Results>>
  readonly undo: Build<UndoContext<Input, Results, Result>>
  readonly undoLimits?: Partial<CallLimits>
  /** What the answer must be. Any Standard Schema. Default: anything. */
  readonly result?: StandardSchemaV1<unknown, Result>
}

export interface HttpFinalStepOptions<Input, Results, Result> extends Partial<CallLimits> {
  readonly final: true
  readonly do: Build<StepContext<Input, Results>>
  readonly result?: StandardSchemaV1<unknown, Result>
}

/** A step of a saga that calls a service: `saga.step('wallet', httpStep(http, { do: ({ input }) => ({ url, body }), undo }))`. */
export function httpStep<Input, Results, Result = unknown>(
  client: HttpClient,
  options: HttpStepOptions<Input, Results, Result>,
): Step<Input, Results, Result>
export function httpStep<Input, Results, Result = unknown>(
  client: HttpClient,
  options: HttpFinalStepOptions<Input, Results, Result>,
): FinalStep<Input, Results, Result>
export function httpStep<Input, Results, Result>(
  client: HttpClient,
  options: HttpStepOptions<Input, Results, Result> | HttpFinalStepOptions<Input, Results, Result>,
): Step<Input, Results, Result> | FinalStep<Input, Results, Result> {
  const { do: build, result, ...limits } = options
  const act = async (context: StepContext<Input, Results>): Promise<Result> =>
    checked(result, await send(client, context, build(context), true), context)
  if ('final' in limits) return { ...limits, do: act }
  const { undo, ...rest } = limits
  return { ...rest, do: act, undo: (context) => send(client, context, undo(context), false) }
}

export interface HttpParticipantOptions<Input, Result> {
  readonly try: Build<TccTryContext<Input>>
  readonly confirm: Build<TccFinishContext<Input, Result>>
  readonly cancel: Build<TccFinishContext<Input, Result | undefined>>
  readonly tryLimits?: Partial<CallLimits>
  readonly finishLimits?: Partial<CallLimits>
  readonly result?: StandardSchemaV1<unknown, Result>
}

/** A participant of a TCC that is a service: `tcc.participant('wallet', httpParticipant(http, { try, confirm, cancel }))`. */
export function httpParticipant<Input, Result = unknown>(
  client: HttpClient,
  options: HttpParticipantOptions<Input, Result>,
): TccParticipant<Input, Result> {
  checkKeys('httpParticipant', options, ['try', 'confirm', 'cancel', 'tryLimits', 'finishLimits', 'result'])
  const { try: attempt, confirm, cancel, result, ...limits } = options
  return {
    ...limits,
    try: async (context) => checked(result, await send(client, context, attempt(context), true), context),
    confirm: (context) => send(client, context, confirm(context), false),
    cancel: (context) => send(client, context, cancel(context), false),
  }
}

/** `mayRefuse`: a no of the service is one of the step. Where it must not say no, it is a failure that is not repeated. */
async function send(client: HttpClient, context: CallContext, request: HttpRequest, mayRefuse: boolean): Promise<unknown> {
  const { gid, branch, operation, attempt, idempotencyKey, signal } = context
  try {
    const { body } = await client.call({ ...request, gid, branch, operation, attempt, idempotencyKey, signal, retriesMax: 0 })
    return body
  } catch (error) {
    if (!mayRefuse || !HeadraceError.is(error) || error.code !== 'service-refused') throw error
    throw new StepRefused(refusalCode(error), error.message)
  }
}

function refusalCode({ details }: HeadraceError): string {
  const code = details?.['code']
  return typeof code === 'string' && /^[a-z0-9][a-z0-9-]{0,63}$/.test(code) ? code : `http-${String(details?.['status'])}`
}

async function checked<Result>(
  schema: StandardSchemaV1<unknown, Result> | undefined,
  body: unknown,
  { branch }: CallContext,
): Promise<Result> {
  if (schema === undefined) return body as Result
  const result = await schema['~standard'].validate(body)
  if (result.issues === undefined) return result.value
  throw new HeadraceError(
    'service-answer',
    `The answer of '${branch}' is not as its schema says: ${result.issues[0]?.message ?? 'no reason given'}.`,
  )
}
