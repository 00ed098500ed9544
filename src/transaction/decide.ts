/** How a transaction ended whose coordinator does not know: asked where the decision is. */
import { HeadraceError } from '../contracts/errors.ts'
import type { DecisionLog } from '../contracts/participant.ts'
import { parseGid, retirementGid } from './gid.ts'

/**
 * 'lost': another process has declared this coordinator's incarnation over and
 * may have dropped the decision since. A decision that is not there proves
 * nothing any more.
 */
export type Verdict = 'commit' | 'abort' | 'lost'

/**
 * Decides 'abort' unless there is a decision, and answers what holds. Whoever
 * inserts first decides, so it is as good to be asked by the coordinator as by
 * recovery.
 */
export async function decideOwn(log: DecisionLog, gid: string, participants: readonly string[]): Promise<Verdict> {
  const parts = parseGid(gid)
  if (parts === null) throw new HeadraceError('internal', `'${gid}' is not a gid.`)
  const decision = await log.decideAbort(gid, participants)
  if (decision.verdict === 'commit') return 'commit'
  // Asked after the decision: an incarnation is declared over before anything of it is dropped.
  return (await log.decision(retirementGid(parts))) === null ? 'abort' : 'lost'
}
