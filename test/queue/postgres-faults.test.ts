/** The server of a queue on PostgreSQL is stopped, killed and cut off in the middle of publishing and acknowledging. */
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { postgresQueue } from '../../src/drivers/postgres/queue.ts'
import { createQueue, type Queue } from '../../src/queue/index.ts'
import { createRandom } from '../../src/std/random.ts'
import { type Server, serverMissing, startPostgres } from '../../src/testing/servers/index.ts'
import { TcpProxy } from '../../src/testing/tcp-proxy.ts'

const missing = serverMissing('postgres')
const total = 400
const keys = 8

describe.skipIf(missing !== null)(`a queue on PostgreSQL${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let proxy: TcpProxy
  const open: Queue[] = []
  beforeEach(async () => {
    server = await startPostgres()
    proxy = await TcpProxy.to(server.port)
  })
  afterEach(async () => {
    await Promise.all(open.splice(0).map((queue) => queue.close()))
    await proxy.close()
    await server.stop()
  })

  const queueOf = (): Queue => {
    const url = server.url.replace(String(server.port), String(proxy.port))
    const queue = createQueue({
      engine: postgresQueue({ url, timeoutMs: 1_000 }),
      publishTimeoutMs: 60_000,
      retryMaxMs: 200,
      onError: () => {},
    })
    open.push(queue)
    return queue
  }

  /** Publishes and consumes while `harm` is done; all that was acknowledged must arrive, each key in order. */
  const survives = async (harm: (reached: (count: number) => Promise<void>) => Promise<void>): Promise<void> => {
    const [sender, receiver] = [queueOf(), queueOf()]
    await sender.declare('orders', { partitions: 3 })
    const first = new Map<string, number[]>()
    const ids = new Set<string>()
    const waiting: { readonly count: number; readonly resolve: () => void }[] = []
    await receiver.consumer.run<number>(
      'orders',
      ({ id, key, value }) => {
        // Delivered at least once: what is known already is recognised by its id.
        if (ids.has(id)) return
        ids.add(id)
        first.set(key, [...(first.get(key) ?? []), value])
        for (const each of waiting) if (ids.size >= each.count) each.resolve()
      },
      { leaseTtlMs: 1_000, leaseRetryMs: 50, retryBaseMs: 10, retryMaxMs: 200 },
    )
    const reached = (count: number): Promise<void> =>
      new Promise((resolve) => {
        waiting.push({ count, resolve })
        if (ids.size >= count) resolve()
      })
    const sending = (async () => {
      for (let value = 0; value < total / keys; value++)
        await Promise.all(
          Array.from({ length: keys }, (_, key) => sender.producer.publish('orders', value, { key: `k${key}`, id: `m-${key}-${value}` })),
        )
    })()
    await Promise.all([harm(reached), sending])
    await reached(total)
    for (let key = 0; key < keys; key++) expect(first.get(`k${key}`)).toEqual(Array.from({ length: total / keys }, (_, value) => value))
    await expect
      .poll(async () => (await (await sender.topic('orders')).counts()).reduce((sum, { depth }) => sum + depth, 0), { timeout: 20_000 })
      .toBe(0)
  }

  it('loses and reorders nothing when the server is stopped gently and killed with -9', () =>
    survives(async (reached) => {
      await reached(60)
      await server.restart()
      await reached(180)
      await server.restart({ hard: true })
    }))

  it('loses and reorders nothing when its connections are cut again and again', () =>
    survives(async (reached) => {
      const random = createRandom(Date.now() % 1_000)
      for (let count = 20; count < total - 40; count += random.between(20, 50)) {
        await reached(count)
        proxy.drop()
      }
    }))

  it('loses and reorders nothing when the server answers nothing for longer than its timeout', () =>
    survives(async (reached) => {
      await reached(60)
      // What was sent is done, and nobody hears of it.
      proxy.hold('down')
      await new Promise((resolve) => setTimeout(resolve, 1_300))
      proxy.drop()
      proxy.heal()
    }))
})
