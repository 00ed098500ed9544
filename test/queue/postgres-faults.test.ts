/** The server of a queue on PostgreSQL is stopped, killed and cut off in the middle of publishing and acknowledging. */
import { randomBytes } from 'node:crypto'
import pg from 'pg'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { postgresQueue } from '../../src/drivers/postgres/queue.ts'
import { HeadraceError } from '../../src/contracts/errors.ts'
import { createQueue, type Queue } from '../../src/queue/index.ts'
import { createRandom } from '../../src/std/random.ts'
import { type Server, serverMissing, startPostgres } from '../../src/testing/servers/index.ts'
import { TcpProxy } from '../../src/testing/tcp-proxy.ts'
import { because, fill, smallDisk, whyNoSmallDisk } from '../crash/disk.ts'

const missing = serverMissing('postgres')
const noDisk = whyNoSmallDisk()
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

  it('loses and reorders nothing when the server stands still for longer than leases and timeouts, and then goes on', () =>
    survives(async (reached) => {
      await reached(60)
      server.pause()
      try {
        await new Promise((resolve) => setTimeout(resolve, 2_500))
      } finally {
        server.resume()
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

describe.skipIf(missing !== null || noDisk !== null)(`a full disk under a queue on PostgreSQL${because(missing ?? noDisk)}`, () => {
  it('refuses what the server cannot keep, loses nothing of what it took, and goes on by itself once there is space', async ({
    onTestFinished,
  }) => {
    const folder = smallDisk(256 * 1024 ** 2, onTestFinished)
    const usual = process.env['TMPDIR']
    process.env['TMPDIR'] = folder
    const server = await startPostgres({ args: ['-c', 'max_wal_size=64MB', '-c', 'min_wal_size=64MB', '-c', 'wal_recycle=on'] }).finally(
      () => {
        if (usual === undefined) delete process.env['TMPDIR']
        else process.env['TMPDIR'] = usual
      },
    )
    onTestFinished(() => server.stop())
    // Room in the file of its log: a server that cannot write that stops, and is not ours to start.
    const admin = new pg.Client(server.url)
    await admin.connect()
    await admin.query('select pg_switch_wal()')
    await admin.end()
    const queue = createQueue({ engine: postgresQueue({ url: server.url }), publishTimeoutMs: 500, onError: () => {} })
    onTestFinished(() => queue.close())
    const topic = await queue.declare('orders', { partitions: 2 })
    const kept: string[] = []
    const refused: string[] = []
    let next = 0
    const publish = async (): Promise<void> => {
      const id = `m-${next++}`
      try {
        // Random: PostgreSQL would press anything else together.
        await queue.producer.publish('orders', randomBytes(30_000).toString('base64'), { id, key: `k${next % 4}` })
        kept.push(id)
      } catch (error) {
        if (!HeadraceError.is(error)) throw error
        refused.push(error.code)
      }
    }
    for (let count = 0; count < 20; count++) await publish()
    expect(kept.length).toBe(20)
    const free = fill(folder, 0)
    while (refused.length < 3) await publish()
    free()
    await expect
      .poll(
        async () => {
          const before = kept.length
          await publish()
          return kept.length - before
        },
        { timeout: 30_000 },
      )
      .toBe(1)
    const handled = new Set<string>()
    const consumption = await queue.consumer.run('orders', ({ id }) => void handled.add(id))
    await expect.poll(() => kept.filter((id) => !handled.has(id)), { timeout: 20_000 }).toEqual([])
    await expect.poll(async () => (await topic.counts()).reduce((sum, { depth }) => sum + depth, 0), { timeout: 20_000 }).toBe(0)
    await consumption.close()
  })
})
