import { afterEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { memorySagaLog, MemorySagaStore } from '../../drivers/memory/index.ts'
import { createOrchestrator } from '../saga/orchestrator.ts'
import type { Orchestrator, OrchestratorOptions } from '../saga/orchestrator-contract.ts'
import { StepRefused } from '../saga/records.ts'
import { defineTcc, type TccParticipant } from './tcc.ts'

const quick = { retryBaseMs: 1, retryMaxMs: 2, retriesMax: 2 } as const
const input = z.object({ sku: z.string() })

const opened: Orchestrator[] = []
afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()))
})

function open(options: Partial<OrchestratorOptions> & Pick<OrchestratorOptions, 'runs'>, store = new MemorySagaStore()): Orchestrator {
  const log = memorySagaLog({ store })
  const orchestrator = createOrchestrator({ deployment: 'test', log, pollMs: 5, beatMs: 5, leaseMs: 40, closeTimeoutMs: 100, ...options })
  opened.push(orchestrator)
  return orchestrator
}

type Faults = Readonly<Record<string, (attempt: number) => unknown>>

/** A participant that writes down what is called of it. */
function participant(name: string, said: string[], faults: Faults = {}): TccParticipant<{ sku: string }, string> {
  const act =
    (operation: string) =>
    async ({ attempt }: { readonly attempt: number }) => {
      said.push(`${operation} ${name} ${attempt}`)
      await faults[`${operation} ${name}`]?.(attempt)
      return `${name}-1`
    }
  return { try: act('try'), confirm: act('confirm'), cancel: act('cancel'), tryLimits: quick, finishLimits: quick }
}

function order(said: string[], faults: Faults = {}, deadlineMs?: number) {
  return defineTcc('order', {
    input,
    participants: (tcc) =>
      tcc.participant('stock', participant('stock', said, faults)).participant('wallet', participant('wallet', said, faults)),
    ...(deadlineMs === undefined ? {} : { deadlineMs }),
  })
}

const fail =
  (error: () => Error, from = 1, to = Infinity) =>
  (attempt: number): void => {
    if (attempt >= from && attempt <= to) throw error()
  }
const no = (): Error => new StepRefused('sold-out')
const lost = (): Error => new Error('lost')

/** The builder as somebody without types has it. */
interface Loose {
  participant(name: string, participant: unknown): Loose
}

describe('a TCC', () => {
  it('confirms everywhere when everyone has tried', async () => {
    const said: string[] = []
    const tcc = order(said)
    const end = await (await open({ runs: [tcc] }).start(tcc, 'one', { sku: 'a' })).wait()
    expect(end).toEqual({ status: 'completed', results: { stock: 'stock-1', wallet: 'wallet-1' } })
    expect(said).toEqual(['try stock 1', 'try wallet 1', 'confirm stock 1', 'confirm wallet 1'])
  })

  it('cancels everyone else when one says no', async () => {
    const said: string[] = []
    const tcc = order(said, { 'try wallet': fail(no) })
    const end = await (await open({ runs: [tcc] }).start(tcc, 'one', { sku: 'a' })).wait()
    expect(end).toMatchObject({ status: 'undone', error: { branch: 'wallet', code: 'sold-out' } })
    expect(said).toEqual(['try stock 1', 'try wallet 1', 'cancel stock 1'])
  })

  it('cancels one whose answer was lost, too', async () => {
    const said: string[] = []
    const tcc = order(said, { 'try wallet': fail(lost) })
    const end = await (await open({ runs: [tcc] }).start(tcc, 'one', { sku: 'a' })).wait()
    expect(end).toMatchObject({ status: 'undone', error: { branch: 'wallet' } })
    expect(said.filter((each) => each.startsWith('cancel')).sort()).toEqual(['cancel stock 1', 'cancel wallet 1'])
    expect(said.some((each) => each.startsWith('confirm'))).toBe(false)
  })

  it('writes its decision down before the first confirm or cancel', async () => {
    for (const faults of [{}, { 'try wallet': fail(no) }] as Faults[]) {
      const store = new MemorySagaStore()
      const decidedBefore: boolean[] = []
      const look = (): void => {
        decidedBefore.push((store.journals.get('one') ?? []).some((record) => record.includes('"decided"')))
      }
      const tcc = order([], { ...faults, 'confirm stock': look, 'cancel stock': look })
      await (await open({ runs: [tcc] }, store).start(tcc, 'one', { sku: 'a' })).wait()
      expect(decidedBefore).toEqual([true])
    }
  })

  it('repeats confirm until it is done, and parks it at its bound, until redrive', async () => {
    const said: string[] = []
    const tcc = order(said, { 'confirm wallet': fail(lost, 1, 4) })
    const orchestrator = open({ runs: [tcc] })
    const run = await orchestrator.start(tcc, 'one', { sku: 'a' })
    expect(await run.wait()).toMatchObject({ status: 'parked', error: { branch: 'wallet', operation: 'confirm' } })
    await orchestrator.redrive('one')
    expect(await run.wait()).toMatchObject({ status: 'completed' })
    expect(said.filter((each) => each.startsWith('confirm'))).toEqual([
      'confirm stock 1',
      ...[1, 2, 3, 4, 5].map((attempt) => `confirm wallet ${attempt}`),
    ])
    expect(said.some((each) => each.startsWith('cancel'))).toBe(false)
  })

  it('cancels when it is not decided within its deadline', async () => {
    const said: string[] = []
    const late = defineTcc('late', {
      input,
      participants: (tcc) =>
        tcc.participant('a', {
          try: () => Promise.reject(lost()),
          confirm: () => said.push('confirm'),
          cancel: () => said.push('cancel'),
          tryLimits: { ...quick, retriesMax: 1_000 },
        }),
      deadlineMs: 30,
    })
    expect(await (await open({ runs: [late] }).start(late, 'one', { sku: 'a' })).wait()).toMatchObject({
      status: 'undone',
      error: { code: 'transaction-timeout' },
    })
    expect(said).toEqual(['cancel'])
  })

  it('waits for a try that is under way at its deadline, and takes its answer', async () => {
    const said: string[] = []
    const tcc = order(said, { 'try wallet': () => new Promise((resolve) => setTimeout(resolve, 60)) }, 20)
    expect(await (await open({ runs: [tcc] }).start(tcc, 'one', { sku: 'a' })).wait()).toMatchObject({ status: 'completed' })
  })

  it('goes on as it was decided when another process takes over', async () => {
    for (const [faults, ending, wanted] of [
      [{}, 'confirm', 'completed'],
      [{ 'try wallet': fail(no) }, 'cancel', 'undone'],
    ] as const) {
      const store = new MemorySagaStore()
      const said: string[] = []
      const hanging = order(said, { ...faults, [`${ending} stock`]: () => new Promise(() => undefined) })
      const log = memorySagaLog({ store })
      const first = open({ runs: [hanging], log }, store)
      await first.start(hanging, 'one', { sku: 'a' })
      while (!said.includes(`${ending} stock 1`)) await new Promise((resolve) => setTimeout(resolve, 1))
      log.kill()
      // Whatever the tries would say now.
      const healthy = order(said, { 'try stock': fail(no), 'try wallet': fail(no) })
      expect(await open({ runs: [healthy] }, store).wait(healthy, 'one')).toMatchObject({ status: wanted })
      expect(said.filter((each) => each.startsWith(`${ending} stock`))).toEqual([`${ending} stock 1`, `${ending} stock 2`])
      expect(said.filter((each) => each.startsWith('try')).length).toBe(2)
    }
  })

  it('refuses a definition that is not whole', () => {
    const one = participant('a', [])
    const define = (participants: (tcc: Loose) => unknown) => () => defineTcc('bad', { input, participants: participants as never })
    expect(define((tcc) => tcc)).toThrow('no participants')
    expect(define((tcc) => tcc.participant('a', { ...one, cancel: undefined }))).toThrow('cancel')
    expect(define((tcc) => tcc.participant('a', one).participant('a', one))).toThrow("'a'")
    expect(define((tcc) => tcc.participant('a', { ...one, tryLimit: {} }))).toThrow("did you mean 'tryLimits'")
    expect(() => defineTcc('bad', { input, participants: (tcc) => tcc.participant('a', one), deadlineMs: 0 })).toThrow('deadlineMs')
  })
})
