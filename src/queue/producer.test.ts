import { describe, expect, it } from 'vitest'
import type { Appended, NewMessage, QueueTopic } from '../contracts/queue.ts'
import { deferred } from '../std/deferred.ts'
import { checkQueueLimits } from './options.ts'
import { type Published, TopicProducer } from './producer.ts'

/** A topic that answers when it is told to. */
function slowTopic(): { readonly topic: QueueTopic; readonly sent: string[]; answer(): void } {
  const sent: string[] = []
  let waiting = deferred<void>()
  return {
    topic: {
      name: 'orders',
      partitions: 1,
      async append(messages: readonly NewMessage[]): Promise<Appended[]> {
        sent.push(...messages.map(({ id }) => id))
        await waiting.promise
        return messages.map(() => ({ state: 'kept', position: null }))
      },
    } as unknown as QueueTopic,
    sent,
    answer() {
      const now = waiting
      waiting = deferred<void>()
      now.resolve()
    },
  }
}

const message = (id: string): NewMessage => ({ partition: 0, key: '', id, headers: {}, body: '1', publishedAt: 0, availableAt: null })

describe('a producer that waits for room', () => {
  it('lets nobody overtake a publisher that waits, not even in the moment in which room comes', async () => {
    const { topic, sent, answer } = slowTopic()
    const producer = new TopicProducer(topic, checkQueueLimits({ inFlightMax: 1 }), 'wait')
    const late: Promise<Published>[] = []
    const first = producer.publish(message('a'))
    const second = producer.publish(message('b'))
    const third = first.then(() => {
      late.push(producer.publish(message('c')))
    })
    await expect.poll(() => sent.length).toBe(1)
    expect(producer.inFlight).toBe(1)
    answer()
    await third
    await expect.poll(() => sent.length).toBe(2)
    answer()
    await second
    await expect.poll(() => sent.length).toBe(3)
    answer()
    await Promise.all(late)
    expect(sent).toEqual(['a', 'b', 'c'])
    expect(producer.inFlight).toBe(0)
  })

  it('counts a message that its caller gave up once, and has room again', async () => {
    const { topic, sent, answer } = slowTopic()
    const producer = new TopicProducer(topic, checkQueueLimits({ inFlightMax: 1 }), 'refuse')
    const stop = new AbortController()
    const given = producer.publish(message('a'), stop.signal)
    await expect.poll(() => sent.length).toBe(1)
    stop.abort(new Error('given up'))
    await expect(given).rejects.toThrow('given up')
    expect(producer.inFlight).toBe(0)
    const next = producer.publish(message('b'))
    answer()
    await expect.poll(() => sent.length).toBe(2)
    answer()
    expect(await next).toEqual({ id: 'b', duplicate: false })
    expect(producer.inFlight).toBe(0)
  })
})
