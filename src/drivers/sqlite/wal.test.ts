import { copyFileSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openDatabase } from './open.ts'
import { examineWal, isDamaged } from './wal.ts'

const headerBytes = 32
const frameBytes = 24 + 4096

let folder: string
/** A log written by SQLite: `commits` holds the number of frames after each commit. */
let log: Buffer
/** The file beside it, to which nothing of the log was moved yet. */
let file: Buffer
let commits: number[]

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'headrace-wal-'))
  const path = join(folder, 'written.sqlite')
  const database = openDatabase('written', path, { synchronous: 'full', cacheKiB: 1024 })
  database.exec('pragma wal_autocheckpoint = 0')
  database.exec('create table t (n integer primary key, text text not null)')
  commits = [framesOf(path)]
  // Commits of one frame and of several.
  for (const rows of [1, 1, 4, 1, 9, 1, 3]) {
    database.exec('begin')
    for (let row = 0; row < rows; row++) database.prepare('insert into t (text) values (?)').run('x'.repeat(3_000))
    database.exec('commit')
    commits.push(framesOf(path))
  }
  copyFileSync(`${path}-wal`, join(folder, 'log'))
  log = readFileSync(join(folder, 'log'))
  file = readFileSync(path)
  database.close()
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

function framesOf(path: string): number {
  return (readFileSync(`${path}-wal`).length - headerBytes) / frameBytes
}

/** What is said of the log with these bytes. */
function examined(bytes: Buffer): ReturnType<typeof examineWal> {
  const path = join(folder, 'examined')
  writeFileSync(path, bytes)
  return examineWal(path)
}

function withByteFlipped(at: number): Buffer {
  const copy = Buffer.from(log)
  copy[at] = (copy[at] as number) ^ 0x40
  return copy
}

const frameStart = (frame: number): number => headerBytes + frame * frameBytes

describe('a write-ahead log', () => {
  it('is whole as SQLite wrote it', () => {
    expect(examined(log)).toEqual({ goodFrames: commits.at(-1), badFrame: null, commitsBehind: 0 })
  })

  it('is no log when there is none, when it is empty, and when it is something else', () => {
    expect(examineWal(join(folder, 'missing'))).toBeNull()
    expect(examined(Buffer.alloc(0))).toBeNull()
    expect(examined(Buffer.alloc(4096, 'not a log'))).toBeNull()
  })

  it('is torn, not damaged, wherever the last writing stopped', () => {
    fc.assert(
      fc.property(fc.integer({ min: headerBytes, max: log.length - 1 }), (length) => {
        const report = examined(log.subarray(0, length))
        expect(report?.badFrame).toBeNull()
        expect(report?.goodFrames).toBe(Math.floor((length - headerBytes) / frameBytes))
      }),
    )
  })

  it('is torn, not damaged, when only the last commit is not whole', () => {
    const lastBegins = commits.at(-2) as number
    const lastEnds = commits.at(-1) as number
    fc.assert(
      // Not the size in the frame's header: another byte there makes a commit of a frame that is none.
      fc.property(fc.integer({ min: lastBegins, max: lastEnds - 1 }), fc.integer({ min: 8, max: frameBytes - 1 }), (frame, offset) => {
        const report = examined(withByteFlipped(frameStart(frame) + offset))
        expect(report?.commitsBehind).toBeLessThanOrEqual(1)
        expect(report?.goodFrames).toBeGreaterThanOrEqual(lastBegins)
        expect(report?.goodFrames).toBeLessThan(lastEnds)
      }),
    )
  })

  it('is damaged at the frame where any byte of a page is wrong, and says how many commits that takes away', () => {
    const frames = commits.at(-1) as number
    fc.assert(
      fc.property(fc.nat(frames - 1), fc.integer({ min: 24, max: frameBytes - 1 }), (frame, offset) => {
        const report = examined(withByteFlipped(frameStart(frame) + offset))
        expect(report).toEqual({ goodFrames: frame, badFrame: frame, commitsBehind: commits.filter((end) => end > frame).length })
      }),
    )
  })

  it('is damaged where a byte of a frame header is wrong', () => {
    const frames = commits.at(-3) as number
    fc.assert(
      fc.property(fc.nat(frames - 1), fc.nat(23), (frame, offset) => {
        const report = examined(withByteFlipped(frameStart(frame) + offset))
        expect(report?.goodFrames).toBe(frame)
        expect(report?.badFrame).toBe(frame)
        expect(report?.commitsBehind).toBeGreaterThan(1)
      }),
    )
  })

  it('is damaged where any byte of its header is wrong, since SQLite would ignore all of it', () => {
    for (let offset = 0; offset < headerBytes; offset++) {
      expect(examined(withByteFlipped(offset)), `byte ${offset}`).toEqual({ goodFrames: 0, badFrame: -1, commitsBehind: commits.length })
    }
  })

  it('is damaged when its header is gone, since that is on disk before the first frame', () => {
    const without = Buffer.from(log)
    without.fill(0, 0, headerBytes)
    expect(examined(without)).toEqual({ goodFrames: 0, badFrame: -1, commitsBehind: commits.length })
    expect(examined(Buffer.alloc(log.length))).toBeNull()
  })

  it('may lose its last commit to a torn writing, but never its header', () => {
    const first = log.subarray(0, frameStart(commits[0] as number))
    const torn = Buffer.from(first)
    torn[frameStart(0) + 100] = (torn[frameStart(0) + 100] as number) ^ 1
    expect(isDamaged(examined(torn))).toBe(false)
    const hurt = Buffer.from(first)
    hurt[17] = (hurt[17] as number) ^ 1
    expect(isDamaged(examined(hurt))).toBe(true)
    expect(isDamaged(null)).toBe(false)
  })

  it('is torn, not damaged, when its header is that of a fresh start that got no further', () => {
    const fresh = Buffer.from(log)
    fresh.fill(7, 12, headerBytes)
    expect(examined(fresh)).toBeNull()
  })

  it('is whole after a checkpoint and a fresh start, though the frames of the old one stand behind, with other salts', () => {
    const path = join(folder, 'restarted.sqlite')
    const database = openDatabase('restarted', path, { synchronous: 'full', cacheKiB: 1024 })
    database.exec('pragma wal_autocheckpoint = 0')
    database.exec('create table t (n integer primary key, text text not null)')
    const insert = (rows: number): void => {
      for (let row = 0; row < rows; row++) database.prepare('insert into t (text) values (?)').run('x'.repeat(3_000))
    }
    insert(12)
    const before = framesOf(path)
    database.exec('pragma wal_checkpoint(restart)')
    insert(3)
    expect(framesOf(path)).toBe(before)
    const report = examineWal(`${path}-wal`)
    expect(report?.badFrame).toBeNull()
    expect(report?.goodFrames).toBeGreaterThan(0)
    expect(report?.goodFrames).toBeLessThan(before)
    // Torn behind the fresh start, it is still not damaged.
    copyFileSync(`${path}-wal`, join(folder, 'torn'))
    truncateSync(join(folder, 'torn'), frameStart((report?.goodFrames ?? 1) - 1) + 100)
    expect(examineWal(join(folder, 'torn'))?.badFrame).toBeNull()
    database.close()
  })

  it('holds exactly the frames that SQLite itself would read', () => {
    const frames = commits.at(-1) as number
    fc.assert(
      fc.property(fc.nat(frames - 1), fc.nat(frameBytes - 1), (frame, offset) => {
        const report = examined(withByteFlipped(frameStart(frame) + offset))
        const good = report?.goodFrames ?? 0
        expect(rowsThatSqliteReads(withByteFlipped(frameStart(frame) + offset))).toBe(rowsAfter(good))
      }),
      { numRuns: 15 },
    )
  })
})

const rowsOfCommits = [0, 1, 2, 6, 7, 16, 17, 20]

function rowsAfter(frames: number): number {
  const whole = commits.filter((end) => end <= frames).length
  return whole === 0 ? -1 : (rowsOfCommits[whole - 1] as number)
}

/** Rows of the table as SQLite recovers it from this log; -1 when there is no table. */
function rowsThatSqliteReads(bytes: Buffer): number {
  const path = join(folder, 'recovered.sqlite')
  for (const file of [path, `${path}-wal`, `${path}-shm`]) rmSync(file, { force: true })
  writeFileSync(path, file)
  writeFileSync(`${path}-wal`, bytes)
  const database = openDatabase('recovered', path, { synchronous: 'full', cacheKiB: 1024 })
  try {
    if (database.prepare("select 1 from sqlite_master where name = 't'").get() === undefined) return -1
    return (database.prepare('select count(*) as n from t').get() as { n: number }).n
  } finally {
    database.close()
  }
}
