/**
 * The start of a node over databases on servers: it makes them its own, and ends
 * what earlier starts left behind, before it takes a command.
 */
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { DecidingLedger, LedgerOptions } from '../contracts/ledger.ts'
import type { Fence, Participant } from '../contracts/participant.ts'
import { backoffMs, pause } from '../std/backoff.ts'
import { type Coordinator, homeTag } from '../transaction/index.ts'

/** First and longest pause before a database that is away is asked again, in milliseconds. */
const askBaseMs = 50
const askMaxMs = 1_000

/** As it stands in gids: short, and as unique as the identity of the journal. */
export function deploymentOf(identity: string): string {
  return `j${BigInt(`0x${identity.replaceAll('-', '')}`)
    .toString(36)
    .padStart(11, '0')
    .slice(-11)}`
}

/** The name of the row that says whose a database is. */
export function claimOf(app: string): string {
  return `claim_${homeTag(app)}`
}

/** Makes the databases ours, ends what earlier starts left in doubt, and shuts their last statements out. */
export async function takeOver(coordinator: Coordinator, inner: DecidingLedger, options: LedgerOptions): Promise<readonly Fence[]> {
  const startedAt = performance.now()
  const { deployment, participants } = coordinator.site
  // One for each batch at once: some engines let only one branch hold a fence.
  const fences = Array.from({ length: options.lanes }, (_, partition): Fence => ({ deployment, partition, epoch: inner.epoch }))
  const refused = new AbortController()
  const patient = <T>(call: () => Promise<T>): Promise<T> => untilItAnswers(call, startedAt + options.databaseWaitMs, refused.signal)
  try {
    await Promise.all([...participants.values()].map((participant) => patient(() => claim(participant, options, deployment))))
    await patient(async () => {
      const { away, waiting } = await coordinator.recover()
      const [why] = Object.values(away)
      if (why !== undefined) throw why
      if (waiting.length > 0)
        throw new HeadraceError(
          'engine-unavailable',
          `${waiting.length} transactions of an earlier start are in doubt still: ${waiting[0]}.`,
        )
    })
    await Promise.all([...participants.values()].map((participant) => patient(() => participant.raise(fences))))
    return fences
  } catch (error) {
    refused.abort()
    throw error
  }
}

async function claim(participant: Participant, options: LedgerOptions, deployment: string): Promise<void> {
  const { name } = participant
  const [owner] = (await participant.decideAbort(claimOf(options.app), [deployment])).participants
  if (owner !== deployment) {
    throw new HeadraceError(
      'database-claimed',
      `Database '${name}' belongs to another data directory of the app '${options.app}' (journal ${owner}); ${options.dataDir} has journal ${deployment}. Start on the other data directory, or, if that is gone for good, release the database with headrace migrate --release.`,
      { details: { database: name, owner, journal: deployment } },
    )
  }
  const findings = (await participant.check()).filter(({ level }) => level !== 'ok')
  for (const { level, message, remedy = '' } of findings) {
    const text = `Database '${name}': ${message} ${remedy}`.trimEnd()
    if (level === 'error') {
      // It may have gone away since it was claimed: then this throws so, and it is asked again.
      await participant.decision(claimOf(options.app))
      throw new HeadraceError('database-unfit', text, { details: { database: name } })
    }
    tell('headrace:notice', () => ({ app: options.app, level: 'warn', message: text }))
  }
}

async function untilItAnswers<T>(call: () => Promise<T>, deadline: number, given: AbortSignal): Promise<T> {
  for (let attempt = 0; ; attempt += 1) {
    try {
      return await call()
    } catch (error) {
      const hopeless = !HeadraceError.is(error) || !error.retryable || error.code === 'fenced'
      if (hopeless || performance.now() >= deadline || given.aborted) throw error
      await pause(backoffMs(attempt, askBaseMs, askMaxMs), given)
    }
  }
}
