/**
 * Lets another data directory take the databases of an app: what
 * `headrace migrate --release` does.
 *
 * What must hold: nothing that the lost journal has left prepared is forgotten
 * about, since nobody else would ever end it.
 */
import type { Participant, ParticipantHandle } from '../contracts/participant.ts'
import { claimOf } from '../pipeline/take-over.ts'
import { confirmed } from './confirm.ts'
import { CliError, exitCodes } from './exit.ts'
import { chosenOf, givenDatabases } from './participants.ts'
import type { Terminal } from './terminal.ts'

export interface ReleaseFlags {
  readonly url?: readonly string[]
  readonly only?: readonly string[]
  readonly release?: boolean
  readonly yes?: boolean
}

interface Claim {
  readonly participant: Participant
  /** The deployment that it belongs to; null when it belongs to none. */
  readonly owner: string | null
  /** Branches that its owner has left prepared. */
  readonly prepared: number
}

/** Resolves with the exit code. */
export async function release(terminal: Terminal, flags: ReleaseFlags, file: string | undefined): Promise<number> {
  const { app, participants } = await givenDatabases(file, flags.url)
  if (app === null)
    throw new CliError(
      exitCodes.usage,
      'usage',
      'Whose databases? --release needs the file of the app.',
      'headrace migrate app.ts --release',
    )
  const gid = claimOf(app.name)
  const opened: Participant[] = []
  try {
    const claims: Claim[] = []
    for (const handle of chosenOf(participants, flags.only)) claims.push(await claimOn(handle, gid, opened))
    const left = claims.find(({ prepared }) => prepared > 0)
    if (left !== undefined)
      throw new CliError(
        exitCodes.failed,
        'release-refused',
        `${left.participant.name} holds ${left.prepared} prepared transactions of ${left.owner}, which nobody would end any more.`,
        'Resolve them first: headrace tx ls.',
      )
    const owned = claims.filter(({ owner }) => owner !== null)
    const names = owned.map(({ participant, owner }) => `${participant.name} (of ${owner})`).join(', ')
    if (owned.length > 0) {
      const what = `Let any data directory of ${app.name} take ${names}: the one they belong to must be gone for good, or never be started again`
      if (!(await confirmed(terminal, { what, yes: flags.yes }))) return exitCodes.failed
    }
    for (const { participant } of owned) await participant.forget([gid])
    terminal.document({ databases: claims.map(({ participant, owner }) => ({ name: participant.name, released: owner !== null, owner })) })
    for (const { participant, owner } of claims)
      terminal.print(`${participant.name}  ${owner === null ? 'belonged to no data directory' : `released; it belonged to ${owner}`}`)
    return exitCodes.ok
  } finally {
    await Promise.allSettled(opened.map((each) => each.close()))
  }
}

async function claimOn(handle: ParticipantHandle, gid: string, opened: Participant[]): Promise<Claim> {
  const participant = await handle.connect({ branchesMax: 1 })
  opened.push(participant)
  const [owner = null] = (await participant.decision(gid))?.participants ?? []
  const prepared = owner === null ? [] : await participant.prepared(`${owner}_`)
  return { participant, owner, prepared: prepared.length }
}
