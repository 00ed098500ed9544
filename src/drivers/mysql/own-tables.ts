/** The statements on Headrace's own tables: markers, decisions, fences. */
import { HeadraceError } from '../../contracts/errors.ts'
import { type BranchEnd, type Decision, type Fence, gidPattern } from '../../contracts/participant.ts'
import type { Row } from '../../contracts/database.ts'
import type { Quote } from './statement.ts'

/** Fences that one statement takes. */
const fencesMax = 10_000
/** With the name of a handle, which has at most 32, it fits in its column. */
const deploymentBytesMax = 200

export function checkGid(gid: string): void {
  if (typeof gid !== 'string' || !gidPattern.test(gid))
    throw new HeadraceError(
      'option-invalid',
      `The gid ${JSON.stringify(String(gid).slice(0, 80))} is not valid: use 1 to 60 lower-case letters, digits and underscores.`,
    )
}

/** The name of a branch on the server: its gid, and the participant, since two of them may be one server. */
export const xidOf = (gid: string, participant: string): string => `'${gid}','${participant}'`

export const markerInsert = (gid: string, participant: string, ending: BranchEnd): string =>
  `insert into headrace_branch (gid, participant, ending, session) values (${xidOf(gid, participant)}, '${ending}', connection_id())`

/** Takes the marker as aborted unless there is one; waits for a branch that has written it and not ended. */
export const markerSettle = (gid: string, participant: string): string =>
  `insert into headrace_branch (gid, participant, ending, session) values (${xidOf(gid, participant)}, 'aborted', 0) on duplicate key update gid = gid`

export const markerRead = (gid: string, participant: string): string =>
  `select ending, session from headrace_branch where gid = '${gid}' and participant = '${participant}'`

export function endingOf(row: Row | undefined): BranchEnd | null {
  return row === undefined ? null : row['ending'] === 'committed' ? 'committed' : 'aborted'
}

export function decisionInsert({ gid, verdict, participants, decidedAt }: Decision, quote: Quote): string {
  checkGid(gid)
  return `insert into headrace_decision (gid, verdict, participants, decided_at) values ('${gid}', '${verdict === 'commit' ? 'commit' : 'abort'}', ${quote(JSON.stringify(participants))}, ${Math.trunc(decidedAt)})`
}

export const decisionColumns = 'gid, verdict, participants, decided_at'

export function decisionOf(row: Row): Decision {
  return {
    gid: String(row['gid']),
    verdict: row['verdict'] === 'commit' ? 'commit' : 'abort',
    participants: JSON.parse(String(row['participants'])) as string[],
    decidedAt: Number(row['decided_at']),
  }
}

const partitionLiteral = ({ deployment, partition }: Fence, quote: Quote): string => `${quote(deployment)}, ${partition}`

function checkFences(fences: readonly Fence[]): void {
  if (fences.length > fencesMax)
    throw new HeadraceError('option-invalid', `A branch takes at most ${fencesMax} fences, not ${fences.length}.`)
  for (const { deployment, partition, epoch } of fences) {
    if (
      !Number.isSafeInteger(partition) ||
      partition < 0 ||
      !Number.isSafeInteger(epoch) ||
      epoch < 0 ||
      Buffer.byteLength(deployment) > deploymentBytesMax
    )
      throw new HeadraceError(
        'option-invalid',
        `A fence needs a partition and an epoch that are whole numbers from 0, and a deployment of at most ${deploymentBytesMax} bytes.`,
      )
  }
}

/**
 * Raises the epochs and keeps their rows; then reads what they are. Each handle
 * has rows of its own: the branches that one transaction has in one database
 * must not wait for each other. The rows are kept exclusively, since MariaDB
 * gives shared locks back when a branch is prepared. The insert
 * comes first: reading a row that is missing would lock the gap, and two first
 * writers would block each other. A row with a higher epoch stays as it is. In
 * order of key, so that two branches do not wait for each other.
 */
export function fenceStatements(given: readonly Fence[], name: string, quote: Quote): [raise: string, read: string] {
  checkFences(given)
  const fences = given.map((fence) => ({ ...fence, deployment: ownerOf(fence, name) }))
  const sorted = fences
    .map((fence) => ({ fence, key: `${fence.deployment}\0${String(fence.partition).padStart(10, '0')}` }))
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0))
    .map(({ fence }) => fence)
  return [
    `insert into headrace_partition (deployment, \`partition\`, epoch) values ${sorted
      .map((fence) => `(${partitionLiteral(fence, quote)}, ${fence.epoch})`)
      .join(', ')} on duplicate key update epoch = greatest(epoch, values(epoch))`,
    `select convert(deployment using utf8mb4) as deployment, \`partition\` as part, epoch from headrace_partition where (deployment, \`partition\`) in (${sorted
      .map((fence) => `(${partitionLiteral(fence, quote)})`)
      .join(', ')})`,
  ]
}

/** As it stands in the table. */
const ownerOf = ({ deployment }: Fence, name: string): string => `${deployment}/${name}`

/** Throws 'fenced' when a higher epoch was seen than one of these. */
export function checkEpochs(fences: readonly Fence[], rows: readonly Row[], name: string): void {
  const seen = new Map(rows.map((row) => [`${String(row['deployment'])}\0${String(row['part'])}`, Number(row['epoch'])]))
  for (const fence of fences) {
    const { deployment, partition, epoch } = fence
    const highest = seen.get(`${ownerOf(fence, name)}\0${partition}`)
    if (highest === epoch) continue
    throw new HeadraceError(
      'fenced',
      `Another owner has taken partition ${partition} of ${deployment} in MySQL '${name}' under epoch ${highest ?? 'unknown'}; this one has ${epoch} and must stop.`,
      { details: { database: name, deployment, partition, epoch, ...(highest === undefined ? {} : { highest }) } },
    )
  }
}
