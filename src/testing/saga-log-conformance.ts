/**
 * What every saga log promises (contracts/saga.ts), as tests. A driver's test
 * gives a way to open one more client of the same log, as another process would:
 *
 *   sagaLogConformance({ describe, it }, 'sqlite', { open: async () => sqliteSagaLog({ file }) })
 *
 * Every case works under ids, names and owners of its own, so cases share a log.
 */
import assert from 'node:assert/strict'
import type { NewRun, SagaLog, StoredRun } from '../contracts/saga.ts'
import { createRandom } from '../std/random.ts'
import { codeOf } from './ledger-harness.ts'

export interface SagaLogHarness {
  /** One more client of the log. The suite closes it. */
  open(): Promise<SagaLog>
}

export interface SagaLogRunner {
  describe(name: string, define: () => void): void
  it(name: string, run: () => Promise<void>): void
}

const writers = 4
const writesEach = 25
const unique = `${process.pid.toString(36)}${Date.now().toString(36)}`
let names = 0
const next = (what: string): string => `${what}-${unique}-${names++}`

export function sagaLogConformance({ describe, it }: SagaLogRunner, engine: string, harness: SagaLogHarness): void {
  const promise = (name: string, test: (open: () => Promise<SagaLog>) => Promise<void>): void =>
    it(name, async () => {
      const opened: SagaLog[] = []
      try {
        await test(async () => {
          const log = await harness.open()
          opened.push(log)
          return log
        })
      } finally {
        await Promise.all(opened.map((log) => log.close()))
      }
    })

  describe(`the saga log ${engine}`, () => {
    promise('keeps a run as it was started, and knows it by its id ever after', async (open) => {
      const [one, other] = [await open(), await open()]
      const run = aRun({ input: '{"text":"ä 𝄞 \\u0000"}' })
      const started = await one.start(run)
      assert.equal(started.created, true)
      const again = await other.start({ ...run, input: '"another"', owner: 'somebody' })
      assert.equal(again.created, false)
      for (const { run: kept } of [started, again]) {
        assert.deepEqual(shape(kept), { ...run, status: 'running', epoch: 1, records: 0, error: null })
      }
      assert.deepEqual((await other.read([run.id, next('nobody')])).map(shape), [shape(started.run)])
      assert.deepEqual(await other.records(run.id), [])
      assert.equal((await one.start(aRun({ owner: '' }))).run.epoch, 0)
    })

    promise('lets one of many start an id', async (open) => {
      const logs = await Promise.all(Array.from({ length: writers }, open))
      const run = aRun()
      const starts = await Promise.all(logs.flatMap((log) => [log.start(run), log.start(run)]))
      assert.equal(starts.filter(({ created }) => created).length, 1)
    })

    promise('keeps records in order, as a whole, with the end', async (open) => {
      const [one, other] = [await open(), await open()]
      const run = aRun()
      await one.start(run)
      await one.append({ id: run.id, epoch: 1, after: 0, records: ['"a"', '"ä𝄞"'] })
      await one.append({ id: run.id, epoch: 1, after: 2, records: [] })
      await one.append({ id: run.id, epoch: 1, after: 2, records: ['"c"'], end: { status: 'undone', error: '{"code":"x"}' } })
      assert.deepEqual(await other.records(run.id), ['"a"', '"ä𝄞"', '"c"'])
      const [kept] = await other.read([run.id])
      assert.deepEqual(shape(kept as StoredRun), { ...run, owner: '', status: 'undone', epoch: 1, records: 3, error: '{"code":"x"}' })
    })

    promise('refuses a writer of another epoch, with another count of records, or after the end, and keeps nothing of it', async (open) => {
      const [one, other] = [await open(), await open()]
      const run = aRun()
      await one.start(run)
      const write = { id: run.id, epoch: 1, after: 0, records: ['"a"'] }
      assert.equal(await codeOf(one.append({ ...write, epoch: 2 })), 'saga-taken')
      assert.equal(await codeOf(one.append({ ...write, after: 1 })), 'saga-taken')
      const owner = next('other')
      const [claimed] = await other.claim({ owner, from: [run.owner], names: [run.name], limit: 5 })
      assert.equal(claimed?.epoch, 2)
      assert.equal(claimed?.owner, owner)
      assert.equal(await codeOf(one.append(write)), 'saga-taken')
      assert.deepEqual(await one.records(run.id), [])
      await other.append({ ...write, epoch: 2, end: { status: 'completed', error: null } })
      assert.equal(await codeOf(other.append({ ...write, epoch: 2, after: 1 })), 'saga-taken')
      assert.equal(await codeOf(other.append({ ...write, id: next('nobody') })), 'saga-taken')
      assert.deepEqual(await one.records(run.id), ['"a"'])
    })

    promise('gives a run to one of many who claim it, and only runs that were asked for', async (open) => {
      const logs = await Promise.all(Array.from({ length: writers }, open))
      const [first] = logs as [SagaLog]
      const name = aName()
      const runs = await Promise.all(Array.from({ length: 20 }, () => first.start(aRun({ name, owner: '' }))))
      await first.start(aRun({ owner: '' }))
      await first.start(aRun({ name, owner: next('else') }))
      const won = await Promise.all(logs.map(async (log) => claimAll(log, name)))
      const ids = won.flat().map(({ id }) => id)
      assert.deepEqual([...ids].sort(), runs.map(({ run }) => run.id).sort())
      assert.ok(won.flat().every(({ epoch }) => epoch === 1))
      const [kept] = won.find((each) => each.length > 0) as StoredRun[]
      const owner = (kept as StoredRun).owner
      const except = ids.filter((id) => id !== kept?.id)
      const again = await first.claim({ owner, from: [owner], names: [name], limit: 50, except })
      assert.deepEqual(
        again.map(({ id, epoch }) => [id, epoch]),
        [[kept?.id, 2]],
      )
    })

    promise('never lets two write under the same count, however they race', async (open) => {
      const logs = await Promise.all(Array.from({ length: writers }, open))
      const run = aRun()
      await (logs[0] as SagaLog).start(run)
      const done: string[] = []
      await Promise.all(
        logs.map(async (log, index) => {
          for (let number = 0; number < writesEach; number += 1) {
            const [kept] = await log.read([run.id])
            const body = JSON.stringify(`${index}.${number}`)
            const code = await codeOf(log.append({ id: run.id, epoch: 1, after: kept?.records ?? 0, records: [body] }))
            if (code === 'nothing') done.push(body)
            else assert.equal(code, 'saga-taken')
          }
        }),
      )
      const records = await (logs[0] as SagaLog).records(run.id)
      assert.deepEqual([...records].sort(), [...done].sort())
      assert.equal((await (logs[0] as SagaLog).read([run.id]))[0]?.records, records.length)
    })

    promise('takes many writes at once, each for itself', async (open) => {
      const log = await open()
      const runs = Array.from({ length: 40 }, () => aRun())
      await Promise.all(runs.map((run) => log.start(run)))
      const codes = await Promise.all(
        runs.map((run, index) => codeOf(log.append({ id: run.id, epoch: index % 3 === 0 ? 9 : 1, after: 0, records: ['1', '2'] }))),
      )
      for (const [index, run] of runs.entries()) {
        assert.equal(codes[index], index % 3 === 0 ? 'saga-taken' : 'nothing')
        assert.deepEqual(await log.records(run.id), index % 3 === 0 ? [] : ['1', '2'])
      }
    })

    promise('redrives what is parked, under a higher epoch and nobody, and nothing else', async (open) => {
      const [one, other] = [await open(), await open()]
      const run = aRun()
      await one.start(run)
      assert.equal(await other.redrive(run.id, '"again"'), false)
      await one.append({ id: run.id, epoch: 1, after: 0, records: ['"a"'], end: { status: 'parked', error: '{}' } })
      assert.equal((await Promise.all([other.redrive(run.id, '"again"'), one.redrive(run.id, '"again"')])).filter(Boolean).length, 1)
      const [kept] = await one.read([run.id])
      assert.deepEqual(shape(kept as StoredRun), { ...run, owner: '', status: 'running', epoch: 2, records: 2, error: null })
      assert.deepEqual(await one.records(run.id), ['"a"', '"again"'])
      assert.equal(await other.redrive(next('nobody'), '1'), false)
    })

    promise('lists by status and name, page by page', async (open) => {
      const log = await open()
      const name = aName()
      const runs = await Promise.all(Array.from({ length: 7 }, () => log.start(aRun({ name })).then(({ run }) => run)))
      const parked = runs.slice(0, 5).map(({ id }) => id)
      for (const id of parked) await log.append({ id, epoch: 1, after: 0, records: [], end: { status: 'parked', error: null } })
      const found: string[] = []
      for (;;) {
        const page = await log.list({
          status: 'parked',
          names: [name],
          limit: 2,
          ...(found.length === 0 ? {} : { after: found.at(-1) as string }),
        })
        found.push(...page.map(({ id }) => id))
        if (page.length < 2) break
      }
      assert.deepEqual(found, [...parked].sort())
      assert.equal((await log.list({ names: [name], limit: 100 })).length, 7)
    })

    promise('counts what goes on and what is parked, by name, with the start of the oldest', async (open) => {
      const [one, other] = [await open(), await open()]
      const [name, quiet] = [aName(), aName()]
      const runs: StoredRun[] = []
      for (let number = 0; number < 5; number += 1) runs.push((await one.start(aRun({ name }))).run)
      await one.start(aRun())
      const ends = ['parked', 'completed', 'undone'] as const
      for (const [index, status] of ends.entries())
        await one.append({ id: (runs[index] as StoredRun).id, epoch: 1, after: 0, records: [], end: { status, error: null } })
      const counted = await other.census([name, quiet])
      assert.deepEqual(counted.map((each) => `${each.name} ${each.status} ${each.count}`).sort(), [`${name} parked 1`, `${name} running 2`])
      const kept = await other.read(runs.map(({ id }) => id))
      for (const { status, oldestStartedAt } of counted)
        assert.equal(oldestStartedAt, Math.min(...kept.filter((run) => run.status === status).map(({ startedAt }) => startedAt)))
      const all = await other.census()
      assert.equal(all.find((each) => each.name === name && each.status === 'running')?.count, 2)
      assert.ok(all.some((each) => each.name !== name))
    })

    promise('counts the beats of owners, and names those that never gave one', async (open) => {
      const [one, other] = [await open(), await open()]
      const [a, silent] = [next('a'), next('silent')]
      await one.start(aRun({ owner: silent }))
      const beats = async (log: SagaLog, owner: string, of: string): Promise<number | undefined> =>
        (await log.beat(owner)).find((each) => each.owner === of)?.beats
      assert.equal(await beats(one, a, a), 1)
      assert.equal(await beats(other, a, a), 2)
      assert.equal(await beats(other, a, silent), 0)
      await one.leave(a)
      const b = next('b')
      assert.equal(await beats(one, b, a), undefined)
      await one.leave(b)
    })

    promise('gives the runs of an owner free who leaves', async (open) => {
      const [one, other] = [await open(), await open()]
      const run = aRun()
      await one.start(run)
      await other.leave(run.owner)
      assert.deepEqual(
        (await one.read([run.id])).map(({ owner, epoch }) => [owner, epoch]),
        [['', 1]],
      )
      // Until somebody claims it, the owner may still write: its epoch holds.
      await one.append({ id: run.id, epoch: 1, after: 0, records: ['1'] })
      const [claimed] = await other.claim({ owner: next('b'), from: [''], names: [run.name], limit: 1 })
      assert.equal(claimed?.epoch, 2)
    })

    promise('prunes what ended before a moment, with its records, and nothing else', async (open) => {
      const log = await open()
      const ends = ['completed', 'undone', 'parked', null] as const
      const runs = await Promise.all(ends.map(() => log.start(aRun()).then(({ run }) => run)))
      for (const [index, status] of ends.entries()) {
        const { id } = runs[index] as StoredRun
        await log.append({ id, epoch: 1, after: 0, records: ['1'], ...(status === null ? {} : { end: { status, error: null } }) })
      }
      await log.prune(1_000, 10)
      const ids = runs.map(({ id }) => id)
      assert.equal((await log.read(ids)).length, 4)
      while ((await log.prune(Date.now() + 1_000, 1)) > 0);
      assert.deepEqual((await log.read(ids)).map(({ id }) => id).sort(), ids.slice(2).sort())
      assert.deepEqual(await log.records(ids[0] as string), [])
      assert.deepEqual(await log.records(ids[2] as string), ['1'])
    })

    promise('answers random calls of many clients as one list of runs would', async (open) => {
      const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
      const random = createRandom(seed)
      const logs = await Promise.all(Array.from({ length: 3 }, open))
      const name = aName()
      const model = new Map<string, { epoch: number; records: string[]; owner: string; status: string }>()
      const ids = Array.from({ length: 4 }, () => next('m'))
      const owners = ['', next('x'), next('y')]
      for (let step = 0; step < 120; step += 1) {
        const log = random.pick(logs)
        const id = random.pick(ids)
        const known = model.get(id)
        const what = random.int(5)
        const told = `seed ${seed}, step ${step}`
        if (what === 0) {
          const owner = random.pick(owners)
          const { created } = await log.start(aRun({ id, name, owner }))
          assert.equal(created, known === undefined, told)
          if (created) model.set(id, { epoch: owner === '' ? 0 : 1, records: [], owner, status: 'running' })
        } else if (what === 1) {
          const [from, owner] = [random.pick(owners), random.pick(owners.slice(1))]
          const claimed = await log.claim({ owner, from: [from], names: [name], limit: 10 })
          const wanted = [...model].filter(([, run]) => run.owner === from && run.status === 'running')
          assert.deepEqual(claimed.map((run) => run.id).sort(), wanted.map(([each]) => each).sort(), told)
          for (const [, run] of wanted) Object.assign(run, { owner, epoch: run.epoch + 1 })
        } else if (what === 2) {
          const redriven = await log.redrive(id, '"r"')
          assert.equal(redriven, known?.status === 'parked', told)
          if (redriven && known !== undefined) {
            known.records.push('"r"')
            Object.assign(known, { status: 'running', owner: '', epoch: known.epoch + 1 })
          }
        } else {
          const epoch = (known?.epoch ?? 1) - random.int(2)
          const after = (known?.records.length ?? 0) - (random.chance(0.2) ? 1 : 0)
          const end = random.chance(0.3) ? { status: 'parked' as const, error: null } : undefined
          const records = Array.from({ length: random.int(3) }, (_, index) => `"${step}.${index}"`)
          const code = await codeOf(log.append({ id, epoch, after, records, ...(end === undefined ? {} : { end }) }))
          const right = known !== undefined && known.status === 'running' && known.epoch === epoch && known.records.length === after
          assert.equal(code, right ? 'nothing' : 'saga-taken', told)
          if (right) {
            known.records.push(...records)
            if (end !== undefined) Object.assign(known, { status: 'parked', owner: '' })
          }
        }
        const now = model.get(id)
        if (now !== undefined) assert.deepEqual(await random.pick(logs).records(id), now.records, told)
      }
      for (const owner of owners.slice(1)) await (logs[0] as SagaLog).leave(owner)
    })
  })
}

async function claimAll(log: SagaLog, name: string): Promise<StoredRun[]> {
  const owner = next('claimer')
  const claimed: StoredRun[] = []
  // One who loses a race may try again, as it would at its next look.
  for (let empty = 0; empty < 3; ) {
    const runs = await log.claim({ owner, from: [''], names: [name], limit: 3 })
    claimed.push(...runs)
    empty = runs.length === 0 ? empty + 1 : 0
  }
  return claimed
}

function aName(): string {
  names += 1
  return `saga/n${unique}x${names}`
}

function aRun(given: Partial<NewRun> = {}): NewRun {
  return { id: next('run'), name: aName(), gid: 'test_1', input: '{"a":1}', owner: next('owner'), ...given }
}

function shape({ startedAt, changedAt, ...run }: StoredRun): Omit<StoredRun, 'startedAt' | 'changedAt'> {
  assert.ok(startedAt > 1_600_000_000_000 && changedAt >= startedAt)
  return run
}
