/**
 * Calls on channels, each with a bound. AMQP answers a wrong call by closing its
 * channel, so a call that may be refused has a channel of its own.
 */
import type { Channel } from 'amqplib'
import { HeadraceError } from '../../contracts/errors.ts'
import type { RabbitConnection } from './connection.ts'
import { channelError } from './errors.ts'
import type { KnownOptions } from './options.ts'

/** Bounds and translates an answer of the broker. `what` names the call: 'declaring queue x'. */
export async function answered<T>(options: KnownOptions, what: string, work: Promise<T>): Promise<T> {
  const { target, timeoutMs } = options
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new HeadraceError('engine-timeout', `RabbitMQ at ${target.address} did not answer ${what} within ${timeoutMs} ms.`)),
      timeoutMs,
    )
  })
  try {
    return await Promise.race([work, late])
  } catch (error) {
    throw channelError(target, what, error)
  } finally {
    clearTimeout(timer)
  }
}

/** Opens a channel. What goes wrong on it is told by its calls and its 'close' event. */
export async function openChannel(connection: RabbitConnection, options: KnownOptions): Promise<Channel> {
  const model = await connection.acquire(options.timeoutMs)
  const channel = await answered(options, 'opening a channel', model.createChannel())
  channel.on('error', () => {})
  return channel
}

/** Closes a channel, unless it is closed; what it holds unacknowledged goes back to its queues, in order. */
export async function closeChannel(options: KnownOptions, channel: Channel): Promise<void> {
  try {
    await answered(options, 'closing a channel', channel.close())
  } catch {
    // It was closed already, or the connection is gone with it.
  }
}

export async function withChannel<T>(
  connection: RabbitConnection,
  options: KnownOptions,
  run: (channel: Channel) => Promise<T>,
): Promise<T> {
  const channel = await openChannel(connection, options)
  try {
    return await run(channel)
  } finally {
    await closeChannel(options, channel)
  }
}
