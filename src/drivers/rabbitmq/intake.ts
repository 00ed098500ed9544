/**
 * Moves messages from the intake of a topic to their partitions, so that a
 * client that does not hash keys can publish too.
 *
 * It runs in every process that holds a lease of the topic; the broker gives the
 * queue to one of them at a time. A message is acknowledged when its partition
 * has it: a crash in between moves it twice, under its id. Batches go one after
 * the other, and one that fails is repeated as it was, so nothing overtakes.
 *
 * What cannot be a message is moved as it is, to the partition of its key if it
 * has one: the consumer there buries it with the reason.
 */
import type { Channel, ConsumeMessage } from 'amqplib'
import { backoffMs, pause } from '../../std/backoff.ts'
import { hash32 } from '../../std/hash.ts'
import { answered, closeChannel, openChannel } from './calls.ts'
import type { LeaseHost } from './lease.ts'
import { exchangeName, intakeName } from './topology.ts'
import { keyOf, propertiesAgain } from './wire.ts'

/** Messages in memory, and in one batch. */
const intakePrefetch = 500
const retryBaseMs = 50
const retryMaxMs = 5_000

export class Intake {
  readonly #host: LeaseHost
  readonly #reserve: (asked: ReadonlyMap<number, number>) => Promise<ReadonlyMap<number, number>>
  readonly #stop = new AbortController()
  #running = false

  constructor(host: LeaseHost, reserve: (asked: ReadonlyMap<number, number>) => Promise<ReadonlyMap<number, number>>) {
    this.#host = host
    this.#reserve = reserve
  }

  /** Goes on until `stop`, over lost connections. */
  start(): void {
    if (this.#running || this.#stop.signal.aborted) return
    this.#running = true
    void this.#run()
  }

  stop(): void {
    this.#stop.abort()
  }

  async #run(): Promise<void> {
    for (let failures = 0; !this.#stop.signal.aborted; failures++) {
      try {
        await this.#serve(() => {
          failures = 0
        })
      } catch {
        // The leases tell of a broker that is away; here it is only waited for.
      }
      await pause(backoffMs(failures, retryBaseMs, retryMaxMs), this.#stop.signal)
    }
  }

  async #serve(moved: () => void): Promise<void> {
    const { options, consuming, name } = this.#host
    const channel = await openChannel(consuming, options)
    const ended = new AbortController()
    let waiting: ConsumeMessage[] = []
    let wake = (): void => {}
    const end = (): void => {
      ended.abort()
      wake()
    }
    channel.on('close', end)
    this.#stop.signal.addEventListener('abort', end)
    try {
      await answered(options, 'setting the prefetch', channel.prefetch(intakePrefetch))
      await answered(
        options,
        `consuming '${intakeName(name)}'`,
        channel.consume(intakeName(name), (raw) => {
          if (raw === null) return end()
          waiting.push(raw)
          wake()
        }),
      )
      while (!ended.signal.aborted) {
        if (waiting.length === 0) {
          await new Promise<void>((resolve) => {
            wake = resolve
          })
          continue
        }
        const batch = waiting
        waiting = []
        await this.#move(channel, batch, ended.signal)
        moved()
      }
    } finally {
      this.#stop.signal.removeEventListener('abort', end)
      await closeChannel(options, channel)
    }
  }

  async #move(channel: Channel, batch: readonly ConsumeMessage[], ended: AbortSignal): Promise<void> {
    const { partitions, name, publisher } = this.#host
    const outgoing = batch.map((raw) => ({
      exchange: exchangeName(name),
      routingKey: String(hash32(keyOf(raw) ?? '') % partitions),
      content: raw.content,
      properties: propertiesAgain(raw, {}),
    }))
    const asked = new Map<number, number>()
    for (const { routingKey } of outgoing) asked.set(Number(routingKey), (asked.get(Number(routingKey)) ?? 0) + 1)
    for (let failures = 0; !ended.aborted; ) {
      const room = await this.#reserve(asked)
      if ([...asked].every(([partition, count]) => room.get(partition) === count)) {
        const answers = await publisher.send(outgoing)
        if (answers.every((answer) => answer === 'confirmed')) {
          const last = batch.at(-1)
          if (last !== undefined && !ended.aborted) channel.ack(last, true)
          return
        }
      }
      await pause(backoffMs(failures++, retryBaseMs, retryMaxMs), ended)
    }
  }
}
