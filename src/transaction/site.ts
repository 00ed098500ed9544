/** The databases and logs of one deployment, by name: what coordinator, recovery and command line work on. */
import { HeadraceError } from '../contracts/errors.ts'
import type { ConnectOptions, DecisionLog, Participant, ParticipantHandle } from '../contracts/participant.ts'
import { checkDeployment, gidPrefix, type GidParts, homeless, homeTag } from './gid.ts'

export interface SiteOptions {
  /** 1 to 12 lower-case letters and digits, the same for all nodes; deployments that share a database do not touch each other's transactions. */
  readonly deployment: string
  /** Handles are connected, and closed with the site; participants stay their owner's. */
  readonly databases: readonly (ParticipantHandle | Participant)[]
  /** Logs outside of the databases that keep decisions, such as the embedded journal. */
  readonly logs?: readonly DecisionLog[]
}

export interface Site {
  readonly deployment: string
  /** What its gids start with. */
  readonly prefix: string
  readonly participants: ReadonlyMap<string, Participant>
  /** Everything that keeps decisions. */
  readonly logs: ReadonlyMap<string, DecisionLog>
  isExternal(name: string): boolean
  /** Throws 'option-invalid' when there is no such database. */
  participant(name: string): Participant
  /** The log that keeps the decision of a gid; null when it is not among those of this site. */
  homeOf(gid: GidParts): DecisionLog | null
  /** Closes what it has connected. */
  close(): Promise<void>
}

/** Connects. Throws 'option-invalid' for names that repeat, and what `connect` of a handle throws. */
export async function openSite({ deployment, databases, logs = [] }: SiteOptions, connect: ConnectOptions = {}): Promise<Site> {
  checkDeployment(deployment)
  if (!Array.isArray(databases) || databases.length === 0)
    throw new HeadraceError('option-invalid', 'databases must name at least one database.')
  checkDistinct([...databases, ...logs].map((each) => each.name))
  const opened = await Promise.allSettled(databases.map((each) => (isHandle(each) ? each.connect(connect) : each)))
  const owned = opened.flatMap((each, index) => (each.status === 'fulfilled' && isHandle(databases[index]) ? [each.value] : []))
  const close = async (): Promise<void> => {
    await Promise.allSettled(owned.map((each) => each.close()))
  }
  const failed = opened.find((each) => each.status === 'rejected')
  if (failed !== undefined) {
    await close()
    throw failed.reason
  }
  const participants = new Map(opened.flatMap((each) => (each.status === 'fulfilled' ? [[each.value.name, each.value] as const] : [])))
  const deciders = [...participants.values()].filter((each) => each.canDecide)
  const byName = new Map<string, DecisionLog>([...deciders, ...logs].map((each) => [each.name, each]))
  const byTag = new Map([...byName.values()].map((each) => [homeTag(each.name), each]))
  const external = new Set(logs.map((each) => each.name))
  return {
    deployment,
    prefix: gidPrefix(deployment),
    participants,
    logs: byName,
    isExternal: (name) => external.has(name),
    participant(name) {
      const found = participants.get(name)
      if (found !== undefined) return found
      throw new HeadraceError('option-invalid', `There is no database '${name}' here. Known: ${[...participants.keys()].join(', ')}.`, {
        details: { database: name },
      })
    },
    homeOf: (gid) => byTag.get(gid.home) ?? null,
    close,
  }
}

function isHandle(given: ParticipantHandle | Participant | undefined): given is ParticipantHandle {
  return given !== undefined && 'connect' in given && typeof given.connect === 'function'
}

/** Two names with one digest would make two homes look like one. */
function checkDistinct(names: readonly string[]): void {
  const tags = new Map<string, string>([[homeless, '(none)']])
  for (const name of names) {
    const other = tags.get(homeTag(name))
    if (other === name) throw new HeadraceError('option-invalid', `Two databases are named '${name}'. Give each a name of its own.`)
    if (other !== undefined) {
      throw new HeadraceError('option-invalid', `The names '${name}' and '${other}' cannot be told apart in a gid. Rename one of them.`)
    }
    tags.set(homeTag(name), name)
  }
}
