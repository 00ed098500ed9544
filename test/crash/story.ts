/**
 * A story: a process that dies, others that follow it, and a verdict.
 *
 * Every process but the last has a way to die. Whatever was not answered is
 * sent again to the next one; the last one answers all and stops gently.
 */
import { createRandom } from '../../src/std/random.ts'
import { Load, type LoadShape } from './load.ts'
import { AppProcess, type CrashPlace, type End } from './process.ts'
import { epochOf, findings } from './verdict.ts'

export interface Life {
  /** Where it dies; without, it lives until `killAfterMs`, or until everything is answered. */
  readonly crashAt?: CrashPlace
  /** Killed so many milliseconds after its start, if it lives so long. */
  readonly killAfterMs?: number
  /** It may end without ever coming to `crashAt`. */
  readonly mayLive?: boolean
  /** What befalls the data directory once the process has ended. */
  readonly afterwards?: (dataDir: string) => void
}

export interface Story {
  readonly dataDir: string
  readonly seed: number
  readonly shape: LoadShape
  readonly lives: readonly Life[]
  readonly limits?: Readonly<Record<string, number>>
  readonly dist?: string
}

export interface Told {
  /** Promises that were broken, by invariant; empty when all is well. */
  readonly broken: readonly string[]
  readonly load: Load
  readonly ends: readonly End[]
}

/** Tells the story. Throws when a process did not die where it was to die: then nothing was tested. */
export async function tell(story: Story): Promise<Told> {
  const load = new Load(createRandom(story.seed), story.shape)
  const broken: string[] = []
  const ends: End[] = []
  let epoch = 0
  for (const life of [...story.lives, {}] as readonly Life[]) {
    const process = new AppProcess({ ...story, ...life })
    try {
      const end = await live(story, life, process, load)
      if (typeof end === 'string') return { broken: [end, ...broken, ...load.broken], load, ends }
      ends.push(end)
      const next = epochOf(story.dataDir)
      if (next < epoch || (next === epoch && process.over?.signal === null))
        broken.push(`4 only the owner commits: the epoch was ${epoch}, and after another start it is ${next}`)
      epoch = next
      life.afterwards?.(story.dataDir)
    } finally {
      await process.kill()
    }
  }
  return { broken: [...broken, ...load.broken, ...findings(story.dataDir, load.sent)], load, ends }
}

/** How the process ended; a text when it refused to start. */
async function live(story: Story, life: Life, process: AppProcess, load: Load): Promise<End | string> {
  const killing = life.killAfterMs === undefined ? undefined : setTimeout(() => void process.kill(), life.killAfterMs)
  try {
    const started = await process.started
    if (started !== 'ready' && 'refused' in started)
      return `2 once, all or none: the node does not start again: ${started.refused}: ${started.message}`
    if (started === 'ready') {
      await load.drive(process)
      await load.finish(process, story.dataDir)
      if (process.over === null) await process.stop()
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
  }
}

/** Throws with every promise that was broken, the first ones in full. */
export function mustHold({ broken }: Told): void {
  if (broken.length > 0) throw new Error(`${broken.length} findings:\n${broken.slice(0, 12).join('\n')}`)
}
