/** What the tests of RabbitMQ share: clients through a proxy, numbered messages, and what became of them. */
import { expect } from 'vitest'
import type { NewMessage, QueueLease, QueueMessage, QueueTopic } from '../../src/contracts/queue.ts'
import { HeadraceError } from '../../src/contracts/errors.ts'
import { type RabbitmqQueueEngine, type RabbitmqQueueOptions, rabbitmqQueue } from '../../src/drivers/rabbitmq/index.ts'
import { partitionOf } from '../../src/queue/partition.ts'
import type { Server } from '../../src/testing/servers/index.ts'
import { TcpProxy } from '../../src/testing/tcp-proxy.ts'

export const group = 'g'
export const partitions = 2
export const home = partitionOf('k', partitions)
export const ttlMs = 60_000

let epochs = Date.now() * 1_000
export const nextEpoch = (): number => {
  epochs += 1
  return epochs
}

let topics = 0
export const newTopic = (): string => `t${process.pid}-${Date.now().toString(36)}-${topics++}`

export const numbered = (from: number, count: number, fields: Partial<NewMessage> = {}): NewMessage[] =>
  Array.from({ length: count }, (_, index) => ({
    key: 'k',
    partition: home,
    id: `m-${from + index}`,
    headers: {},
    body: String(from + index),
    publishedAt: Date.now(),
    availableAt: null,
    ...fields,
  }))

export interface Client {
  readonly engine: RabbitmqQueueEngine
  readonly proxy: TcpProxy
}

const open: Client[] = []

/** A client whose connections can be broken. */
export async function newClient(server: Server, options: RabbitmqQueueOptions = {}): Promise<Client> {
  const proxy = await TcpProxy.to(server.port)
  const client = { proxy, engine: rabbitmqQueue({ url: `amqp://guest:guest@127.0.0.1:${proxy.port}`, ...options }) }
  open.push(client)
  return client
}

export async function closeClients(): Promise<void> {
  for (const { engine, proxy } of open.splice(0)) {
    await engine.close()
    await proxy.close()
  }
}

export const declare = (engine: RabbitmqQueueEngine, name: string, messagesMax = 1_000_000): Promise<QueueTopic> =>
  engine.declare({ name, partitions, groups: [group], messagesMax })

/** Asks until the lease is granted. */
export async function granted(topic: QueueTopic, withinMs = 20_000): Promise<QueueLease> {
  const deadline = performance.now() + withinMs
  for (;;) {
    const answer = await topic.lease({ group, partition: home, ttlMs, epoch: nextEpoch() }).catch((error: unknown) => {
      if (!HeadraceError.is(error) || !error.retryable) throw error
      return error
    })
    if ('state' in answer && answer.state === 'granted') return answer.lease
    if (performance.now() > deadline)
      throw new Error(`no lease within ${withinMs} ms: ${answer instanceof HeadraceError ? answer.message : JSON.stringify(answer)}`)
  }
}

/** Takes until `count` numbered messages have come; `acknowledging` makes room for more than the prefetch. */
export async function takenUpTo(lease: QueueLease, count: number, acknowledging = false, withinMs = 20_000): Promise<QueueMessage[]> {
  const messages: QueueMessage[] = []
  const ids = new Set<string>()
  const deadline = performance.now() + withinMs
  while (ids.size < count) {
    const batch = await lease.take({ messagesMax: 1_000, bytesMax: 2 ** 30, waitMs: 1_000 })
    for (const message of batch) ids.add(message.id)
    messages.push(...batch)
    const last = batch.at(-1)
    if (acknowledging && last !== undefined) await lease.acknowledge(last.position)
    if (performance.now() > deadline) throw new Error(`${ids.size} of ${count} messages came within ${withinMs} ms`)
  }
  return messages
}

/** Each number once, in the order in which it came first. */
export const firsts = (messages: readonly QueueMessage[]): number[] => [...new Set(messages.map(({ body }) => Number(body)))]

export const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index)

/** Publishes in order, one call after the other, each until it is known to be kept. */
export async function published(topic: QueueTopic, from: number, count: number, each = 10): Promise<void> {
  for (let next = from; next < from + count; next += each) {
    const messages = numbered(next, Math.min(each, from + count - next))
    for (;;) {
      const answers = await topic.append(messages).catch((error: unknown) => {
        if (!HeadraceError.is(error) || !error.retryable) throw error
        return null
      })
      if (answers === null) continue
      expect(new Set(answers.map(({ state }) => state))).toEqual(new Set(['kept']))
      break
    }
  }
}

/** The code and message that a call was refused with. */
export async function refusal(work: Promise<unknown>): Promise<{ readonly code: string; readonly message: string }> {
  try {
    await work
  } catch (error) {
    if (HeadraceError.is(error)) return { code: error.code, message: error.message }
    throw error
  }
  throw new Error('it was not refused')
}
