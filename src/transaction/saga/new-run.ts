/** A run that is to be started: its names and its input, checked. */
import { createHash } from 'node:crypto'
import { checkWhole } from '../../contracts/bounds.ts'
import type { Database } from '../../contracts/database.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { newRunRow, type NewRun, runIdPattern, runTable } from '../../contracts/saga.ts'
import { checkDeployment } from '../gid.ts'
import type { RunDefinition } from './definition.ts'
import { orchestratorLimitTable } from './options.ts'

const issuesMax = 20
const digestLength = 32

function checkRunId(id: unknown): asserts id is string {
  if (typeof id === 'string' && runIdPattern.test(id)) return
  throw new HeadraceError(
    'saga-id-invalid',
    `The id ${JSON.stringify(id)?.slice(0, 200)} of a run must be 1 to 128 visible ASCII characters.`,
  )
}

/** The name of a run to the outside: the same whoever starts it, so that it is the same run. */
function runGid(deployment: string, stored: string, id: string): string {
  return `${deployment}_${createHash('sha256').update(`${stored}\0${id}`).digest('hex').slice(0, digestLength)}`
}

/** Throws 'input-invalid', 'saga-id-invalid'. */
export async function newRun(
  definition: RunDefinition,
  deployment: string,
  id: string,
  input: unknown,
  owner: string,
  inputBytesMax: number,
): Promise<NewRun> {
  checkRunId(id)
  const what = `${definition.kind} '${definition.name}'`
  const checked = await definition.input['~standard'].validate(input)
  if (checked.issues !== undefined) {
    const issues = checked.issues.slice(0, issuesMax).map(({ message, path = [] }) => ({
      path: path.map((part) => (typeof part === 'object' ? part.key : part)).join('.'),
      message,
    }))
    throw new HeadraceError('input-invalid', `The input of the ${what} is not valid: ${issues[0]?.message ?? 'no reason given'}`, {
      details: { issues },
    })
  }
  return {
    id,
    name: definition.storedName,
    gid: runGid(deployment, definition.storedName, id),
    input: textOf(what, checked.value, inputBytesMax),
    owner,
  }
}

function textOf(what: string, input: unknown, bytesMax: number): string {
  let text: string | undefined
  try {
    text = JSON.stringify(input ?? null)
  } catch (error) {
    throw new HeadraceError('input-invalid', `The input of the ${what} cannot be kept as JSON.`, { cause: error })
  }
  if (text !== undefined && Buffer.byteLength(text) <= bytesMax) return text
  throw new HeadraceError('input-invalid', `The input of the ${what} is no JSON of at most ${bytesMax} bytes (inputBytesMax).`)
}

export interface EnqueueOptions {
  /** That of the orchestrator. */
  readonly deployment: string
  /** Default: 65,536. */
  readonly inputBytesMax?: number
}

/**
 * Starts a run in a transaction of the app: it is started if and only if that
 * commits. The database must be the one with the tables of the log. Returns
 * false when the id is known. Afterwards `orchestrator.wake()` saves the wait
 * for the next look.
 */
export async function enqueueSaga<Input>(
  database: Database,
  definition: RunDefinition<string, Input>,
  id: string,
  input: unknown,
  { deployment, inputBytesMax = orchestratorLimitTable.inputBytesMax.default }: EnqueueOptions,
): Promise<boolean> {
  checkDeployment(deployment)
  checkWhole('inputBytesMax', inputBytesMax, 2, orchestratorLimitTable.inputBytesMax.max)
  const run = await newRun(definition as RunDefinition, deployment, id, input, '', inputBytesMax)
  return (await database.insertMany(runTable, [newRunRow(run, Date.now())], { onConflict: 'ignore' })) === 1
}
