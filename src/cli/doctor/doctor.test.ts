import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { journalSchema } from '../../drivers/sqlite/schema.ts'
import { checkFileSystem, checkFolder, checkSpace, judgeSync, measureSync } from './disk.ts'
import { checkDatabases, checkOwner, contentsOf } from './journal.ts'
import { checkClock, checkMemory, checkNode, checkOpenFiles, checkSqlite } from './machine.ts'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'headrace-doctor-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

describe('the doctor on the machine', () => {
  it('refuses a Node that is too old, and takes newer ones', () => {
    expect(checkNode('20.19.9').level).toBe('error')
    expect(checkNode('18.20.0').level).toBe('error')
    expect(['20.20.0', '20.21.0', '22.0.0', '24.1.2'].map((version) => checkNode(version).level)).toEqual(['ok', 'ok', 'ok', 'ok'])
  })

  it('finds SQLite with threads and sessions', async () => {
    expect(await checkSqlite()).toMatchObject({ level: 'ok' })
  })

  it('judges the limit of open files', () => {
    const limits = (soft: string): string =>
      `Limit                     Soft Limit           Hard Limit           Units\nMax open files            ${soft}                 1048576              files\n`
    expect(checkOpenFiles(limits('256')).level).toBe('error')
    expect(checkOpenFiles(limits('4096'))).toMatchObject({ level: 'warn', remedy: expect.stringContaining('ulimit -n') as string })
    expect(checkOpenFiles(limits('65536')).level).toBe('ok')
    expect(checkOpenFiles(limits('unlimited')).level).toBe('ok')
    expect(checkOpenFiles(null).level).toBe('info')
  })

  it('judges memory', () => {
    expect(checkMemory(256 * 1024 ** 2, 1).level).toBe('warn')
    expect(checkMemory(2 * 1024 ** 3, 2)).toMatchObject({ level: 'ok', found: '2.0 GiB of memory, 2 cores' })
  })

  it('sees a clock that is wrong, that jumps, and that was set back', () => {
    const now = Date.UTC(2030, 5, 1)
    const at = (wall: number, monotonic: number) => ({ wall, monotonic })
    expect(checkClock(at(now, 0), at(now + 500, 500), null).level).toBe('ok')
    expect(checkClock(at(0, 0), at(500, 500), null).level).toBe('error')
    expect(checkClock(at(now, 0), at(now - 5_000, 500), null)).toMatchObject({
      level: 'warn',
      found: expect.stringContaining('jumped') as string,
    })
    expect(checkClock(at(now, 0), at(now + 500, 500), now + 3_600_000)).toMatchObject({ level: 'warn' })
  })
})

describe('the doctor on the disk', () => {
  it('takes a folder that can be written, and one that can be made', () => {
    expect(checkFolder(folder)).toMatchObject({ level: 'ok', found: folder })
    expect(checkFolder(join(folder, 'a/b'))).toMatchObject({ level: 'ok', found: expect.stringContaining('will be made') as string })
    expect(contentsOf(folder).files).toEqual([])
  })

  it('refuses a file, and a folder that cannot be written', () => {
    writeFileSync(join(folder, 'file'), '')
    expect(checkFolder(join(folder, 'file')).level).toBe('error')
    // Nobody may make files there, root included.
    if (process.platform === 'linux') expect(checkFolder('/proc/self').level).toBe('error')
  })

  it('judges the space that is left', () => {
    expect([1024, 500 * 1024 ** 2, 5 * 1024 ** 3].map((free) => checkSpace(folder, free).level)).toEqual(['error', 'warn', 'ok'])
    expect(checkSpace(folder).found).toMatch(/free$/)
  })

  it.runIf(process.platform === 'linux')('knows file systems that forget, and those whose locks and syncs cannot be trusted', () => {
    expect([0xef53, 0x01021994, 0x6969, 0x794c7630].map((type) => checkFileSystem(folder, type).level)).toEqual([
      'ok',
      'warn',
      'error',
      'warn',
    ])
  })

  it('measures real syncs and leaves no file behind', () => {
    const times = measureSync(folder)
    expect(times.count).toBeGreaterThan(0)
    expect(times.p50Ms).toBeGreaterThan(0)
    expect(times.maxMs).toBeGreaterThanOrEqual(times.p99Ms)
    expect(contentsOf(folder).newest).toBe(null)
  })

  it('warns of syncs that no disk can do, and of slow ones', () => {
    const times = (p50Ms: number) => ({ count: 200, p50Ms, p99Ms: p50Ms, maxMs: p50Ms })
    expect([0.002, 0.05, 2, 50].map((ms) => judgeSync(times(ms)).level)).toEqual(['warn', 'ok', 'ok', 'warn'])
    expect(judgeSync(times(0.002)).remedy).toContain('power cut')
    expect(judgeSync(null).level).toBe('info')
  })
})

describe('the doctor on a data directory', () => {
  function makeJournal(): string {
    const path = join(folder, 'journal.sqlite')
    const database = new DatabaseSync(path)
    database.exec('pragma synchronous = off; begin')
    database.exec(journalSchema)
    database.exec("insert into meta values ('partitions', 64)")
    const insert = database.prepare(
      "insert into outcome (hash, id, status, digest, body, position, partition, at, crc) values (1, ?, 'committed', 'd', ?, 1, 1, 1, 1)",
    )
    for (let n = 0; n < 200; n++) insert.run(`id-${n}`, 'x'.repeat(500))
    database.exec('commit')
    database.close()
    return path
  }

  it('says what a whole journal holds', async () => {
    makeJournal()
    const [found] = await checkDatabases(folder, contentsOf(folder), false)
    expect(found).toMatchObject({
      check: 'journal',
      level: 'ok',
      found: expect.stringContaining('64 partitions, 0 waiting commands, 200 outcomes') as string,
    })
  })

  it('finds a damaged page, and a file that was cut', async () => {
    const path = makeJournal()
    const file = openSync(path, 'r+')
    const { size } = statSync(path)
    writeSync(file, Buffer.alloc(4096, 0x5a), 0, 4096, Math.floor(size / 4096 / 2) * 4096)
    expect(await checkDatabases(folder, contentsOf(folder), false)).toMatchObject([
      { check: 'journal', level: 'error', remedy: expect.stringContaining('backup') as string },
    ])
    ftruncateSync(file, size - 8192)
    closeSync(file)
    expect(await checkDatabases(folder, contentsOf(folder), false)).toMatchObject([{ level: 'error' }])
  })

  it('finds an index that does not fit its table, though every page can be read', async () => {
    const path = join(folder, 'stock.sqlite')
    const database = new DatabaseSync(path)
    database.exec("create table t (a); create index ia on t (a); insert into t values ('needle')")
    database.close()
    const content = readFileSync(path)
    content.write('noodle', content.lastIndexOf('needle'))
    writeFileSync(path, content)
    expect(await checkDatabases(folder, contentsOf(folder), false)).toMatchObject([
      { check: 'database stock.sqlite', level: 'error', found: expect.stringContaining('index') as string },
    ])
  })

  it('examines the databases of the app beside it', async () => {
    makeJournal()
    writeFileSync(join(folder, 'stock.sqlite'), 'this is no database, though it is long enough to be taken for one')
    expect((await checkDatabases(folder, contentsOf(folder), false)).map(({ check, level }) => [check, level])).toEqual([
      ['journal', 'ok'],
      ['database stock.sqlite', 'error'],
    ])
  })

  it('leaves a directory alone that a node owns', async () => {
    makeJournal()
    expect(await checkOwner(folder)).toMatchObject({ level: 'ok' })
    const owner = new DatabaseSync(join(folder, 'owner.lock'))
    owner.exec('begin exclusive')
    writeFileSync(join(folder, 'owner.json'), JSON.stringify({ pid: 4711, host: 'h', startedAt: 'today' }))
    expect(await checkOwner(folder)).toMatchObject({ level: 'info', found: expect.stringContaining('4711') as string })
    owner.exec('rollback')
    expect(await checkOwner(folder)).toMatchObject({ level: 'ok' })
    owner.close()
    expect(await checkDatabases(folder, contentsOf(folder), true)).toMatchObject([{ level: 'info' }])
  })

  it('has nothing to say of an empty directory', async () => {
    mkdirSync(join(folder, 'data'))
    expect(await checkDatabases(join(folder, 'data'), contentsOf(join(folder, 'data')), false)).toMatchObject([{ level: 'ok' }])
  })
})
