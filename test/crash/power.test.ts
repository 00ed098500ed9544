/**
 * Cuts the power of the disk under a running node: what was synced is there
 * afterwards, and of the rest perhaps something. A killed process proves none
 * of that, since the kernel keeps what it wrote.
 *
 *   HEADRACE_CRASH_SEED=n   cuts at the moments of this seed
 */
import { describe, expect, test } from 'vitest'
import { createRandom } from '../../src/std/random.ts'
import { because, Disk, whyNoPowerCut } from './disk.ts'
import { powerCuts } from './power-cuts.ts'
import { mustHold, tell } from './story.ts'

const cutsPerStory = 3
/** The first cut may come while the node starts, in milliseconds; the others come at work. */
const firstCutMsMax = 700
const acknowledgedMax = 120
const storiesByDefault = 2
const givenSeed = process.env['HEADRACE_CRASH_SEED']

const why = whyNoPowerCut()
describe.skipIf(why !== null)(`a power cut${because(why)}`, () => {
  const first = givenSeed === undefined ? Date.now() % 1_000_000_000 : Number(givenSeed)
  const seeds = Array.from({ length: givenSeed === undefined ? storiesByDefault : 1 }, (_, told) => first + told)

  test.for(seeds)(
    'takes nothing that was acknowledged, and leaves no file ahead of another (seed %i)',
    async (seed, { onTestFinished }) => {
      const random = createRandom(seed)
      const cuts = Array.from({ length: cutsPerStory }, (_, index) =>
        index === 0 ? { killAfterMs: 100 + random.int(firstCutMsMax) } : { killAtAcknowledged: 1 + random.int(acknowledgedMax) },
      )
      const told = await tell({
        ...powerCuts(seed, new Disk(onTestFinished), cuts),
        shape: { senders: random.between(8, 32), commandsPerSender: 40, enqueued: random.next(), poisoned: random.pick([0, 0, 0.03]) },
        limits: { HEADRACE_BATCH_COMMANDS_MAX: random.pick([1, 4, 512]), HEADRACE_LANES: random.pick([1, 2]) },
      })
      mustHold(told)
      expect(told.ends.filter(({ signal }) => signal === 'SIGKILL').length).toBeGreaterThan(0)
    },
  )
})
