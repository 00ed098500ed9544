/** The promises of every queue engine, on a real RabbitMQ. */
import { afterAll, beforeAll, describe, it } from 'vitest'
import { queueConformance } from '../../testing/queue-conformance.ts'
import { type RabbitmqServer, serverMissing, startRabbitmq } from '../../testing/servers/index.ts'
import { TcpProxy } from '../../testing/tcp-proxy.ts'
import type { QueueEngine } from '../../contracts/queue.ts'
import { rabbitmqQueue, rabbitmqQueueCapabilities } from './index.ts'

const missing = serverMissing('rabbitmq')
const startMs = 100_000

describe.skipIf(missing !== null)(`RabbitMQ${missing === null ? '' : ` (${missing})`}`, () => {
  let server: RabbitmqServer
  const proxies = new Map<QueueEngine, TcpProxy>()

  beforeAll(async () => {
    server = await startRabbitmq()
  }, startMs)
  afterAll(async () => {
    await Promise.all([...proxies.values()].map((proxy) => proxy.close()))
    await server.stop()
  }, startMs)

  queueConformance({ describe, it }, 'RabbitMQ', {
    capabilities: rabbitmqQueueCapabilities,
    async open() {
      const proxy = await TcpProxy.to(server.port)
      const engine = rabbitmqQueue({ url: server.url.replace(String(server.port), String(proxy.port)) })
      proxies.set(engine, proxy)
      return engine
    },
    async crash(engine) {
      proxies.get(engine)?.cut()
    },
  })

  it('has no more messages unconfirmed than its window, and finds a window within its bounds', async ({ expect }) => {
    const confirmWindowMax = 64
    const engine = rabbitmqQueue({ url: server.url, confirmWindowMax })
    try {
      const topic = await engine.declare({ name: 'window', partitions: 4, groups: ['g'], messagesMax: 100_000 })
      const sizes = new Set<number>()
      let most = 0
      const look = (): void => {
        const { unconfirmed, confirmWindow } = engine.status()
        most = Math.max(most, unconfirmed)
        sizes.add(confirmWindow)
      }
      for (let call = 0; call < 10; call++) {
        const appended = topic.append(
          Array.from({ length: 1_000 }, (_, index) => ({
            partition: index % 4,
            key: '',
            id: `w-${call}-${index}`,
            headers: {},
            body: '{}',
            publishedAt: 1,
            availableAt: null,
          })),
        )
        let over = false
        void appended.then(() => {
          over = true
        })
        while (!over) {
          look()
          await new Promise((resolve) => setImmediate(resolve))
        }
        expect((await appended).every(({ state }) => state === 'kept')).toBe(true)
      }
      expect(most).toBe(confirmWindowMax)
      for (const size of sizes) expect(size >= 32 && size <= confirmWindowMax).toBe(true)
    } finally {
      await engine.close()
    }
  })
})
