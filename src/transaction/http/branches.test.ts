/**
 * Sagas and TCCs over real HTTP services that keep a SQLite file behind the
 * barrier: answers are lost, calls come twice, a try comes after its cancel.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync, type DatabaseSyncInstance } from '@photostructure/sqlite'
import fastify, { type FastifyInstance } from 'fastify'
import { afterAll, afterEach, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { memorySagaLog } from '../../drivers/memory/index.ts'
import { writeHandle } from '../../drivers/sqlite/handle.ts'
import { sqliteSagaLog, sqliteSagaSql } from '../../drivers/sqlite/index.ts'
import { Verbs } from '../../drivers/sqlite/verbs.ts'
import { createRandom } from '../../std/random.ts'
import { type CallHandlers, receiveCall, sqliteBarrierSql } from '../barrier.ts'
import { enqueueSaga } from '../saga/new-run.ts'
import { createOrchestrator } from '../saga/orchestrator.ts'
import { StepRefused } from '../saga/records.ts'
import { defineSaga } from '../saga/saga.ts'
import { defineTcc } from '../tcc/tcc.ts'
import { httpParticipant, httpStep } from './branches.ts'
import { createHttpClient, type HttpClient } from './client.ts'

const folder = mkdtempSync(join(tmpdir(), 'headrace-test-http-'))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const quick = { retryBaseMs: 1, retryMaxMs: 3, retriesMax: 8, timeoutMs: 2_000 } as const
const input = z.object({ buyer: z.string(), price: z.int() })
const start = 100

/** What the network makes of a call: `lost`: it arrives, and its answer does not. */
type Trouble = (operation: string) => 'lost' | 'refused' | 'twice' | null

/** A wallet with one account, as a service of its own. */
class Wallet {
  origin = ''
  trouble: Trouble = () => null
  readonly #file: DatabaseSyncInstance
  readonly #server: FastifyInstance = fastify()
  #turn: Promise<unknown> = Promise.resolve()

  constructor(name: string) {
    this.#file = new DatabaseSync(join(folder, `${name}.sqlite`))
    this.#file.exec(`${sqliteBarrierSql}; create table account (name text primary key not null, free integer not null, held integer not null);
      insert into account values ('ann', ${start}, 0)`)
    const database = writeHandle(async (verb) => verbs.run(verb))
    const verbs = new Verbs(name, this.#file)
    const transaction = <T>(use: (given: typeof database) => Promise<T>): Promise<T> => {
      const run = async (): Promise<T> => {
        this.#file.exec('begin immediate')
        try {
          const value = await use(database)
          this.#file.exec('commit')
          return value
        } catch (error) {
          this.#file.exec('rollback')
          throw error
        }
      }
      const mine = this.#turn.then(run, run)
      this.#turn = mine.catch(() => undefined)
      return mine
    }
    this.#server.post('/wallet', async (request, reply) => {
      const { price } = request.body as { price: number }
      const move = async (free: number, held: number): Promise<{ price: number }> => {
        const [account] = await database.selectIn('account', 'name', ['ann'])
        if (Number(account?.['free']) + free < 0) throw new StepRefused('no-funds')
        await database.addMany('account', 'name', [{ name: 'ann', free, held }])
        return { price }
      }
      const handlers: CallHandlers = {
        do: () => move(-price, 0),
        undo: () => move(price, 0),
        try: () => move(-price, price),
        confirm: () => move(0, -price),
        cancel: () => move(price, -price),
      }
      const operation = String(request.headers['headrace-operation'])
      const trouble = this.trouble(operation)
      if (trouble === 'refused') return reply.code(503).send({})
      const receive = () => receiveCall({ headers: request.headers, transaction, handlers })
      const { status, body } = await receive()
      if (trouble === 'twice') expect(await receive()).toEqual({ status, body })
      if (trouble === 'lost') {
        request.raw.socket.destroy()
        return reply
      }
      return reply.code(status).send(body)
    })
  }

  async listen(): Promise<void> {
    this.origin = await this.#server.listen({ host: '127.0.0.1', port: 0 })
  }

  balance(): { free: number; held: number } {
    return { ...(this.#file.prepare("select free, held from account where name = 'ann'").get() as { free: number; held: number }) }
  }

  async close(): Promise<void> {
    await this.#server.close()
    this.#file.close()
  }
}

let wallets: Wallet[]
let http: HttpClient
let number = 0
beforeEach(async () => {
  number += 1
  wallets = [new Wallet(`left${number}`), new Wallet(`right${number}`)]
  await Promise.all(wallets.map((each) => each.listen()))
  http = createHttpClient({ allow: wallets.map(({ origin }) => origin) })
})
afterEach(async () => {
  await http.close()
  await Promise.all(wallets.map((each) => each.close()))
})

function pay() {
  const step = (wallet: number) =>
    httpStep(http, {
      ...quick,
      undoLimits: quick,
      do: ({ input: given }: { readonly input: z.infer<typeof input> }) => ({ url: `${wallets[wallet]?.origin}/wallet`, body: given }),
      undo: ({ input: given }: { readonly input: z.infer<typeof input> }) => ({ url: `${wallets[wallet]?.origin}/wallet`, body: given }),
      result: z.object({ price: z.number() }),
    })
  return defineSaga('pay', { input, steps: (saga) => saga.step('left', step(0)).step('right', step(1)) })
}

function order() {
  const participant = (wallet: number) => {
    const call = ({ input: given }: { readonly input: z.infer<typeof input> }) => ({
      url: `${wallets[wallet]?.origin}/wallet`,
      body: given,
    })
    return httpParticipant(http, { try: call, confirm: call, cancel: call, tryLimits: quick, finishLimits: quick })
  }
  return defineTcc('order', { input, participants: (tcc) => tcc.participant('left', participant(0)).participant('right', participant(1)) })
}

const balances = () => wallets.map((each) => each.balance())
const free = (amount: number) => ({ free: amount, held: 0 })

describe('services over HTTP', () => {
  it('are steps of a saga: paid in both, or in none', async () => {
    const saga = pay()
    await using orchestrator = createOrchestrator({ deployment: 'test', log: memorySagaLog(), runs: [saga] })
    expect(await (await orchestrator.start(saga, 'a', { buyer: 'ann', price: 60 })).wait()).toEqual({
      status: 'completed',
      results: { left: { price: 60 }, right: { price: 60 } },
    })
    expect(balances()).toEqual([free(40), free(40)])
    expect(await (await orchestrator.start(saga, 'b', { buyer: 'ann', price: 60 })).wait()).toMatchObject({
      status: 'undone',
      error: { branch: 'left', code: 'no-funds' },
    })
    expect(balances()).toEqual([free(40), free(40)])
  })

  it('are participants of a TCC: confirmed in both, or let go in both', async () => {
    const tcc = order()
    await using orchestrator = createOrchestrator({ deployment: 'test', log: memorySagaLog(), runs: [tcc] })
    expect(await (await orchestrator.start(tcc, 'a', { buyer: 'ann', price: 60 })).wait()).toMatchObject({ status: 'completed' })
    expect(balances()).toEqual([free(40), free(40)])
    // The answer of a try is lost each time: whether it was tried is not known here.
    ;(wallets[1] as Wallet).trouble = (operation) => (operation === 'try' ? 'lost' : null)
    expect(await (await orchestrator.start(tcc, 'b', { buyer: 'ann', price: 10 })).wait()).toMatchObject({
      status: 'undone',
      error: { branch: 'right' },
    })
    expect(balances()).toEqual([free(40), free(40)])
  })

  it('change once what is called twice, lost on the way, or refused for a while', async () => {
    const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
    const random = createRandom(seed)
    const [saga, tcc] = [pay(), order()]
    for (const wallet of wallets) wallet.trouble = () => (random.chance(0.4) ? random.pick(['lost', 'refused', 'twice'] as const) : null)
    await using orchestrator = createOrchestrator({ deployment: 'test', log: memorySagaLog(), runs: [saga, tcc] })
    const ends = await Promise.all(
      Array.from({ length: 20 }, async (_, index) => {
        const given = { buyer: 'ann', price: random.between(1, 30) }
        const run = await (index % 2 === 0 ? orchestrator.start(saga, `s${index}`, given) : orchestrator.start(tcc, `t${index}`, given))
        return { given, end: await run.wait() }
      }),
    )
    const paid = ends.filter(({ end }) => end.status === 'completed').reduce((sum, { given }) => sum + given.price, 0)
    expect(
      ends.filter(({ end }) => end.status === 'parked'),
      `HEADRACE_SEED=${seed}`,
    ).toEqual([])
    expect(balances(), `HEADRACE_SEED=${seed}`).toEqual([free(start - paid), free(start - paid)])
  })

  it('park a run when they refuse what they must not refuse', async () => {
    const saga = defineSaga('pay', {
      input,
      steps: (steps) =>
        steps
          .step(
            'left',
            httpStep(http, {
              do: ({ input: given }) => ({ url: `${wallets[0]?.origin}/wallet`, body: given }),
              undo: () => ({ url: `${wallets[0]?.origin}/nowhere` }),
            }),
          )
          .step('right', httpStep(http, { final: true, do: () => ({ url: `${wallets[1]?.origin}/nowhere` }) })),
    })
    await using orchestrator = createOrchestrator({ deployment: 'test', log: memorySagaLog(), runs: [saga] })
    expect(await (await orchestrator.start(saga, 'a', { buyer: 'ann', price: 1 })).wait()).toMatchObject({
      status: 'parked',
      error: { branch: 'left', operation: 'undo', code: 'service-refused' },
    })
  })

  it('fail a step whose answer is not as its schema says, and the step is undone', async () => {
    const saga = defineSaga('pay', {
      input,
      steps: (steps) =>
        steps.step(
          'left',
          httpStep(http, {
            do: ({ input: given }) => ({ url: `${wallets[0]?.origin}/wallet`, body: given }),
            undo: ({ input: given }) => ({ url: `${wallets[0]?.origin}/wallet`, body: given }),
            result: z.object({ other: z.string() }),
          }),
        ),
    })
    await using orchestrator = createOrchestrator({ deployment: 'test', log: memorySagaLog(), runs: [saga] })
    expect(await (await orchestrator.start(saga, 'a', { buyer: 'ann', price: 1 })).wait()).toMatchObject({
      error: { code: 'service-answer' },
    })
    expect(balances()[0]).toEqual(free(start))
  })
})

describe('a saga that is started in a transaction of the app', () => {
  it('is started if and only if that commits', async () => {
    const saga = defineSaga('mail', {
      input,
      steps: (steps) => steps.step('send', { do: ({ input: given }) => given.price, undo: () => undefined }),
    })
    const file = join(folder, 'orders.sqlite')
    const orders = new DatabaseSync(file)
    orders.exec(`pragma journal_mode = wal; ${sqliteSagaSql}; create table orders (id text primary key not null)`)
    const verbs = new Verbs('orders', orders)
    const database = writeHandle(async (verb) => verbs.run(verb))
    const buy = async (id: string, ends: 'commit' | 'rollback'): Promise<boolean> => {
      orders.exec('begin immediate')
      await database.insertMany('orders', [{ id: `${id} ${ends}` }], { onConflict: 'ignore' })
      const started = await enqueueSaga(database, saga, id, { buyer: 'ann', price: 7 }, { deployment: 'test' })
      orders.exec(ends)
      return started
    }
    const log = sqliteSagaLog({ file })
    const orchestrator = createOrchestrator({ deployment: 'test', log, runs: [saga], pollMs: 60_000 })
    expect(await buy('a', 'rollback')).toBe(true)
    expect(await orchestrator.get('a')).toBeNull()
    expect(await buy('a', 'commit')).toBe(true)
    expect(await buy('a', 'commit')).toBe(false)
    orchestrator.wake()
    expect(await orchestrator.wait(saga, 'a')).toEqual({ status: 'completed', results: { send: 7 } })
    // The same run, whoever starts it.
    expect((await orchestrator.start(saga, 'a', { buyer: 'ann', price: 7 })).created).toBe(false)
    await expect(enqueueSaga(database, saga, 'b', { buyer: 1 }, { deployment: 'test' })).rejects.toMatchObject({ code: 'input-invalid' })
    await orchestrator.close()
    await log.close()
    orders.close()
  })
})
