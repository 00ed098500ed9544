/**
 * Kills the orchestrator with SIGKILL at every named point of a saga, a TCC and
 * a three-phase commit, and then the one that takes over, too; and looks with the
 * eyes of another process: each run is done everywhere or nowhere, nothing was
 * called that is not in the journal, and back is the reverse of forward.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { DatabaseSync } from '@photostructure/sqlite'
import { afterAll, describe, expect, test } from 'vitest'
import { sqliteSagaLog } from '../../src/drivers/sqlite/index.ts'
import { type SagaCrashPointName, sagaCrashPointNames } from '../../src/std/crash-point.ts'
import { createRandom } from '../../src/std/random.ts'

interface Said {
  readonly started: string[]
  readonly ended: string[]
  readonly killed: boolean
}

interface Called {
  readonly run: string
  readonly branch: string
  readonly operation: string
  readonly attempt: number
}

const branches = { 'saga': ['a', 'b', 'c', 'd'], 'tcc': ['a', 'b'], 'three-phase': ['a', 'b'] } as const
type Kind = keyof typeof branches

const folder = mkdtempSync(join(tmpdir(), 'headrace-test-saga-crash-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe('an orchestrator that is killed', () => {
  const visited = new Set<SagaCrashPointName>()

  for (const kind of Object.keys(branches) as Kind[]) {
    test(`leaves each ${kind} to be ended, everywhere or nowhere, wherever it is killed, and its successor with it`, async () => {
      const place = { file: join(folder, `${kind}.sqlite`), world: join(folder, `${kind}-world.sqlite`) }
      for (const [index, point] of sagaCrashPointNames.entries()) {
        // The first and the third visit of each point for sagas; by turns for the others, whose machinery is the same.
        for (const visit of kind === 'saga' ? [1, 3] : [index % 2 === 0 ? 1 : 3]) {
          const where = `${point}:${visit}`
          const ids = ['good', 'bad'].map((each) => `${each}-${index}-${visit}`)
          const work = await run({ ...place, mode: 'work', kind, ids, node: 'n1' }, where)
          if (work.killed) visited.add(point)
          // A point that the first two runs do not reach so often was not there to be killed at.
          else expect(visit, `${where} was not visited`).toBe(3)
          if (visit === 3) await run({ ...place, mode: 'end', node: 'n1' }, `${sagaCrashPointNames[(index % 6) + 2] as string}:1`)
          await run({ ...place, mode: 'end', node: 'n1' })
          await check(kind, place, work, where)
        }
      }
    })
  }

  test('visits every point', () => {
    expect([...visited].sort()).toEqual([...sagaCrashPointNames].sort())
  })

  test('at a random moment leaves the rest to another one that works beside it', async () => {
    const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
    const random = createRandom(seed)
    const place = { file: join(folder, 'two.sqlite'), world: join(folder, 'two-world.sqlite') }
    for (let round = 0; round < 4; round += 1) {
      const told = `HEADRACE_SEED=${seed}, round ${round}`
      const ids = Array.from({ length: 12 }, (_, number) => `${number % 3 === 0 ? 'bad' : 'good'}-${round}-${number}`)
      const killed = run({ ...place, mode: 'work', kind: 'saga', ids: ids.slice(0, 6) }, undefined, random.between(150, 500))
      const other = run({ ...place, mode: 'work', kind: 'saga', ids: ids.slice(6) })
      const [first, second] = await Promise.all([killed, other])
      await run({ ...place, mode: 'end' })
      expect(second.ended, told).toEqual(ids.slice(6))
      await check(
        'saga',
        place,
        { started: [...first.started, ...second.started], ended: [...first.ended, ...second.ended], killed: true },
        told,
      )
    }
  })
})

async function check(
  kind: Kind,
  place: { readonly file: string; readonly world: string },
  { started, ended }: Said,
  where: string,
): Promise<void> {
  const log = sqliteSagaLog({ file: place.file })
  const world = new DatabaseSync(place.world, { readOnly: true })
  try {
    expect(await log.list({ status: 'running', limit: 10 }), `${where}: left over`).toEqual([])
    expect(await log.list({ status: 'parked', limit: 10 }), `${where}: parked`).toEqual([])
    const kept = await log.list({ limit: 1_000 })
    // What was answered is durable.
    for (const id of started)
      expect(
        kept.map((run) => run.id),
        `${where}: ${id} was lost`,
      ).toContain(id)
    for (const { id, status } of kept) {
      if (ended.includes(id) || started.includes(id)) expect(status, `${where}: ${id}`).toBe(id.includes('bad') ? 'undone' : 'completed')
      const held = world.prepare('select branch from held where run = ? order by branch').all(id) as { branch: string }[]
      expect(
        held.map(({ branch }) => branch),
        `${where}: ${id} is ${status}`,
      ).toEqual(status === 'completed' ? branches[kind] : [])
      const called = world
        .prepare('select run, branch, operation, attempt from called where run = ? order by n')
        .all(id) as unknown as Called[]
      const journal = (await log.records(id)).map((text) => JSON.parse(text) as { kind: string } & Called)
      const written = new Set(
        journal.filter((each) => each.kind === 'call').map((each) => `${each.branch} ${each.operation} ${each.attempt}`),
      )
      for (const each of called) expect(written, `${where}: ${id}`).toContain(`${each.branch} ${each.operation} ${each.attempt}`)
      if (kind === 'saga' && status === 'undone') expect(orderOf(called), `${where}: ${id}`).toBe(true)
    }
  } finally {
    world.close()
    await log.close()
  }
}

/** Whether each undo came after those of the later stages. */
function orderOf(called: readonly Called[]): boolean {
  const stage: Readonly<Record<string, number>> = { a: 0, b: 1, c: 1, d: 2 }
  const undone = called.filter(({ operation }) => operation === 'undo').map(({ branch }) => stage[branch] ?? 0)
  return undone.every((each, index) => index === 0 || each <= (undone[index - 1] as number))
}

async function run(spec: Readonly<Record<string, unknown>>, crashAt?: string, killAfterMs?: number): Promise<Said> {
  const child = spawn(process.execPath, [fileURLToPath(new URL('./worker.mjs', import.meta.url)), JSON.stringify(spec)], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: { ...process.env, ...(crashAt === undefined ? {} : { HEADRACE_CRASH_POINT: crashAt }) },
  })
  const timer = killAfterMs === undefined ? undefined : setTimeout(() => child.kill('SIGKILL'), killAfterMs)
  const started: string[] = []
  const ended: string[] = []
  const lines = createInterface({ input: child.stdout })
  lines.on('line', (text) => {
    const line = JSON.parse(text) as { readonly started?: string; readonly ended?: string }
    if (line.started !== undefined) started.push(line.started)
    if (line.ended !== undefined) ended.push(line.ended)
  })
  const [[code, signal]] = (await Promise.all([once(child, 'exit'), once(lines, 'close')])) as [[number | null, string | null], unknown]
  clearTimeout(timer)
  if (signal === null && code !== 0) throw new Error(`the ${String(spec['mode'])} process ended with code ${code}`)
  return { started, ended, killed: signal === 'SIGKILL' }
}
