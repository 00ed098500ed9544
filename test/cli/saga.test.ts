import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { mysql } from '../../src/drivers/mysql/index.ts'
import { postgres } from '../../src/drivers/postgres/index.ts'
import { sqliteSagaLog } from '../../src/drivers/sqlite/index.ts'
import { type Server, serverMissing, startMariadb, startPostgres } from '../../src/testing/servers/index.ts'
import {
  createOrchestrator,
  defineSaga,
  mysqlSagaSql,
  type Orchestrator,
  participantSagaLog,
  postgresSagaSql,
  type RunListing,
  type RunStory,
  type SagaLog,
  StepRefused,
} from '../../src/transaction/index.ts'
import { as, askPassword, onPostgres } from './databases.ts'
import { type Ended, headrace, onlyDocument, temporaryFolder } from './headrace.ts'

const missing = serverMissing('postgres') ?? serverMissing('mariadb')
const secret = 'geh3im'

/** A trip whose flight cannot be given back until it is repaired. */
function world() {
  const calls: string[] = []
  const state = { repaired: false }
  const saga = defineSaga('trip', {
    input: z.object({ person: z.string() }),
    steps: (steps) =>
      steps
        .step('flight', {
          do: ({ id }) => {
            calls.push(`do ${id}`)
            return { seat: '12A' }
          },
          undo: ({ id }) => {
            calls.push(`undo ${id}`)
            if (!state.repaired) throw new Error('the airline is down')
          },
          undoLimits: { retriesMax: 2, retryBaseMs: 1, retryMaxMs: 2 },
        })
        .step('hotel', {
          do: ({ input }) => {
            if (input.person !== 'lucky') throw new StepRefused('full', 'No room left.')
          },
          undo: () => undefined,
        }),
  })
  return { saga, calls, state }
}

describe.skipIf(missing !== null)(`headrace saga${missing === null ? '' : ` (${missing})`}`, () => {
  const folder = temporaryFolder()
  const file = join(folder.path, 'sagas.sqlite')
  const closers: (() => Promise<unknown>)[] = []
  let pg: Server
  let maria: Server

  beforeAll(async () => {
    ;[pg, maria] = await Promise.all([startPostgres(), startMariadb()])
  })
  afterAll(async () => {
    for (const close of closers.splice(0).reverse()) await close()
    await Promise.all([pg?.stop(), maria?.stop()])
    folder.drop()
  })

  const run = (args: readonly string[], url: string, environment = {}): Promise<Ended> =>
    headrace(['saga', ...args, '--url', url], { environment, cwd: folder.path })
  const all = async (url: string, ...args: readonly string[]): Promise<RunListing[]> => {
    const { stdout, stderr } = await run(['ls', '--json', ...args], url)
    expect(stderr).not.toMatch(/^error:/m)
    return stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as RunListing)
  }
  const participantLog = async (handle: ReturnType<typeof postgres> | ReturnType<typeof mysql>): Promise<SagaLog> => {
    const participant = await handle.connect()
    closers.push(() => participant.close())
    await participant.migrate()
    return participantSagaLog(participant)
  }

  const engines: Record<string, { url(): string; log(): Promise<SagaLog> }> = {
    'a SQLite file': { url: () => file, log: async () => sqliteSagaLog({ file }) },
    'PostgreSQL': { url: () => pg.url, log: () => participantLog(postgres('sagas', { url: pg.url, schema: postgresSagaSql })) },
    'MariaDB': { url: () => maria.url, log: () => participantLog(mysql('sagas', { url: maria.url, schema: mysqlSagaSql })) },
  }

  for (const [name, { url, log: open }] of Object.entries(engines)) {
    it(`lists and shows what is parked on ${name}, and lets the process that works on it go on`, async () => {
      const { saga, calls, state } = world()
      const log = await open()
      closers.push(() => log.close())
      const orchestrator: Orchestrator = createOrchestrator({ deployment: 'shop', log, runs: [saga], pollMs: 20 })
      closers.push(() => orchestrator.close())
      for (const id of ['trip-1', 'trip-2', 'trip-3'])
        expect(await (await orchestrator.start(saga, id, { person: 'ann' })).wait()).toMatchObject({ status: 'parked' })
      expect(await (await orchestrator.start(saga, 'trip-0', { person: 'lucky' })).wait()).toMatchObject({ status: 'completed' })

      const parked = await all(url())
      expect(parked).toMatchObject(
        ['trip-1', 'trip-2', 'trip-3'].map((id) => ({
          id,
          kind: 'saga',
          name: 'trip',
          status: 'parked',
          at: [{ branch: 'flight', operation: 'undo', attempts: 3 }],
          calls: 5,
          error: { code: 'saga-failed', message: 'the airline is down' },
        })),
      )
      const listed = await run(['ls'], url())
      expect(listed.code).toBe(1)
      expect(listed.stdout).toMatch(/trip-1 +trip +parked .* undo flight +3 +saga-failed {2}the airline is down/)
      expect(listed.stdout).toContain('3 runs: 3 parked')
      const page = await run(['ls', '--status', 'parked', '--limit', '2'], url())
      expect(page.stdout).toContain('go on with --after trip-2')
      expect((await all(url(), '--status', 'parked', '--after', 'trip-2')).map(({ id }) => id)).toEqual(['trip-3'])
      expect((await all(url(), '--status', 'completed')).map(({ id }) => id)).toEqual(['trip-0'])
      expect((await run(['ls', '--status', 'completed'], url())).code).toBe(0)
      expect(await all(url(), '--name', 'journey')).toEqual([])

      const shown = await run(['show', 'trip-1'], url())
      expect(shown.code).toBe(0)
      for (const words of [
        /status +parked/,
        /worked on by +nobody: it waits for redrive/,
        /error +saga-failed {2}undo of 'flight': the airline is down/,
        /"person": "ann"/,
        /1 {2}flight +do +1 {2}done +\{"seat":"12A"\}/,
        /3 {2}hotel +do +1 {2}refused +full {2}No room left\./,
        /back +decided: what was done is undone, for full/,
        /flight +undo +1–3 {2}failed/,
        /headrace saga redrive trip-1/,
      ])
        expect(shown.stdout).toMatch(words)

      // Not repaired yet: it is tried again, and parked again.
      const tooEarly = await run(['redrive', 'trip-1', '--wait', '30s', '--json'], url())
      expect(tooEarly.code).toBe(1)
      expect(onlyDocument(tooEarly)).toMatchObject({ id: 'trip-1', redriven: true, status: 'parked' })
      expect(calls.filter((each) => each === 'undo trip-1')).toHaveLength(6)

      state.repaired = true
      const redriven = await run(['redrive', 'trip-1', '--wait', '30s'], url())
      expect(redriven).toMatchObject({ code: 0, stdout: 'trip-1  undone: full  No room left.\n' })
      expect(calls.filter((each) => each === 'do trip-1')).toHaveLength(1)
      const story = onlyDocument<RunStory & Record<string, unknown>>(await run(['show', 'trip-1', '--json'], url()))
      expect(story).toMatchObject({ status: 'undone', at: [] })
      expect(story.records.filter(({ kind }) => kind === 'redriven')).toHaveLength(2)

      const unasked = await run(['redrive', '--all', '--json'], url())
      expect(unasked.code).toBe(2)
      expect(onlyDocument(unasked)).toMatchObject({ error: { code: 'confirmation-missing' } })
      expect(await all(url())).toHaveLength(2)
      const rest = await run(['redrive', '--all', '--yes', '--wait', '30s'], url())
      expect(rest).toMatchObject({ code: 0, stdout: 'trip-2  undone: full  No room left.\ntrip-3  undone: full  No room left.\n' })
      expect(await run(['ls'], url())).toMatchObject({ code: 0, stdout: 'No run is parked, or goes on.\n' })

      const again = await run(['redrive', 'trip-1', 'nobody', '--json'], url())
      expect(again.code).toBe(1)
      expect(again.stdout).toContain("The run 'trip-1' is undone, not parked.")
      expect(again.stdout).toContain('saga-unknown')
    })
  }

  it('leaves a redriven run to whoever comes, and says that nobody has taken it yet', async () => {
    const { saga, state } = world()
    const place = join(folder.path, 'alone.sqlite')
    const log = sqliteSagaLog({ file: place })
    closers.push(() => log.close())
    const first = createOrchestrator({ deployment: 'shop', log, runs: [saga] })
    await (await first.start(saga, 'trip-9', { person: 'ann' })).wait()
    await first.close()
    const waited = await run(['redrive', 'trip-9', '--wait', '300ms'], place)
    expect(waited.code).toBe(1)
    expect(waited.stdout).toContain('nobody has taken it yet')
    expect((await all(place)).map(({ id, status, owner }) => [id, status, owner])).toEqual([['trip-9', 'running', '']])
    state.repaired = true
    const next = createOrchestrator({ deployment: 'shop', log, runs: [saga], pollMs: 20 })
    closers.push(() => next.close())
    expect(await next.wait(saga, 'trip-9')).toMatchObject({ status: 'undone' })
  })

  it('makes nothing where there is no log, and says what is wrong with a place', async () => {
    const nothing = join(folder.path, 'nothing.sqlite')
    const none = await run(['ls', '--json'], nothing)
    expect(none.code).toBe(2)
    expect(onlyDocument(none)).toMatchObject({ error: { code: 'file-missing' } })
    expect(existsSync(nothing)).toBe(false)
    await onPostgres(pg.url, 'create database empty')
    const empty = await run(['ls', '--json'], pg.url.replace(/\/[^/]*$/, '/empty'))
    expect(empty.code).toBe(1)
    expect(onlyDocument(empty)).toMatchObject({ error: { code: 'sagas-missing' } })
    expect(await onPostgres(pg.url.replace(/\/[^/]*$/, '/empty'), "select 1 from pg_tables where schemaname = 'public'")).toEqual([])
    for (const [args, words] of [
      [['ls', '--url', 'redis://127.0.0.1:1'], 'no log of sagas on redis://'],
      [['ls'], 'Where is the log'],
      [['redrive', '--url', file], 'Which runs?'],
      [['redrive', 'a', '--all', '--url', file], 'one too many'],
      [['ls', '--after', 'a', '--url', file], '--after goes with --status'],
    ] as const) {
      const refused = await headrace(['saga', ...args, '--json'])
      expect(refused.code).toBe(2)
      expect(JSON.stringify(onlyDocument(refused))).toContain(words)
    }
    expect(onlyDocument(await run(['show', 'nobody', '--json'], file))).toMatchObject({ error: { code: 'saga-unknown' } })
  })

  it('takes its place from the environment, and never shows a password', async () => {
    await onPostgres(pg.url, `create role clerk login password '${secret}'`, 'grant select on saga_run, saga_record to clerk')
    await askPassword(pg, 'clerk')
    const good = as(pg.url, 'clerk', secret)
    expect((await headrace(['saga', 'ls'], { environment: { HEADRACE_SAGA_URL: good } })).stdout).toBe('No run is parked, or goes on.\n')
    const wrong = await run(['ls', '--json'], as(pg.url, 'clerk', `${secret}-wrong`))
    expect(wrong.code).toBe(3)
    expect(wrong.stdout + wrong.stderr).not.toContain(secret)
  })
})
