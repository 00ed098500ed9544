/** Message queues: `headrace/queue`. */
export type {
  DeadMessage,
  GroupCounts,
  MessageHeaders,
  PartitionCounts,
  QueueCapabilities,
  QueueEngine,
  QueueMessage,
} from '../contracts/queue.ts'
export type { Consumption, ConsumptionStats, PartitionLocks } from './consumption.ts'
export { createInbox, type Inbox, type InboxEngine, type InboxOptions, inboxSchema, type Transact } from './inbox.ts'
export type { Delivery, PublishOptions } from './message.ts'
export { predictQueue, type QueueModelInput, type QueuePrediction } from './model.ts'
export { addToOutbox, type OutboxMessage, type OutboxRelay, outboxSchema, type RelayOptions, startOutboxRelay } from './outbox.ts'
export { partitionOf } from './partition.ts'
export { Unprocessable } from './failure.ts'
export type { OnFull, Published } from './producer.ts'
export {
  type Consumer,
  createQueue,
  type DeclareOptions,
  type Producer,
  type Queue,
  type QueueOptions,
  type RunOptions,
  type TopicAdmin,
} from './queue.ts'
