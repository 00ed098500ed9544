/**
 * Looks for damage in a write-ahead log before SQLite opens it.
 *
 * SQLite reads a log up to the first frame whose checksum is wrong, and takes
 * the rest for a torn tail. That is right for the last transaction, which no
 * fsync had confirmed yet; but damage in the middle would silently take away
 * everything behind it, acknowledged commits included. With synchronous=FULL
 * at most the last transaction can be torn. So when frames of more than one
 * further commit stand behind the first bad frame, the log is damaged, not torn.
 *
 * Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
 */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'

export interface WalReport {
  /** Frames that are whole, from the start. */
  readonly goodFrames: number
  /** The first frame that is not whole though this log wrote it, -1 for the header; null when there is none. */
  readonly badFrame: number | null
  /** Commits of this log at or behind the bad frame. */
  readonly commitsBehind: number
}

/** Whether acknowledged commits would be taken away: a torn writing takes at most the last one, and never the header. */
export function isDamaged(report: WalReport | null): report is WalReport & { readonly badFrame: number } {
  if (report === null || report.badFrame === null) return false
  return report.commitsBehind > (report.badFrame < 0 ? 0 : 1)
}

const headerBytes = 32
const frameHeaderBytes = 24
/** The page size that SQLite gives a new file. */
const pageBytesDefault = 4096

/** Reads the log at `path`; null when there is none or it is empty. */
export function examineWal(path: string): WalReport | null {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
  try {
    const size = fstatSync(file).size
    const header = Buffer.alloc(headerBytes)
    if (size < headerBytes || readSync(file, header, 0, headerBytes, 0) < headerBytes) return null
    return examine(file, header, size)
  } finally {
    closeSync(file)
  }
}

function examine(file: number, header: Buffer, size: number): WalReport | null {
  const magic = header.readUInt32BE(0)
  const bigEndian = (magic & 1) === 1
  const pageBytes = header.readUInt32BE(8)
  const frameBytes = frameHeaderBytes + pageBytes
  let sums = checksum(header.subarray(0, 24), 0, 0, bigEndian)
  const whole = (magic & 0xfffffffe) >>> 0 === 0x377f0682 && sums[0] === header.readUInt32BE(24) && sums[1] === header.readUInt32BE(28)
  if (!whole) return examineWithoutHeader(file, header, size)

  const frame = Buffer.alloc(frameBytes)
  let goodFrames = 0
  let badFrame: number | null = null
  let commitsBehind = 0
  for (let index = 0; headerBytes + (index + 1) * frameBytes <= size; index++) {
    readSync(file, frame, 0, frameBytes, headerBytes + index * frameBytes)
    const ours = frame.compare(header, 16, 24, 8, 16) === 0
    if (badFrame === null) {
      const next = ours
        ? checksum(frame.subarray(frameHeaderBytes), ...checksum(frame.subarray(0, 8), ...sums, bigEndian), bigEndian)
        : null
      if (next !== null && next[0] === frame.readUInt32BE(16) && next[1] === frame.readUInt32BE(20)) {
        sums = next
        goodFrames += 1
        continue
      }
      badFrame = index
    }
    // A commit frame names the size of the database; frames of an older log have other salts.
    if (ours && frame.readUInt32BE(4) !== 0) commitsBehind += 1
  }
  return { goodFrames, badFrame: commitsBehind === 0 ? null : badFrame, commitsBehind }
}

/**
 * SQLite ignores a log whose header is wrong, with all its commits. It is wrong
 * by right when the first writing of a log was torn: then its frames do not go
 * with it. When they do, by their salts or by the checksum that goes on from
 * the header's, the header was whole once, and has been damaged. So it is when
 * it is all zeros before frames: with synchronous=FULL it is on disk first.
 */
function examineWithoutHeader(file: number, header: Buffer, size: number): WalReport | null {
  const named = header.readUInt32BE(8)
  const pageBytes = named >= 512 && named <= 65_536 && (named & (named - 1)) === 0 ? named : pageBytesDefault
  const frame = Buffer.alloc(frameHeaderBytes + pageBytes)
  if (readSync(file, frame, 0, frame.length, headerBytes) < frame.length) return null
  const salts = Buffer.from(frame.subarray(8, 16))
  const goesOn = [true, false].some((bigEndian) => {
    const start = checksum(frame.subarray(0, 8), header.readUInt32BE(24), header.readUInt32BE(28), bigEndian)
    const sums = checksum(frame.subarray(frameHeaderBytes), ...start, bigEndian)
    return sums[0] === frame.readUInt32BE(16) && sums[1] === frame.readUInt32BE(20)
  })
  const erased = header.every((byte) => byte === 0)
  if (!goesOn && !erased && header.compare(salts, 0, salts.length, 16, 24) !== 0) return null
  let commitsBehind = 0
  for (let offset = headerBytes; offset + frame.length <= size; offset += frame.length) {
    readSync(file, frame, 0, frame.length, offset)
    if (frame.compare(salts, 0, salts.length, 8, 16) !== 0) break
    if (frame.readUInt32BE(4) !== 0) commitsBehind += 1
  }
  return commitsBehind === 0 ? null : { goodFrames: 0, badFrame: -1, commitsBehind }
}

function checksum(bytes: Buffer, first: number, second: number, bigEndian: boolean): [number, number] {
  let s0 = first
  let s1 = second
  for (let at = 0; at < bytes.length; at += 8) {
    s0 = (s0 + (bigEndian ? bytes.readUInt32BE(at) : bytes.readUInt32LE(at)) + s1) >>> 0
    s1 = (s1 + (bigEndian ? bytes.readUInt32BE(at + 4) : bytes.readUInt32LE(at + 4)) + s0) >>> 0
  }
  return [s0, s1]
}
