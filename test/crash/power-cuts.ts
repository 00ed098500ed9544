/** Lives of a node whose disk loses power under it. */
import { join } from 'node:path'
import type { Disk } from './disk.ts'
import type { Life, Story } from './story.ts'

/** When the power goes: after a time, or after so many acknowledgements. */
export type Cut = Pick<Life, 'killAfterMs' | 'killAtAcknowledged'>

/** A node on a disk that loses power, once in each life. */
export function powerCuts(seed: number, disk: Disk, cuts: readonly Cut[]): Pick<Story, 'dataDir' | 'seed' | 'lives' | 'refusals'> {
  const lives = cuts.map(
    (cut): Life => ({
      ...cut,
      killer: async (process) => {
        const cutPower = await disk.switch()
        // While ext4 shuts down, a sync that is under way may succeed although its metadata is lost: nobody hears of it.
        process.deafen()
        await cutPower()
        await process.kill()
      },
      afterwards: () => disk.powerOn(),
    }),
  )
  return { dataDir: join(disk.folder, 'data'), seed, lives, refusals: { next: 'storage-failed' } }
}
