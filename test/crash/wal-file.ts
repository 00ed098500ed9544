/**
 * A write-ahead log of SQLite as bytes: where its frames are, and how to hurt it.
 * Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
 */
import { readFileSync, truncateSync, writeFileSync } from 'node:fs'

const headerBytes = 32
const frameHeaderBytes = 24

export interface Frame {
  /** Where it starts in the file, in bytes. */
  readonly offset: number
  readonly bytes: number
  /** Whether it ends a transaction. */
  readonly commits: boolean
}

/** The frames of the log as it is now; those of an earlier use of the file are left out. */
export function framesOf(path: string): Frame[] {
  const log = readFileSync(path)
  const bytes = frameHeaderBytes + log.readUInt32BE(8)
  const frames: Frame[] = []
  for (let offset = headerBytes; offset + bytes <= log.length; offset += bytes) {
    if (log.compare(log, 16, 24, offset + 8, offset + 16) !== 0) break
    frames.push({ offset, bytes, commits: log.readUInt32BE(offset + 4) !== 0 })
  }
  return frames
}

/** The frames of the last transaction. */
export function lastTransaction(path: string): Frame[] {
  const frames = framesOf(path)
  const ends = frames.flatMap(({ commits }, index) => (commits ? [index] : []))
  return frames.slice((ends.at(-2) ?? -1) + 1, (ends.at(-1) ?? -1) + 1)
}

export function flipBit(path: string, offset: number): void {
  const bytes = readFileSync(path)
  bytes.writeUInt8(bytes.readUInt8(offset) ^ 1, offset)
  writeFileSync(path, bytes)
}

export function cutAt(path: string, offset: number): void {
  truncateSync(path, offset)
}
