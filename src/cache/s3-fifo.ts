/**
 * Which entries stay: S3-FIFO ("FIFO queues are all you need for cache
 * eviction", Yang, Zhang, Qiu, Yue and Rashmi, SOSP 2023, section 4).
 *
 * New entries go into a small queue that holds a tenth. One that is asked for
 * again while it is there moves to the main queue; the others leave and are
 * remembered as ghosts. A ghost that comes back goes to the main queue at
 * once. The main queue lets an entry go around again as often as it was asked
 * for, three times at most. A scan therefore passes through the small queue and
 * never reaches the main one; and a hit changes one small number, no list.
 *
 * Two things differ from the paper, both by measured hit rate. Once more is enough
 * to move to main, not twice. And when the set of hot keys changes, the main queue
 * is full of what was hot: this shows in the share of entries that leave the
 * small queue for main, which jumps. Then, for a while, main forgets in one round,
 * the small queue has twice its share, and ghosts are remembered four times as long.
 *
 * What must hold after every call: the sums of bytes and entries are those of
 * the nodes in the queues, and neither is above its bound.
 */
import { Ghost } from './ghost.ts'

/** What an entry carries for its place in a queue. Only S3Fifo writes these, but for `frequency`. */
export abstract class QueueNode {
  /** Bytes. */
  size: number
  /** A 32-bit hash of the key, for the ghosts. */
  readonly hash: number
  /** How often it was asked for since it was last looked at; a hit adds one, up to frequencyMax. */
  frequency = 0
  queue: Queue | null = null
  newer: QueueNode | null = null
  older: QueueNode | null = null

  constructor(hash: number, size: number) {
    this.hash = hash
    this.size = size
  }
}

export const frequencyMax = 3

/** A list of nodes in the order they came. */
interface Queue {
  newest: QueueNode | null
  oldest: QueueNode | null
  bytes: number
  entries: number
}

export interface Bounds {
  readonly bytesMax: number
  readonly entriesMax: number
}

/** The share of the small queue. A tenth is best over the traces of the paper. */
const smallShare = 0.1

/** The share that moves to main, averaged over so many leaving the small queue: of late, and before. */
const lateSpan = 1_000
const usualSpan = 20_000
/** The hot keys have changed when the share of late is so much above the usual one, and by so many standard deviations. Not judged before there is a usual one. */
const changeRise = 0.3
const changeDeviations = 5
const usualAfter = usualSpan / 10
/** How it then goes on, for so many new entries as a part of all. */
const changedShare = 0.2
const changedGhosts = 4
const changedFor = 0.3

export class S3Fifo<Node extends QueueNode> {
  readonly bounds: Bounds
  readonly #small: Queue = { newest: null, oldest: null, bytes: 0, entries: 0 }
  readonly #main: Queue = { newest: null, oldest: null, bytes: 0, entries: 0 }
  readonly #ghost = new Ghost()
  readonly #evicted: (node: Node) => void
  /** Entries that were pushed out to make room. */
  evictions = 0
  #added = 0
  #left = 0
  #lateShare = 0
  #usualShare = 0
  #changedUntil = 0

  constructor(bounds: Bounds, evicted: (node: Node) => void) {
    this.bounds = bounds
    this.#evicted = evicted
  }

  get bytes(): number {
    return this.#small.bytes + this.#main.bytes
  }

  get entries(): number {
    return this.#small.entries + this.#main.entries
  }

  /** The largest entry that is taken; a larger one would push out too much else. */
  get sizeMax(): number {
    return this.bounds.bytesMax / 4
  }

  /** Puts in a node that is in no queue, and pushes others out until the bounds hold. False when it is too large. */
  add(node: Node): boolean {
    if (node.size > this.sizeMax) return false
    node.frequency = 0
    this.#added++
    push(this.#ghost.take(node.hash, this.#ghostSpan()) ? this.#main : this.#small, node)
    while (this.bytes > this.bounds.bytesMax || this.entries > this.bounds.entriesMax) this.#evict()
    return true
  }

  /** Puts a node in the place of another, so that a value loaded anew keeps its standing. False when it is too large; then both are out. */
  replace(old: Node, node: Node): boolean {
    const queue = old.queue
    if (queue === null || node.size > this.sizeMax) {
      this.remove(old)
      return this.add(node)
    }
    node.frequency = old.frequency
    node.queue = queue
    node.newer = old.newer
    node.older = old.older
    if (node.newer === null) queue.newest = node
    else node.newer.older = node
    if (node.older === null) queue.oldest = node
    else node.older.newer = node
    queue.bytes += node.size - old.size
    old.queue = null
    old.newer = null
    old.older = null
    while (this.bytes > this.bounds.bytesMax) this.#evict()
    return true
  }

  /** Takes a node out that was not pushed out. One of the main queue comes back to it when it comes back soon. */
  remove(node: Node): void {
    if (node.queue === null) return
    if (node.queue === this.#main) this.#ghost.add(node.hash, this.#ghostSpan())
    unlink(node.queue, node)
  }

  clear(): void {
    for (const queue of [this.#small, this.#main]) {
      while (queue.oldest !== null) unlink(queue, queue.oldest)
    }
    this.#ghost.clear()
  }

  /** Nodes from the newest to the oldest, the main queue first. */
  *nodes(): Generator<Node> {
    for (const queue of [this.#main, this.#small]) {
      for (let node = queue.newest; node !== null; node = node.older) yield node as Node
    }
  }

  /** As many ghosts as there are entries in the main queue; at least what the small queue holds, while the main one fills. */
  #ghostSpan(): number {
    return Math.max(this.#main.entries * (this.#changing ? changedGhosts : 1), this.#small.entries, 16)
  }

  #evict(): void {
    const small = this.#small
    const share = this.#changing ? changedShare : smallShare
    const overShare = small.entries > 0 && (small.bytes >= this.bounds.bytesMax * share || small.entries >= this.bounds.entriesMax * share)
    if (overShare || this.#main.entries === 0) this.#evictSmall()
    else this.#evictMain()
  }

  #evictSmall(): void {
    const node = this.#small.oldest as QueueNode
    unlink(this.#small, node)
    this.#noteLeaving(node.frequency > 0)
    if (node.frequency > 0) {
      node.frequency = 0
      push(this.#main, node)
      return
    }
    this.#ghost.add(node.hash, this.#ghostSpan())
    this.#drop(node)
  }

  #evictMain(): void {
    const node = this.#main.oldest as QueueNode
    unlink(this.#main, node)
    if (node.frequency > 0) {
      node.frequency = this.#changing ? 0 : node.frequency - 1
      push(this.#main, node)
      return
    }
    this.#drop(node)
  }

  /** Whether the hot keys have changed of late. */
  get #changing(): boolean {
    return this.#added <= this.#changedUntil
  }

  #noteLeaving(toMain: boolean): void {
    this.#left++
    const now = toMain ? 1 : 0
    this.#lateShare += (now - this.#lateShare) / Math.min(this.#left, lateSpan)
    this.#usualShare += (now - this.#usualShare) / Math.min(this.#left, usualSpan)
    if (this.#left <= usualAfter) return
    const above = this.#lateShare - this.#usualShare
    const chance = Math.sqrt((this.#usualShare * (1 - this.#usualShare)) / (2 * lateSpan))
    if (above > this.#usualShare * changeRise && above > chance * changeDeviations)
      this.#changedUntil = this.#added + changedFor * this.entries
  }

  #drop(node: QueueNode): void {
    this.evictions++
    this.#evicted(node as Node)
  }
}

function push(queue: Queue, node: QueueNode): void {
  node.queue = queue
  node.newer = null
  node.older = queue.newest
  if (queue.newest === null) queue.oldest = node
  else queue.newest.newer = node
  queue.newest = node
  queue.bytes += node.size
  queue.entries++
}

function unlink(queue: Queue, node: QueueNode): void {
  if (node.newer === null) queue.newest = node.older
  else node.newer.older = node.older
  if (node.older === null) queue.oldest = node.newer
  else node.older.newer = node.newer
  node.queue = null
  node.newer = null
  node.older = null
  queue.bytes -= node.size
  queue.entries--
}
