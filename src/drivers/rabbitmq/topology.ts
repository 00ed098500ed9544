/**
 * The queues and exchanges of a topic, their names and arguments. All are
 * durable; all queues are quorum queues. Nothing is ever deleted or changed.
 *
 * | name | what |
 * |---|---|
 * | `headrace:T` (exchange, direct) | takes messages; the routing key is the partition |
 * | `headrace:T` (queue) | holds nothing: its x-max-length is the number of partitions, which makes the broker refuse another |
 * | `headrace:T:in` | the intake: any client sends here, and the key is hashed for it |
 * | `headrace:T:G:N` | the messages of partition N for group G, with a single active consumer |
 * | `headrace:T:G:N:lease` | whose single active consumer holds the lease of that partition |
 * | `headrace:T:G:dead` | the dead letters of group G |
 *
 * Names of topics and groups have no colon.
 */
import type { Channel } from 'amqplib'
import { HeadraceError } from '../../contracts/errors.ts'
import { partitionsDiffer, type TopicOptions } from '../../contracts/queue.ts'
import { answered } from './calls.ts'
import { messageOf, reasonIn, replyCode } from './errors.ts'
import type { KnownOptions } from './options.ts'

/**
 * How often a message may come back before the broker throws it away: never in
 * practice. Each end of a consumer counts, and RabbitMQ 4 would stop at 20.
 */
const deliveriesMax = 2_000_000_000

export const exchangeName = (topic: string): string => `headrace:${topic}`
const definitionName = exchangeName
export const intakeName = (topic: string): string => `headrace:${topic}:in`
export const partitionName = (topic: string, group: string, partition: number): string => `headrace:${topic}:${group}:${partition}`
export const leaseName = (topic: string, group: string, partition: number): string => `headrace:${topic}:${group}:${partition}:lease`
export const deadName = (topic: string, group: string): string => `headrace:${topic}:${group}:dead`

const single = { 'x-single-active-consumer': true }

/** Makes what is missing of a topic. */
export async function declareTopic(channel: Channel, options: KnownOptions, { name, partitions, groups }: TopicOptions): Promise<void> {
  await declareQueue(channel, options, definitionName(name), { 'x-max-length': partitions }, (current) =>
    partitionsDiffer(name, current, partitions),
  )
  const exchange = exchangeName(name)
  await declared(
    options,
    `exchange '${exchange}'`,
    'a durable direct exchange',
    channel.assertExchange(exchange, 'direct', { durable: true }),
  )
  await declareQueue(channel, options, intakeName(name), single)
  for (const group of groups) {
    await declareQueue(channel, options, deadName(name, group), {})
    for (let partition = 0; partition < partitions; partition++) {
      const queue = partitionName(name, group, partition)
      await declareQueue(channel, options, queue, single)
      await declared(
        options,
        `the binding of queue '${queue}'`,
        'a binding without arguments',
        channel.bindQueue(queue, exchange, String(partition)),
      )
    }
  }
}

export const declareLease = (channel: Channel, options: KnownOptions, queue: string): Promise<void> =>
  declareQueue(channel, options, queue, single)

async function declareQueue(
  channel: Channel,
  options: KnownOptions,
  queue: string,
  args: Readonly<Record<string, unknown>>,
  lengthDiffers?: (current: number) => HeadraceError,
): Promise<void> {
  const needed = { 'x-queue-type': 'quorum', 'x-delivery-limit': deliveriesMax, ...args }
  const work = channel.assertQueue(queue, { durable: true, arguments: needed })
  const shape = `a durable quorum queue with ${Object.entries(needed)
    .map(([name, value]) => `${name}=${value}`)
    .join(', ')}`
  await declared(options, `queue '${queue}'`, shape, work, lengthDiffers)
}

async function declared(
  options: KnownOptions,
  what: string,
  shape: string,
  work: Promise<unknown>,
  lengthDiffers?: (current: number) => HeadraceError,
): Promise<void> {
  const translated = work.catch((error: unknown) => {
    const reason = reasonIn(messageOf(error))
    if (replyCode(error) !== 406 || !/inequivalent|not equivalent/.test(reason)) throw error
    const length = /x-max-length.*current is '(\d+)'/.exec(reason)?.[1]
    if (length !== undefined && lengthDiffers !== undefined) throw lengthDiffers(Number(length))
    throw differs(options, what, shape, reason)
  })
  await answered(options, `declaring ${what}`, translated)
}

function differs(options: KnownOptions, what: string, shape: string, reason: string): HeadraceError {
  const where = `RabbitMQ at ${options.target.address}`
  const why = options.target.clean(reason.replace(/^PRECONDITION_FAILED - /, ''))
  return new HeadraceError(
    'topic-differs',
    `The ${what} on ${where} is there and was declared otherwise: ${why}. It must be ${shape}. Nothing was changed. Move its messages elsewhere and delete it, or use a topic of another name.`,
  )
}
