/**
 * The databases of an operator, opened: each with what it says, or why it says nothing.
 *
 * What must hold: a database that is away is asked once, so a command ends
 * within the time of one refused connection; and it keeps its name, so that what
 * waits for it says so. The journal of an app is home of its own deployment
 * alone: it knows nothing about the transactions of another.
 */
import { resolve } from 'node:path'
import { HeadraceError } from '../../contracts/errors.ts'
import type { Participant, ParticipantHandle } from '../../contracts/participant.ts'
import { type Doubt, listDoubts, openSite, parseGid, type Site } from '../../transaction/index.ts'
import { CliError, exitCodes } from '../exit.ts'
import { type DatabaseFlags, type GivenDatabases, givenDatabases } from '../participants.ts'
import { type JournalHome, ownJournal, readJournal } from './journal.ts'

/** Decisions of one database that are looked through for names of deployments. */
const decisionsMax = 10_000

export interface Away {
  readonly name: string
  readonly code: string
  readonly message: string
}

export interface Sites {
  /** One for each deployment that has left something in the databases; or the one that was asked for. */
  readonly sites: readonly Site[]
  /** Names of all databases. */
  readonly databases: readonly string[]
  /** Databases that could not be asked. */
  readonly away: readonly Away[]
  /** Everything in doubt, of all deployments, oldest first. */
  doubts(): Promise<Doubt[]>
  close(): Promise<void>
}

export interface OpenSites {
  /** Default: all that have left something. */
  readonly deployment?: string | undefined
  /** To write to the journal, where it is home; refused while a node runs. */
  readonly toWrite?: boolean
}

/** Opens what the command line names. Throws 'databases-missing' when none of it is on a server. */
export async function openSites(flags: DatabaseFlags, { deployment, toWrite = false }: OpenSites = {}): Promise<Sites> {
  const given = await givenDatabases(flags.app, flags.url)
  const { participants: handles, others } = given
  if (handles.length === 0)
    throw new CliError(
      exitCodes.usage,
      'databases-missing',
      `There is no database on a server here, only ${others.map(({ name, engine }) => `${name} (${engine})`).join(', ') || 'none'}.`,
      'Nothing of SQLite files alone is ever in doubt after a start: the journal decides.',
    )
  const closers: (() => Promise<void>)[] = []
  const close = async (): Promise<void> => {
    await Promise.allSettled(closers.map((closer) => closer()))
  }
  try {
    const journal = await homeOf(given, flags, toWrite ? deployment : undefined)
    if (journal !== null) closers.push(() => journal.close())
    const opened = await openAll(handles)
    closers.push(...opened.map((each) => () => each.close()))
    const looked = await Promise.all(opened.map(look))
    const away = looked.flatMap(({ away: each }) => (each === null ? [] : [each]))
    const found = looked.flatMap(({ deployments }) => deployments)
    if (journal !== null && (await journal.log.decisions('', 1)).length > 0) found.push(journal.deployment)
    const databases = looked.map(({ participant }) => participant)
    const sites = await Promise.all(
      (deployment === undefined ? [...new Set(found)].sort() : [deployment]).map((name) =>
        openSite({ deployment: name, databases, logs: journal?.deployment === name ? [journal.log] : [] }),
      ),
    )
    return {
      sites,
      databases: handles.map(({ name }) => name),
      away,
      async doubts() {
        const lists = await Promise.all(sites.map((site) => listDoubts(site)))
        return lists.flat().sort((a, b) => (a.since ?? Infinity) - (b.since ?? Infinity))
      },
      close,
    }
  } catch (error) {
    await close()
    throw error
  }
}

/** The journal of the app: read, or taken over when it is home of the deployment to write for. */
async function homeOf({ app, others }: GivenDatabases, flags: DatabaseFlags, toWriteFor: string | undefined): Promise<JournalHome | null> {
  if (app === null) return null
  const dataDir = resolve(flags.data ?? app.options.dataDir)
  const journal = await readJournal(dataDir)
  if (journal === null || journal.deployment !== toWriteFor) return journal
  await journal.close()
  return ownJournal(app, others, dataDir)
}

async function openAll(handles: readonly ParticipantHandle[]): Promise<Participant[]> {
  const ends = await Promise.allSettled(handles.map((handle) => handle.connect({ branchesMax: 2 })))
  const opened = ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []))
  const failed = ends.find((end) => end.status === 'rejected')
  if (failed === undefined) return opened
  await closeAll(opened)
  throw failed.reason
}

async function closeAll(participants: readonly Participant[]): Promise<void> {
  await Promise.allSettled(participants.map((each) => each.close()))
}

interface Look {
  /** As it is, or one that says at once that it is away. */
  readonly participant: Participant
  readonly deployments: readonly string[]
  readonly away: Away | null
}

async function look(participant: Participant): Promise<Look> {
  try {
    const [prepared, decisions] = await Promise.all([participant.prepared(''), participant.decisions('', decisionsMax)])
    const deployments = [...prepared, ...decisions].flatMap(({ gid }) => parseGid(gid)?.deployment ?? [])
    return { participant, deployments, away: null }
  } catch (error) {
    if (!HeadraceError.is(error)) throw error
    const away = { name: participant.name, code: error.code, message: error.message }
    return { participant: awayParticipant(participant, error), deployments: [], away }
  }
}

/** The same by name; every call fails as the first one did, without waiting for it again. */
function awayParticipant({ name, engine, canPrepare, canDecide }: Participant, error: HeadraceError): Participant {
  const known = { name, engine, canPrepare, canDecide }
  const fail = (): Promise<never> => Promise.reject(error)
  return new Proxy(known as Participant, {
    get: (target, property) => (property in target ? target[property as keyof Participant] : property === 'then' ? undefined : fail),
  })
}
