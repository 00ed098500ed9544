/**
 * A story: a process that dies, others that follow it, and a verdict.
 *
 * Every process but the last has a way to die. Whatever was not answered is
 * sent again to the next one; the last one answers all and stops gently.
 */
import { createRandom } from '../../src/std/random.ts'
import { Load, type LoadShape, type Refusals } from './load.ts'
import { AppProcess, type CrashPlace, type End, type ProcessOptions } from './process.ts'
import { epochOf, findings, lost } from './verdict.ts'
import type { Places } from './world.ts'

export interface Life {
  /** Where it dies; without, it lives until `killAfterMs`, or until everything is answered. */
  readonly crashAt?: CrashPlace
  /** Killed so many milliseconds after its start, if it lives so long. */
  readonly killAfterMs?: number
  /** Killed once so many more commands are acknowledged than before it, if it comes so far. */
  readonly killAtAcknowledged?: number
  /** What kills it then; by default SIGKILL alone. */
  readonly killer?: (process: AppProcess) => Promise<void>
  /** It may end without ever coming to `crashAt`. */
  readonly mayLive?: boolean
  /** What befalls its databases while it works; it must hold again when this resolves. */
  readonly trouble?: (process: AppProcess, load: Load) => Promise<void>
  /** What befalls the data directory once the process has ended. */
  readonly afterwards?: (dataDir: string) => void
}

export interface Story {
  readonly dataDir: string
  /** Databases on servers. Default: none. */
  readonly places?: Places
  /** As `ProcessOptions` takes it. */
  readonly queue?: ProcessOptions['queue']
  readonly seed: number
  readonly shape: LoadShape
  readonly lives: readonly Life[]
  readonly limits?: Readonly<Record<string, number>>
  readonly dist?: string
  readonly refusals?: Refusals
}

export interface Told {
  /** Promises that were broken, by invariant; empty when all is well. */
  readonly broken: readonly string[]
  readonly load: Load
  readonly ends: readonly End[]
}

/** Tells the story. Throws when a process did not die where it was to die: then nothing was tested. */
export async function tell(story: Story): Promise<Told> {
  const load = new Load(createRandom(story.seed), story.shape, story.refusals)
  const broken: string[] = []
  const ends: End[] = []
  let epoch = 0
  for (const life of [...story.lives, {}] as readonly Life[]) {
    const process = new AppProcess({ ...story, ...life })
    try {
      const end = await live(story, life, process, load)
      if (typeof end === 'string') return { broken: [end, ...broken, ...load.broken], load, ends }
      ends.push(end)
      life.afterwards?.(story.dataDir)
      // What a server holds is not looked into; a file of the data directory is.
      if (story.queue === undefined || story.queue.url.startsWith(story.dataDir)) broken.push(...lost(story.dataDir, load.sent))
      const next = epochOf(story.dataDir)
      if (next < epoch || (next === epoch && process.over?.signal === null))
        broken.push(`4 only the owner commits: the epoch was ${epoch}, and after another start it is ${next}`)
      epoch = next
    } finally {
      await process.kill()
    }
  }
  return { broken: [...broken, ...load.broken, ...(await findings(story.dataDir, load.sent, story.places))], load, ends }
}

/** How the process ended; a text when it refused to start. */
async function live(story: Story, life: Life, process: AppProcess, load: Load): Promise<End | string> {
  let killed: Promise<unknown> | undefined
  const kill = async (): Promise<unknown> => life.killer?.(process) ?? process.kill()
  const killing =
    life.killAfterMs === undefined
      ? undefined
      : setTimeout(() => {
          killed = kill()
        }, life.killAfterMs)
  if (life.killAtAcknowledged !== undefined) {
    const enough = load.acknowledged + life.killAtAcknowledged
    process
      .until(() => load.acknowledged >= enough)
      .then(
        () => {
          killed = kill()
        },
        () => undefined,
      )
  }
  try {
    const started = await process.started
    if (started !== 'ready' && 'refused' in started && !(life.killer !== undefined && killed !== undefined))
      return `2 once, all or none: the node does not start again: ${started.refused}: ${started.message}`
    if (started === 'ready') {
      try {
        await Promise.all([load.drive(process), life.trouble?.(process, load)])
        await load.finish(process, story.dataDir)
        if (process.over === null) await process.stop()
      } catch (error) {
        // What kills it may take its disk first.
        if (life.killer === undefined || killed === undefined) throw error
        await killed
      }
    }
    const end = await process.ended
    const mustDie = life.crashAt !== undefined && life.mayLive !== true
    if (mustDie && end.signal !== 'SIGKILL')
      throw new Error(
        `The process was to die at ${life.crashAt?.name}:${life.crashAt?.visit}, and ended with ${JSON.stringify(end)}. ${process.stderr}`,
      )
    if (!mustDie && end.signal !== 'SIGKILL' && end.code !== 0)
      throw new Error(`The process was to stop gently, and ended with ${JSON.stringify(end)}. ${process.stderr}`)
    return end
  } finally {
    clearTimeout(killing)
    await killed
  }
}

/** Throws with every promise that was broken, the first ones in full. */
export function mustHold({ broken }: Told): void {
  if (broken.length > 0) throw new Error(`${broken.length} findings:\n${broken.slice(0, 12).join('\n')}`)
}
