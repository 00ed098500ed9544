/**
 * The stories over servers find the faults they are for: each is planted into a
 * copy of the build. Those that no story can see, since something else still
 * holds, are planted by name in src/pipeline/global-ledger.test.ts instead.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { planted, type Replacement } from './planted.ts'
import type { CrashPlace } from './process.ts'
import { newPlaces, type Servers, serversMissing, startServers, stopServers } from './servers.ts'
import { tell } from './story.ts'
import { temporaryFolder } from './world.ts'

interface Fault {
  readonly fault: string
  readonly replacements: readonly Replacement[]
  readonly crashAt: CrashPlace
  /** What the verdict must say. */
  readonly finding: RegExp
}

const faults: readonly Fault[] = [
  {
    fault: 'a branch is prepared without its marker',
    replacements: [
      {
        file: 'drivers/postgres/branch.js',
        from: "'prepared', [\n            markerPart(this.gid, this.participant),",
        to: "'prepared', [plain('savepoint unmarked'),",
      },
    ],
    crashAt: { name: 'transaction.between-commits', visit: 3 },
    finding: /^8 in doubt ends by itself: the journal still keeps the decision to commit/,
  },
  {
    fault: 'the journal commits without the decision',
    replacements: [
      {
        file: 'pipeline/global-ledger.js',
        from: 'participants.length === 0 ? record : {',
        to: 'participants.length >= 0 ? record : {',
      },
    ],
    crashAt: { name: 'transaction.after-decision', visit: 2 },
    finding: /^2 once, all or none: .* is committed, and has no effect in 'orders'/,
  },
  {
    fault: 'branches are committed before it is decided',
    replacements: [
      {
        file: 'transaction/global-transaction.js',
        from: 'const decided = await this.#decide(plan, decide);',
        to: 'const early = await this.#finish(plan); const decided = await this.#decide(plan, decide);',
      },
    ],
    crashAt: { name: 'transaction.before-decision', visit: 2 },
    finding: /^2 once, all or none: .* took effect (\d+ times|and has no outcome)/,
  },
  {
    fault: 'recovery takes what is not decided for committed',
    replacements: [
      {
        file: 'transaction/recovery.js',
        from: 'return log.decideAbort(gid, names);',
        to: "return { gid, verdict: 'commit', participants: names, decidedAt: 0 };",
      },
    ],
    crashAt: { name: 'transaction.before-decision', visit: 2 },
    finding: /^2 once, all or none: .* took effect (\d+ times|and has no outcome)/,
  },
  {
    fault: 'markers are never dropped',
    replacements: [
      {
        file: 'transaction/forgetter.js',
        from: 'participants.filter((name) => name !== home).map(',
        to: 'participants.filter(() => false).map(',
      },
    ],
    crashAt: { name: 'transaction.before-decision', visit: 2 },
    finding: /^8 in doubt ends by itself: .* keeps \d+ markers of the process that stopped gently/,
  },
  {
    fault: 'a start does not raise the epochs',
    replacements: [{ file: 'pipeline/take-over.js', from: 'patient(() => participant.raise(fences))', to: 'fences' }],
    crashAt: { name: 'acknowledge.before', visit: 1000 },
    finding: /^4 only the owner commits: /,
  },
]

const shape = { senders: 6, commandsPerSender: 6, enqueued: 0, poisoned: 0 }

describe.skipIf(serversMissing !== null)(`the verdict names the fault when${serversMissing === null ? '' : ` (${serversMissing})`}`, () => {
  let servers: Servers
  beforeAll(async () => {
    servers = await startServers()
  })
  afterAll(() => stopServers(servers))

  const told = async (dist: string, crashAt: CrashPlace, onTestFinished: (clean: () => void) => void): Promise<readonly string[]> => {
    const places = await newPlaces(servers, { of: { stock: 'postgres', orders: 'postgres', wallet: 'mariadb' }, shared: true })
    return (await tell({ dataDir: temporaryFolder(onTestFinished), places, dist, seed: 1, shape, lives: [{ crashAt, mayLive: true }] }))
      .broken
  }

  test.for(faults)('$fault', async ({ replacements, crashAt, finding }, { onTestFinished }) => {
    expect(await told(planted(replacements, onTestFinished), crashAt, onTestFinished)).toContainEqual(expect.stringMatching(finding))
  })

  test('nothing is planted, of nothing', async ({ onTestFinished }) => {
    expect(await told(planted([], onTestFinished), { name: 'transaction.after-decision', visit: 1 }, onTestFinished)).toEqual([])
  })
})
