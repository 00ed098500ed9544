/**
 * What is in doubt, with the evidence: for people, and for `headrace tx`.
 *
 * All of it is read from the databases, so any process can tell, and nothing
 * that was found is lost with the process that found it.
 */
import { HeadraceError } from '../contracts/errors.ts'
import type { BranchEnd, Decision, DecisionLog, Participant } from '../contracts/participant.ts'
import { parseGid } from './gid.ts'
import type { Site } from './site.ts'

/**
 * - `undecided`: prepared, and home has no decision. Recovery will undo it.
 * - `unfinished`: prepared, and decided. Recovery will end it.
 * - `away`: a database of it does not answer. Recovery waits for it.
 * - `home-unknown`: prepared, and the log that keeps its decision is not among those connected here.
 * - `heuristic`: a branch ended otherwise than decided: somebody ended it by hand.
 */
export type DoubtState = 'undecided' | 'unfinished' | 'away' | 'home-unknown' | 'heuristic'

export interface DoubtBranch {
  readonly participant: string
  /** `gone`: neither prepared nor marked; `away`: the database does not answer; `unknown`: it is not connected here. */
  readonly state: 'prepared' | BranchEnd | 'gone' | 'away' | 'unknown'
  readonly preparedAt: number | null
}

export interface Doubt {
  readonly gid: string
  readonly state: DoubtState
  readonly node: string
  readonly incarnation: string
  /** Null when it is not connected here. */
  readonly home: string | null
  readonly decision: Decision | null
  readonly branches: readonly DoubtBranch[]
  /** Milliseconds since 1970, by the clock of a database: when the first branch was prepared, or it was decided. */
  readonly since: number | null
  /** What this means, and what to do. */
  readonly message: string
}

/**
 * `commit` and `abort` end its prepared branches by the will of a person, where
 * home cannot be asked any more; `forget` drops the decision and the markers of
 * one that ended by hand, once the databases have been compared.
 */
export type DoubtVerdict = 'commit' | 'abort' | 'forget'

const decisionsMax = 10_000

interface Evidence {
  readonly prepared: Map<string, Map<string, number | null>>
  readonly decisions: Map<string, Decision>
  readonly away: Set<string>
}

/** Everything in doubt, oldest first. Databases that are away are left out, and named in what depends on them. */
export async function listDoubts(site: Site): Promise<Doubt[]> {
  const evidence = await gather(site)
  const gids = new Set([...evidence.prepared.keys(), ...evidence.decisions.keys()])
  const doubts = await Promise.all([...gids].map((gid) => judge(site, gid, evidence)))
  return doubts.filter((doubt) => doubt !== null).sort((a, b) => (a.since ?? Infinity) - (b.since ?? Infinity))
}

/** One of them; null when it is not in doubt (any more). */
export async function showDoubt(site: Site, gid: string): Promise<Doubt | null> {
  return (await listDoubts(site)).find((doubt) => doubt.gid === gid) ?? null
}

/**
 * Ends a doubt by the will of a person. Throws 'option-invalid' where home can
 * still be asked, and says otherwise or has not been asked; 'transaction-heuristic'
 * where a branch had ended the other way.
 */
export async function resolveDoubt(site: Site, gid: string, verdict: DoubtVerdict): Promise<void> {
  const doubt = await showDoubt(site, gid)
  if (doubt === null) throw new HeadraceError('option-invalid', `'${gid}' is not in doubt. See: headrace tx ls.`)
  if (verdict === 'forget') return forget(site, doubt)
  const log = doubt.home === null ? null : (site.logs.get(doubt.home) ?? null)
  if (log !== null) await mustAgree(log, doubt, verdict)
  const prepared = doubt.branches.filter((branch) => branch.state === 'prepared')
  const ends = await Promise.allSettled(
    prepared.map(({ participant }) =>
      verdict === 'commit' ? site.participant(participant).commitPrepared(gid) : site.participant(participant).rollbackPrepared(gid),
    ),
  )
  for (const end of ends) if (end.status === 'rejected') throw end.reason
}

async function forget(site: Site, { gid, state, home, branches }: Doubt): Promise<void> {
  if (state !== 'heuristic') {
    throw new HeadraceError(
      'option-invalid',
      `'${gid}' is ${state}: only what ended by hand can be forgotten. Decide 'commit' or 'abort', or wait for recovery.`,
    )
  }
  // Without the decision, recovery would undo what is prepared still, whatever was decided.
  const open = branches.filter((branch) => branch.state === 'prepared' || branch.state === 'away' || branch.state === 'unknown')
  if (open.length > 0) {
    throw new HeadraceError(
      'option-invalid',
      `'${gid}' has not ended in ${open.map(({ participant, state: found }) => `${participant} (${found})`).join(', ')}: until it has, its decision must not be forgotten. Recovery ends what is prepared; bring the others back.`,
    )
  }
  if (home !== null) await site.logs.get(home)?.forget([gid])
  const others = branches.filter(({ participant }) => participant !== home)
  const dropped = await Promise.allSettled(others.map(async ({ participant }) => site.participants.get(participant)?.forget([gid])))
  for (const each of dropped) if (each.status === 'rejected') throw each.reason
}

/** A person may not overrule a home that answers. */
async function mustAgree(log: DecisionLog, { gid, branches, decision: seen }: Doubt, verdict: 'commit' | 'abort'): Promise<void> {
  let decision: Decision | null
  try {
    const names = branches.map(({ participant }) => participant)
    decision = seen ?? (await (verdict === 'abort' ? log.decideAbort(gid, names) : log.decision(gid)))
  } catch {
    // Home cannot be asked: that is what a person is for.
    return
  }
  if (decision?.verdict === verdict) return
  const found = decision === null ? 'has no decision' : `decided '${decision.verdict}'`
  throw new HeadraceError(
    'option-invalid',
    `'${log.name}' answers, and ${found} for '${gid}'. ${decision === null ? "Its own part did not commit: resolve it with 'abort'." : 'Recovery ends it so.'}`,
  )
}

async function gather(site: Site): Promise<Evidence> {
  const evidence: Evidence = { prepared: new Map(), decisions: new Map(), away: new Set() }
  const asked = async <T>(name: string, call: () => Promise<T[]>): Promise<T[]> => {
    try {
      return await call()
    } catch {
      evidence.away.add(name)
      return []
    }
  }
  await Promise.all([
    ...[...site.participants.values()].map(async (participant: Participant) => {
      if (!participant.canPrepare) return
      for (const { gid, preparedAt } of await asked(participant.name, () => participant.prepared(site.prefix))) {
        const branches = evidence.prepared.get(gid) ?? new Map<string, number | null>()
        branches.set(participant.name, preparedAt)
        evidence.prepared.set(gid, branches)
      }
    }),
    ...[...site.logs.values()].map(async (log) => {
      for (const decision of await asked(log.name, () => log.decisions(site.prefix, decisionsMax)))
        evidence.decisions.set(decision.gid, decision)
    }),
  ])
  return evidence
}

async function judge(site: Site, gid: string, { prepared, decisions, away }: Evidence): Promise<Doubt | null> {
  const parts = parseGid(gid)
  if (parts === null || parts.number === 0) return null
  const home = site.homeOf(parts)
  const here = prepared.get(gid) ?? new Map<string, number | null>()
  // A branch that was decided after the decisions were listed would look undecided.
  const decision = decisions.get(gid) ?? (home === null || away.has(home.name) ? null : await home.decision(gid).catch(() => null))
  const names = new Set([...here.keys(), ...(decision?.participants ?? [])])
  const branches = await Promise.all([...names].map((name) => look(site, gid, name, here, away)))
  const is = (state: DoubtBranch['state']): string[] =>
    branches.filter((branch) => branch.state === state).map((branch) => branch.participant)
  const since = [...here.values(), decision?.decidedAt ?? null].filter((each) => each !== null).sort((a, b) => a - b)[0] ?? null
  const tell = (state: DoubtState, message: string): Doubt => ({
    gid,
    state,
    node: parts.node,
    incarnation: parts.incarnation,
    home: home?.name ?? null,
    decision,
    branches,
    since,
    message,
  })
  if (decision !== null) {
    const other = decision.verdict === 'commit' ? [...is('aborted'), ...is('gone')] : is('committed')
    if (other.length > 0 && (await stillDecided(home, gid))) {
      return tell(
        'heuristic',
        `It was decided to ${decision.verdict}, but somebody ended ${other.join(', ')} otherwise. Compare the databases, then forget it.`,
      )
    }
    const missing = [...is('away'), ...is('unknown')]
    if (missing.length > 0 && decision.verdict === 'commit')
      return tell('away', `It was decided to commit. Waits for ${missing.join(', ')}.`)
    if (here.size === 0) return null
    return tell('unfinished', `It was decided to ${decision.verdict}. Recovery ends it.`)
  }
  if (here.size === 0) return null
  if (home === null)
    return tell('home-unknown', 'The database that keeps its decision is not connected here. Connect it, or resolve it by hand.')
  if (away.has(home.name))
    return tell('away', `Its decision is in ${home.name}, which does not answer. Bring it back, or resolve it by hand.`)
  return tell('undecided', 'It was never decided. Recovery undoes it.')
}

/** Decisions are dropped before markers: a missing marker says something only while the decision is there. */
async function stillDecided(home: DecisionLog | null, gid: string): Promise<boolean> {
  if (home === null) return true
  return (await home.decision(gid).catch(() => undefined)) !== null
}

async function look(
  site: Site,
  gid: string,
  name: string,
  here: ReadonlyMap<string, number | null>,
  away: ReadonlySet<string>,
): Promise<DoubtBranch> {
  const preparedAt = here.get(name) ?? null
  if (here.has(name)) return { participant: name, state: 'prepared', preparedAt }
  const participant = site.participants.get(name)
  if (participant === undefined) return { participant: name, state: 'unknown', preparedAt }
  if (away.has(name)) return { participant: name, state: 'away', preparedAt }
  try {
    const marker = await participant.marker(gid)
    if (marker !== null) return { participant: name, state: marker, preparedAt }
    // It may have been prepared since the branches were listed.
    const now = (await participant.prepared(gid)).find((each) => each.gid === gid)
    return { participant: name, state: now === undefined ? 'gone' : 'prepared', preparedAt: now?.preparedAt ?? null }
  } catch {
    return { participant: name, state: 'away', preparedAt }
  }
}
