/** What an orchestrator runs: a saga, a TCC or a three-phase commit, as data and one function. */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { HeadraceError } from '../../contracts/errors.ts'
import { runNamePattern } from '../../contracts/saga.ts'
import { isStorable } from '../../std/text.ts'
import { checkNames } from '../../contracts/bounds.ts'
import type { RunError, RunState } from './records.ts'
import type { OwnedRun } from './run.ts'

export type RunKind = 'saga' | 'tcc' | 'three-phase'

export interface RunFinish {
  readonly status: 'completed' | 'undone'
  /** Why it was undone. */
  readonly error: RunError | null
}

export interface RunDefinition<Name extends string = string, Input = unknown, Results = unknown> {
  readonly kind: RunKind
  readonly name: Name
  /** The kind, a slash and the name: what the log knows it by. */
  readonly storedName: string
  readonly input: StandardSchemaV1<unknown, Input>
  /** Goes on from what the journal says, to the end. Throws ParkRun and RunLeft. */
  drive(run: OwnedRun): Promise<RunFinish>
  /** The results of a run that completed. */
  results(state: RunState): Results
}

/** Names of steps and participants: they go into headers and keys. */
const branchPattern = /^[a-zA-Z][a-zA-Z0-9_-]{0,39}$/
const branchesMax = 100

export function checkBranch(owner: string, name: unknown, others: readonly string[]): asserts name is string {
  if (typeof name !== 'string' || !branchPattern.test(name)) {
    throw new HeadraceError(
      'saga-invalid',
      `${JSON.stringify(name)} in ${owner} is not a name: use 1 to 40 letters, digits, dashes and underscores, a letter first.`,
    )
  }
  if (others.includes(name)) throw new HeadraceError('saga-invalid', `Two parts of ${owner} are named '${name}'.`)
  if (others.length >= branchesMax) throw new HeadraceError('saga-invalid', `${owner} has more than ${branchesMax} parts.`)
}

export function checkFunction(owner: string, name: string, value: unknown): void {
  if (typeof value !== 'function') throw new HeadraceError('saga-invalid', `${owner} needs a function ${name}.`)
}

export function checkKeys(owner: string, given: unknown, known: readonly string[]): void {
  if (typeof given !== 'object' || given === null) throw new HeadraceError('saga-invalid', `${owner} must be an object.`)
  checkNames(owner, given, known)
}

/** The name under which the log keeps runs of a definition. Throws 'saga-invalid'. */
export function storedName(kind: RunKind, name: unknown, input: unknown): string {
  const stored = `${kind}/${String(name)}`
  if (typeof name !== 'string' || !runNamePattern.test(stored) || !isStorable(stored)) {
    throw new HeadraceError(
      'saga-invalid',
      `${JSON.stringify(name)} is not a name of a ${kind}: use 1 to 64 letters, digits, dots, dashes and underscores, a letter first.`,
    )
  }
  if (typeof input !== 'object' && typeof input !== 'function')
    throw new HeadraceError('saga-invalid', `The ${kind} '${name}' needs input: any Standard Schema.`)
  if (input === null || !('~standard' in input))
    throw new HeadraceError('saga-invalid', `The input of the ${kind} '${name}' is no Standard Schema.`)
  return stored
}
