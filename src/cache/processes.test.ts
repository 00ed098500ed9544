import { type ChildProcess, spawn } from 'node:child_process'
import { Redis } from 'ioredis'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Server, serverMissing, startRedis } from '../testing/servers/index.ts'

const missing = serverMissing('redis')
const trustMs = 800
const leaseMs = 600

/**
 * A process of its own with a cache. The truth is a number in Redis
 * (`truth:<key>`); a load counts itself (`loads:<key>`), reads the truth, waits,
 * and returns what it has read: with its version, or plain.
 */
const program = `
const { createJiti } = await import('jiti')
const jiti = createJiti(${JSON.stringify(import.meta.url)})
const { createCache, versioned } = await jiti.import('./index.ts')
const { redisCache } = await jiti.import('../drivers/redis/cache.ts')
const { redisCacheBus } = await jiti.import('../drivers/redis/cache-bus.ts')
const { Redis } = await import('ioredis')
const url = ${JSON.stringify('URL')}
const database = new Redis(url)
const cache = createCache({ store: redisCache({ url }), bus: redisCacheBus({ url, trustMs: ${trustMs} }), whenBusLost: 'bypass', leaseMs: ${leaseMs}, storeTimeoutMs: 2000 })
const load = (loadMs, plain) => async ({ key }) => {
  await database.incr('loads:' + key)
  const version = Number(await database.get('truth:' + key))
  process.send({ event: 'read ' + key })
  await new Promise((resolve) => setTimeout(resolve, loadMs))
  return plain ? version : versioned(version, version)
}
const verbs = {
  async get({ key, count = 1, loadMs = 0, plain = false }) {
    return [...new Set(await Promise.all(Array.from({ length: count }, () => cache.get(key, load(loadMs, plain)))))]
  },
  async write({ key, plain = false }) {
    const version = await database.incr('truth:' + key)
    await cache.invalidate(key, plain ? undefined : version)
    return version
  },
  nearby: ({ key }) => cache.getSync(key) ?? null,
}
process.on('message', async ({ id, verb, input }) => {
  try {
    process.send({ id, answer: await verbs[verb](input) })
  } catch (error) {
    process.send({ id, error: String(error) })
  }
})
process.on('disconnect', () => process.exit())
await cache.ready()
process.send({ event: 'ready' })
`

interface Message {
  readonly id?: number
  readonly answer?: unknown
  readonly error?: string
  readonly event?: string
}

/** The other end of the pipe. */
class Process {
  readonly #child: ChildProcess
  readonly #open = new Map<number, { resolve: (answer: unknown) => void; reject: (error: Error) => void }>()
  readonly #events: string[] = []
  readonly #listeners = new Set<() => void>()
  #ids = 0

  constructor(url: string) {
    this.#child = spawn(process.execPath, ['--input-type=module', '-e', program.replace('"URL"', JSON.stringify(url))], {
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#child.on('message', (message: Message) => this.#hear(message))
    this.#child.on('exit', (code, signal) => {
      for (const { reject } of this.#open.values()) reject(new Error(`the process ended with ${signal ?? code}`))
    })
  }

  ask<T>(verb: 'get' | 'write' | 'nearby', input: Readonly<Record<string, unknown>>): Promise<T> {
    const id = this.#ids++
    return new Promise<T>((resolve, reject) => {
      this.#open.set(id, { resolve: resolve as (answer: unknown) => void, reject })
      this.#child.send({ id, verb, input })
    })
  }

  async until(event: string): Promise<void> {
    while (!this.#events.includes(event)) await new Promise<void>((resolve) => this.#listeners.add(resolve))
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal)
  }

  #hear({ id, answer, error, event }: Message): void {
    if (event !== undefined) {
      this.#events.push(event)
      for (const wake of this.#listeners) wake()
      this.#listeners.clear()
    }
    if (id === undefined) return
    const open = this.#open.get(id)
    this.#open.delete(id)
    if (error === undefined) open?.resolve(answer)
    else open?.reject(new Error(error))
  }
}

describe.skipIf(missing !== null)(`a cache in processes of their own${missing === null ? '' : ` (${missing})`}`, () => {
  let server: Server
  let admin: Redis
  const processes: Process[] = []
  beforeAll(async () => {
    server = await startRedis()
    admin = new Redis(server.url)
    for (let i = 0; i < 4; i++) processes.push(new Process(server.url))
    await Promise.all(processes.map((one) => one.until('ready')))
  }, 60_000)
  afterAll(async () => {
    for (const one of processes) one.signal('SIGKILL')
    admin.disconnect()
    await server.stop()
  })
  const [first, second, third, fourth] = [0, 1, 2, 3].map((place) => () => processes[place] as Process) as [
    () => Process,
    () => Process,
    () => Process,
    () => Process,
  ]

  it('loads once when four processes ask 1,000 times each for a cold key', async () => {
    for (let round = 0; round < 5; round++) {
      const key = `cold-${round}`
      await admin.set(`truth:${key}`, 7)
      const answers = await Promise.all(processes.map((one) => one.ask('get', { key, count: 1_000, loadMs: 50 })))
      expect(answers).toEqual([[7], [7], [7], [7]])
      expect(await admin.get(`loads:${key}`)).toBe('1')
    }
  })

  it('is right after a write while another process loads: 200 of 200, with and without versions', async () => {
    for (let round = 0; round < 200; round++) {
      const key = `written-${round}`
      const plain = round % 2 === 0
      const before = first().ask<number[]>('get', { key, loadMs: 5, plain })
      await first().until(`read ${key}`)
      const version = await second().ask<number>('write', { key, plain })
      const answers = await Promise.all(processes.map((one) => one.ask<number[]>('get', { key, plain })))
      expect(answers).toEqual([[version], [version], [version], [version]])
      await before
      expect(await first().ask('nearby', { key })).toBe(version)
    }
  })

  it('does not wait for a process that was paused, and serves nothing old when that goes on', async () => {
    const key = 'paused'
    await third().ask('get', { key })
    expect(await third().ask('nearby', { key })).toBe(0)
    third().signal('SIGSTOP')
    const began = performance.now()
    const version = await first().ask('write', { key })
    expect(performance.now() - began).toBeLessThan(trustMs + 400)
    third().signal('SIGCONT')
    const nearby = await third().ask('nearby', { key })
    expect([null, version]).toContain(nearby)
    expect(await third().ask('get', { key })).toEqual([version])
  })

  it('takes over from a process that was killed while it loaded, within a lease', async () => {
    const key = 'killed'
    await admin.set(`truth:${key}`, 5)
    fourth()
      .ask('get', { key, loadMs: 60_000 })
      .catch(() => {})
    await fourth().until(`read ${key}`)
    const waiting = first().ask('get', { key, loadMs: 0 })
    fourth().signal('SIGKILL')
    const began = performance.now()
    expect(await waiting).toEqual([5])
    expect(performance.now() - began).toBeLessThan(leaseMs + 500)
    expect(await admin.get(`loads:${key}`)).toBe('2')
  })
})
