/** The options of a queue: every bound, with its unit in its name, and the check of them. */
import { checkBounds, checkOrder, numberOption as number } from '../contracts/bounds.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { groupsLimit, leaseTtlMsMax, leaseTtlMsMin, messageBytesLimit } from '../contracts/queue.ts'

const hour = 3_600_000

export const queueLimitTable = Object.freeze({
  messageBytesMax: number(1024 ** 2, 64, messageBytesLimit, 'Bytes of one message, as JSON.'),
  inFlightMax: number(10_000, 1, 10_000_000, 'Messages that are on their way to the engine at once.'),
  inFlightBytesMax: number(64 * 1024 ** 2, 1_024, 2 ** 40, 'Bytes of messages that are on their way to the engine at once.'),
  publishersMax: number(10_000, 0, 10_000_000, 'Callers that wait until their message may go on its way; past it overloaded.'),
  appendMessagesMax: number(1_000, 1, 100_000, 'Messages in one call to the engine.'),
  appendBytesMax: number(4 * 1024 ** 2, 1_024, 2 ** 30, 'Bytes of messages in one call to the engine.'),
  appendLanes: number(2, 1, 64, 'Calls of one topic to the engine at once; each has partitions of its own, so that order holds.'),
  publishTimeoutMs: number(30_000, 1, 24 * hour, 'Longest time until a message is durable or refused.'),
  retryBaseMs: number(20, 1, 60_000, 'First pause before a call to the engine is repeated; doubles, with jitter.'),
  retryMaxMs: number(1_000, 1, hour, 'Longest pause before a call to the engine is repeated.'),
})

export const consumerLimitTable = Object.freeze({
  batch: number(1, 1, 10_000, 'Messages that one call of the handler gets at most (runBatch).'),
  concurrency: number(8, 1, 10_000, 'Calls of the handler at once, over all partitions.'),
  prefetchMax: number(2_000, 1, 1_000_000, 'Messages of a partition in memory that wait for the handler.'),
  prefetchBytesMax: number(16 * 1024 ** 2, 1_024, 2 ** 40, 'Bytes of one take from the engine.'),
  parkedMax: number(
    10_000,
    1,
    10_000_000,
    'Messages of a partition in memory that wait for the retry of their key; past it the partition waits.',
  ),
  unacknowledgedMax: number(100_000, 1, 10_000_000, 'Positions of a partition between the first that is not done and the newest.'),
  retries: number(5, 0, 1_000, 'How often a message that fails is tried again before it becomes a dead letter.'),
  retryBaseMs: number(100, 1, hour, 'First pause before a message is tried again; doubles, with jitter.'),
  retryMaxMs: number(30_000, 1, 24 * hour, 'Longest pause before a message is tried again.'),
  handlerTimeoutMs: number(30_000, 1, 24 * hour, 'Longest time of one call of the handler; then it counts as failed.'),
  leaseTtlMs: number(10_000, leaseTtlMsMin, leaseTtlMsMax, 'How long the partitions of a consumer that died stay taken.'),
  leaseRetryMs: number(1_000, 10, hour, 'Longest pause before a partition that somebody else has is asked for again.'),
  partitionsMax: number(1_024, 1, 1_024, 'Partitions that this consumer takes at most.'),
  drainTimeoutMs: number(10_000, 0, hour, 'Longest wait of close() for handlers that run.'),
})

export const topicLimitTable = Object.freeze({
  partitions: number(16, 1, 1_024, 'How many partitions keys are hashed to. Fixed when the topic is made.'),
  messagesMax: number(1_000_000, 1, 1_000_000_000, 'Messages that one partition holds; past it queue-full, or the publisher waits.'),
})

/** The group of consumers where none is named. */
export const standardGroup = 'default'

export type QueueLimits = { readonly [K in keyof typeof queueLimitTable]: number }
export type ConsumerLimits = { readonly [K in keyof typeof consumerLimitTable]: number }

export function checkQueueLimits(given: Partial<QueueLimits>): QueueLimits {
  const limits = checkBounds(queueLimitTable, given)
  checkOrder(limits, 'retryBaseMs', 'retryMaxMs')
  return limits
}

export function checkConsumerLimits(given: Partial<ConsumerLimits>): ConsumerLimits {
  const limits = checkBounds(consumerLimitTable, given)
  checkOrder(limits, 'retryBaseMs', 'retryMaxMs')
  return limits
}

export function checkGroups(name: string, groups: readonly string[]): void {
  if (groups.length >= 1 && groups.length <= groupsLimit) return
  throw new HeadraceError('topic-invalid', `The topic '${name}' needs 1 to ${groupsLimit} groups of consumers, not ${groups.length}.`)
}
