/**
 * The queue that the orders of the flash sale go through: none, a server that is
 * started for the sale alone, or one given by url.
 *
 *   --queue rabbitmq
 */
import { join } from 'node:path'
import { CliError, exitCodes } from '../exit.ts'
import type { Mortal } from './killer.ts'
import { mortal } from './places.ts'

export interface QueuePlace {
  /** For the node; null without a queue. */
  readonly url: string | null
  /** For people. */
  readonly about: string
  /** The server, when it belongs to the sale and may be killed. */
  readonly server: Mortal | null
  close(): Promise<void>
}

const isKind = (name: string): name is 'postgres' | 'rabbitmq' => name === 'postgres' || name === 'rabbitmq'

/** Whether a server is started for the sale alone, which may be killed. */
export const startsQueueServer = (given: string | undefined): boolean => given !== undefined && isKind(given)

/** Opens what `given` names: 'sqlite', 'postgres', 'rabbitmq', or a url. Throws 'usage' and 'server-missing'. */
export async function openQueuePlace(given: string | undefined, dataDir: string): Promise<QueuePlace> {
  const close = async (): Promise<void> => undefined
  if (given === undefined) return { url: null, about: 'the data folder', server: null, close }
  if (given === 'sqlite') {
    const file = join(dataDir, 'queue.sqlite')
    return { url: `sqlite:${file}`, about: file, server: null, close }
  }
  if (/^(postgres|postgresql|amqp|amqps):\/\//.test(given)) return { url: given, about: new URL(given).host, server: null, close }
  if (!isKind(given))
    throw new CliError(
      exitCodes.usage,
      'usage',
      // It may be a url with a password.
      'The --queue is not known.',
      'Name sqlite, postgres or rabbitmq, or give a url: amqp://… or postgres://…',
    )
  const { serverMissing, startPostgres, startRabbitmq } = await import('../../testing/servers/index.ts')
  const missing = serverMissing(given)
  if (missing !== null)
    throw new CliError(exitCodes.unavailable, 'server-missing', missing, 'Or give the url of a server: --queue amqp://…')
  const server = await (given === 'postgres' ? startPostgres() : startRabbitmq())
  return { url: server.url, about: `${given} (port ${server.port})`, server: mortal(server), close: () => server.stop() }
}
