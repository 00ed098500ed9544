/** One value in L1, and when it may be served. */
import { QueueNode } from './s3-fifo.ts'
import type { Seal } from './tags.ts'

export interface Content {
  readonly value: unknown
  readonly version: number
  /** On the monotonic clock, in milliseconds. */
  readonly freshUntil: number
  /** How long its load took, in milliseconds: what an early refresh goes by. */
  readonly loadMs: number
  readonly seals: readonly Seal[]
}

export class Entry extends QueueNode {
  /**
   * Until here a hit needs no other question than the time, in whole milliseconds:
   * the value is fresh, not near its end, not below its floor, has no tags, and L1
   * does not depend on the bus. 0 when it is not so.
   * A small integer, since a hit reads it each time.
   */
  plainUntil: number
  readonly value: unknown
  readonly index: Map<string, Entry>
  readonly key: string
  readonly version: number
  readonly freshUntil: number
  /** Until here a hit needs no dice: it is too far from its end for an early refresh. */
  readonly calmUntil: number
  readonly loadMs: number
  readonly seals: readonly Seal[] | null
  /** When the floor went above the version; 0 while it is not. */
  belowSince = 0
  /** After a failed load: not before this moment again. */
  retryAt = 0

  constructor(index: Map<string, Entry>, key: string, hash: number, size: number, content: Content, earlyRefresh: number, plain: boolean) {
    super(hash, size)
    this.plainUntil = 0
    this.value = content.value
    this.index = index
    this.key = key
    this.version = content.version
    this.freshUntil = content.freshUntil
    this.loadMs = content.loadMs
    this.calmUntil = content.freshUntil - content.loadMs * earlyRefresh * diceMax
    this.seals = content.seals.length === 0 ? null : content.seals
    if (plain && this.seals === null) this.plainUntil = wholeMs(this.calmUntil)
  }

  /** The floor went above it. */
  fall(now: number): void {
    if (this.belowSince === 0) this.belowSince = now
    this.plainUntil = 0
  }
}

/** Rounded down; as a small integer while that is possible, which is for 24 days of the clock. */
export function wholeMs(ms: number): number {
  return ms > -(2 ** 31) && ms < 2 ** 31 ? ms | 0 : Math.floor(ms)
}

/** -ln(x) is above this for one x in nine million. */
const diceMax = 16

/**
 * Whether to load anew before the end, by chance: the nearer the end and the
 * longer the load, the likelier (XFetch: "Optimal probabilistic cache stampede
 * prevention", Vattani, Chierichetti and Lowenstein, VLDB 2015).
 */
export function isDueEarly(freshUntil: number, loadMs: number, earlyRefresh: number, now: number, random: () => number): boolean {
  return earlyRefresh > 0 && now - loadMs * earlyRefresh * Math.log(1 - random()) >= freshUntil
}
