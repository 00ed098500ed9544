/**
 * What a start makes of a data directory that something has happened to. What a
 * crash can leave is recovered; everything else is refused, by name, before
 * anything is written.
 */
import { chmodSync, copyFileSync, cpSync, existsSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { describe, expect, onTestFinished, test } from 'vitest'
import { AppProcess, type ProcessOptions, type Refusal, type Submission } from './process.ts'
import { type Life, mustHold, tell } from './story.ts'
import { readRows } from './verdict.ts'
import { cutAt, flipBit, framesOf, lastTransaction } from './wal-file.ts'
import { temporaryFolder } from './world.ts'

const shape = { senders: 8, commandsPerSender: 8, enqueued: 0, poisoned: 0 }

/** Everything is sent by callers who wait, so what the journal decided last was acknowledged to nobody. */
async function tellWith(lives: readonly Life[]): Promise<void> {
  mustHold(await tell({ dataDir: temporaryFolder(onTestFinished), seed: 1, shape, lives }))
}

const logOf = (dataDir: string): string => join(dataDir, 'journal.sqlite-wal')

function buy(id: string, sku = 'sku0'): Submission {
  return { command: 'order.buy', id, input: { sku, buyer: 'buyer0', units: 1, sender: id, number: 0 } }
}

/** Runs a process that decides these commands; stopped gently, or killed. */
async function decided(options: ProcessOptions, end: 'stopped' | 'killed', ...ids: readonly string[]): Promise<void> {
  const process = await AppProcess.ready(options)
  for (const id of ids) expect(await process.submit(buy(id))).toHaveProperty('outcome')
  await (end === 'stopped' ? process.stop() : process.kill())
}

/** A data directory that a killed process left, with the batches of three commands in its log. */
async function killed(): Promise<string> {
  const dataDir = temporaryFolder(onTestFinished)
  await decided({ dataDir }, 'killed', 'a', 'b', 'c')
  return dataDir
}

async function refusal(options: ProcessOptions): Promise<Refusal> {
  return AppProcess.refused(options)
}

/** The process starts, and the commands have taken effect, in this order. */
async function startsWith(dataDir: string, ids: readonly string[]): Promise<void> {
  const process = await AppProcess.ready({ dataDir })
  await process.stop()
  expect(readRows(dataDir, 'orders', 'select id from effect order by seq')).toEqual(ids.map((id) => ({ id })))
}

describe('a torn end of the journal, that nobody was told of', () => {
  const crashAt = { name: 'commit.after-journal', visit: 3 } as const

  test.each([
    { what: 'its last frame half written', tear: (path: string) => cutAt(path, (lastTransaction(path).at(-1)?.offset ?? 0) + 1000) },
    { what: 'its last frame missing', tear: (path: string) => cutAt(path, lastTransaction(path).at(-1)?.offset ?? 0) },
    { what: 'a wrong byte in its first page', tear: (path: string) => flipBit(path, (lastTransaction(path)[0]?.offset ?? 0) + 500) },
    { what: 'a wrong byte in its last page', tear: (path: string) => flipBit(path, (lastTransaction(path).at(-1)?.offset ?? 0) + 500) },
    {
      what: 'a wrong byte in the header of its last frame',
      tear: (path: string) => flipBit(path, lastTransaction(path).at(-1)?.offset ?? 0),
    },
  ])('is as if it had not been written: $what', async ({ tear }) => {
    await tellWith([{ crashAt, afterwards: (dataDir) => tear(logOf(dataDir)) }])
  })
})

describe('a journal that is damaged', () => {
  test.each([
    { what: 'the first page of the log', at: () => 24 + 32 + 500 },
    { what: 'the header of a frame', at: (path: string) => framesOf(path)[3]?.offset ?? 0 },
    { what: 'the salt of a frame', at: (path: string) => (framesOf(path)[2]?.offset ?? 0) + 9 },
    {
      what: 'a page before the last two commits',
      at: (path: string) =>
        (framesOf(path)
          .filter(({ commits }) => commits)
          .at(-3)?.offset ?? 0) + 700,
    },
    { what: 'the header of the log', at: () => 17 },
    { what: 'the mark of the log', at: () => 1 },
  ])('in $what is refused, and whole again when the damage is undone', async ({ at }) => {
    const dataDir = await killed()
    const path = logOf(dataDir)
    const offset = at(path)
    flipBit(path, offset)
    const { refused, message } = await refusal({ dataDir })
    expect(refused).toBe('data-corrupt')
    expect(message).toMatch(/frame \d+|header/)
    flipBit(path, offset)
    await startsWith(dataDir, ['a', 'b', 'c'])
  })

  test('by a log that lost commits which the databases have, is refused', async () => {
    const dataDir = await killed()
    cutAt(logOf(dataDir), lastTransaction(logOf(dataDir))[0]?.offset ?? 0)
    expect(await refusal({ dataDir })).toMatchObject({
      refused: 'data-diverged',
      message: expect.stringContaining('the journal has lost commits'),
    })
  })

  test('in the input of a queued command is refused, naming its position', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    const process = await AppProcess.ready({ dataDir })
    // A key that is blocked keeps its commands in the queue.
    await process.submit({ command: 'order.reserve', id: 'poison', input: { ...buy('poison').input, poison: 'decide' } })
    expect(await process.enqueue(buy('needle')).durable).toBe(true)
    await process.kill()
    moveLogIntoFile(dataDir, 'journal')
    const path = join(dataDir, 'journal.sqlite')
    const offset = readFileSync(path).indexOf('"sender":"needle"')
    expect(offset).toBeGreaterThan(0)
    flipBit(path, offset + 12)
    expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-corrupt', message: expect.stringContaining('position 2') })
    flipBit(path, offset + 12)
    await startsWith(dataDir, [])
    expect(readRows(dataDir, 'journal', 'select id from entry')).toEqual([{ id: 'order.buy/default/needle' }])
  })

  test('in a stored outcome is never answered with', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'needle')
    const path = join(dataDir, 'journal.sqlite')
    flipBit(path, readFileSync(path).indexOf('"id":"needle","command"') + 8)
    const process = await AppProcess.ready({ dataDir })
    expect(await process.submit(buy('needle'))).toMatchObject({
      error: expect.stringMatching(/^(data-corrupt|storage-failed)$/),
      message: expect.stringContaining('checksum'),
    })
    await process.kill()
    expect(readRows(dataDir, 'orders', 'select id from effect')).toEqual([{ id: 'needle' }])
  })

  test('in what a database lacks is refused before anything is redone', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    const process = await AppProcess.ready({ dataDir, crashAt: { name: 'commit.after-journal', visit: 2 } })
    await process.submit(buy('a'))
    expect(await process.submit(buy('b'))).toBe('lost')
    moveLogIntoFile(dataDir, 'journal')
    const path = join(dataDir, 'journal.sqlite')
    changeBySql(dataDir, 'journal', "update redo set changes = zeroblob(length(changes)) where file = 'wallet'")
    expect(await refusal({ dataDir })).toMatchObject({
      refused: 'data-corrupt',
      message: expect.stringContaining("redo of batch 2 for SQLite 'wallet'"),
    })
    expect(existsSync(path)).toBe(true)
  })

  test.each([
    { what: 'cut in half', hurt: (path: string) => cutAt(path, Math.floor(readFileSync(path).length / 2 / 4096) * 4096) },
    {
      what: 'something else',
      hurt: (path: string) => writeFileSync(path, 'not a database, and longer than a header of SQLite would be, by far. '.repeat(100)),
    },
  ])('because it is $what, is refused', async ({ hurt }) => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    hurt(join(dataDir, 'journal.sqlite'))
    expect((await refusal({ dataDir })).refused).toBe('data-corrupt')
  })
})

describe('a database that does not belong to the journal', () => {
  test('since it was restored from an older copy, is refused', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    copyFileSync(join(dataDir, 'stock.sqlite'), join(dataDir, 'copy'))
    await decided({ dataDir }, 'stopped', 'b')
    copyFileSync(join(dataDir, 'copy'), join(dataDir, 'stock.sqlite'))
    expect(await refusal({ dataDir })).toMatchObject({
      refused: 'data-diverged',
      message: expect.stringMatching(/'stock'.*older than the journal/),
    })
  })

  test('since it was deleted, is refused, at every start', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    rmSync(join(dataDir, 'wallet.sqlite'))
    for (let start = 0; start < 2; start++)
      expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-diverged', message: expect.stringContaining("'wallet'") })
  })

  test('since the journal is older, is refused', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    copyFileSync(join(dataDir, 'journal.sqlite'), join(dataDir, 'copy'))
    await decided({ dataDir }, 'stopped', 'b')
    copyFileSync(join(dataDir, 'copy'), join(dataDir, 'journal.sqlite'))
    expect(await refusal({ dataDir })).toMatchObject({
      refused: 'data-diverged',
      message: expect.stringContaining('the journal has lost commits'),
    })
  })

  test('since somebody changed it between the crash and the recovery, is refused and left as it is', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    const process = await AppProcess.ready({ dataDir, crashAt: { name: 'commit.after-journal', visit: 1 } })
    expect(await process.submit(buy('a'))).toBe('lost')
    changeBySql(dataDir, 'stock', "update stock set units = 7 where sku = 'sku0'")
    expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-diverged', message: expect.stringMatching(/Batch 1 .*'stock'/) })
    expect(readRows(dataDir, 'stock', "select units from stock where sku = 'sku0'")).toEqual([{ units: 7 }])
    expect(readRows(dataDir, 'stock', "select name from sqlite_master where type = 'trigger'")).toEqual([{ name: 'moved' }])
  })

  test('but was changed in other rows, is recovered', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    const process = await AppProcess.ready({ dataDir, crashAt: { name: 'commit.after-journal', visit: 1 } })
    expect(await process.submit(buy('a'))).toBe('lost')
    changeBySql(dataDir, 'stock', "update stock set units = 7 where sku = 'sku1'")
    await startsWith(dataDir, ['a'])
  })

  test('but is only under the epoch of an earlier start, is recovered', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    const process = await AppProcess.ready({ dataDir, crashAt: { name: 'commit.after-journal', visit: 1 } })
    expect(await process.submit(buy('b'))).toBe('lost')
    // A power cut took the row that the last start wrote: nothing had synced it.
    changeBySql(dataDir, 'wallet', 'update headrace_partition set epoch = 1')
    await startsWith(dataDir, ['a', 'b'])
  })
})

describe('files that are not where they belong', () => {
  test.each([
    { what: 'deleted', hurt: (path: string) => rmSync(path) },
    { what: 'cut to nothing', hurt: (path: string) => cutAt(path, 0) },
  ])('are found when the journal was $what: refused, at every start', async ({ hurt }) => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    for (const end of ['', '-wal', '-shm']) rmSync(join(dataDir, `journal.sqlite${end}`), { force: end !== '' })
    writeFileSync(join(dataDir, 'journal.sqlite'), '')
    hurt(join(dataDir, 'journal.sqlite'))
    for (let start = 0; start < 2; start++)
      expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-diverged', message: expect.stringMatching(/another journal/) })
  })

  test('are found when a database was cut to nothing: refused', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    cutAt(join(dataDir, 'orders.sqlite'), 0)
    expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-diverged', message: expect.stringContaining("'orders'") })
  })

  test('are found when two databases were swapped: refused before the tables of one are made in the other', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    const [stock, wallet, aside] = [join(dataDir, 'stock.sqlite'), join(dataDir, 'wallet.sqlite'), join(dataDir, 'aside')]
    renameSync(stock, aside)
    renameSync(wallet, stock)
    renameSync(aside, wallet)
    expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-diverged', message: expect.stringMatching(/'stock'|'wallet'/) })
    expect(readRows(dataDir, 'stock', "select name from sqlite_master where name in ('stock', 'wallet')")).toEqual([{ name: 'wallet' }])
    renameSync(stock, aside)
    renameSync(wallet, stock)
    renameSync(aside, wallet)
    await startsWith(dataDir, ['a'])
  })

  test('are found when a database of another data directory was put in place: refused', async () => {
    const [dataDir, other] = [temporaryFolder(onTestFinished), temporaryFolder(onTestFinished)]
    await decided({ dataDir }, 'stopped', 'a')
    await decided({ dataDir: other }, 'stopped', 'b')
    copyFileSync(join(other, 'wallet.sqlite'), join(dataDir, 'wallet.sqlite'))
    expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-diverged', message: expect.stringContaining("'wallet'") })
  })

  test('do not matter when they are the indexes of logs, which a start makes anew', async () => {
    const dataDir = await killed()
    for (const name of ['journal', 'orders', 'stock', 'wallet']) rmSync(join(dataDir, `${name}.sqlite-shm`))
    await startsWith(dataDir, ['a', 'b', 'c'])
  })

  test('do not matter when they are the logs of databases: the journal has what was in them', async () => {
    const dataDir = await killed()
    for (const name of ['orders', 'stock', 'wallet']) for (const end of ['wal', 'shm']) rmSync(join(dataDir, `${name}.sqlite-${end}`))
    await startsWith(dataDir, ['a', 'b', 'c'])
  })

  test('are found when the journal has another format: refused, naming both', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    changeBySql(dataDir, 'journal', "update meta set value = 99 where name = 'format'")
    expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-version', message: expect.stringMatching(/format 99.*format \d+/) })
  })

  test.each(['journal', 'stock'])('are found when the header of %s is damaged: refused', async (name) => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    const path = join(dataDir, `${name}.sqlite`)
    flipBit(path, 3)
    expect(await refusal({ dataDir })).toMatchObject({ refused: 'data-corrupt', message: expect.stringContaining(name) })
    flipBit(path, 3)
    await startsWith(dataDir, ['a'])
  })
})

describe('a start', () => {
  test('with another number of partitions is refused, and says which', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    expect(await refusal({ dataDir, limits: { HEADRACE_PARTITIONS: 32 } })).toMatchObject({
      refused: 'data-partitions',
      message: expect.stringContaining('partitions = 16'),
    })
    await startsWith(dataDir, ['a'])
  })

  test('on a file in place of the directory is refused', async () => {
    const file = join(temporaryFolder(onTestFinished), 'file')
    writeFileSync(file, '')
    expect(await refusal({ dataDir: file })).toMatchObject({ refused: 'data-unreadable', message: expect.stringContaining(file) })
  })

  test('on a directory that may only be read is refused', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    await decided({ dataDir }, 'stopped', 'a')
    chmodSync(dataDir, 0o555)
    const under = process.getuid?.() === 0 ? ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] : []
    expect(await refusal({ dataDir, under })).toMatchObject({ refused: 'data-unreadable', message: expect.stringContaining(dataDir) })
    chmodSync(dataDir, 0o755)
    await startsWith(dataDir, ['a'])
  })

  test('with a table without a primary key is refused, naming it', async () => {
    const dataDir = temporaryFolder(onTestFinished)
    expect(await refusal({ dataDir, extraSchema: 'create table if not exists note (text text)' })).toMatchObject({
      refused: 'table-without-key',
      message: expect.stringMatching(/'note'.*'orders'/),
    })
  })

  test('on a copy of the directory of a killed process is as good as on the directory', async () => {
    const dataDir = await killed()
    const copy = join(temporaryFolder(onTestFinished), 'copy')
    cpSync(dataDir, copy, { recursive: true })
    await startsWith(copy, ['a', 'b', 'c'])
    await startsWith(dataDir, ['a', 'b', 'c'])
  })
})

function changeBySql(dataDir: string, name: string, sql: string): void {
  const database = new DatabaseSync(join(dataDir, `${name}.sqlite`))
  database.exec(sql)
  database.close()
}

/** The bytes of the log go into the file, where a test can find them. */
function moveLogIntoFile(dataDir: string, name: string): void {
  changeBySql(dataDir, name, 'pragma wal_checkpoint(truncate)')
}
