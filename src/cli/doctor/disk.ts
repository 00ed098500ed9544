/** Checks of the disk under a data directory: can it be written, is there room, what file system, how long is an fsync. */
import { closeSync, constants, existsSync, fdatasyncSync, accessSync, openSync, rmSync, statfsSync, statSync, writeSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { bytes, count, duration } from '../terminal.ts'
import { type Finding, finding } from './finding.ts'

/** The directory itself, or the one it would be made in. */
export function existingFolder(dataDir: string): string {
  let folder = resolve(dataDir)
  while (!existsSync(folder)) folder = dirname(folder)
  return folder
}

export function checkFolder(dataDir: string): Finding {
  const path = resolve(dataDir)
  const folder = existingFolder(path)
  if (!statSync(folder).isDirectory()) return finding('data', 'error', `${folder} is no folder`, 'Name another data directory.')
  try {
    accessSync(folder, constants.R_OK | constants.W_OK | constants.X_OK)
    const probe = join(folder, `.headrace-doctor-${process.pid}`)
    closeSync(openSync(probe, 'wx'))
    rmSync(probe)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const remedy =
      code === 'EROFS'
        ? 'It is mounted read-only: mount it for writing, or name another folder.'
        : code === 'ENOSPC'
          ? 'The disk is full: free some space.'
          : `Give it to the user that runs the node: chown -R $(id -u) ${folder}`
    return finding('data', 'error', `${folder} cannot be written (${code})`, remedy)
  }
  return finding('data', 'ok', folder === path ? path : `${path} (will be made)`)
}

const spaceMin = 64 * 1024 ** 2
const spaceWanted = 1024 ** 3

export function checkSpace(dataDir: string, free: number = freeBytes(existingFolder(dataDir))): Finding {
  const found = `${bytes(free)} free`
  if (free < spaceMin) return finding('space', 'error', found, 'Free some space: below this the node cannot take commands for long.')
  if (free < spaceWanted) return finding('space', 'warn', found, 'Free some space, or lower queuedBytesMax: a backlog may take 4 GiB.')
  return finding('space', 'ok', found)
}

function freeBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder)
  return bavail * bsize
}

/** Magic numbers of statfs(2) on Linux. */
const fileSystems: Readonly<Record<number, string>> = {
  0xef53: 'ext4',
  0x58465342: 'xfs',
  0x9123683e: 'btrfs',
  0x2fc12fc1: 'zfs',
  0xf2f52010: 'f2fs',
  0x794c7630: 'overlay',
  0x01021994: 'tmpfs',
  0x858458f6: 'ramfs',
  0x6969: 'nfs',
  0xff534d42: 'cifs',
  0xfe534d42: 'smb2',
  0x65735546: 'fuse',
  0x01021997: '9p',
}
const inMemory = new Set(['tmpfs', 'ramfs'])
const remote = new Set(['nfs', 'cifs', 'smb2', 'fuse', '9p'])

export function checkFileSystem(dataDir: string, type: number = statfsSync(existingFolder(dataDir)).type): Finding {
  if (process.platform !== 'linux') return finding('file-system', 'info', 'known on Linux only')
  const name = fileSystems[type] ?? `type 0x${type.toString(16)}`
  if (inMemory.has(name))
    return finding('file-system', 'warn', `${name}: in memory, gone after a reboot`, 'Name a folder on a disk, unless it is for a test.')
  if (remote.has(name))
    return finding(
      'file-system',
      'error',
      `${name}: locks and fsync of a network file system cannot be trusted`,
      'Name a folder on a local disk.',
    )
  if (name === 'overlay')
    return finding('file-system', 'warn', 'overlay: the layer of a container, gone with it', 'Mount a volume for the data.')
  return finding('file-system', 'ok', name)
}

const syncs = 200
const syncMsMax = 3_000
const blockBytes = 4096
/** Faster than this no disk confirms a write, not even one with a battery. */
const plausibleMsMin = 0.01
const slowMs = 20

export interface SyncTimes {
  readonly count: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly maxMs: number
}

/** Appends blocks to a file and syncs each of them, as a journal does. */
export function measureSync(folder: string): SyncTimes {
  const path = join(folder, `.headrace-doctor-${process.pid}`)
  const file = openSync(path, 'wx')
  const block = Buffer.alloc(blockBytes, 1)
  const times: number[] = []
  try {
    const end = performance.now() + syncMsMax
    for (let n = 0; n < syncs && performance.now() < end; n++) {
      const from = performance.now()
      writeSync(file, block)
      fdatasyncSync(file)
      times.push(performance.now() - from)
    }
  } finally {
    closeSync(file)
    rmSync(path, { force: true })
  }
  times.sort((a, b) => a - b)
  const at = (share: number): number => times[Math.min(times.length - 1, Math.floor(times.length * share))] as number
  return { count: times.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) }
}

/** `times` is null when the folder cannot be written. */
export function judgeSync(times: SyncTimes | null): Finding {
  if (times === null) return finding('fsync', 'info', 'not measured: the folder cannot be written')
  const { p50Ms, p99Ms } = times
  const found = `${duration(p50Ms)} a sync, p99 ${duration(p99Ms)} (${count(times.count)} of them): at most ${count(1000 / p50Ms)} commits a second`
  const details = { ...times }
  if (p50Ms < plausibleMsMin) {
    return finding(
      'fsync',
      'warn',
      found,
      'No disk is that fast: it is memory, or something on the way says yes before the disk does. What was acknowledged may not survive a power cut.',
      details,
    )
  }
  if (p50Ms > slowMs)
    return finding(
      'fsync',
      'warn',
      found,
      'The disk is slow. Batches grow and make up for it in throughput, but every answer waits this long.',
      details,
    )
  return finding('fsync', 'ok', found, undefined, details)
}
