/** The bounds of an orchestrator, with their units in their names, and the check of them. */
import { checkBounds, checkNames, numberOption as number } from '../../contracts/bounds.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { checkDeployment } from '../gid.ts'

const hour = 3_600_000
const day = 24 * hour

export const orchestratorLimitTable = Object.freeze({
  runsMax: number(100, 1, 100_000, 'Runs that this process works on at once.'),
  startsMax: number(1_000, 0, 1_000_000, 'Runs started here that wait for their turn; past it overloaded.'),
  waitersMax: number(10_000, 0, 1_000_000, 'Callers of wait(); past it overloaded.'),
  inputBytesMax: number(65_536, 2, 16_777_216, 'Longest input of a run, as JSON.'),
  resultBytesMax: number(65_536, 2, 16_777_216, 'Longest result of a step, as JSON.'),
  recordsMax: number(2_000, 10, 1_000_000, 'Records of a run; one with more is parked.'),
  pollMs: number(500, 1, hour, 'Pause between two looks for runs that nobody owns, with jitter.'),
  claimBatchMax: number(50, 1, 10_000, 'Runs that one look takes.'),
  beatMs: number(1_000, 1, hour, 'Pause between two signs of life.'),
  leaseMs: number(5_000, 1, hour, 'How long another process may give no sign of life until its runs are taken over.'),
  logRetryBaseMs: number(50, 1, hour, 'First pause after a failure of the log; doubles, with jitter.'),
  logRetryMaxMs: number(5_000, 1, hour, 'Longest pause after a failure of the log.'),
  retentionMs: number(7 * day, 0, 3_650 * day, 'How long a run that ended is kept, and its id known.'),
  pruneEveryMs: number(60_000, 1, day, 'Pause between two rounds that drop old runs.'),
  pruneBatchMax: number(1_000, 1, 100_000, 'Runs that one call drops.'),
  censusMs: number(5_000, 1, hour, 'Pause between two counts of the runs in the log, which are made while somebody listens.'),
  closeTimeoutMs: number(5_000, 0, hour, 'Longest wait of close() for the calls under way.'),
})

export type OrchestratorLimitName = keyof typeof orchestratorLimitTable
export type OrchestratorLimits = { readonly [K in OrchestratorLimitName]: number }

function checkLimits(given: Partial<OrchestratorLimits>): OrchestratorLimits {
  const limits = checkBounds(orchestratorLimitTable, given)
  const atLeast = (high: OrchestratorLimitName, low: OrchestratorLimitName, times: number): void => {
    if (limits[high] < limits[low] * times)
      throw new HeadraceError('option-invalid', `${high} (${limits[high]}) must be at least ${times} times ${low} (${limits[low]}).`)
  }
  atLeast('leaseMs', 'beatMs', 2)
  atLeast('logRetryMaxMs', 'logRetryBaseMs', 1)
  return limits
}

const nodePattern = /^[A-Za-z0-9.-]{1,40}$/
const optionNames = ['deployment', 'log', 'runs', 'node', 'work', 'clock', 'random', ...Object.keys(orchestratorLimitTable)]

interface Given extends Partial<OrchestratorLimits> {
  readonly deployment: string
  readonly runs: readonly { readonly storedName: string }[]
  readonly node?: string
}

/** Throws 'option-unknown' and 'option-invalid'. */
export function checkOrchestratorOptions(options: Given): OrchestratorLimits {
  checkNames('createOrchestrator', options, optionNames)
  checkDeployment(options.deployment)
  const limits = checkLimits(options)
  if (!Array.isArray(options.runs)) throw new HeadraceError('option-invalid', 'runs must be a list of sagas, TCCs and three-phase commits.')
  const names = options.runs.map((each) => each.storedName)
  const repeated = names.find((name, index) => names.indexOf(name) !== index)
  if (repeated !== undefined) throw new HeadraceError('option-invalid', `Two runs are named '${repeated}'.`)
  if (options.node !== undefined && !nodePattern.test(options.node))
    throw new HeadraceError('option-invalid', 'node must be 1 to 40 letters, digits, dots and dashes.', { details: { option: 'node' } })
  return limits
}
