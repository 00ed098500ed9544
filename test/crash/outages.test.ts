/**
 * Databases on servers that die, stop, hang, or throw everybody out while the
 * node works: the node goes on by itself, nothing is lost, doubled or half
 * written, and whatever was in doubt has ended within seconds after they are back.
 *
 *   HEADRACE_CRASH_SEED=n   tells one random story again
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { pause } from '../../src/std/backoff.ts'
import { createRandom, type Random } from '../../src/std/random.ts'
import type { Load, LoadShape } from './load.ts'
import { AppProcess, type Submission } from './process.ts'
import {
  type DatabaseSet,
  type Engine,
  newPlaces,
  preparedIn,
  readServer,
  type Servers,
  serversMissing,
  startServers,
  stopServers,
} from './servers.ts'
import { type Life, mustHold, tell } from './story.ts'
import { type Places, temporaryFolder } from './world.ts'

const sets = {
  'stock and orders in PostgreSQL, wallet in MariaDB': { of: { stock: 'postgres', orders: 'postgres', wallet: 'mariadb' }, shared: true },
  'one in PostgreSQL, one a file, one in MariaDB': { of: { stock: 'postgres', wallet: 'mariadb' } },
  'one a file, two in MariaDB': { of: { orders: 'mariadb', stock: 'mariadb' } },
} as const satisfies Record<string, DatabaseSet>

/** How long everything in doubt may take to end once the databases are back, in milliseconds. */
const resolvedMsMax = 5_000
const lookMs = 20
/** The longest moment between what starts a blow and its fall, in milliseconds: it may meet any part of a batch. */
const afterMsMax = 20

/** What befalls a server; it answers again when this resolves. */
const troubles = {
  'killed with SIGKILL': async (server, _url, random) => {
    await server.kill('SIGKILL')
    await pause(random.int(800))
    await server.restart()
  },
  'stopped and started again': async (server, _url, random, engine) => {
    await server.kill(engine === 'postgres' ? 'SIGINT' : 'SIGTERM')
    await pause(random.int(800))
    await server.restart()
  },
  'stopped in its tracks for a while': async (server, _url, random) => {
    server.pause()
    await pause(random.between(1_000, 3_000))
    server.resume()
  },
  'told to end every connection': async (_server, url, _random, engine) => {
    if (engine === 'postgres') {
      await readServer(
        url,
        'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
      )
      return
    }
    const connections = await readServer<{ id: number }>(
      url,
      'select id from information_schema.processlist where db = database() and id <> connection_id()',
    )
    // One that has gone by itself meanwhile cannot be ended.
    for (const { id } of connections) await readServer(url, `kill connection ${id}`).catch(() => undefined)
  },
} as const satisfies Record<string, (server: Servers[Engine], url: string, random: Random, engine: Engine) => Promise<void>>

type TroubleName = keyof typeof troubles
const troubleNames = Object.keys(troubles) as TroubleName[]

interface Blow {
  /** So many more commands are acknowledged before it falls: it meets the node at work. */
  readonly after: number
  readonly engine: Engine
  readonly trouble: TroubleName
}

/** Tries that outlast every trouble: nothing is refused, and nothing may be lost. */
const patient = { HEADRACE_BATCH_RETRIES_MAX: 100, HEADRACE_RETRY_MAX_MS: 200, HEADRACE_BATCH_COMMANDS_MAX: 4 }
const long: LoadShape = { senders: 8, commandsPerSender: 40, enqueued: 0.3, poisoned: 0 }

describe.skipIf(serversMissing !== null)(`a database on a server${serversMissing === null ? '' : ` (${serversMissing})`}`, () => {
  let servers: Servers
  beforeAll(async () => {
    servers = await startServers()
  })
  afterAll(() => stopServers(servers))
  // A story that failed may have left one down.
  afterEach(async () => {
    for (const server of Object.values(servers)) await readServer(server.url, 'select 1').catch(() => server.restart({ hard: true }))
  })

  /** Deals the blows one after the other, and holds the node to going on after each. */
  const dealing =
    (places: Places, blows: readonly Blow[], random: Random): NonNullable<Life['trouble']> =>
    async (process, load) => {
      for (const { after, engine, trouble } of blows) {
        const enough = Math.min(load.acknowledged + after, load.sent.length)
        const met = await process
          .until(() => load.acknowledged >= enough)
          .then(
            () => true,
            () => false,
          )
        // It was killed on the way: the one that follows is dealt the rest.
        if (!met) return
        await pause(random.int(afterMsMax))
        await troubles[trouble](servers[engine], urlOf(places, engine), random, engine)
        if (process.over === null) await goesOn(places, load, process, `${engine} was ${trouble}`)
      }
    }

  for (const trouble of troubleNames) {
    test(`${trouble}: nothing is lost, doubled or half written, and nothing stays in doubt`, async ({ onTestFinished }) => {
      const seed = troubleNames.indexOf(trouble) + 1
      const places = await newPlaces(servers, sets['stock and orders in PostgreSQL, wallet in MariaDB'])
      const blows: Blow[] = [
        { after: 20, engine: 'postgres', trouble },
        { after: 60, engine: 'mariadb', trouble },
      ]
      const lives = [{ trouble: dealing(places, blows, createRandom(seed)) }]
      mustHold(await tell({ dataDir: temporaryFolder(onTestFinished), places, seed, shape: long, limits: patient, lives }))
    })
  }

  test('that is away for long: callers are refused, with nothing kept, and served again when it is back', async ({ onTestFinished }) => {
    const places = await newPlaces(servers, sets['stock and orders in PostgreSQL, wallet in MariaDB'])
    const trouble: Life['trouble'] = async (process, load) => {
      await process.until(() => load.acknowledged >= 20)
      await servers.mariadb.kill('SIGKILL')
      try {
        await process.until(() => load.refused >= 10)
      } finally {
        await servers.mariadb.restart()
      }
      await goesOn(places, load, process, 'mariadb was away for long')
    }
    const told = await tell({
      dataDir: temporaryFolder(onTestFinished),
      places,
      seed: 1,
      // Those that are on disk wait there, however long it takes.
      shape: { ...long, enqueued: 0 },
      limits: { HEADRACE_BATCH_COMMANDS_MAX: 4 },
      refusals: { later: 'engine-unavailable' },
      lives: [{ trouble }],
    })
    mustHold(told)
    expect(told.load.refused).toBeGreaterThanOrEqual(10)
  })

  describe('at the start', () => {
    const buy = (id: string): Submission => ({
      command: 'order.buy',
      id,
      input: { sku: 'sku0', buyer: 'buyer0', units: 1, sender: id, number: 0 },
    })
    const limits = { HEADRACE_DATABASE_WAIT_MS: 700 }

    test('that is away is waited for, and the node begins when it is back', async ({ onTestFinished }) => {
      const places = await newPlaces(servers, sets['one in PostgreSQL, one a file, one in MariaDB'])
      await servers.postgres.kill('SIGKILL')
      const node = new AppProcess({ dataDir: temporaryFolder(onTestFinished), places })
      onTestFinished(async () => void (await node.kill()))
      await pause(800)
      await servers.postgres.restart()
      expect(await node.started).toBe('ready')
      expect(await node.submit(buy('a'))).toHaveProperty('outcome')
      await node.stop()
    })

    for (const engine of ['postgres', 'mariadb'] as const) {
      test(`that stays away is named, within a bound, and its password is never said: ${engine}`, async ({ onTestFinished }) => {
        const places = await newPlaces(servers, sets['one in PostgreSQL, one a file, one in MariaDB'])
        const name = engine === 'postgres' ? 'stock' : 'wallet'
        const url = new URL(places[name] as string)
        url.password = 'hush-hush'
        await servers[engine].kill('SIGKILL')
        onTestFinished(() => servers[engine].restart())
        const node = new AppProcess({ dataDir: temporaryFolder(onTestFinished), places: { ...places, [name]: url.href }, limits })
        const startedAt = performance.now()
        const refusal = await node.started
        expect(refusal).toMatchObject({ refused: 'engine-unavailable', message: expect.stringContaining(`'${name}'`) })
        expect(performance.now() - startedAt).toBeLessThan(10_000)
        await node.ended
        expect(`${JSON.stringify(refusal)} ${node.stderr}`).not.toContain('hush-hush')
      })
    }

    test('that has no tables of Headrace is refused, and the command that makes them is named', async ({ onTestFinished }) => {
      const name = `bare_${process.pid}`
      for (const engine of ['postgres', 'mariadb'] as const) {
        const { url } = servers[engine]
        await readServer(url, `create database ${name}`)
        const places = { wallet: url.replace(/[^/]+$/, name) }
        const refusal = await AppProcess.refused({ dataDir: temporaryFolder(onTestFinished), places, limits })
        expect(refusal).toMatchObject({ refused: 'tables-missing', message: expect.stringContaining('headrace migrate') })
      }
    })

    test('that belongs to another data directory is refused', async ({ onTestFinished }) => {
      const places = await newPlaces(servers, sets['one in PostgreSQL, one a file, one in MariaDB'])
      const first = temporaryFolder(onTestFinished)
      await (await AppProcess.ready({ dataDir: first, places })).stop()
      const refusal = await AppProcess.refused({ dataDir: temporaryFolder(onTestFinished), places, limits })
      expect(refusal).toMatchObject({ refused: 'database-claimed', message: expect.stringContaining('--release') })
      await (await AppProcess.ready({ dataDir: first, places })).stop()
    })
  })

  const givenSeed = process.env['HEADRACE_CRASH_SEED']
  const firstSeed = givenSeed === undefined ? Date.now() % 1_000_000_000 : Number(givenSeed)
  for (const [nth, [title, set]] of Object.entries(sets).entries()) {
    const seed = firstSeed + (givenSeed === undefined ? nth : 0)
    test(`in trouble at random times: ${title}`, async ({ onTestFinished }) => {
      const again = `HEADRACE_CRASH_SEED=${seed} npx vitest run --project process test/crash/outages.test.ts -t '${title}'`
      console.info(`seed ${seed}; to tell this story again: ${again}`)
      const random = createRandom(seed)
      const places = await newPlaces(servers, set)
      const engines = [...new Set(Object.values(set.of))]
      const blows = Array.from(
        { length: 3 },
        (): Blow => ({ after: random.between(5, 50), engine: random.pick(engines), trouble: random.pick(troubleNames) }),
      )
      const told = blows.map(({ after, engine, trouble }) => `${engine} ${trouble} after ${after}`).join(', ')
      const life = { trouble: dealing(places, blows, random) }
      const shape = { ...long, poisoned: random.pick([0, 0.05]), enqueued: random.next() }
      const limits = { ...patient, HEADRACE_LANES: random.pick([1, 2, 4]), HEADRACE_STATEMENT_TIMEOUT_MS: random.pick([700, 5_000]) }
      try {
        const lives = random.chance(0.5) ? [life] : [{ ...life, killAtAcknowledged: random.between(20, 200) }, life]
        mustHold(await tell({ dataDir: temporaryFolder(onTestFinished), places, seed, shape, limits, lives }))
      } catch (error) {
        throw new Error(`${error instanceof Error ? error.message : String(error)}\n${told}\nTell the story again with: ${again}`, {
          cause: error,
        })
      }
    })
  }
})

function urlOf(places: Places, engine: Engine): string {
  const url = Object.values(places).find((each) => each.startsWith('postgres:') === (engine === 'postgres'))
  if (url === undefined) throw new Error(`None of the databases is in ${engine}`)
  return url
}

/** What is prepared now has ended within seconds, and so has somebody's command. Throws when not. */
async function goesOn(places: Places, load: Load, process: AppProcess, what: string): Promise<void> {
  const until = performance.now() + resolvedMsMax
  const before = load.acknowledged
  const prepared = async (): Promise<string[]> => {
    const lists = await Promise.all([...new Set(Object.values(places))].map(preparedHere))
    return [...new Set(lists.flat())]
  }
  let doubted = await prepared()
  while (process.over === null && (doubted.length > 0 || (load.acknowledged === before && before < load.sent.length))) {
    if (performance.now() > until)
      throw new Error(
        `8 in doubt ends by itself: ${resolvedMsMax} ms after ${what}, ${doubted.length === 0 ? 'no command was answered' : `${doubted.join(', ')} is still prepared`}`,
      )
    await pause(lookMs)
    const now = await prepared()
    doubted = doubted.filter((gid) => now.includes(gid))
  }
}

async function preparedHere(url: string): Promise<string[]> {
  const rows = await readServer<{ deployment: string | Buffer }>(url, 'select deployment from headrace_partition')
  const lists = await Promise.all(rows.map(({ deployment }) => preparedIn(url, String(deployment))))
  return lists.flat()
}
