/** A queue in a SQLite file whose process is killed in the middle of a write, whose disk is full, and files that are no queue. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { afterAll, afterEach, describe, expect, it } from 'vitest'
import type { NewMessage } from '../../src/contracts/queue.ts'
import { HeadraceError } from '../../src/contracts/errors.ts'
import { sqliteQueue } from '../../src/drivers/sqlite/queue.ts'
import { createQueue } from '../../src/queue/index.ts'
import { because, fill, smallDisk, whyNoSmallDisk, whyNoStrace } from '../crash/disk.ts'
import { LineProcess } from '../support/line-process.ts'

const directory = mkdtempSync(join(tmpdir(), 'headrace-test-queue-'))
const [noStrace, noDisk] = [whyNoStrace(), whyNoSmallDisk()]
const all = { messagesMax: 1_000, bytesMax: 2 ** 30, waitMs: 0 }
const calls = 12
const size = 5

interface WorkerOptions {
  readonly file: string
  readonly topic: string
  readonly mode: 'append' | 'acknowledge'
  readonly calls: number
  readonly size: number
}

class SqliteWorker extends LineProcess<{ readonly done: number; readonly failed?: string }> {
  /** Kills it at the n-th write of its main thread to a file, or lets it end. */
  static start(options: WorkerOptions, killedAt?: number): SqliteWorker {
    return SqliteWorker.#under(options, 'pwrite64', killedAt === undefined ? null : `inject=pwrite64:signal=KILL:when=${killedAt}`)
  }

  /** The n-th fsync of its main thread fails, and no other. */
  static failing(options: WorkerOptions, fsync: number): SqliteWorker {
    return SqliteWorker.#under(options, 'fdatasync,fsync', `inject=fdatasync,fsync:error=EIO:when=${fsync}`)
  }

  static #under(options: WorkerOptions, calls: string, inject: string | null): SqliteWorker {
    const under = ['strace', '-D', '-qq', '-o', `${options.file}.calls`, '-e', `trace=${calls}`, ...(inject === null ? [] : ['-e', inject])]
    return new SqliteWorker(new URL('./sqlite-worker.mjs', import.meta.url), options, under)
  }

  /** How many calls had resolved when it ended. */
  async resolved(): Promise<number> {
    await this.ended()
    return this.lines.at(-1)?.done ?? 0
  }
}

const messages = (from: number, count: number): NewMessage[] =>
  Array.from({ length: count }, (_, index) => ({
    partition: 0,
    key: 'k',
    id: `m-${from + index}`,
    headers: {},
    body: String(from + index),
    publishedAt: Date.now(),
    availableAt: null,
  }))
const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index)

let files = 0
/** A new file with a topic of one partition. */
async function newFile(filled: number): Promise<WorkerOptions & { readonly mode: 'append' }> {
  const file = join(directory, `queue-${files++}.sqlite`)
  const engine = sqliteQueue({ file })
  const topic = await engine.declare({ name: 'orders', partitions: 1, groups: ['g'], messagesMax: 1_000 })
  if (filled > 0) await topic.append(messages(0, filled))
  await engine.close()
  return { file, topic: 'orders', mode: 'append', calls, size }
}

/** The system calls that strace wrote down. */
const callsIn = (file: string): string[] => readFileSync(`${file}.calls`, 'utf8').split('\n')

/** What the group gets from a file, by another process than the one that was killed. */
async function left(file: string): Promise<number[]> {
  const engine = sqliteQueue({ file })
  try {
    const topic = await engine.open('orders')
    const answer = await topic.lease({ group: 'g', partition: 0, ttlMs: 1_000, epoch: Date.now() * 1_000 + 3_600_000_000 })
    if (answer.state !== 'granted') throw new Error(`the lease was ${answer.state}`)
    return (await answer.lease.take(all)).map(({ body }) => Number(body))
  } finally {
    await engine.close()
  }
}

afterEach(() => SqliteWorker.endAll())
afterAll(() => rmSync(directory, { recursive: true }))

describe.skipIf(noStrace !== null)(`a process with a queue in a SQLite file, killed at a write${because(noStrace)}`, () => {
  /** How many writes all calls take; the first ones open the file. */
  async function writes(mode: WorkerOptions['mode']): Promise<number[]> {
    const options = { ...(await newFile(mode === 'append' ? 0 : calls * size)), mode }
    expect(await SqliteWorker.start(options).resolved()).toBe(calls)
    const count = callsIn(options.file).filter((line) => line.startsWith('pwrite64')).length
    expect(count).toBeGreaterThan(calls)
    // Prime to the writes of a call, so that each of them has its turn.
    return Array.from({ length: Math.ceil(count / 7) }, (_, index) => 1 + index * 7)
  }

  it('has all that an append acknowledged, in order, and of the one under way all or nothing', async () => {
    let halfway = 0
    for (const at of await writes('append')) {
      const options = await newFile(0)
      const done = await SqliteWorker.start(options, at).resolved()
      const kept = await left(options.file)
      expect(kept, `killed at write ${at}`).toEqual(upTo(kept.length))
      expect([done * size, (done + 1) * size], `killed at write ${at}`).toContain(kept.length)
      if (done > 0 && done < calls) halfway += 1
    }
    expect(halfway).toBeGreaterThan(2)
  })

  it('begins after the last acknowledgement, or after the one under way, and misses nothing', async () => {
    let halfway = 0
    for (const at of await writes('acknowledge')) {
      const options = { ...(await newFile(calls * size)), mode: 'acknowledge' } as const
      const done = await SqliteWorker.start(options, at).resolved()
      const rest = await left(options.file)
      const first = calls * size - rest.length
      expect(rest, `killed at write ${at}`).toEqual(upTo(calls * size).slice(first))
      expect([done * size, (done + 1) * size], `killed at write ${at}`).toContain(first)
      if (done > 0 && done < calls) halfway += 1
    }
    expect(halfway).toBeGreaterThan(2)
  })
})

describe.skipIf(noStrace !== null)(`an fsync that fails under a queue in a SQLite file${because(noStrace)}`, () => {
  it('ends its engine: nothing is acknowledged after it, and no other fsync is tried', async () => {
    const options = await newFile(0)
    const worker = SqliteWorker.failing(options, 6)
    const done = await worker.resolved()
    expect(done).toBeGreaterThan(0)
    const failed = worker.lines.flatMap((line) => line.failed ?? [])
    expect(failed).toEqual(new Array(calls - done).fill('storage-failed'))
    const syncs = callsIn(options.file).filter((line) => /^f(data)?sync/.test(line))
    expect(syncs.at(-1)).toContain('INJECTED')
    const kept = await left(options.file)
    expect(kept.slice(0, done * size)).toEqual(upTo(done * size))
  })
})

describe.skipIf(noDisk !== null)(`a full disk under a queue in a SQLite file${because(noDisk)}`, () => {
  it('refuses what it cannot keep, loses nothing of what it took, and goes on by itself once there is space', async ({
    onTestFinished,
  }) => {
    const folder = smallDisk(8 * 1024 ** 2, onTestFinished)
    const queue = createQueue({ engine: sqliteQueue({ file: join(folder, 'queue.sqlite') }), publishTimeoutMs: 300, onError: () => {} })
    onTestFinished(() => queue.close())
    const topic = await queue.declare('orders', { partitions: 2 })
    const kept: string[] = []
    const refused: string[] = []
    let next = 0
    const publish = async (): Promise<void> => {
      const id = `m-${next++}`
      try {
        await queue.producer.publish('orders', 'x'.repeat(20_000), { id, key: `k${next % 4}` })
        kept.push(id)
      } catch (error) {
        if (!HeadraceError.is(error)) throw error
        refused.push(error.code)
      }
    }
    for (let count = 0; count < 20; count++) await publish()
    expect(kept.length).toBe(20)
    const free = fill(folder, 64 * 1024)
    while (refused.length < 3) await publish()
    expect(new Set(refused)).toEqual(new Set(['disk-full']))
    const handled: string[] = []
    // Acknowledging needs room too: what is handled waits for it.
    const consumption = await queue.consumer.run('orders', ({ id }) => void handled.push(id), { retryMaxMs: 200 })
    await expect.poll(() => handled.length, { timeout: 20_000 }).toBe(kept.length)
    free()
    const before = refused.length
    for (let count = 0; count < 20; count++) await publish()
    expect(refused.length).toBe(before)
    await expect.poll(() => handled.length, { timeout: 20_000 }).toBe(kept.length)
    expect(handled.toSorted()).toEqual(kept.toSorted())
    await expect.poll(async () => (await topic.counts()).reduce((sum, { depth }) => sum + depth, 0), { timeout: 20_000 }).toBe(0)
    await consumption.close()
  })
})

describe('a file that is no queue of this version', () => {
  const codeOf = async (file: string): Promise<string> => {
    try {
      const engine = sqliteQueue({ file })
      await engine.topics()
      await engine.close()
      return 'none'
    } catch (error) {
      return HeadraceError.is(error) ? error.code : String(error)
    }
  }

  it('is refused by a code that says what it is, and left as it was', async () => {
    expect(await codeOf(join(directory, 'no', 'such', 'folder.sqlite'))).toBe('data-unreadable')
    expect(await codeOf(directory)).toBe('data-unreadable')
    const text = join(directory, 'text.sqlite')
    writeFileSync(text, 'this is no database, but a text that is long enough to have a header. '.repeat(20))
    expect(await codeOf(text)).toBe('data-corrupt')
    const newer = join(directory, 'newer.sqlite')
    const database = new DatabaseSync(newer)
    database.exec('create table queue (n integer); pragma user_version = 99')
    database.close()
    expect(await codeOf(newer)).toBe('data-version')
    const again = new DatabaseSync(newer)
    expect(again.prepare('select name from sqlite_schema').all()).toEqual([{ name: 'queue' }])
    again.close()
  })

  it('is upgraded in place when it has the format before this one', async () => {
    const { file } = await newFile(6)
    const database = new DatabaseSync(file)
    database.exec('alter table place drop column open; pragma user_version = 1')
    database.close()
    expect(await codeOf(file)).toBe('none')
    expect(await left(file)).toEqual(upTo(6))
  })
})
