/** Checks an input against the schema of a command or a query, within a bound on time. */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { HeadraceError } from '../contracts/errors.ts'
import type { AnyCommand } from './command.ts'
import { isThenable, withinTime } from './within-time.ts'

/** Issues told to the caller; a hostile input could make thousands. */
const issuesMax = 20

/**
 * The value that the schema makes of `input`. Throws 'input-invalid' with the
 * issues, each with a path and a message, and 'handler-timeout' when a schema
 * with checks of its own does not answer within `ms`.
 */
export async function validated<Output>(
  owner: string,
  schema: StandardSchemaV1<unknown, Output>,
  input: unknown,
  ms: number,
): Promise<Output> {
  const checking = schema['~standard'].validate(input)
  const result = isThenable(checking) ? await withinTime(`schema of ${owner}`, ms, () => checking) : checking
  if (result.issues === undefined) return result.value
  const issues = result.issues
    .slice(0, issuesMax)
    .map(({ message, path = [] }) => ({ path: path.map((part) => (typeof part === 'object' ? part.key : part)).join('.'), message }))
  const [first] = issues
  const where = first === undefined || first.path === '' ? '' : ` at ${first.path}`
  throw new HeadraceError('input-invalid', `The input of ${owner} is not valid${where}: ${first?.message ?? 'no reason given'}`, {
    details: { issues },
  })
}

/** The input of a command, checked; `timeoutMs` where the command sets none of its own. */
export function validInput({ name, options }: AnyCommand, input: unknown, timeoutMs: number): Promise<unknown> {
  return validated(`command '${name}'`, options.input, input, options.timeoutMs ?? timeoutMs)
}
