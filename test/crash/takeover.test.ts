/** One process owns a data directory, and only the owner commits (DESIGN, section 4, invariant 4). */
import { unlinkSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, describe, expect, onTestFinished, test } from 'vitest'
import { type Answer, AppProcess, type ProcessOptions, type Submission } from './process.ts'
import { epochOf, readRows } from './verdict.ts'
import { temporaryFolder } from './world.ts'

const windowCommandsMax = 16
const spillingCommands = windowCommandsMax * 3

const running: AppProcess[] = []
afterEach(async () => {
  for (const process of running.splice(0)) await process.kill()
})

async function ready(options: ProcessOptions): Promise<AppProcess> {
  const process = await AppProcess.ready(options)
  running.push(process)
  return process
}

function buy(id: string, units = 1): Submission {
  return { command: 'order.buy', id, input: { sku: 'sku0', buyer: 'buyer0', units, sender: 's', number: 0 } }
}

const statusOf = (answer: Answer): unknown =>
  answer !== 'lost' && 'outcome' in answer ? (JSON.parse(answer.outcome) as { status: string }).status : answer

describe('a data directory in use', () => {
  test('is refused to a second process, by name, while the first goes on', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    const first = await ready({ dataDir })
    const { refused, message } = await AppProcess.refused({ dataDir })
    expect(refused).toBe('data-in-use')
    expect(message).toContain(`process ${first.pid} on `)
    expect(message).toContain(dataDir)
    expect(statusOf(await first.submit(buy('a')))).toBe('committed')
  })

  test('is refused while its owner stands still, however long', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    const first = await ready({ dataDir })
    first.signal('SIGSTOP')
    expect((await AppProcess.refused({ dataDir })).refused).toBe('data-in-use')
    first.signal('SIGCONT')
    expect(statusOf(await first.submit(buy('a')))).toBe('committed')
  })

  test('is taken over at once when its owner was killed, under a higher epoch each time', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    const epochs: number[] = []
    for (const id of ['a', 'b', 'c']) {
      const owner = await ready({ dataDir })
      epochs.push(epochOf(dataDir))
      expect(statusOf(await owner.submit(buy(id)))).toBe('committed')
      await owner.kill()
    }
    expect(epochs).toEqual([1, 2, 3])
    expect(readRows(dataDir, 'orders', 'select id from effect order by seq')).toEqual([{ id: 'a' }, { id: 'b' }, { id: 'c' }])
  })
})

describe('an owner that lost its lock without knowing it', () => {
  /** The lock file is gone, so that a second process gets in beside the first. */
  async function twoOwners(): Promise<{ dataDir: string; older: AppProcess; newer: AppProcess }> {
    const dataDir = temporaryFolder(onTestFinished)
    const older = await ready({ dataDir, limits: { HEADRACE_WINDOW_COMMANDS_MAX: windowCommandsMax, HEADRACE_BATCH_COMMANDS_MAX: 1 } })
    expect(statusOf(await older.submit(buy('before')))).toBe('committed')
    unlinkSync(join(dataDir, 'owner.lock'))
    return { dataDir, older, newer: await ready({ dataDir }) }
  }

  const ways: readonly { readonly what: string; readonly act: (older: AppProcess) => Promise<Answer> }[] = [
    { what: 'a batch', act: (older) => older.submit(buy('late')) },
    { what: 'an outcome without changes', act: (older) => older.submit(buy('late', 1_000)) },
    // Nobody waits in memory, since there is no room: the last one can only be appended.
    {
      what: 'an append to the queue',
      act: async (older) =>
        (await Promise.all(Array.from({ length: spillingCommands }, (_, n) => older.enqueue(buy(`late${n}`)).answer))).at(-1) ?? 'lost',
    },
  ]

  test.each(ways)('cannot commit $what, and takes nothing more', async ({ act }) => {
    const { dataDir, older, newer } = await twoOwners()
    expect(await act(older)).toMatchObject({
      error: expect.stringMatching(/^(fenced|storage-failed)$/),
      message: expect.stringContaining('epoch'),
    })
    expect(await older.submit(buy('later'))).toMatchObject({ error: 'storage-failed' })
    expect(statusOf(await newer.submit(buy('after')))).toBe('committed')
    expect(readRows(dataDir, 'orders', 'select id from effect order by seq')).toEqual([{ id: 'before' }, { id: 'after' }])
    expect(readRows(dataDir, 'journal', "select id from outcome where id like '%late%' union all select id from entry")).toEqual([])
  })
})
