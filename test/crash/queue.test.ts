/**
 * The stories of points.test.ts with a queue that commands go through: a file of
 * its own at every point, PostgreSQL and RabbitMQ at some. And the faults that
 * these stories are for, planted into a copy of the build.
 */
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type CrashPointName, type QueueCrashPointName, queueCrashPointNames } from '../../src/std/crash-point.ts'
import { type Server, serverMissing, startPostgres, startRabbitmq } from '../../src/testing/servers/index.ts'
import type { LoadShape } from './load.ts'
import { planted, type Replacement } from './planted.ts'
import type { CrashPlace } from './process.ts'
import { mustHold, tell } from './story.ts'
import { temporaryFolder } from './world.ts'

type Point = CrashPointName | QueueCrashPointName

const modes = {
  direct: { shape: { senders: 12, commandsPerSender: 8, enqueued: 0, poisoned: 0 }, limits: {} },
  enqueued: { shape: { senders: 12, commandsPerSender: 8, enqueued: 1, poisoned: 0 }, limits: { HEADRACE_BATCH_COMMANDS_MAX: 8 } },
  poisoned: {
    shape: { senders: 16, commandsPerSender: 6, enqueued: 0.7, poisoned: 0.12 },
    limits: { HEADRACE_WINDOW_COMMANDS_MAX: 16, HEADRACE_BATCH_COMMANDS_MAX: 4, HEADRACE_LANES: 2 },
  },
} as const satisfies Record<string, { readonly shape: LoadShape; readonly limits: Readonly<Record<string, number>> }>

type ModeName = keyof typeof modes

const points: readonly Point[] = [
  ...queueCrashPointNames,
  'apply.before-commit',
  'commit.inside-journal',
  'commit.after-journal',
  'commit.between-files',
  'acknowledge.before',
]
const modeNames = Object.keys(modes) as ModeName[]

/** A dead node leaves its partitions taken for this long. */
const brief = { HEADRACE_QUEUE_LEASE_TTL_MS: 500, HEADRACE_PARTITIONS: 4 }

const story = (mode: ModeName, deaths: readonly CrashPlace[]) => ({
  seed: deaths.length,
  shape: modes[mode].shape,
  limits: { ...brief, ...modes[mode].limits },
  lives: deaths.map((crashAt) => ({ crashAt })),
})

let stories = 0

describe.concurrent('a process killed at a crash point loses, doubles and halves nothing of what came through a queue', () => {
  test.for(points.flatMap((name, index) => modeNames.filter((_, at) => at !== index % modeNames.length).map((mode) => ({ name, mode }))))(
    'in a file, killed at $name, $mode',
    async ({ name, mode }, { onTestFinished }) => {
      const dataDir = temporaryFolder(onTestFinished)
      const deaths = [
        { name, visit: 1 },
        { name, visit: 3 },
      ]
      mustHold(await tell({ dataDir, queue: { url: join(dataDir, 'queue.sqlite'), app: 'crash' }, ...story(mode, deaths) }))
    },
  )

  for (const [kind, start] of Object.entries({ postgres: startPostgres, rabbitmq: startRabbitmq })) {
    const missing = serverMissing(kind as 'postgres' | 'rabbitmq')
    describe.skipIf(missing !== null)(`in ${kind}${missing === null ? '' : ` (${missing})`}`, () => {
      let server: Server
      beforeAll(async () => {
        server = await start()
      })
      afterAll(() => server.stop())

      test.for(['queue.delivered', 'queue.before-acknowledge', 'commit.after-journal'] as const)('%s', async (name, { onTestFinished }) => {
        stories += 1
        const deaths = [
          { name, visit: 1 },
          { name, visit: 2 },
        ]
        const queue = { url: server.url, app: `crash-${stories}` }
        mustHold(await tell({ dataDir: temporaryFolder(onTestFinished), queue, ...story('enqueued', deaths) }))
      })
    })
  }
})

const faults: readonly {
  readonly fault: string
  readonly replacements: readonly Replacement[]
  readonly crashAt: CrashPlace
  readonly finding: RegExp
}[] = [
  {
    fault: 'a message is acknowledged before its commit',
    replacements: [
      { file: 'pipeline/queue/feed.js', from: 'laneOf(partition).feed(ticket);', to: 'delivery.end(); laneOf(partition).feed(ticket);' },
    ],
    crashAt: { name: 'commit.inside-journal', visit: 6 },
    finding: /^1 acknowledged is durable: /,
  },
  {
    fault: 'ids that come again are not recognised',
    replacements: [
      {
        file: 'pipeline/apply.js',
        from: 'if (outcome !== undefined)\n            known.set(ticket, outcome);\n        else if (queued !== undefined)',
        to: 'if (queued !== undefined)',
      },
    ],
    crashAt: { name: 'queue.before-acknowledge', visit: 2 },
    finding: /^2 once, all or none: .* took effect \d+ times/,
  },
]

describe.concurrent('the verdict names the fault when', () => {
  test.for(faults)('$fault', async ({ replacements, crashAt, finding }, { onTestFinished }) => {
    const dataDir = temporaryFolder(onTestFinished)
    const dist = planted(replacements, onTestFinished)
    const queue = { url: join(dataDir, 'queue.sqlite'), app: 'crash' }
    const { broken } = await tell({ dataDir, dist, queue, ...story('enqueued', [crashAt]), lives: [{ crashAt, mayLive: true }] })
    expect(broken).toContainEqual(expect.stringMatching(finding))
  })
})
