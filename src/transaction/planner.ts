/**
 * Takes the cheapest protocol that is correct for the branches of one global
 * transaction, and says why (DESIGN 7.1).
 *
 * What must hold:
 * - every branch that wrote is committed by the decision: it is prepared before,
 *   or it carries the decision in its own commit;
 * - at most one branch commits without being prepared;
 * - a branch that only read takes no part, but ends last, so that its locks hold.
 */
export type Protocol = 'none' | 'one-phase' | 'last-resource' | 'two-phase'

export interface PlanBranch {
  readonly name: string
  readonly wrote: boolean
  readonly canPrepare: boolean
  readonly canDecide: boolean
}

export interface PlanInput {
  readonly branches: readonly PlanBranch[]
  /** The database, or the log outside of the databases, that keeps the decision. Null: there is none. */
  readonly home: string | null
  /** Whether home is a log outside of the databases, whose own commit carries the decision. */
  readonly externalHome: boolean
}

export interface Plan {
  readonly protocol: Protocol | 'unavailable'
  /** Branches that are prepared, side by side. */
  readonly prepare: readonly string[]
  /** The branch that commits without being prepared. */
  readonly commit: string | null
  /** Where the decision is kept; null when the protocol needs none. */
  readonly home: string | null
  /** Branches that only read: ended at last, without a protocol. */
  readonly readOnly: readonly string[]
  /** Waits for a disk, one after the other; what goes on side by side counts once. */
  readonly waitsForDisk: number
  /** Sentences for people, in the order of the choices. */
  readonly reasons: readonly string[]
}

export function planCommit({ branches, home, externalHome }: PlanInput): Plan {
  const writers = branches.filter((each) => each.wrote)
  const readOnly = branches.filter((each) => !each.wrote).map((each) => each.name)
  const reasons = readOnly.length === 0 ? [] : [`${list(readOnly)} only read: no part in the protocol, ended last.`]
  const plan = (protocol: Plan['protocol'], rest: Partial<Plan>, ...why: string[]): Plan => ({
    protocol,
    prepare: [],
    commit: null,
    home: null,
    waitsForDisk: 0,
    ...rest,
    readOnly,
    reasons: [...reasons, ...why],
  })
  const names = writers.map((each) => each.name)
  const unable = writers.filter((each) => !each.canPrepare).map((each) => each.name)

  if (writers.length === 0) {
    return plan('none', { home: externalHome ? home : null, waitsForDisk: externalHome ? 1 : 0 }, 'Nothing was written to a database.')
  }
  if (externalHome) {
    if (unable.length > 0) {
      return plan('unavailable', {}, `${list(unable)} cannot prepare, and the decision is kept in ${home}, outside of the databases.`)
    }
    return plan('two-phase', { prepare: names, home, waitsForDisk: 3 }, `${home} keeps the decision, in a commit of its own.`)
  }
  if (writers.length === 1) return plan('one-phase', { commit: names[0] as string, waitsForDisk: 1 }, `Only ${names[0]} was written to.`)
  if (unable.length > 1) return plan('unavailable', {}, `${list(unable)} cannot prepare, and only one of a transaction may be so.`)
  if (home === null) return plan('unavailable', {}, `${list(names)} were written to, and none of the databases can keep a decision.`)
  const last = writers.find((each) => each.name === home)
  if (unable.length === 1 && unable[0] !== home) {
    return plan('unavailable', {}, `${unable[0]} cannot prepare, so it would have to keep the decision; ${home} does.`)
  }
  if (last?.canDecide) {
    const prepare = names.filter((name) => name !== home)
    return plan(
      'last-resource',
      { prepare, commit: home, home, waitsForDisk: 2 },
      `${home} was written to and keeps the decision: its own commit decides, after ${list(prepare)} ${prepare.length === 1 ? 'is' : 'are'} prepared.`,
    )
  }
  if (last !== undefined) return plan('unavailable', {}, `${home} is home, but cannot keep a decision.`)
  return plan('two-phase', { prepare: names, home, waitsForDisk: 3 }, `${home} keeps the decision, but was not written to.`)
}

export interface HomeCandidate {
  readonly name: string
  readonly canPrepare: boolean
  readonly canDecide: boolean
}

/**
 * Home of a transaction over `databases`, chosen before it is known which of
 * them will be written to: the one that is asked for; else one that cannot
 * prepare, since it must be home; else the first that can decide; else any
 * other database that can.
 */
export function chooseHome(databases: readonly HomeCandidate[], others: readonly HomeCandidate[], wanted: string | null): string | null {
  if (wanted !== null) return wanted
  const able = databases.filter((each) => each.canDecide)
  return (able.find((each) => !each.canPrepare) ?? able[0] ?? others.find((each) => each.canDecide))?.name ?? null
}

function list(names: readonly string[]): string {
  return names.length < 2 ? (names[0] ?? '') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`
}
