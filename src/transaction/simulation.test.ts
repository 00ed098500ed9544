/**
 * Whole histories of transactions over databases in memory, on a clock of their
 * own: statements fail, connections are lost before and after each call, calls
 * arrive when nobody waits for them any more, coordinators and servers die at
 * any moment, and two recoverers work at once, without any grace. Whatever
 * happens, each transaction is in all of its databases or in none, its caller
 * was told the truth, and at the end nothing is in doubt.
 */
import { describe, expect, it } from 'vitest'
import { VirtualClock } from '../../test/support/virtual-clock.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { type MemoryCall, type MemoryFault, MemoryParticipant, MemoryStore } from '../drivers/memory/index.ts'
import { createRandom, type Random } from '../std/random.ts'
import { createCoordinator } from './coordinator.ts'
import type { Coordinator, CoordinatorOptions } from './coordinator-contract.ts'

/** A history that takes longer goes round in circles. */
const virtualMsMax = 60_000

type Answer = 'committed' | 'aborted' | 'unknown' | 'died'

interface Order {
  readonly id: string
  readonly databases: readonly string[]
  answer: Answer
  /** What the coordinator said later about one that was unknown. */
  later: string | null
}

const accounts = ['ann', 'bob', 'cid']
const start = 100

class History {
  readonly #random: Random
  readonly #clock = new VirtualClock(virtualMsMax)
  readonly #stores: MemoryStore[]
  readonly #logs: readonly boolean[]
  readonly #orders: Order[] = []
  readonly #faulty: number
  #troubled = true
  #number = 0

  constructor(seed: number) {
    this.#random = createRandom(seed)
    this.#faulty = this.#random.pick([0, 0.01, 0.03, 0.08])
    const names = ['a', 'b', 'c'].slice(0, this.#random.between(2, 3))
    this.#stores = names.map(
      (name) =>
        new MemoryStore(name, {
          account: { key: 'name', rows: accounts.map((account) => ({ name: account, balance: start })) },
          entry: { key: 'id' },
        }),
    )
    // Sometimes one cannot prepare, or only some can decide.
    const odd = this.#random.int(3)
    this.#logs = names.map((_, index) => odd !== 1 || index === 0)
    this.#unable = odd === 2 ? (names[this.#random.int(names.length)] ?? null) : null
  }

  readonly #unable: string | null

  async run(): Promise<void> {
    await this.#clock.run(this.#play())
    this.#check()
  }

  async #play(): Promise<void> {
    const random = this.#random
    const generations = random.between(1, 2)
    for (let generation = 0; generation < generations; generation += 1) {
      // Two processes of one deployment at once; each recovers what it takes for dead.
      await Promise.all([
        this.#process(generation * 2),
        random.chance(0.6) ? this.#process(generation * 2 + 1) : undefined,
        this.#serverTrouble(),
      ])
    }
    // Then peace: two recoverers alone must end everything.
    this.#troubled = false
    for (const store of this.#stores) store.restart()
    await this.#clock.pause(500)
    const last = await Promise.all([this.#coordinator(90), this.#coordinator(91)])
    for (let pass = 0; pass < 4; pass += 1) await Promise.all(last.map(({ coordinator }) => coordinator.recover()))
    const doubts = await last[0]?.coordinator.doubts()
    expect(doubts).toEqual([])
    await Promise.all(last.map(({ coordinator }) => coordinator.close()))
  }

  async #serverTrouble(): Promise<void> {
    const random = this.#random
    if (!random.chance(0.4)) return
    await this.#clock.pause(random.int(300))
    const store = random.pick(this.#stores)
    store.crash()
    await this.#clock.pause(random.int(400))
    store.restart()
  }

  async #process(number: number): Promise<void> {
    const random = this.#random
    const { coordinator, kill } = await this.#coordinator(number)
    const work = Promise.all(Array.from({ length: random.between(1, 5) }, () => this.#order(coordinator)))
    if (random.chance(0.4)) {
      // SIGKILL: from here on nothing of this process reaches a server, and nobody hears its answers.
      await this.#clock.pause(random.int(150))
      kill()
      this.#dead.add(coordinator)
    }
    await work
    await coordinator.close()
  }

  readonly #dead = new Set<Coordinator>()

  async #order(coordinator: Coordinator): Promise<void> {
    const random = this.#random
    await this.#clock.pause(random.int(60))
    const names = this.#stores.map((store) => store.name)
    const databases = random.shuffle(names).slice(0, random.between(1, names.length))
    this.#number += 1
    const order: Order = { id: `t${this.#number}`, databases, answer: 'died', later: null }
    this.#orders.push(order)
    const refuses = random.chance(0.1)
    try {
      await coordinator.transaction({ databases: names, retriesMax: random.int(3), timeoutMs: random.pick([200, 2_000]) }, async (tx) => {
        await Promise.all(
          databases.map(async (name, index) => {
            // Money goes from one database to the next; in one alone, from one account to another.
            const [from, to] = random.shuffle(accounts)
            await tx.database(name).addMany('account', 'name', [{ name: from as string, balance: databases.length === 1 ? -1 : 0 }])
            await tx.database(name).insertMany('entry', [{ id: `${order.id}`, gid: tx.gid }])
            await tx
              .database(name)
              .addMany('account', 'name', [
                { name: to as string, balance: databases.length === 1 ? 1 : index === 0 ? -(databases.length - 1) : 1 },
              ])
          }),
        )
        if (refuses) throw new Error('no')
      })
      if (!this.#dead.has(coordinator)) order.answer = 'committed'
    } catch (error) {
      if (this.#dead.has(coordinator)) return
      const unknown = HeadraceError.is(error) && error.code === 'transaction-unknown'
      order.answer = unknown ? 'unknown' : 'aborted'
      if (unknown) {
        void coordinator.ended(String(HeadraceError.is(error) ? error.details?.['gid'] : '')).then((end) => {
          if (!this.#dead.has(coordinator)) order.later = end
        })
      }
    }
  }

  async #coordinator(number: number): Promise<{ coordinator: Coordinator; kill: () => void }> {
    const random = this.#random.fork(`process ${number}`)
    const fault = (call: MemoryCall): MemoryFault | null => {
      // A commit of which the answer is lost is what the protocol is for.
      const share = this.#faulty * (call === 'commit' || call === 'prepare' ? 5 : 1)
      if (!this.#troubled || !random.chance(share)) return null
      const kind = random.pick<MemoryFault>(['refused', 'lost-before', 'lost-after', 'late'])
      // A question that arrives when its transaction is over and forgotten leaves a false alarm (docs/transactions.md), and no harm.
      return call === 'decideAbort' && kind === 'late' ? 'lost-before' : kind
    }
    const participants = this.#stores.map(
      (store, index) =>
        new MemoryParticipant(store.name, store, {
          tables: {},
          canPrepare: store.name !== this.#unable,
          canDecide: this.#logs[index] ?? true,
          fault,
          delayMs: () => random.int(8),
          lateMs: () => random.int(400),
          lockWaitMs: 100,
          pause: (ms, signal) => this.#clock.pause(ms, signal),
        }),
    )
    const options: CoordinatorOptions = {
      deployment: 'sim',
      node: `n${number}`,
      databases: participants,
      clock: this.#clock,
      random: () => random.next(),
      randomInt: (bound) => random.int(bound),
      graceMs: random.pick([0, 0, 30]),
      recoveryIntervalMs: 60,
      settleWaitMs: random.pick([0, 50, 500]),
      phase2WaitMs: 50,
      statementTimeoutMs: 200,
      forgetEveryMs: random.pick([1, 50]),
      finishMaxMs: 100,
      closeTimeoutMs: 200,
      ...(this.#unable === null && random.chance(0.3) ? { home: 'a' } : {}),
    }
    return {
      coordinator: await createCoordinator(options),
      kill: () => {
        for (const each of participants) each.kill()
      },
    }
  }

  #check(): void {
    for (const { id, databases, answer, later } of this.#orders) {
      const found = this.#stores.filter((store) => store.rows('entry').some((row) => row['id'] === id)).map((store) => store.name)
      if (found.length > 0) expect(found, `${id} is in some of its databases only (answer: ${answer})`).toEqual([...databases].sort())
      if (answer === 'committed') expect(found.length, `${id} was said to be committed`).toBe(databases.length)
      if (answer === 'aborted') expect(found, `${id} was said to be undone`).toEqual([])
      if (later === 'committed') expect(found.length, `${id} was said later to be committed`).toBe(databases.length)
      if (later === 'aborted') expect(found, `${id} was said later to be undone`).toEqual([])
    }
    const money = this.#stores.flatMap((store) => store.rows('account')).reduce((sum, row) => sum + Number(row['balance']), 0)
    expect(money).toBe(this.#stores.length * accounts.length * start)
    for (const store of this.#stores) expect([...store.prepared.keys()], `prepared in ${store.name}`).toEqual([])
    for (const { answer } of this.#orders) seen.set(answer, (seen.get(answer) ?? 0) + 1)
  }
}

const seen = new Map<Answer, number>()
const histories = Number(process.env['HEADRACE_HISTORIES'] ?? 1_000)
const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)

describe('thousands of histories', () => {
  it(`commit all or none, tell the truth, and end without a doubt (HEADRACE_SEED=${seed} HEADRACE_HISTORIES=${histories} npx vitest run src/transaction/simulation)`, {
    timeout: 280_000,
  }, async () => {
    for (let number = 0; number < histories; number += 1) {
      try {
        const from = Date.now()
        await new History(seed + number).run()
        if (process.env['HEADRACE_TELL'] !== undefined && Date.now() - from > 200)
          process.stderr.write(`${seed + number}: ${Date.now() - from} ms\n`)
      } catch (error) {
        throw new Error(`HEADRACE_SEED=${seed + number} HEADRACE_HISTORIES=1: ${String(error)}`, { cause: error })
      }
    }
    if (process.env['HEADRACE_TELL'] !== undefined) process.stderr.write(`${JSON.stringify([...seen])}\n`)
    // Every kind of end was met, or the histories are too tame.
    if (histories >= 1_000)
      for (const answer of ['committed', 'aborted', 'unknown', 'died'] as const) expect(seen.get(answer) ?? 0, answer).toBeGreaterThan(10)
  })
})
