/**
 * Kills the process at random times and places, again and again, on one data
 * directory. The seed decides what is sent, with which limits, and when each
 * process is to die; how far it comes by then is up to the machine, so a seed
 * gives the same story again, though not the same instant.
 *
 *   HEADRACE_CRASH_SEED=n   tells one story again
 *   HEADRACE_SOAK_SECONDS=n tells new ones for so long
 */
import { expect, onTestFinished, test } from 'vitest'
import { crashPointNames } from '../../src/std/crash-point.ts'
import { createRandom, type Random } from '../../src/std/random.ts'
import { type Life, mustHold, type Story, tell } from './story.ts'
import { temporaryFolder } from './world.ts'

const storiesByDefault = 4
const livesPerStory = 7
/** Past the start of the process, so that some die on the way up and most at work. */
const killMsMax = 700
const visitsMax = 60

const givenSeed = process.env['HEADRACE_CRASH_SEED']
const soakSeconds = Number(process.env['HEADRACE_SOAK_SECONDS'] ?? 0)
const marginMs = 120_000

test('killed at random times, a node loses, doubles and halves nothing', { timeout: soakSeconds * 1000 + marginMs }, async () => {
  const firstSeed = givenSeed === undefined ? Date.now() % 1_000_000_000 : Number(givenSeed)
  expect(Number.isSafeInteger(firstSeed), 'HEADRACE_CRASH_SEED must be a whole number').toBe(true)
  const until = performance.now() + soakSeconds * 1000
  const stories = givenSeed === undefined ? storiesByDefault : 1
  let deaths = 0
  for (let told = 0; told < stories || performance.now() < until; told++) {
    const seed = firstSeed + told
    const again = `HEADRACE_CRASH_SEED=${seed} npx vitest run --project process test/crash/random.test.ts`
    console.info(`seed ${seed}; to tell this story again: ${again}`)
    try {
      const ended = await tell({ ...storyOf(createRandom(seed)), dataDir: temporaryFolder(onTestFinished), seed })
      mustHold(ended)
      deaths += ended.ends.filter(({ signal }) => signal === 'SIGKILL').length
    } catch (error) {
      throw new Error(`${error instanceof Error ? error.message : String(error)}\nTell the story again with: ${again}`, { cause: error })
    }
  }
  expect(deaths).toBeGreaterThan(stories)
})

function storyOf(random: Random): Omit<Story, 'dataDir' | 'seed'> {
  const batchCommandsMax = random.pick([1, 3, 16, 512])
  return {
    shape: {
      senders: random.between(4, 60),
      commandsPerSender: random.between(10, 24),
      enqueued: random.next(),
      poisoned: random.pick([0, 0, 0.05, 0.15]),
    },
    limits: {
      HEADRACE_BATCH_COMMANDS_MAX: batchCommandsMax,
      HEADRACE_WINDOW_COMMANDS_MAX: Math.max(batchCommandsMax, random.pick([16, 40, 8192])),
      HEADRACE_LANES: random.pick([1, 1, 2, 4]),
    },
    lives: Array.from({ length: livesPerStory }, () => lifeOf(random)),
  }
}

function lifeOf(random: Random): Life {
  const killAfterMs = random.int(killMsMax)
  if (random.chance(0.5)) return { killAfterMs }
  // Small visits are the likelier ones to be met.
  return {
    crashAt: { name: random.pick(crashPointNames), visit: 1 + Math.floor(visitsMax * random.next() ** 3) },
    mayLive: true,
    killAfterMs: killMsMax * 2,
  }
}
