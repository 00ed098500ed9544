/**
 * How many partitions a topic has that somebody else declared. AMQP lists no
 * queues and shows no arguments, but tells of one name whether a queue has it;
 * the partitions of a group are made in order, so a search by halves finds the
 * last one. Nothing is made.
 */
import { HeadraceError } from '../../contracts/errors.ts'
import { checkQueueName, partitionsLimit } from '../../contracts/queue.ts'
import { stateOf } from './browse.ts'
import { withChannel } from './calls.ts'
import type { RabbitConnection } from './connection.ts'
import type { KnownOptions } from './options.ts'
import { partitionName } from './topology.ts'

/** Throws 'topic-unknown' when one of the groups is not there. */
export async function findPartitions(
  connection: RabbitConnection,
  options: KnownOptions,
  topic: string,
  groups: readonly string[],
): Promise<number> {
  let partitions = 0
  for (const group of groups) {
    checkQueueName('group', group)
    const found = await countPartitions((partition) => exists(connection, options, partitionName(topic, group, partition)))
    if (found === 0)
      throw new HeadraceError(
        'topic-unknown',
        `RabbitMQ at ${options.target.address} has no topic '${topic}' with the group '${group}': there is no queue '${partitionName(topic, group, 0)}'.`,
        { details: { topic, group } },
      )
    partitions = Math.max(partitions, found)
  }
  return partitions
}

/** The first number that is not there: doubling finds a bound, halving the number. */
async function countPartitions(isThere: (partition: number) => Promise<boolean>): Promise<number> {
  let there = 0
  let missing = 1
  while (missing <= partitionsLimit && (await isThere(missing - 1))) {
    there = missing
    missing *= 2
  }
  missing = Math.min(missing, partitionsLimit + 1)
  while (missing - there > 1) {
    const middle = Math.floor((there + missing) / 2)
    if (await isThere(middle - 1)) there = middle
    else missing = middle
  }
  return there
}

/** The broker closes the channel of a look at nothing, so each look has its own. */
async function exists(connection: RabbitConnection, options: KnownOptions, queue: string): Promise<boolean> {
  try {
    await withChannel(connection, options, (channel) => stateOf(channel, options, queue))
    return true
  } catch (error) {
    if (HeadraceError.is(error) && error.code === 'topic-unknown') return false
    throw error
  }
}
