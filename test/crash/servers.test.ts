/**
 * The stories of points.test.ts with databases on servers: the process is killed
 * at every point of a transaction, and the one that follows at every point of
 * recovery, over every kind of set of databases.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type TransactionCrashPointName, transactionCrashPointNames } from '../../src/std/crash-point.ts'
import type { LoadShape } from './load.ts'
import type { CrashPlace } from './process.ts'
import { type DatabaseSet, newPlaces, type Servers, serversMissing, startServers, stopServers } from './servers.ts'
import { mustHold, tell } from './story.ts'
import { databaseNames, temporaryFolder } from './world.ts'

const sets = {
  'stock and orders in PostgreSQL, wallet in MariaDB': { of: { stock: 'postgres', orders: 'postgres', wallet: 'mariadb' }, shared: true },
  'one in PostgreSQL, one a file, one in MariaDB': { of: { stock: 'postgres', wallet: 'mariadb' } },
  'one in PostgreSQL, two files': { of: { orders: 'postgres' } },
  'one in MariaDB, two files': { of: { stock: 'mariadb' } },
  'all in PostgreSQL': { of: { stock: 'postgres', orders: 'postgres', wallet: 'postgres' } },
  'all in MariaDB': { of: { stock: 'mariadb', orders: 'mariadb', wallet: 'mariadb' }, shared: true },
} as const satisfies Record<string, DatabaseSet>

type SetName = keyof typeof sets

interface Mode {
  readonly shape: LoadShape
  readonly limits: Readonly<Record<string, number>>
}

const modes = {
  /** Every caller waits for its outcome. */
  direct: { shape: { senders: 8, commandsPerSender: 8, enqueued: 0, poisoned: 0 }, limits: {} },
  /** Every command is on disk before it is acknowledged. */
  enqueued: { shape: { senders: 8, commandsPerSender: 8, enqueued: 1, poisoned: 0 }, limits: { HEADRACE_BATCH_COMMANDS_MAX: 8 } },
  /** Some commands fail: their keys wait, are skipped or blocked, and are redriven. */
  poisoned: { shape: { senders: 8, commandsPerSender: 6, enqueued: 0.5, poisoned: 0.12 }, limits: { HEADRACE_BATCH_COMMANDS_MAX: 4 } },
  /** One command a batch: the load lasts for several rounds of what is done now and then. */
  single: {
    shape: { senders: 8, commandsPerSender: 24, enqueued: 0, poisoned: 0 },
    limits: { HEADRACE_BATCH_COMMANDS_MAX: 1, HEADRACE_LANES: 2 },
  },
} as const satisfies Record<string, Mode>

type ModeName = keyof typeof modes
type Point = CrashPlace['name']

interface Case {
  readonly title: string
  readonly set: SetName
  readonly mode: ModeName
  /** Where each of the processes is killed; the last one is not. */
  readonly deaths: readonly CrashPlace[]
}

const ofTransactions = transactionCrashPointNames.filter((name) => name.startsWith('transaction.') && name !== 'transaction.before-forget')
const ofRecovery = transactionCrashPointNames.filter((name) => name.startsWith('recovery.'))
const ofCommit = ['commit.inside-journal', 'commit.after-journal', 'commit.between-files', 'acknowledge.before'] as const

/** What a death leaves for recovery to visit: prepared without a decision, or decided. */
const leaves: Partial<Record<Point, readonly TransactionCrashPointName[]>> = {
  'transaction.before-decision': ofRecovery,
  'transaction.after-decision': ['recovery.after-decide', 'recovery.between-branches'],
  'commit.inside-journal': ofRecovery,
  'commit.after-journal': ['recovery.after-decide', 'recovery.between-branches'],
}

const spread = ['direct', 'enqueued', 'poisoned'] as const

/** For each set each point: killed there at the first visit, the one that follows in its recovery, and the next at the third visit. */
const cases: readonly Case[] = (Object.keys(sets) as SetName[]).flatMap((set, index) => {
  const files = databaseNames.length - Object.keys(sets[set].of).length
  const points: readonly Point[] = [...ofTransactions, ...ofCommit.filter((name) => name !== 'commit.between-files' || files > 1)]
  return [
    ...points.map((name, at): Case => {
      const followers = leaves[name]?.map((each) => ({ name: each, visit: 1 })) ?? []
      const follower = followers[(index + at) % followers.length]
      const deaths = [{ name, visit: 1 }, ...(follower === undefined ? [] : [follower]), { name, visit: 3 }]
      return caseOf(set, spread[(index + at) % spread.length] as ModeName, deaths)
    }),
    caseOf(set, 'single', [
      { name: 'transaction.before-forget', visit: 1 },
      { name: 'transaction.before-forget', visit: index % 2 === 0 ? 3 : 1 },
    ]),
  ]
})

function caseOf(set: SetName, mode: ModeName, deaths: readonly CrashPlace[]): Case {
  return { title: `${set}: ${deaths.map(({ name, visit }) => `${name}:${visit}`).join(', ')} (${mode})`, set, mode, deaths }
}

const visited = new Set<Point>()

describe.skipIf(serversMissing !== null)(`databases on servers${serversMissing === null ? '' : ` (${serversMissing})`}`, () => {
  let servers: Servers
  beforeAll(async () => {
    servers = await startServers()
  })
  afterAll(() => stopServers(servers))

  describe.concurrent('a process killed at a crash point loses, doubles and halves nothing, and leaves nothing in doubt', () => {
    for (const { title, set, mode, deaths } of cases) {
      test(title, async ({ onTestFinished }) => {
        const places = await newPlaces(servers, sets[set])
        const lives = deaths.map((crashAt) => ({ crashAt }))
        mustHold(await tell({ dataDir: temporaryFolder(onTestFinished), places, seed: deaths.length, ...modes[mode], lives }))
        for (const { name } of deaths) visited.add(name)
      })
    }
  })

  test('every point of transactions and their recovery was visited', () => {
    expect([...visited].filter((name) => /^(transaction|recovery)\./.test(name)).sort()).toEqual([...transactionCrashPointNames].sort())
  })
})
