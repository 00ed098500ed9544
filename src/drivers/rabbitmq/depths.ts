/**
 * How much room partitions have.
 *
 * A bound in the queue's arguments could never be changed, so it is held here:
 * the broker is asked how many messages wait, and what we add meanwhile is
 * counted. So the bound is near, not exact: it does not see what other
 * processes add within `ageMaxMs`, nor what consumers hold.
 */
import type { Channel } from 'amqplib'
import { stateOf } from './browse.ts'
import { withChannel } from './calls.ts'
import type { TokenHost } from './token.ts'
import { partitionName } from './topology.ts'

/** How long an answer of the broker is good, in milliseconds. */
const ageMaxMs = 1_000

interface Depth {
  count: number
  askedAt: number
}

export class Depths {
  readonly #host: TokenHost
  readonly #topic: string
  readonly #groups: () => Iterable<string>
  readonly #depths = new Map<number, Depth>()
  #asking: Promise<void> | null = null
  #wanted = new Set<number>()

  constructor(host: TokenHost, topic: string, groups: () => Iterable<string>) {
    this.#host = host
    this.#topic = topic
    this.#groups = groups
  }

  /** How many of the messages asked for, by partition, have room. Those are counted as added. */
  async reserve(asked: ReadonlyMap<number, number>, messagesMax: number): Promise<Map<number, number>> {
    const now = performance.now()
    const urgent = new Set<number>()
    for (const [partition, count] of asked) {
      const depth = this.#depths.get(partition)
      if (depth === undefined || depth.count + count > messagesMax) urgent.add(partition)
      else if (now - depth.askedAt > ageMaxMs) {
        // Far from the bound: the answer may come later.
        depth.askedAt = now
        this.#ask([partition]).catch(() => {})
      }
    }
    if (urgent.size > 0) await this.#ask(urgent)
    const room = new Map<number, number>()
    for (const [partition, count] of asked) {
      const depth = this.#depths.get(partition) ?? { count: 0, askedAt: now }
      const granted = Math.max(0, Math.min(count, messagesMax - depth.count))
      depth.count += granted
      this.#depths.set(partition, depth)
      room.set(partition, granted)
    }
    return room
  }

  /** One question at a time: what is asked meanwhile goes with the next. */
  async #ask(partitions: Iterable<number>): Promise<void> {
    for (const partition of partitions) this.#wanted.add(partition)
    while (this.#wanted.size > 0) {
      this.#asking ??= this.#askAll().finally(() => {
        this.#asking = null
      })
      await this.#asking
    }
  }

  async #askAll(): Promise<void> {
    const wanted = [...this.#wanted]
    this.#wanted = new Set()
    const { consuming, options } = this.#host
    await withChannel(consuming, options, async (channel) => {
      for (const partition of wanted)
        this.#depths.set(partition, { count: await this.#slowest(channel, partition), askedAt: performance.now() })
    })
  }

  async #slowest(channel: Channel, partition: number): Promise<number> {
    let depth = 0
    for (const group of this.#groups()) {
      const { ready } = await stateOf(channel, this.#host.options, partitionName(this.#topic, group, partition))
      depth = Math.max(depth, ready)
    }
    return depth
  }
}
