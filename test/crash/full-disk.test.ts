/** A disk without space left: refusals, nothing half-done, and the node goes on by itself once there is space. */
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { createRandom } from '../../src/std/random.ts'
import { because, fill, smallDisk, whyNoSmallDisk } from './disk.ts'
import { Load } from './load.ts'
import { AppProcess } from './process.ts'
import { findings, lost, readRows } from './verdict.ts'

const diskBytes = 48 * 1024 ** 2
const limits = { HEADRACE_BATCH_RETRIES_MAX: 2 }
/** How often a command is refused, or a batch tried again, before space is freed. */
const meetings = 12
const why = whyNoSmallDisk()

describe.skipIf(why !== null)(`a full disk${because(why)}`, () => {
  // So many bytes are left that it is now the journal, now one of the files that finds no room.
  test.for([
    { leave: 0, batch: 512, enqueued: 0.5, poisoned: 0 },
    { leave: 12, batch: 512, enqueued: 0.5, poisoned: 0.1 },
    { leave: 24, batch: 4, enqueued: 0, poisoned: 0 },
    { leave: 40, batch: 4, enqueued: 0.5, poisoned: 0.1 },
    { leave: 64, batch: 1, enqueued: 0.2, poisoned: 0 },
    { leave: 256, batch: 512, enqueued: 1, poisoned: 0 },
  ])(
    'refuses what cannot be kept, loses and halves nothing, and takes all once there is space: $leave KiB left, batches of $batch, $enqueued enqueued, $poisoned poisoned',
    async ({ leave, batch, enqueued, poisoned }, { onTestFinished }) => {
      const folder = smallDisk(diskBytes, onTestFinished)
      const dataDir = join(folder, 'data')
      mkdirSync(dataDir)
      const load = new Load(createRandom(leave), { senders: 16, commandsPerSender: 40, enqueued, poisoned }, { later: 'disk-full' })
      const process = await AppProcess.ready({ dataDir, limits: { ...limits, HEADRACE_BATCH_COMMANDS_MAX: batch } })
      onTestFinished(async () => void (await process.kill()))
      const driving = load.drive(process)
      for (const enough of [60, 160]) {
        await process.until(() => load.acknowledged >= enough)
        const free = fill(folder, leave * 1024)
        const met = load.refused + process.retries + meetings
        await process.until(() => load.refused + process.retries >= met)
        expect(await process.ask({ do: 'status' })).toMatchObject({ state: 'ready' })
        free()
      }
      await driving
      await load.finish(process, dataDir)
      expect(await process.stop()).toEqual({ code: 0, signal: null })
      expect([...load.broken, ...(await findings(dataDir, load.sent))]).toEqual([])
    },
  )

  test.for(['stopped', 'killed'] as const)(
    'refuses a start by name, of a node that was %s, and changes nothing',
    async (end, { onTestFinished }) => {
      const folder = smallDisk(diskBytes, onTestFinished)
      const dataDir = join(folder, 'data')
      mkdirSync(dataDir)
      const load = new Load(createRandom(1), { senders: 8, commandsPerSender: 10, enqueued: 0, poisoned: 0 })
      const first = new AppProcess({ dataDir, ...(end === 'killed' ? { crashAt: { name: 'commit.after-journal', visit: 4 } } : {}) })
      await first.started
      await load.drive(first)
      if (end === 'stopped') await first.stop()
      await first.ended
      const free = fill(folder, 0)
      expect(await AppProcess.refused({ dataDir })).toMatchObject({ refused: 'disk-full' })
      expect(lost(dataDir, load.sent)).toEqual([])
      free()
      const second = await AppProcess.ready({ dataDir })
      await load.drive(second)
      await load.finish(second, dataDir)
      await second.stop()
      expect([...load.broken, ...(await findings(dataDir, load.sent))]).toEqual([])
      expect(readRows(dataDir, 'orders', 'select id from effect').length).toBeGreaterThan(0)
    },
  )

  test('while the node runs and is killed is no more than a kill: all is there when there is space', async ({ onTestFinished }) => {
    const folder = smallDisk(diskBytes, onTestFinished)
    const dataDir = join(folder, 'data')
    mkdirSync(dataDir)
    const load = new Load(createRandom(2), { senders: 16, commandsPerSender: 20, enqueued: 0.5, poisoned: 0 }, { later: 'disk-full' })
    const first = await AppProcess.ready({ dataDir, limits: { ...limits, HEADRACE_BATCH_COMMANDS_MAX: 4 } })
    const driving = load.drive(first)
    await first.until(() => load.acknowledged >= 40)
    const free = fill(folder, 30 * 1024)
    await first.until(() => load.refused + first.retries >= meetings)
    await first.kill()
    await driving
    expect(lost(dataDir, load.sent)).toEqual([])
    free()
    const second = await AppProcess.ready({ dataDir })
    await load.drive(second)
    await load.finish(second, dataDir)
    await second.stop()
    expect([...load.broken, ...(await findings(dataDir, load.sent))]).toEqual([])
  })
})
