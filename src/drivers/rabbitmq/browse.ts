/**
 * Looking into a queue without taking anything: its messages are consumed and
 * held unacknowledged, and then go back to their places, in order. Meanwhile
 * nobody else gets them.
 *
 * A quorum queue keeps what came back in a line of its own, ahead of the rest,
 * and what comes back again goes to the end of that line. So a look holds all
 * that one consumer can hold, however little it wants to see: to hold a part of
 * that line, and give it back, would turn the order.
 */
import type { Channel, ConsumeMessage } from 'amqplib'
import { pause } from '../../std/backoff.ts'
import { answered, withChannel } from './calls.ts'
import type { RabbitConnection } from './connection.ts'
import type { KnownOptions } from './options.ts'

/** Messages that one look sees at most. */
export const browseMax = 10_000
/** Messages that one consumer can hold: AMQP's count has 16 bits. */
const heldMax = 65_535
/** A look ends when nothing more has come for this long, in milliseconds: somebody else holds the rest. */
const quietMs = 1_000
/** How long messages may take to be back in their queue, in milliseconds, and how often that is looked at. */
const backMs = 2_000
const backLookMs = 5

/** Acknowledges messages of the look: they are gone when it resolves. */
export type Forget = (messages: readonly ConsumeMessage[]) => Promise<void>

export interface QueueState {
  /** Messages that wait to be delivered. */
  readonly ready: number
  readonly consumers: number
}

export async function stateOf(channel: Channel, options: KnownOptions, queue: string): Promise<QueueState> {
  const { messageCount, consumerCount } = await answered(options, `looking at queue '${queue}'`, channel.checkQueue(queue))
  return { ready: messageCount, consumers: consumerCount }
}

/** Runs `look` on the first `limit` messages. Resolves when those that it did not forget are back. */
export function browse<T>(
  connection: RabbitConnection,
  options: KnownOptions,
  queue: string,
  limit: number,
  look: (messages: readonly ConsumeMessage[], forget: Forget) => Promise<T>,
): Promise<T> {
  return withChannel(connection, options, async (channel) => {
    const { ready } = await stateOf(channel, options, queue)
    const count = Math.min(limit, ready, browseMax)
    if (count === 0) return look([], async () => {})
    const { tag, messages } = await first(channel, options, queue, count)
    let left = ready
    const answer = await look(messages, async (gone) => {
      for (const raw of gone) channel.ack(raw)
      left -= gone.length
      // The broker takes the calls of a channel in order: its answer proves that it had the acknowledgements.
      if (gone.length > 0) await answered(options, `acknowledging in '${queue}'`, channel.prefetch(heldMax))
    })
    await answered(options, `cancelling the look at '${queue}'`, channel.cancel(tag))
    channel.nackAll(true)
    const deadline = performance.now() + backMs
    while ((await stateOf(channel, options, queue)).ready < left && performance.now() < deadline) await pause(backLookMs)
    return answer
  })
}

async function first(
  channel: Channel,
  options: KnownOptions,
  queue: string,
  count: number,
): Promise<{ readonly tag: string; readonly messages: ConsumeMessage[] }> {
  const messages: ConsumeMessage[] = []
  await answered(options, `looking at queue '${queue}'`, channel.prefetch(heldMax))
  let more = (): void => {}
  const deliver = (raw: ConsumeMessage | null): void => {
    if (raw !== null && messages.length < count) messages.push(raw)
    more()
  }
  const { consumerTag: tag } = await answered(options, `looking at queue '${queue}'`, channel.consume(queue, deliver))
  for (let seen = -1; seen < messages.length && messages.length < count; ) {
    seen = messages.length
    const quiet = new AbortController()
    more = () => quiet.abort()
    await pause(quietMs, quiet.signal)
  }
  return { tag, messages }
}
