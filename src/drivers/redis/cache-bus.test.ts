import { Redis } from 'ioredis'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import type { BusMessage, CacheBus } from '../../contracts/cache.ts'
import { type Server, serverMissing, startRedis } from '../../testing/servers/index.ts'
import { TcpProxy } from '../../testing/tcp-proxy.ts'
import { redisCacheBus } from './cache-bus.ts'

const missing = serverMissing('redis')
const trustMs = 600

/** One node: its bus, and what it was told. */
interface Node {
  readonly bus: CacheBus
  readonly names: string[]
  readonly events: string[]
  readonly trusts: () => boolean
}

const message = (...names: string[]): BusMessage[] => [
  { namespace: 'main', changes: names.map((name) => ({ kind: 'key', name, version: 1 })) },
]

describe.skipIf(missing !== null)(`the cache bus on Redis${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let proxy: TcpProxy
  let admin: Redis
  let prefix = 0
  const open: CacheBus[] = []
  beforeAll(async () => {
    server = await startRedis()
    proxy = await TcpProxy.to(server.port)
    admin = new Redis(server.url)
  })
  afterEach(async () => {
    proxy.heal()
    for (const bus of open.splice(0)) await bus.close()
    prefix++
  })
  afterAll(async () => {
    admin.disconnect()
    await proxy.close()
    await server.stop()
  })

  async function node(through?: TcpProxy, trust = trustMs): Promise<Node> {
    const bus = redisCacheBus({
      url: `redis://127.0.0.1:${through?.port ?? server.port}`,
      prefix: `bus${prefix}:`,
      trustMs: trust,
      timeoutMs: Math.floor(trust / 3),
    })
    open.push(bus)
    const names: string[] = []
    const events: string[] = []
    await bus.join({
      apply: ({ changes }) => names.push(...changes.map(({ name }) => name)),
      lost: () => events.push('lost'),
      regained: (missed) => events.push(missed ? 'regained, missed' : 'regained'),
    })
    return { bus, names, events, trusts: () => performance.now() < bus.trustedUntil() }
  }

  it('lets a publisher go on only when every other node has applied the message', async () => {
    const open = () => node(undefined, 10_000)
    const [writer, ...readers] = [await open(), await open(), await open(), await open()]
    for (let round = 0; round < 200; round++) {
      await writer.bus.publish(message(`k${round}`))
      for (const reader of readers) expect(reader.names.at(-1)).toBe(`k${round}`)
    }
    expect(writer.names).toEqual([])
    expect(readers.every(({ trusts }) => trusts())).toBe(true)
  })

  it('brings many messages of many publishers in one order to all', async () => {
    // Long enough that a busy machine does not end it.
    const open = () => node(undefined, 10_000)
    const nodes = [await open(), await open(), await open()]
    const watcher = await open()
    const second = await open()
    await Promise.all(nodes.flatMap(({ bus }, from) => Array.from({ length: 100 }, (_, i) => bus.publish(message(`${from}-${i}`)))))
    expect(watcher.names).toHaveLength(300)
    expect(second.names).toEqual(watcher.names)
    expect(watcher.events).toEqual(['regained, missed'])
  })

  it('does not wait when no other node is there', async () => {
    const { bus } = await node()
    const began = performance.now()
    for (let i = 0; i < 20; i++) await bus.publish(message('a'))
    expect(performance.now() - began).toBeLessThan(trustMs)
  })

  it('waits for a node that cannot be reached until its trust is over, and no longer', async () => {
    const writer = await node()
    const cut = await node(proxy)
    expect(cut.trusts()).toBe(true)
    proxy.hold()
    const began = performance.now()
    await writer.bus.publish(message('a'))
    const waited = performance.now() - began
    expect(cut.names).toEqual([])
    expect(cut.trusts()).toBe(false)
    expect(waited).toBeGreaterThan(trustMs / 4)
    expect(waited).toBeLessThan(trustMs + 600)
    const again = performance.now()
    await writer.bus.publish(message('b'))
    expect(performance.now() - again).toBeLessThan(trustMs / 2)
    proxy.heal()
    await vi.waitFor(() => expect(cut.trusts()).toBe(true), { timeout: 5_000 })
    expect(cut.events).toContain('lost')
  })

  it('gives back trust only after every message before it was applied', async () => {
    const writer = await node()
    const slow = await node(proxy)
    proxy.hold('down')
    await Promise.all(Array.from({ length: 50 }, (_, i) => writer.bus.publish(message(`k${i}`))))
    expect(slow.trusts()).toBe(false)
    proxy.heal()
    await vi.waitFor(() => expect(slow.trusts()).toBe(true), { timeout: 5_000, interval: 1 })
    expect(slow.names).toHaveLength(50)
  })

  it('starts empty after its connection was cut', async () => {
    const writer = await node()
    const cut = await node(proxy)
    proxy.cut()
    await vi.waitFor(() => expect(cut.events.at(-1)).toBe('lost'))
    expect(cut.trusts()).toBe(false)
    await writer.bus.publish(message('missed'))
    proxy.heal()
    await vi.waitFor(() => expect(cut.trusts()).toBe(true), { timeout: 5_000 })
    expect(cut.events).toEqual(['regained, missed', 'lost', 'regained, missed'])
    expect(cut.names).toEqual([])
    await writer.bus.publish(message('heard'))
    expect(cut.names).toEqual(['heard'])
  })

  it('starts empty when a message is missing, though the connection stands', async () => {
    const writer = await node()
    const reader = await node()
    // The server has numbered a message that never comes.
    await admin.hincrby(`bus${prefix}:{nodes}`, 's', 1)
    await writer.bus.publish(message('a'))
    expect(reader.events).toEqual(['regained, missed', 'regained, missed'])
    expect(reader.names).toEqual(['a'])
  })

  it('listens anew when the server counts messages that do not arrive', async () => {
    const reader = await node()
    await admin.hincrby(`bus${prefix}:{nodes}`, 's', 1)
    await vi.waitFor(() => expect(reader.events).toEqual(['regained, missed', 'lost', 'regained, missed']), { timeout: 5_000 })
    expect(reader.trusts()).toBe(true)
  })

  it('starts empty when Redis lost its data, and until then holds publishers to what it can know', async () => {
    const writer = await node()
    const reader = await node()
    await writer.bus.publish(message('a'))
    await admin.flushall()
    await writer.bus.publish(message('b'))
    expect(reader.names).toEqual(['a', 'b'])
    expect(reader.events).toEqual(['regained, missed', 'regained, missed'])
    await vi.waitFor(async () => expect(await admin.hlen(`bus${prefix}:{nodes}`)).toBe(5), { timeout: 5_000 })
  })

  it('waits for nodes that Redis no longer knows as long as they may trust', async () => {
    const writer = await node()
    const cut = await node(proxy)
    proxy.hold()
    await admin.flushall()
    await writer.bus.publish(message('a'))
    expect(cut.trusts()).toBe(false)
  })

  it('answers in time when Redis is stopped, and is back by itself', async () => {
    const writer = await node()
    const reader = await node()
    server.pause()
    const began = performance.now()
    await expect(writer.bus.publish(message('a'))).rejects.toMatchObject({ code: 'engine-timeout' })
    expect(performance.now() - began).toBeLessThan(1_000)
    await vi.waitFor(() => expect(reader.trusts()).toBe(false), { timeout: 2 * trustMs })
    server.resume()
    await vi.waitFor(() => expect([reader.trusts(), writer.trusts()]).toEqual([true, true]), { timeout: 5_000 })
    await writer.bus.publish(message('b'))
    expect(reader.names.at(-1)).toBe('b')
  })

  it('is back after Redis was killed and started again', async () => {
    const nodes = [await node(), await node()]
    await server.restart({ hard: true })
    await vi.waitFor(() => expect(nodes.every(({ trusts }) => trusts())).toBe(true), { timeout: 8_000 })
    for (const { events } of nodes) expect(events).toEqual(['regained, missed', 'lost', 'regained, missed'])
    await nodes[0]?.bus.publish(message('after'))
    expect(nodes[1]?.names).toEqual(['after'])
  })
})
