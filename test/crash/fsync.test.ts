/**
 * An fsync that fails. After it nobody knows what is on the disk, and a second
 * fsync that succeeds would say nothing about it: the kernel has marked the
 * pages clean. So the node stops at once, and the next start recovers.
 *
 * strace makes the n-th fsync of the storage thread fail, once: a retry would
 * succeed, and is looked for in its record as long as the node runs. (When the
 * process ends gently, SQLite moves what was synced before into its files.)
 */
import { cpSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { createRandom } from '../../src/std/random.ts'
import { because, whyNoStrace } from './disk.ts'
import { Load } from './load.ts'
import { AppProcess, type Submission } from './process.ts'
import { findings, lost } from './verdict.ts'
import { temporaryFolder } from './world.ts'

const syncs = 'fdatasync,fsync'
const shape = { senders: 12, commandsPerSender: 10, enqueued: 0.5, poisoned: 0 }
const why = whyNoStrace()

/** Runs node under strace, which writes down every fsync, and makes the n-th of a thread fail. */
function watched(record: string, failing?: number): string[] {
  const inject = failing === undefined ? [] : ['-e', `inject=${syncs}:error=EIO:when=${failing}`]
  // -D: node stays the child of the test, so that a kill is its own.
  return ['strace', '-D', '-f', '-qq', '-y', '-o', record, '-e', `trace=${syncs}`, ...inject]
}

const syncsIn = (record: string): string[] =>
  readFileSync(record, 'utf8')
    .split('\n')
    .filter((line) => /f(data)?sync\(/.test(line))

/** The fsyncs that came after the one that failed. */
function retriesIn(record: string): string[] {
  const lines = syncsIn(record)
  const failed = lines.findIndex((line) => line.includes('INJECTED'))
  expect(failed, `no fsync failed:\n${lines.join('\n')}`).toBeGreaterThanOrEqual(0)
  return lines.slice(failed + 1)
}

describe.skipIf(why !== null)(`an fsync that fails${because(why)}`, () => {
  /** A data directory of a node that was stopped. */
  let stopped: string
  /** What a start on it brings to disk, and then five commands, one after the other. */
  let ofStart: string[]
  let ofCommands: string[]
  const cleanings: (() => void)[] = []

  beforeAll(async () => {
    const folder = temporaryFolder((clean) => cleanings.push(clean))
    stopped = join(folder, 'data')
    const first = await AppProcess.ready({ dataDir: stopped })
    await first.stop()
    const [dataDir, record] = [copied(folder), join(folder, 'record')]
    const second = await AppProcess.ready({ dataDir, under: watched(record) })
    ofStart = syncsIn(record)
    await oneByOne().drive(second)
    ofCommands = syncsIn(record).slice(ofStart.length)
    await second.kill()
    return () => {
      for (const clean of cleanings) clean()
    }
  })

  const oneByOne = (): Load =>
    new Load(createRandom(7), { ...shape, senders: 1, commandsPerSender: 5, enqueued: 0 }, { next: 'storage-failed' })

  function copied(folder: string): string {
    const copy = join(folder, 'copy')
    cpSync(stopped, copy, { recursive: true })
    return copy
  }

  test.for([1, 2, 3, 5, 9])(
    'at work, the %i-th, stops the node at once; what was acknowledged is there afterwards, once',
    async (after) => {
      const folder = temporaryFolder(onTestFinished)
      const [dataDir, record] = [copied(folder), join(folder, 'record')]
      const load = new Load(createRandom(after), shape, { next: 'storage-failed' })
      const first = await AppProcess.ready({ dataDir, under: watched(record, ofStart.length + after) })
      onTestFinished(async () => void (await first.kill()))
      await load.drive(first)
      expect(load.acknowledged).toBeLessThan(load.sent.length)
      expect(await first.submit(load.sent[0]?.submission as Submission)).toMatchObject({ error: 'storage-failed' })
      expect(await first.ask({ do: 'status' })).toMatchObject({ state: 'failed' })
      expect(retriesIn(record)).toEqual([])
      await first.kill()
      expect(lost(dataDir, load.sent)).toEqual([])
      await goesOn(dataDir, load)
    },
  )

  test.for([1, 2, 8])('at a gentle stop, the %i-th, takes nothing either', async (after) => {
    const folder = temporaryFolder(onTestFinished)
    const [dataDir, record] = [copied(folder), join(folder, 'record')]
    const load = oneByOne()
    const first = await AppProcess.ready({ dataDir, under: watched(record, ofStart.length + ofCommands.length + after) })
    onTestFinished(async () => void (await first.kill()))
    await load.drive(first)
    expect(load.acknowledged).toBe(load.sent.length)
    await first.stop()
    expect(lost(dataDir, load.sent)).toEqual([])
    await goesOn(dataDir, load)
  })

  test('during a start refuses it, and the next one is as good as new', async () => {
    // SQLite does not look at how the fsync of a folder ends.
    const ofFiles = ofStart.flatMap((line, index) => (line.includes('.sqlite') ? [index] : []))
    for (const index of [ofFiles[0], ofFiles[Math.floor(ofFiles.length / 2)], ofFiles.at(-1)]) {
      if (index === undefined) throw new Error('A start makes no fsync.')
      const folder = temporaryFolder(onTestFinished)
      const [dataDir, record] = [copied(folder), join(folder, 'record')]
      expect(await AppProcess.refused({ dataDir, under: watched(record, index + 1) })).toMatchObject({ refused: 'storage-failed' })
      await goesOn(dataDir, new Load(createRandom(index), { ...shape, senders: 2 }))
    }
  })

  async function goesOn(dataDir: string, load: Load): Promise<void> {
    const next = await AppProcess.ready({ dataDir })
    await load.drive(next)
    await load.finish(next, dataDir)
    await next.stop()
    expect([...load.broken, ...(await findings(dataDir, load.sent))]).toEqual([])
  }
})
