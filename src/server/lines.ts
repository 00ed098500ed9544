/**
 * Cuts a stream of bytes into lines without copying what arrived whole.
 *
 * A line ends with a line feed; the last one may end with the stream. A line
 * longer than `bytesMax` is reported once and skipped: no more than `bytesMax`
 * bytes of it are ever held.
 */
const lineFeed = 0x0a

export class LineSplitter {
  /** After `next` or `finish` gave 'line': where it is. */
  bytes: Buffer = Buffer.alloc(0)
  start = 0
  end = 0
  readonly #bytesMax: number
  #chunk: Buffer = Buffer.alloc(0)
  #offset = 0
  #carry: Buffer[] = []
  #carryBytes = 0
  #skipping = false

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax
  }

  /** Gives the next bytes; only after `next` gave 'more'. */
  feed(chunk: Buffer): void {
    this.#chunk = chunk
    this.#offset = 0
  }

  next(): 'line' | 'too-long' | 'more' {
    for (;;) {
      const feed = this.#chunk.indexOf(lineFeed, this.#offset)
      if (feed < 0) return this.#keep()
      const from = this.#offset
      this.#offset = feed + 1
      if (this.#skipping) {
        this.#skipping = false
        continue
      }
      if (this.#carryBytes + feed - from > this.#bytesMax) {
        this.#drop()
        return 'too-long'
      }
      this.#cut(from, feed)
      return 'line'
    }
  }

  /** What is left when the stream has ended. */
  finish(): 'line' | 'more' {
    if (this.#carryBytes === 0) return 'more'
    this.#cut(this.#chunk.length, this.#chunk.length)
    return 'line'
  }

  /** Keeps the part of a line that the next chunk goes on with. */
  #keep(): 'too-long' | 'more' {
    const part = this.#chunk.subarray(this.#offset)
    this.#offset = this.#chunk.length
    if (this.#skipping || part.length === 0) return 'more'
    if (this.#carryBytes + part.length > this.#bytesMax) {
      this.#drop()
      this.#skipping = true
      return 'too-long'
    }
    this.#carry.push(part)
    this.#carryBytes += part.length
    return 'more'
  }

  #cut(from: number, to: number): void {
    if (this.#carryBytes === 0) {
      this.bytes = this.#chunk
      this.start = from
      this.end = to
      return
    }
    this.#carry.push(this.#chunk.subarray(from, to))
    this.bytes = Buffer.concat(this.#carry)
    this.start = 0
    this.end = this.bytes.length
    this.#drop()
  }

  #drop(): void {
    this.#carry = []
    this.#carryBytes = 0
  }
}
