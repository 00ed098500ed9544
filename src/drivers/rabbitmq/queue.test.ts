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
})
