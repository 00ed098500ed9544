/** RabbitMQ that stops, dies, stands still and runs out of memory; connections that break; consumers that are killed. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'
import { listen } from '../../src/contracts/diagnostics.ts'
import { type RabbitmqServer, serverMissing, startRabbitmq } from '../../src/testing/servers/index.ts'
import {
  closeClients,
  declare,
  firsts,
  granted,
  group,
  home,
  newClient,
  newTopic,
  nextEpoch,
  numbered,
  partitions,
  published,
  refusal,
  takenUpTo,
  ttlMs,
  upTo,
} from './rabbitmq-fixture.ts'

const missing = serverMissing('rabbitmq')
/** How long the broker may take to write down a new queue, in milliseconds. */
const queuesKnownMs = 8_000
const now = { messagesMax: 1_000, bytesMax: 2 ** 30, waitMs: 0 }

describe.skipIf(missing !== null)(`RabbitMQ under faults${missing === null ? '' : ` (${missing})`}`, () => {
  let server: RabbitmqServer
  beforeAll(async () => {
    server = await startRabbitmq()
  })
  afterAll(() => server.stop())
  afterEach(closeClients)

  /** How many messages the broker has ready for the group. */
  async function depth(name: string): Promise<number> {
    const { engine } = await newClient(server)
    return (await (await declare(engine, name)).counts(group))[home]?.depth ?? 0
  }

  it('publishes again, in order, what was not confirmed when the connection was cut', async () => {
    const { engine, proxy } = await newClient(server)
    const name = newTopic()
    const topic = await declare(engine, name)
    await topic.append(numbered(0, 1))
    proxy.hold('down')
    const sending = [topic.append(numbered(1, 20)), topic.append(numbered(21, 20))]
    // The broker has them all, and its confirms do not arrive.
    await expect.poll(() => depth(name), { timeout: 10_000 }).toBe(41)
    proxy.heal()
    proxy.drop()
    await Promise.all(sending)
    expect(engine.status().republished).toBeGreaterThan(0)
    await topic.append(numbered(41, 5))
    const messages = await takenUpTo(await granted(topic), 46)
    expect(firsts(messages)).toEqual(upTo(46))
    // What the broker had already came a second time, under the same ids, in order too.
    const numbers = messages.map(({ body }) => Number(body))
    const repeated = numbers.filter((number, index) => numbers.indexOf(number) < index)
    expect(repeated.length).toBeGreaterThan(0)
    expect(repeated).toEqual([...repeated].sort((a, b) => a - b))
  })

  it('loses nothing when the connection is cut before the messages arrive', async () => {
    const { engine, proxy } = await newClient(server)
    const topic = await declare(engine, newTopic())
    await topic.append(numbered(0, 1))
    proxy.hold('up')
    const sending = topic.append(numbered(1, 30))
    await expect.poll(() => engine.status().unconfirmed).toBe(30)
    proxy.heal()
    proxy.drop()
    await sending
    expect(firsts(await takenUpTo(await granted(topic), 31))).toEqual(upTo(31))
  })

  it('gives everything again when the connection is cut before an acknowledgement arrives', async () => {
    const { engine, proxy } = await newClient(server)
    const topic = await declare(engine, newTopic())
    await topic.append(numbered(0, 10))
    const lease = await granted(topic)
    const taken = await takenUpTo(lease, 10)
    proxy.hold('up')
    const acknowledging = refusal(lease.acknowledge(taken[5]?.position ?? 0))
    proxy.heal()
    proxy.drop()
    const { code } = await acknowledging
    expect(['lease-lost', 'engine-unavailable']).toContain(code)
    expect(lease.lost.aborted).toBe(true)
    expect((await refusal(lease.take(now))).code).toBe('lease-lost')
    const next = await granted(topic)
    const again = await takenUpTo(next, 10)
    expect(firsts(again)).toEqual(upTo(10))
    expect(again[0]?.position).toBeGreaterThan(taken[9]?.position ?? 0)
  })

  it('begins after an acknowledgement whose answer was cut off', async () => {
    const { engine, proxy } = await newClient(server)
    const name = newTopic()
    const topic = await declare(engine, name)
    await topic.append(numbered(0, 10))
    const lease = await granted(topic)
    const taken = await takenUpTo(lease, 10)
    proxy.hold('down')
    const acknowledging = refusal(lease.acknowledge(taken[5]?.position ?? 0))
    // Another connection is behind ours at the broker: when it is answered, ours was heard.
    await depth(name)
    proxy.heal()
    proxy.drop()
    await acknowledging.catch(() => {})
    const again = await takenUpTo(await granted(topic), 4)
    expect(firsts(again)).toEqual([6, 7, 8, 9])
  })

  it('gives the rest of a batch, in order, when its consumer is killed in the middle', async () => {
    const { engine } = await newClient(server)
    const name = newTopic()
    const topic = await declare(engine, name)
    await topic.append(numbered(0, 20))
    const told = { url: server.url, name, partitions, group, partition: home, epoch: nextEpoch(), count: 10 }
    const script = fileURLToPath(new URL('rabbitmq-consumer.mjs', import.meta.url))
    const child = spawn(process.execPath, [script, JSON.stringify(told)], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [said] = (await once(child.stdout, 'data')) as [Buffer]
    const { taken, position } = JSON.parse(said.toString()) as { taken: number[]; position: number }
    expect(taken.slice(0, 10)).toEqual(upTo(10))
    child.kill('SIGKILL')
    await once(child, 'exit')
    const rest = await takenUpTo(await granted(topic), 17)
    expect(firsts(rest)).toEqual(upTo(20).slice(3))
    expect(rest[0]?.position).toBeGreaterThan(position)
  })

  it('gives a partition to a higher epoch at once while its holder lives, and refuses a lower one', async () => {
    const { engine } = await newClient(server)
    const name = newTopic()
    const topic = await declare(engine, name)
    await topic.append(numbered(0, 5))
    const low = nextEpoch()
    const old = await granted(topic)
    await takenUpTo(old, 5)
    const { engine: other } = await newClient(server)
    const there = await declare(other, name)
    expect(await there.lease({ group, partition: home, ttlMs, epoch: low })).toMatchObject({ state: 'held' })
    expect(old.lost.aborted).toBe(false)
    const next = await granted(there)
    expect(old.lost.aborted).toBe(true)
    expect((await refusal(old.acknowledge(Number.MAX_SAFE_INTEGER))).code).toBe('lease-lost')
    expect(firsts(await takenUpTo(next, 5))).toEqual(upTo(5))
    await next.release()
    // Over the end of every client: the broker keeps the epoch.
    const { engine: third } = await newClient(server)
    const again = await (await declare(third, name)).lease({ group, partition: home, ttlMs, epoch: low })
    expect(again).toEqual({ state: 'fenced', epoch: next.epoch })
  })

  it('holds at most the window in flight and the bound waiting, and refuses the rest at once', async () => {
    const { engine, proxy } = await newClient(server, { confirmWindow: 8, waitingMax: 50 })
    const topic = await declare(engine, newTopic())
    await topic.append(numbered(0, 1))
    proxy.hold('down')
    const first = topic.append(numbered(1, 30))
    const second = topic.append(numbered(31, 25))
    await expect.poll(() => engine.status()).toMatchObject({ unconfirmed: 8, waiting: 47 })
    expect((await refusal(topic.append(numbered(56, 4)))).code).toBe('overloaded')
    proxy.heal()
    await Promise.all([first, second])
    expect(firsts(await takenUpTo(await granted(topic), 56))).toEqual(upTo(56))
  })

  it('keeps its connection while the event loop is busy for less than the heartbeat, and gets over it when it is busy for longer', async () => {
    const busy = (ms: number): void => {
      for (const end = performance.now() + ms; performance.now() < end; );
    }
    const { engine } = await newClient(server)
    const topic = await declare(engine, newTopic())
    await topic.append(numbered(0, 5))
    busy(3_000)
    await topic.append(numbered(5, 5))
    expect(engine.status().reconnects).toBe(0)
    const { engine: hasty } = await newClient(server, { heartbeatSeconds: 1 })
    const there = await declare(hasty, topic.name)
    await there.append(numbered(10, 5))
    const sending = there.append(numbered(15, 5))
    busy(6_000)
    await sending
    await there.append(numbered(20, 5))
    expect(hasty.status().reconnects).toBeGreaterThan(0)
    expect(firsts(await takenUpTo(await granted(topic), 25))).toEqual(upTo(25))
  }, 60_000)

  it.for([
    { what: 'memory', raise: ['set_vm_memory_high_watermark', '0.0000001'], clear: ['set_vm_memory_high_watermark', 'absolute', '1GB'] },
    { what: 'disk', raise: ['set_disk_free_limit', '1000000GB'], clear: ['set_disk_free_limit', '50MB'] },
  ])(
    'shows a $what alarm, bounds publishing while it lasts, lets consumers go on, and then goes on by itself',
    async ({ what, raise, clear }) => {
      const { engine } = await newClient(server, { timeoutMs: 30_000 })
      const name = newTopic()
      const topic = await declare(engine, name)
      await topic.append(numbered(0, 10))
      const lease = await granted(topic)
      const taken = await takenUpTo(lease, 10)
      const notices: string[] = []
      const stop = listen('headrace:notice', ({ message }) => notices.push(message))
      await server.ctl(...raise)
      try {
        const sending = topic.append(numbered(10, 5))
        await expect.poll(() => engine.status().blocked, { timeout: 15_000 }).toContain(`low on ${what}`)
        expect(notices.join()).toContain(`takes no messages: low on ${what}`)
        const { engine: hasty } = await newClient(server, { timeoutMs: 1_000 })
        const there = await declare(hasty, name)
        const refused = await refusal(there.append(numbered(90, 1)))
        expect(refused.code).toBe('engine-timeout')
        await expect
          .poll(async () => (await refusal(there.append(numbered(91, 1)))).message, { timeout: 10_000 })
          .toContain(`low on ${what}`)
        // What frees room must go on.
        await lease.acknowledge(taken[9]?.position ?? 0)
        await server.ctl(...clear)
        await sending
        expect(engine.status()).toMatchObject({ blocked: null, unconfirmed: 0 })
        const rest = await takenUpTo(lease, 5)
        expect(firsts(rest).filter((number) => number < 90)).toEqual([10, 11, 12, 13, 14])
      } finally {
        stop()
        await server.ctl(...clear)
      }
    },
  )

  it('ends every call within its bound while the broker stands still, and goes on when it runs again', async () => {
    const { engine } = await newClient(server, { heartbeatSeconds: 1, timeoutMs: 6_000, connectTimeoutMs: 500 })
    const topic = await declare(engine, newTopic())
    await topic.append(numbered(0, 10))
    const lease = await granted(topic)
    const taken = await takenUpTo(lease, 10)
    server.pause()
    try {
      const start = performance.now()
      const sending = refusal(topic.append(numbered(10, 1)))
      const acknowledging = refusal(lease.acknowledge(taken[2]?.position ?? 0))
      expect(['engine-timeout', 'engine-unavailable']).toContain((await sending).code)
      expect(['lease-lost', 'engine-timeout', 'engine-unavailable']).toContain((await acknowledging).code)
      expect(performance.now() - start).toBeLessThan(12_000)
      // Longer than the heartbeats: the connection is given up.
      await expect.poll(() => lease.lost.aborted, { timeout: 10_000 }).toBe(true)
    } finally {
      server.resume()
    }
    await published(topic, 10, 10)
    // The broker may have read the acknowledgement when it woke up: then three are done.
    const again = firsts(await takenUpTo(await granted(topic), 17))
    expect([0, 3]).toContain(again[0])
    expect(again).toEqual(upTo(20).slice(again[0]))
  }, 90_000)

  for (const [how, hard] of [
    ['stopped gently', false],
    ['killed with SIGKILL', true],
  ] as const) {
    it(`keeps what was confirmed, in order, when the broker is ${how} under load`, async () => {
      const { engine } = await newClient(server, { timeoutMs: 5_000 })
      const topic = await declare(engine, newTopic())
      const lease = await granted(topic)
      let count = 0
      const load = async (): Promise<void> => {
        await published(topic, count, 10)
        count += 10
      }
      // RabbitMQ writes down some seconds later that a queue was made; a node killed before that has it without a leader.
      for (const start = performance.now(); performance.now() - start < queuesKnownMs; ) await load()
      const restarting = server.restart({ hard })
      for (const end = count + 200; count < end; ) await load()
      await restarting
      expect(lease.lost.aborted).toBe(true)
      const next = await granted(topic)
      const messages = await takenUpTo(next, count, true)
      expect(firsts(messages)).toEqual(upTo(count))
      expect(engine.status().reconnects).toBeGreaterThan(0)
      await next.release()
      expect(await (await granted(topic)).take({ ...now, waitMs: 300 })).toEqual([])
    }, 90_000)
  }
})
