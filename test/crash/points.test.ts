/**
 * Kills the process at every named crash point, in every way of using the path
 * that visits it, and lets another one carry on.
 */
import { describe, expect, test } from 'vitest'
import type { CrashPointName } from '../../src/std/crash-point.ts'
import { crashPointNames } from '../../src/std/crash-point.ts'
import type { LoadShape } from './load.ts'
import { type Life, mustHold, tell } from './story.ts'
import { temporaryFolder } from './world.ts'

interface Mode {
  readonly shape: LoadShape
  readonly limits: Readonly<Record<string, number>>
}

const tiny = { HEADRACE_WINDOW_COMMANDS_MAX: 16, HEADRACE_BATCH_COMMANDS_MAX: 4 }

const modes = {
  /** Every caller waits for its outcome; commands go from memory straight to their batch. */
  direct: { shape: { senders: 16, commandsPerSender: 12, enqueued: 0, poisoned: 0 }, limits: {} },
  /** Every command is on disk before it is acknowledged. */
  enqueued: { shape: { senders: 16, commandsPerSender: 12, enqueued: 1, poisoned: 0 }, limits: {} },
  /** Far more waits than fits in memory: the queue on disk is read back in small pieces. */
  spilled: { shape: { senders: 48, commandsPerSender: 5, enqueued: 0.7, poisoned: 0 }, limits: tiny },
  /** Some commands fail: their keys wait, are skipped or blocked, and are redriven. */
  poisoned: { shape: { senders: 24, commandsPerSender: 8, enqueued: 1, poisoned: 0.12 }, limits: tiny },
  /** One command a batch, so that the files are brought to disk on the way; two lanes. */
  single: {
    shape: { senders: 16, commandsPerSender: 36, enqueued: 0.2, poisoned: 0 },
    limits: { HEADRACE_BATCH_COMMANDS_MAX: 1, HEADRACE_LANES: 2 },
  },
} as const satisfies Record<string, Mode>

type ModeName = keyof typeof modes

/** Which visits of a point end the process, by mode. */
const places: Record<CrashPointName, Partial<Record<ModeName, readonly number[]>>> = {
  // What is in a batch before it is appended needs no append: only a window that spills makes many of them for sure.
  'append.before-commit': { enqueued: [1], spilled: [1, 2, 9], poisoned: [4] },
  'append.after-commit': { enqueued: [1], spilled: [1, 2, 9], poisoned: [4] },
  'apply.before-load': { direct: [1, 5], spilled: [17], poisoned: [30] },
  'apply.before-commit': { direct: [1, 5], spilled: [17], poisoned: [9, 40] },
  'commit.before-journal': { direct: [1, 5], enqueued: [3], spilled: [17], poisoned: [12], single: [200] },
  'commit.inside-journal': { direct: [1, 5], enqueued: [3], spilled: [17], poisoned: [12, 45] },
  'commit.after-journal': { direct: [1, 5], enqueued: [3], spilled: [17], poisoned: [12, 45], single: [200] },
  'commit.between-files': { direct: [1, 2, 6], enqueued: [4], spilled: [21], poisoned: [15, 33] },
  'commit.after-files': { direct: [1, 5], enqueued: [3], spilled: [17], poisoned: [20] },
  'acknowledge.before': { direct: [1, 5], enqueued: [3], spilled: [17], poisoned: [20, 50], single: [200] },
  // The first is met on the way, or else when the process stops.
  'checkpoint.before-drop': { direct: [1], single: [1] },
  // Met by the process that follows one that died half-way.
  'redo.before-apply': { direct: [1, 3] },
  'redo.between-files': { direct: [1, 2] },
  'redo.after-apply': { direct: [1, 3] },
}

const cases = crashPointNames.flatMap((name) =>
  Object.entries(places[name]).flatMap(([mode, visits]) => visits.map((visit) => ({ name, visit, mode: mode as ModeName }))),
)

test('every crash point has its place here', () => {
  for (const name of crashPointNames) expect(cases.filter((each) => each.name === name).length, name).toBeGreaterThanOrEqual(2)
})

describe.concurrent('a process killed at a crash point loses, doubles and halves nothing', () => {
  test.for(cases)('$name, visit $visit, $mode', async ({ name, visit, mode }, { onTestFinished }) => {
    const dataDir = temporaryFolder(onTestFinished)
    mustHold(await tell({ dataDir, seed: visit, ...modes[mode], lives: livesTo(name, visit) }))
  })
})

/** Points of recovery are met only behind a death between the journal and the files. */
function livesTo(name: CrashPointName, visit: number): Life[] {
  const here = { crashAt: { name, visit } }
  return name.startsWith('redo.') ? [{ crashAt: { name: 'commit.after-journal', visit: 3 } }, here] : [here]
}
