/** `headrace/rabbitmq`: RabbitMQ as a message queue. */
export type { RabbitmqQueueOptions } from './options.ts'
export { type RabbitmqQueueEngine, type RabbitmqStatus, rabbitmqQueue, rabbitmqQueueCapabilities } from './queue.ts'
