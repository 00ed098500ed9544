import { afterEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { listen } from '../../contracts/diagnostics.ts'
import { HeadraceError } from '../../contracts/errors.ts'
import { memorySagaLog, type MemorySagaLogOptions, MemorySagaStore } from '../../drivers/memory/index.ts'
import { deferred } from '../../std/deferred.ts'
import { createRandom } from '../../std/random.ts'
import { listRuns, redriveRun, showRun } from './inspect.ts'
import { createOrchestrator } from './orchestrator.ts'
import type { Orchestrator, OrchestratorOptions } from './orchestrator-contract.ts'
import { RunState, StepRefused } from './records.ts'
import { defineSaga } from './saga.ts'

const quick = { retryBaseMs: 1, retryMaxMs: 2 } as const
const input = z.object({ person: z.string() })

const opened: Orchestrator[] = []
afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()))
})

function open(options: Partial<OrchestratorOptions> & Pick<OrchestratorOptions, 'runs'>, store?: MemorySagaStore): Orchestrator {
  const log = memorySagaLog(store === undefined ? {} : { store })
  const orchestrator = createOrchestrator({ deployment: 'test', log, pollMs: 5, beatMs: 5, leaseMs: 40, closeTimeoutMs: 100, ...options })
  opened.push(orchestrator)
  return orchestrator
}

/** A trip that writes down what is called. */
function trip(said: string[], faults: Readonly<Record<string, (attempt: number) => unknown>> = {}) {
  const act = (name: string, answer: string) => async (context: { readonly attempt: number }) => {
    said.push(`${name} ${context.attempt}`)
    await faults[name]?.(context.attempt)
    return answer
  }
  return defineSaga('trip', {
    input,
    steps: (saga) =>
      saga
        .step('flight', { do: act('do flight', 'f1'), undo: act('undo flight', ''), ...quick, undoLimits: { ...quick, retriesMax: 3 } })
        .group((both) =>
          both
            .step('hotel', { do: act('do hotel', 'h1'), undo: act('undo hotel', ''), ...quick, undoLimits: quick })
            .step('car', { do: act('do car', 'c1'), undo: act('undo car', ''), ...quick, undoLimits: quick }),
        )
        .step('ticket', { do: act('do ticket', 't1'), final: true, ...quick, retriesMax: 1 }),
  })
}

const throwing =
  (error: () => Error, until = Infinity) =>
  (attempt: number): void => {
    if (attempt <= until) throw error()
  }
const no = (): Error => new StepRefused('sold-out', 'No seat left.')
const down = (): Error => new Error('down')

describe('a saga', () => {
  it('does its steps in order, groups side by side, and tells their results', async () => {
    const said: string[] = []
    const saga = trip(said)
    const orchestrator = open({ runs: [saga] })
    const started = await orchestrator.start(saga, 'one', { person: 'ann' })
    expect(started.created).toBe(true)
    expect(await started.wait()).toEqual({
      status: 'completed',
      results: { flight: 'f1', hotel: 'h1', car: 'c1', ticket: 't1' },
    })
    expect(said).toEqual(['do flight 1', 'do hotel 1', 'do car 1', 'do ticket 1'])
  })

  it('gives a step its input, the results before it, its attempt, and a key that stays the same', async () => {
    const seen: unknown[] = []
    const saga = defineSaga('keys', {
      input,
      steps: (steps) =>
        steps.step('one', { do: ({ input: given }) => ({ for: given.person }), undo: () => undefined }).step('two', {
          ...quick,
          do({ results, attempt, idempotencyKey, gid, id, branch, operation }) {
            seen.push({ results, attempt, idempotencyKey, gid, id, branch, operation })
            if (attempt === 1) throw down()
          },
          undo: () => undefined,
        }),
    })
    const orchestrator = open({ runs: [saga] })
    await (await orchestrator.start(saga, 'k', { person: 'ann' })).wait()
    const [first, second] = seen as Record<string, unknown>[]
    expect(first).toMatchObject({ results: { one: { for: 'ann' } }, attempt: 1, id: 'k', branch: 'two', operation: 'do' })
    expect(second).toEqual({ ...first, attempt: 2 })
    expect(first?.['idempotencyKey']).toBe(`${String(first?.['gid'])}:two:do`)
    expect(first?.['gid']).toMatch(/^test_[0-9a-f]{32}$/)
  })

  it('goes back in reverse when a step says no, and leaves that step alone', async () => {
    const said: string[] = []
    const saga = trip(said, { 'do ticket': throwing(no) })
    const orchestrator = open({ runs: [saga] })
    const end = await (await orchestrator.start(saga, 'one', { person: 'ann' })).wait()
    expect(end).toEqual({ status: 'undone', error: { branch: 'ticket', operation: 'do', code: 'sold-out', message: 'No seat left.' } })
    expect(said).toEqual([...['do flight 1', 'do hotel 1', 'do car 1', 'do ticket 1'], ...['undo hotel 1', 'undo car 1', 'undo flight 1']])
  })

  it('undoes a step whose answer is not known, but for what it knows was not done', async () => {
    const said: string[] = []
    const saga = trip(said, { 'do flight': throwing(down) })
    const orchestrator = open({ runs: [saga] })
    expect(await (await orchestrator.start(saga, 'one', { person: 'ann' })).wait()).toMatchObject({ status: 'undone' })
    expect(said).toEqual([...[1, 2, 3, 4, 5, 6].map((attempt) => `do flight ${attempt}`), 'undo flight 1'])

    // A no after a lost answer proves nothing about the first attempt.
    said.length = 0
    const other = trip(said, { 'do flight': (attempt) => throwing(attempt === 1 ? down : no)(attempt) })
    const second = open({ runs: [other] })
    expect(await (await second.start(other, 'two', { person: 'ann' })).wait()).toMatchObject({
      status: 'undone',
      error: { code: 'sold-out' },
    })
    expect(said).toEqual(['do flight 1', 'do flight 2', 'undo flight 1'])
  })

  it('waits for the others of a group before it goes back, and tells them that they are not needed', async () => {
    const said: string[] = []
    const aborted = deferred<void>()
    const saga = defineSaga('group', {
      input,
      steps: (steps) =>
        steps.group((group) =>
          group
            .step('bad', {
              do() {
                throw no()
              },
              undo: () => said.push('undo bad'),
            })
            .step('slow', {
              async do({ signal }) {
                signal.addEventListener('abort', () => aborted.resolve())
                await aborted.promise
                said.push('slow ended')
              },
              undo: () => said.push('undo slow'),
            }),
        ),
    })
    const orchestrator = open({ runs: [saga] })
    expect(await (await orchestrator.start(saga, 'g', { person: 'ann' })).wait()).toMatchObject({ status: 'undone' })
    expect(said).toEqual(['slow ended', 'undo slow'])
  })

  it('ends an attempt that takes too long, and tells its signal', async () => {
    let reason: unknown
    const saga = defineSaga('slow', {
      input,
      steps: (steps) =>
        steps.step('slow', {
          ...quick,
          timeoutMs: 20,
          retriesMax: 0,
          do: ({ signal }) => new Promise<void>(() => signal.addEventListener('abort', () => (reason = signal.reason))),
          undo: () => undefined,
        }),
    })
    const orchestrator = open({ runs: [saga] })
    expect(await (await orchestrator.start(saga, 's', { person: 'ann' })).wait()).toMatchObject({
      status: 'undone',
      error: { code: 'saga-step-timeout' },
    })
    expect(HeadraceError.is(reason) && reason.code).toBe('saga-step-timeout')
  })

  it('parks with an alarm what cannot be undone, and goes on after redrive', async () => {
    const said: string[] = []
    let broken = true
    const saga = trip(said, {
      'do ticket': throwing(no),
      'undo flight': () => {
        if (broken) throw down()
      },
    })
    const alarms: unknown[] = []
    const stop = listen('headrace:saga-parked', (event) => alarms.push(event))
    const orchestrator = open({ runs: [saga] })
    const started = await orchestrator.start(saga, 'one', { person: 'ann' })
    expect(await started.wait()).toMatchObject({ status: 'parked', error: { branch: 'flight', operation: 'undo' } })
    stop()
    expect(alarms).toEqual([
      { kind: 'saga', name: 'trip', id: 'one', branch: 'flight', operation: 'undo', code: 'saga-failed', message: 'down' },
    ])
    expect(await orchestrator.parked()).toMatchObject([
      { id: 'one', status: 'parked', error: { message: 'down' }, input: { person: 'ann' } },
    ])
    expect(said.filter((each) => each.startsWith('undo flight'))).toHaveLength(4)
    broken = false
    expect(await orchestrator.redrive('one')).toBe(true)
    expect(await started.wait()).toMatchObject({ status: 'undone', error: { code: 'sold-out' } })
    expect(said.at(-1)).toBe('undo flight 5')
    expect(said.filter((each) => each.startsWith('undo hotel'))).toHaveLength(1)
    expect(await orchestrator.redrive('one')).toBe(false)
    expect(await orchestrator.parked()).toEqual([])
  })

  it('tells of each try of a step, of the turn back, and of how it ended, with the time of it', async () => {
    const saga = trip([], { 'do flight': throwing(down, 1), 'do hotel': throwing(no) })
    const told: string[] = []
    let endMs = -1
    const stop = listen('headrace:saga', ({ event, branch, operation, attempt, code, ms }) => {
      if (branch === 'car') return
      told.push([event, operation, branch, attempt || '', code ?? ''].filter((word) => word !== '').join(' '))
      if (event === 'undone') endMs = ms
    })
    const orchestrator = open({ runs: [saga] })
    await (await orchestrator.start(saga, 'one', { person: 'ann' })).wait()
    stop()
    expect(told).toEqual([
      'started',
      'call do flight 1',
      'retry do flight 1 saga-failed',
      'call do flight 2',
      'called do flight 2',
      'call do hotel 1',
      'failed do hotel 1 sold-out',
      'turned do hotel sold-out',
      'call undo flight 1',
      'called undo flight 1',
      'undone sold-out',
    ])
    expect(endMs).toBeGreaterThan(0)
  })

  it('counts what is in the log for who listens, until it is gone', async () => {
    let broken = true
    const saga = trip([], {
      'do hotel': throwing(no),
      'undo flight': () => {
        if (broken) throw no()
      },
    })
    const counts: string[] = []
    let changed = deferred<void>()
    const stop = listen('headrace:saga-census', ({ deployment, runs }) => {
      counts.push(
        runs.map(({ kind, name, status, count, oldestMs }) => `${kind} ${name} ${status} ${count}${oldestMs > 0 ? ' old' : ''}`).join(', '),
      )
      expect(deployment).toBe('test')
      changed.resolve()
      changed = deferred<void>()
    })
    const until = async (line: string): Promise<void> => {
      while (counts.at(-1) !== line) await changed.promise
    }
    const orchestrator = open({ runs: [saga], censusMs: 1 })
    const started = await orchestrator.start(saga, 'one', { person: 'ann' })
    expect(await started.wait()).toMatchObject({ status: 'parked' })
    await until('saga trip running 0, saga trip parked 1 old')
    broken = false
    await orchestrator.redrive('one')
    await until('saga trip running 0, saga trip parked 0')
    stop()
  })

  it('is looked at without an orchestrator: how far it came, what it was parked for, and its journal', async () => {
    const saga = trip([], { 'do hotel': throwing(no), 'undo flight': throwing(down) })
    const store = new MemorySagaStore()
    const orchestrator = open({ runs: [saga], log: memorySagaLog({ store }) })
    await (await orchestrator.start(saga, 'one', { person: 'ann' })).wait()
    const log = memorySagaLog({ store })
    const [listing] = await listRuns(log, { status: 'parked', limit: 10 })
    expect(listing).toMatchObject({ id: 'one', kind: 'saga', name: 'trip', at: [{ branch: 'flight', operation: 'undo', attempts: 4 }] })
    const before = await showRun(log, 'one')
    expect(before?.records.at(-1)).toMatchObject({ kind: 'parked', error: { branch: 'flight', operation: 'undo', message: 'down' } })
    expect(before?.calls).toBe(before?.records.filter(({ kind }) => kind === 'call').length)
    expect(await redriveRun(log, 'one')).toBe(true)
    expect(await redriveRun(log, 'one')).toBe(false)
    expect((await showRun(log, 'one'))?.records.find(({ kind }) => kind === 'redriven')).toMatchObject({ at: expect.any(Number) as number })
    expect(await showRun(log, 'two')).toBeNull()

    const call = { kind: 'call', operation: 'do', attempt: 1 } as const
    const records = [
      { ...call, branch: 'flight' },
      { kind: 'done', operation: 'do', branch: 'flight' },
      { ...call, branch: 'hotel' },
    ]
    await log.start({ id: 'going', name: 'saga/trip', gid: 'test_2', input: '{}', owner: 'somebody' })
    await log.append({ id: 'going', epoch: 1, after: 0, records: records.map((record) => JSON.stringify(record)) })
    expect(await showRun(log, 'going')).toMatchObject({
      status: 'running',
      calls: 2,
      at: [{ branch: 'hotel', operation: 'do', attempts: 1 }],
    })
  })

  it('parks at once when an undo says that it cannot', async () => {
    const said: string[] = []
    const saga = trip(said, { 'do hotel': throwing(no), 'undo flight': throwing(no) })
    const orchestrator = open({ runs: [saga] })
    expect(await (await orchestrator.start(saga, 'one', { person: 'ann' })).wait()).toMatchObject({ status: 'parked' })
    expect(said.filter((each) => each.startsWith('undo flight'))).toEqual(['undo flight 1'])
  })

  it('never goes back over a final step that may have happened: it parks, and goes forward after redrive', async () => {
    const said: string[] = []
    const saga = trip(said, { 'do ticket': throwing(down, 2) })
    const orchestrator = open({ runs: [saga] })
    const started = await orchestrator.start(saga, 'one', { person: 'ann' })
    expect(await started.wait()).toMatchObject({ status: 'parked', error: { branch: 'ticket' } })
    expect(said.some((each) => each.startsWith('undo'))).toBe(false)
    await orchestrator.redrive('one')
    expect(await started.wait()).toMatchObject({ status: 'completed' })
    expect(said.at(-1)).toBe('do ticket 3')
  })

  it('takes a result that cannot be kept for a failure, and undoes the step', async () => {
    const said: unknown[] = []
    const saga = defineSaga('big', {
      input,
      steps: (steps) => steps.step('big', { do: () => 'x'.repeat(100), undo: ({ result }) => said.push(result) }),
    })
    const orchestrator = open({ runs: [saga], resultBytesMax: 50 })
    expect(await (await orchestrator.start(saga, 'b', { person: 'ann' })).wait()).toMatchObject({ error: { code: 'result-invalid' } })
    expect(said).toEqual([undefined])
  })

  it('is one run however often it is started under an id, and refuses the id for another input', async () => {
    const said: string[] = []
    const saga = trip(said)
    const orchestrator = open({ runs: [saga] })
    const starts = await Promise.all([1, 2, 3].map(() => orchestrator.start(saga, 'one', { person: 'ann' })))
    expect(starts.filter(({ created }) => created)).toHaveLength(1)
    await Promise.all(starts.map((each) => each.wait()))
    expect((await orchestrator.start(saga, 'one', { person: 'ann' })).created).toBe(false)
    expect(said).toHaveLength(4)
    await expect(orchestrator.start(saga, 'one', { person: 'bob' })).rejects.toMatchObject({ code: 'id-reused' })
  })

  it('parks a run whose definition lost a step that was called', async () => {
    const store = new MemorySagaStore()
    const gate = deferred<void>()
    const before = defineSaga('trip', {
      input,
      steps: (steps) =>
        steps.step('old', { do: () => 1, undo: () => 1 }).step('wait', { do: () => gate.promise, undo: () => 1, timeoutMs: 10_000 }),
    })
    const first = open({ runs: [before], closeTimeoutMs: 0 }, store)
    await first.start(before, 'one', { person: 'ann' })
    await until(() => store.journals.get('one')?.length === 3)
    await first.close()
    const after = defineSaga('trip', { input, steps: (steps) => steps.step('wait', { do: () => 1, undo: () => 1 }) })
    const second = open({ runs: [after] }, store)
    expect(await second.wait(after, 'one')).toMatchObject({ status: 'parked', error: { code: 'saga-changed', branch: 'old' } })
    gate.resolve()
  })

  it('parks a run whose journal is full', async () => {
    const many = defineSaga('many', {
      input,
      steps: (steps) => steps.step('a', { do: () => Promise.reject(down()), undo: () => 1, ...quick, retriesMax: 100 }),
    })
    expect(await (await open({ runs: [many], recordsMax: 10 }).start(many, 'm', { person: 'a' })).wait()).toMatchObject({
      status: 'parked',
      error: { code: 'saga-journal-full' },
    })
  })
})

describe('an orchestrator', () => {
  it('takes over the runs of one that died, without doing again what the journal knows', async () => {
    const store = new MemorySagaStore()
    const said: string[] = []
    const hang = deferred<void>()
    const stuck = trip(said, { 'do hotel': () => hang.promise })
    const log = memorySagaLog({ store })
    const first = open({ runs: [stuck], log })
    await first.start(stuck, 'one', { person: 'ann' })
    await until(() => said.includes('do hotel 1') && (store.journals.get('one')?.length ?? 0) >= 4)
    log.kill()
    const healthy = trip(said)
    const second = open({ runs: [healthy] }, store)
    expect(await second.wait(healthy, 'one')).toMatchObject({ status: 'completed' })
    expect(said.filter((each) => each.startsWith('do flight'))).toEqual(['do flight 1'])
    expect(said.filter((each) => each.startsWith('do hotel'))).toEqual(['do hotel 1', 'do hotel 2'])
    hang.resolve()
  })

  it('takes over at once what its own last life left, under the same node name', async () => {
    const store = new MemorySagaStore()
    const said: string[] = []
    const stuck = trip(said, { 'do hotel': () => new Promise(() => undefined) })
    const log = memorySagaLog({ store })
    const first = open({ runs: [stuck], log, node: 'n1', leaseMs: 60_000 })
    await first.start(stuck, 'one', { person: 'ann' })
    await until(() => said.includes('do hotel 1'))
    log.kill()
    const healthy = trip(said)
    const second = open({ runs: [healthy], node: 'n1', leaseMs: 60_000 }, store)
    expect(await second.wait(healthy, 'one')).toMatchObject({ status: 'completed' })
  })

  it('leaves a run at once when another process has taken it, and never writes to it again', async () => {
    const store = new MemorySagaStore()
    const said: string[] = []
    const gate = deferred<void>()
    let signal: AbortSignal | undefined
    const slow = defineSaga('two', {
      input,
      steps: (steps) =>
        steps
          .step('a', {
            async do(context) {
              signal = context.signal
              await gate.promise
            },
            undo: () => said.push('undo a'),
          })
          .step('b', { do: () => said.push('b of the first'), undo: () => undefined }),
    })
    const first = open({ runs: [slow] }, store)
    await first.start(slow, 'one', { person: 'ann' })
    await until(() => signal !== undefined)
    // Another process is wrong about the first one, and takes the run.
    const other = memorySagaLog({ store })
    const owner = store.runs.get('one')?.owner ?? ''
    const [claimed] = await other.claim({ owner: 'other', from: [owner], names: ['saga/two'], limit: 1 })
    expect(claimed?.epoch).toBe(2)
    gate.resolve()
    await until(() => first.counts.working === 0)
    expect(said).toEqual([])
    expect(store.journals.get('one')).toHaveLength(1)
  })

  it('goes on after failures of the log, before and after they took effect, calling nothing that is not written down', async () => {
    const store = new MemorySagaStore()
    const said: string[] = []
    const saga = trip(said)
    const random = createRandom(7)
    const options: MemorySagaLogOptions = {
      store,
      fault: () => (random.chance(0.4) ? random.pick(['lost-after', 'lost-before'] as const) : null),
    }
    const orchestrator = open({ runs: [saga], log: memorySagaLog(options), logRetryBaseMs: 1, logRetryMaxMs: 2 })
    for (const id of ['a', 'b', 'c']) {
      said.length = 0
      while (!store.runs.has(id)) await orchestrator.start(saga, id, { person: 'ann' }).catch(() => undefined)
      // An attempt that was written down and never made counts, so a run may also go back, or be parked.
      await until(() => store.runs.get(id)?.status !== 'running')
      const state = RunState.of(store.journals.get(id) ?? [])
      for (const line of said) {
        const [operation = '', branch = '', attempt] = line.split(' ')
        expect(state.call(branch, operation).attempts, `${id}: ${line}`).toBeGreaterThanOrEqual(Number(attempt))
      }
    }
  })

  it('works on no more runs at once than runsMax, lets startsMax wait, and refuses the next before it is written', async () => {
    const store = new MemorySagaStore()
    const gate = deferred<void>()
    let most = 0
    let now = 0
    const saga = defineSaga('slow', {
      input,
      steps: (steps) =>
        steps.step('a', {
          async do() {
            most = Math.max(most, ++now)
            await gate.promise
            now -= 1
          },
          undo: () => undefined,
        }),
    })
    const orchestrator = open({ runs: [saga], runsMax: 2, startsMax: 1 }, store)
    const runs = [await orchestrator.start(saga, 'a', { person: 'x' }), await orchestrator.start(saga, 'b', { person: 'x' })]
    runs.push(await orchestrator.start(saga, 'c', { person: 'x' }))
    await expect(orchestrator.start(saga, 'd', { person: 'x' })).rejects.toMatchObject({ code: 'overloaded' })
    expect([...store.runs.keys()]).toEqual(['a', 'b', 'c'])
    await until(() => now === 2)
    expect(orchestrator.counts).toMatchObject({ working: 2, waiting: 1 })
    gate.resolve()
    await Promise.all(runs.map((each) => each.wait()))
    expect(most).toBe(2)
  })

  it('bounds those who wait, and lets a waiting caller go without harm to the run', async () => {
    const gate = deferred<void>()
    const saga = defineSaga('slow', { input, steps: (steps) => steps.step('a', { do: () => gate.promise, undo: () => undefined }) })
    const orchestrator = open({ runs: [saga], waitersMax: 1 })
    const run = await orchestrator.start(saga, 'a', { person: 'x' })
    const leave = new AbortController()
    const waiting = run.wait({ signal: leave.signal })
    await expect(run.wait()).rejects.toMatchObject({ code: 'overloaded' })
    leave.abort(new Error('enough'))
    await expect(waiting).rejects.toThrow('enough')
    gate.resolve()
    expect(await run.wait()).toMatchObject({ status: 'completed' })
    await expect(orchestrator.wait(saga, 'nobody')).rejects.toMatchObject({ code: 'saga-unknown' })
  })

  it('drops old runs that ended, not parked ones', async () => {
    const store = new MemorySagaStore()
    const saga = trip([], { 'do ticket': throwing(down) })
    const fine = defineSaga('fine', { input, steps: (steps) => steps.step('a', { do: () => 1, undo: () => 1 }) })
    const orchestrator = open({ runs: [saga, fine], retentionMs: 0 }, store)
    await (await orchestrator.start(saga, 'parked', { person: 'x' })).wait()
    await (await orchestrator.start(fine, 'done', { person: 'x' })).wait()
    await until(() => Date.now() > (store.runs.get('done')?.changed_at ?? 0))
    expect(await orchestrator.prune()).toBe(1)
    expect([...store.runs.keys()]).toEqual(['parked'])
    expect([...store.journals.keys()]).toEqual(['parked'])
  })

  it('closes within its bound, and leaves its runs to others at once', async () => {
    const store = new MemorySagaStore()
    const said: string[] = []
    const stuck = trip(said, { 'do hotel': () => new Promise(() => undefined) })
    const first = open({ runs: [stuck], closeTimeoutMs: 20 }, store)
    const started = await first.start(stuck, 'one', { person: 'ann' })
    const waiting = started.wait()
    waiting.catch(() => undefined)
    await until(() => said.includes('do hotel 1'))
    await first.close()
    await expect(waiting).rejects.toMatchObject({ code: 'stopping' })
    await expect(first.start(stuck, 'two', { person: 'ann' })).rejects.toMatchObject({ code: 'stopping' })
    expect(store.runs.get('one')?.owner).toBe('')
    const healthy = trip(said)
    expect(await open({ runs: [healthy], leaseMs: 60_000 }, store).wait(healthy, 'one')).toMatchObject({ status: 'completed' })
  })

  it('refuses what it is given wrongly, naming it', async () => {
    const saga = trip([])
    const orchestrator = open({ runs: [saga] })
    await expect(orchestrator.start(saga, 'a b', { person: 'x' })).rejects.toMatchObject({ code: 'saga-id-invalid' })
    await expect(orchestrator.start(saga, 'a', { person: 1 })).rejects.toMatchObject({ code: 'input-invalid' })
    await expect(orchestrator.start(saga, 'a', { person: 'x'.repeat(70_000) })).rejects.toMatchObject({ code: 'input-invalid' })
    const other = defineSaga('other', { input, steps: (steps) => steps.step('a', { do: () => 1, undo: () => 1 }) })
    await expect(orchestrator.start(other, 'a', { person: 'x' })).rejects.toMatchObject({ code: 'saga-invalid' })
    expect(() => open({ runs: [saga, saga] })).toThrow("named 'saga/trip'")
    expect(() => open({ runs: [saga], leaseMs: 5 })).toThrow('leaseMs')
    expect(() => open({ runs: [saga], leasMs: 5 } as never)).toThrow("did you mean 'leaseMs'")
    expect(() => open({ runs: [saga], node: 'a b' })).toThrow('node')
  })
})

/** The builder as somebody without types has it. */
interface Loose {
  step(name: string, step: unknown): Loose
  group(define: (group: Loose) => unknown): Loose
}

describe('the definition of a saga', () => {
  const define = (steps: (saga: never) => unknown) => () => defineSaga('bad', { input, steps: steps as never })
  it.each([
    ['no steps', (s: Loose) => s, 'no steps'],
    ['two steps of one name', (s: Loose) => s.step('a', { do() {}, undo() {} }).step('a', { do() {}, undo() {} }), "'a'"],
    ['no undo', (s: Loose) => s.step('a', { do() {} }), 'undo'],
    ['final with undo', (s: Loose) => s.step('a', { do() {}, undo() {}, final: true }), 'final'],
    ['a step after a final one', (s: Loose) => s.step('a', { do() {}, final: true }).step('b', { do() {}, undo() {} }), 'final'],
    ['final in a group', (s: Loose) => s.group((g: Loose) => g.step('a', { do() {}, final: true })), 'group'],
    ['an empty group', (s: Loose) => s.group((g: Loose) => g), 'no steps'],
    ['a group in a group', (s: Loose) => s.group((g: Loose) => g.group((h: Loose) => h.step('a', { do() {}, undo() {} }))), 'inside'],
    ['a bad name', (s: Loose) => s.step('a/b', { do() {}, undo() {} }), 'a/b'],
    ['an unknown option', (s: Loose) => s.step('a', { do() {}, undo() {}, timeoutMS: 1 }), "did you mean 'timeoutMs'"],
    ['a bound that is none', (s: Loose) => s.step('a', { do() {}, undo() {}, timeoutMs: 0 }), 'timeoutMs'],
  ])('refuses %s', (_, steps, message) => {
    expect(define(steps as never)).toThrow(message)
  })

  it('refuses a bad name and a missing schema', () => {
    expect(() => defineSaga('a b' as never, { input, steps: (s) => s.step('a', { do: () => 1, undo: () => 1 }) })).toThrow('a b')
    expect(() => defineSaga('a', { input: undefined as never, steps: (s) => s.step('a', { do: () => 1, undo: () => 1 }) })).toThrow(
      'Standard Schema',
    )
  })
})

/** Resolves when it holds; looks between the turns of the event loop. */
async function until(holds: () => boolean): Promise<void> {
  const end = Date.now() + 10_000
  while (!holds()) {
    if (Date.now() > end) throw new Error('it never held')
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}
