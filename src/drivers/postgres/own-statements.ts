/** The statements of a branch that are Headrace's own: its begin, its fences, its marker and its end. */
import type { Decision, Fence } from '../../contracts/participant.ts'
import type { Part } from './flight.ts'
import { literal } from './values.ts'

/** A statement without values, whose text comes again. */
export const plain = (text: string): Part => ({ text, values: [], keep: true, rows: false })
/** A statement whose text has values in it. */
export const once = (text: string): Part => ({ text, values: [], keep: false, rows: false })

/** The name of a branch among all prepared transactions of the cluster: databases of one cluster share a gid, but not a name. */
export const preparedName = (gid: string, participant: string): string => `${gid}.${participant}`

export const insertMarker = (gid: string, participant: string, committed: boolean): string =>
  `insert into headrace_branch (gid, participant, committed) values ('${gid}', ${literal(participant)}, ${committed})`

export const insertDecision = ({ gid, verdict, participants, decidedAt }: Decision): string =>
  `insert into headrace_decision (gid, verdict, participants, decided_at) values ('${gid}', '${verdict}', ${literal(participants.join(','))}, ${Math.trunc(decidedAt)})`

export const markerPart = (gid: string, participant: string): Part => ({
  text: 'insert into headrace_branch (gid, participant, committed) values ($1, $2, true)',
  values: [gid, participant],
  keep: true,
  rows: false,
})

export const decisionPart = ({ gid, verdict, participants, decidedAt }: Decision): Part => ({
  text: 'insert into headrace_decision (gid, verdict, participants, decided_at) values ($1, $2, $3, $4)',
  values: [gid, verdict, participants.join(','), String(Math.trunc(decidedAt))],
  keep: true,
  rows: false,
})

function deploymentsOf(fences: readonly Fence[]): string[] {
  return [...new Set(fences.map(({ deployment }) => deployment))]
}

/**
 * Holds the rows of the fences until the branch ends, and tells their epochs.
 * Shared, so that several branches of one owner go side by side; whoever raises
 * an epoch waits for them.
 */
export function heldFences(fences: readonly Fence[]): Part[] {
  return deploymentsOf(fences).map((deployment) => {
    const partitions = fences.filter((fence) => fence.deployment === deployment).map(({ partition }) => Math.trunc(partition))
    return {
      text: 'select deployment, partition, epoch from headrace_partition where deployment = $1 and partition = any($2::int[]) order by partition for share',
      values: [deployment, `{${partitions.join(',')}}`],
      keep: true,
      rows: true,
    }
  })
}

export const timesOf = (statementTimeoutMs: number, idleTimeoutMs: number): string[] => [
  `statement_timeout = ${statementTimeoutMs}`,
  `idle_in_transaction_session_timeout = ${idleTimeoutMs}`,
]
