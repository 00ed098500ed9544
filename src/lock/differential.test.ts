/**
 * The same calls on every engine: each answers as the one in memory does, which
 * is small enough to be read. (Time plays no part here: leases are long.)
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type LockEngine, wholeLimit } from '../contracts/lock.ts'
import { MemoryLockStore, memoryLocks } from '../drivers/memory/lock.ts'
import { postgresLocks } from '../drivers/postgres/lock.ts'
import { redisLocks } from '../drivers/redis/lock.ts'
import { sqliteLocks } from '../drivers/sqlite/lock.ts'
import { createRandom, type Random } from '../std/random.ts'
import { type Server, serverMissing, startPostgres, startRedis } from '../testing/servers/index.ts'

const missing = serverMissing('redis') ?? serverMissing('postgres')
const steps = 400
const clients = 3
const keys = ['a', 'b']

type Step =
  | {
      readonly do: 'acquire'
      readonly client: number
      readonly key: string
      readonly name: number
      readonly permits: number
      readonly limit: number
      readonly waitMs: number
    }
  | { readonly do: 'release' | 'extend'; readonly client: number; readonly key: string; readonly name: number }
  | { readonly do: 'break'; readonly client: number; readonly key: string }

/** Ids are named by number, so that the same step is the same on another engine. */
function script(random: Random): Step[] {
  const known: { client: number; key: string; name: number }[] = []
  return Array.from({ length: steps }, (_, name): Step => {
    const dice = random.next()
    if (known.length > 0 && dice < 0.45) {
      const recent = random.pick(known.slice(-12))
      return { do: dice < 0.35 ? 'release' : 'extend', ...recent }
    }
    if (dice > 0.98) return { do: 'break', client: random.int(clients), key: random.pick(keys) }
    const again = known.length > 0 && dice > 0.9
    const who = again ? random.pick(known.slice(-12)) : { client: random.int(clients), key: random.pick(keys), name }
    if (!again) known.push(who)
    const limit = random.chance(0.7) ? wholeLimit : 3
    const permits = limit === 3 ? random.between(1, 3) : random.chance(0.5) ? limit : 1
    return { do: 'acquire', ...who, permits, limit, waitMs: random.chance(0.8) ? 60_000 : 0 }
  })
}

/** What the engines say to a script, in words that do not depend on the engine. */
async function play(open: () => Promise<LockEngine>, prefix: string, what: readonly Step[]): Promise<string[]> {
  const engines = await Promise.all(Array.from({ length: clients }, open))
  const said: string[] = []
  const tokens = new Map<string, number>()
  const names = new Map<string, string>()
  const highest = new Map<string, number>()
  const pushes: string[] = []
  for (const engine of engines) {
    engine.listen({
      granted: (id, token) => {
        pushes.push(id)
        tokens.set(id, token)
      },
      broken: () => {},
      gap: () => {},
    })
  }
  for (const step of what) {
    const engine = engines[step.client] as LockEngine
    const key = `${prefix}${step.key}`
    const id = 'name' in step ? `${engine.client}/${step.name}` : ''
    if ('name' in step) names.set(id, `#${step.name}`)
    if (step.do === 'acquire') {
      const answer = await engine.acquire({
        key,
        id,
        permits: step.permits,
        limit: step.limit,
        ttlMs: 60_000,
        waitMs: step.waitMs,
        tokenFloor: 0,
      })
      said.push(`${step.do} ${names.get(id)} ${answer.state}${answer.state === 'limit-differs' ? ` ${answer.limit}` : ''}`)
      if (answer.state === 'granted') tokens.set(id, answer.token)
    } else if (step.do === 'break') {
      said.push(`break ${await engine.break(key)}`)
    } else {
      const end = step.do === 'release' ? await engine.release(key, id) : await engine.extend(key, id, tokens.get(id) ?? 1, 60_000)
      said.push(`${step.do} ${names.get(id)} ${end.held}`)
    }
    const listed = (await engine.list(1_000)).filter((lock) => lock.key.startsWith(prefix)).sort((a, b) => (a.key < b.key ? -1 : 1))
    for (const { key: name, limit, lastToken, waiting, holders } of listed) {
      for (const holder of holders) tokens.set(holder.id, holder.token)
      const inOrder = [...holders].sort((a, b) => a.token - b.token)
      said.push(
        `  ${name.slice(prefix.length)} limit ${limit} waiting ${waiting} held by ${inOrder.map((holder) => `${names.get(holder.id)}×${holder.permits}`).join(' ')}`,
      )
      expect(lastToken).toBeGreaterThanOrEqual(highest.get(name) ?? 0)
      highest.set(name, lastToken)
    }
  }
  expect(new Set(pushes).size, 'a push came twice').toBe(pushes.length)
  await Promise.all(engines.map((engine) => engine.close()))
  return said
}

describe.skipIf(missing !== null)(`every engine answers as the one in memory${missing === null ? '' : ` (${missing})`}`, () => {
  let redis: Server
  let postgres: Server
  const directory = mkdtempSync(join(tmpdir(), 'headrace-test-lock-'))
  beforeAll(async () => {
    ;[redis, postgres] = await Promise.all([startRedis(), startPostgres({ args: ['-c', 'synchronous_commit=off'] })])
  })
  afterAll(async () => {
    await Promise.all([redis.stop(), postgres.stop()])
    rmSync(directory, { recursive: true })
  })

  const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
  const engines: Record<string, () => Promise<LockEngine>> = {
    redis: async () => redisLocks({ url: redis.url }),
    postgres: async () => postgresLocks({ url: postgres.url }),
    sqlite: async () => sqliteLocks({ file: join(directory, 'locks.sqlite') }),
  }
  for (const [name, open] of Object.entries(engines)) {
    it(`${name}, in ${steps} random calls of ${clients} clients (HEADRACE_SEED=${seed})`, { timeout: 60_000 }, async () => {
      const what = script(createRandom(seed))
      const store = new MemoryLockStore()
      const wanted = await play(async () => memoryLocks({ store }), 'd:', what)
      expect(await play(open, 'd:', what)).toEqual(wanted)
      expect(new Set(wanted.map((line) => line.split(' ').at(-1)))).toContain('queued')
    })
  }
})
