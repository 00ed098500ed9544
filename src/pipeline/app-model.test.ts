/**
 * The whole app against a sequential model: thousands of random commands of
 * both forms over hot and cold keys, with repeated and misused ids, rejections,
 * passing and lasting failures, dead letters redriven and dropped, spills and
 * restarts. Whatever happens on the way, the end must be what one loop over the
 * commands, in order of position, would have made.
 */
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { afterTest, rowsOf, temporaryFolder } from '../../test/support/apps.ts'
import { listen } from '../contracts/diagnostics.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { accept, type App, command, defineApp, HeadraceError, reject } from '../index.ts'
import { createRandom, type Random } from '../std/random.ts'

const commandsPerRun = Number(process.env['HEADRACE_MODEL_COMMANDS'] ?? 20_000)
const inFlightAtMost = 800
const retries = 2

/** What the handler makes of a command, beside the rules of the account. */
type Fate = 'plain' | 'fails once' | 'fails twice' | 'fails in save' | 'dies' | 'can be healed' | 'is impure'

interface Input {
  readonly account: string
  readonly amount: number
  readonly fate: Fate
}

interface Sent {
  readonly id: string
  readonly form: string
  readonly input: Input
}

type Body = { readonly status: string; readonly position: number; readonly code?: string; readonly result?: { readonly balance: number } }

const input = z.object({ account: z.string(), amount: z.number(), fate: z.string() as unknown as z.ZodType<Fate> })
const balances = sqlite('balances', {
  schema: 'create table if not exists account (name text primary key not null, balance integer not null check (balance >= 0))',
})
const entries = sqlite('entries', {
  schema:
    "create table if not exists entry (n integer primary key, id text not null, account text not null, amount integer not null, position integer not null check (id not like '%poison%'))",
})
const databases = { balances, entries }

class World {
  readonly #random: Random
  readonly #dataDir = temporaryFolder()
  readonly #failuresLeft = new Map<string, number>()
  /** Ids of commands that were dead and are healed. */
  readonly #healed = new Set<string>()
  readonly #sent: Sent[] = []
  readonly #fates = new Map<string, Fate>()
  /** Every answer that a caller got, by id. */
  readonly #answers = new Map<string, Set<string>>()
  readonly #reused: string[] = []
  readonly #raised: Promise<void>[] = []
  #app: App

  constructor(seed: number) {
    this.#random = createRandom(seed)
    this.#app = this.#newApp()
  }

  async run(): Promise<void> {
    // Dead letters of account.run block their key, whatever killed them, until somebody looks after them.
    const stopListening = listen('headrace:dead-letter', ({ app, command, position, id }) => {
      if (app === 'model' && command === 'account.run') this.#raised.push(this.#raise(position, id))
    })
    afterTest(stopListening)
    await this.#app.start()
    afterTest(() => this.#app.stop())
    const restarts = new Set([this.#random.int(commandsPerRun), this.#random.int(commandsPerRun)])
    const waiting = new Set<Promise<void>>()
    for (let number = 0; number < commandsPerRun; number++) {
      const sending: Promise<void> = this.#send(this.#pick(number)).finally(() => waiting.delete(sending))
      waiting.add(sending)
      if (this.#random.chance(0.02)) await new Promise(setImmediate)
      while (waiting.size >= inFlightAtMost) await Promise.race(waiting)
      if (restarts.has(number)) await this.#restart()
    }
    await Promise.all(waiting)
    while (this.#raised.length > 0) await this.#raised.pop()
    await this.#check()
  }

  /** The next command: mostly a new one, sometimes an old one again, sometimes another under an old id. */
  #pick(number: number): Sent {
    const random = this.#random
    const old =
      this.#sent.length > 0 && random.chance(0.12)
        ? this.#sent[Math.max(0, this.#sent.length - 1 - random.int(random.pick([3, 3_000])))]
        : undefined
    // Misused only once it is decided: a restart may give the place of an undecided one away.
    if (old !== undefined && (random.chance(0.85) || !this.#answers.has(`${old.form}/${old.id}`))) return old
    const fate = random.chance(0.97)
      ? 'plain'
      : random.pick<Fate>(['fails once', 'fails twice', 'fails in save', 'dies', 'can be healed', 'is impure'])
    const account = random.chance(0.5) ? 'hot' : `account-${random.int(30)}`
    const fresh: Sent = {
      id: old?.id ?? `${fate === 'fails in save' ? 'poison' : 'c'}-${number}`,
      form: fate === 'is impure' ? 'account.batch' : random.pick(['account.batch', 'account.run']),
      input: { account, amount: random.between(-60, 50), fate },
    }
    // An id belongs to its kind of command: the other form may use it too.
    if (old !== undefined)
      return old.form === fresh.form ? { ...fresh, input: { ...fresh.input, amount: fresh.input.amount + 1_000 } } : old
    this.#sent.push(fresh)
    this.#fates.set(`${fresh.form}/default/${fresh.id}`, fate)
    return fresh
  }

  async #send(sent: Sent): Promise<void> {
    const { id, form, input } = sent
    const durableFirst = this.#random.chance(0.3)
    for (;;) {
      try {
        const receipt = await this.#app.gateway.take(form, input, { id })
        if (durableFirst) await receipt.durable()
        const { body } = await receipt.outcome
        const name = `${form}/${id}`
        this.#answers.set(name, (this.#answers.get(name) ?? new Set()).add(body))
        if (input.amount > 900) this.#reused.push(`${name} was answered: ${body}`)
        return
      } catch (error) {
        if (!HeadraceError.is(error)) throw error
        if (error.code === 'id-reused' && input.amount > 900) return
        // The app is being restarted: the same command again.
        if (!['stopping', 'not-ready', 'app-not-started'].includes(error.code)) throw error
        await new Promise(setImmediate)
      }
    }
  }

  /** An operator: redrives what can be healed, drops the rest. */
  async #raise(position: number, id: string): Promise<void> {
    const heals = position % 2 === 0 && this.#fates.get(id) === 'can be healed'
    if (heals) this.#healed.add(id)
    for (;;) {
      try {
        return await (heals ? this.#app.deadLetters.redrive(position) : this.#app.deadLetters.drop(position))
      } catch (error) {
        if (!HeadraceError.is(error) || !['stopping', 'app-not-started'].includes(error.code)) throw error
        await new Promise(setImmediate)
      }
    }
  }

  async #restart(): Promise<void> {
    await this.#app.stop()
    const app = this.#newApp()
    await app.start()
    this.#app = app
  }

  #newApp(): App {
    const random = this.#random
    const shared = { input, key: ({ account }: Input) => account, databases, retries }
    const batch = command('account.batch', {
      ...shared,
      load: async (commands, { balances }) =>
        new Map(
          (
            await balances.selectIn<{ name: string; balance: number }>(
              'account',
              'name',
              commands.map(({ key }) => key),
            )
          ).map(({ name, balance }) => [name, balance]),
        ),
      decide: (state, { account, amount, fate }, { id }) => {
        this.#fail(`account.batch/default/${id}`, fate)
        const balance = state.get(account) ?? 0
        if (fate === 'is impure') state.set(account, balance + 1_000_000)
        if (fate === 'is impure' || balance + amount < 0) return reject('insufficient')
        state.set(account, balance + amount)
        return accept({ balance: balance + amount })
      },
      save: async (state, accepted, { balances, entries }) => {
        await balances.upsertMany(
          'account',
          'name',
          [...new Set(accepted.map(({ key }) => key))].map((name) => ({ name, balance: state.get(name) ?? 0 })),
        )
        await entries.insertMany(
          'entry',
          accepted.map(({ id, input: { account, amount }, position }) => ({ id: `account.batch/${id}`, account, amount, position })),
        )
      },
    })
    const run = command('account.run', {
      ...shared,
      onDeadLetter: 'block',
      run: async ({ input: { account, amount, fate }, id, position, databases: { balances, entries } }) => {
        // Written first, so that a rejection and a failure have something to undo.
        await entries.insertMany('entry', [{ id: `account.run/${id}`, account, amount, position }])
        this.#fail(`account.run/default/${id}`, fate)
        const [row] = await balances.selectIn<{ balance: number }>('account', 'name', [account])
        const balance = (row?.balance ?? 0) + amount
        if (balance < 0) return reject('insufficient')
        await balances.upsertMany('account', 'name', [{ name: account, balance }])
        return accept({ balance })
      },
    })
    return defineApp({
      name: 'model',
      commands: [batch, run],
      dataDir: this.#dataDir,
      lanes: random.pick([1, 1, 3]),
      windowCommandsMax: random.pick([64, 512, 8192]),
      batchCommandsMax: random.pick([16, 64]),
      retryBaseMs: 1,
      retryMaxMs: 4,
      inFlightMax: 1_000_000,
    })
  }

  #fail(id: string, fate: Fate): void {
    if (fate === 'fails once' || fate === 'fails twice') {
      const left = this.#failuresLeft.get(id) ?? (fate === 'fails once' ? 1 : 2)
      this.#failuresLeft.set(id, left - 1)
      if (left > 0) throw new Error('passes')
    }
    if (fate === 'dies' || (fate === 'can be healed' && !this.#healed.has(id))) throw new Error('dies')
  }

  async #check(): Promise<void> {
    const bodies = new Map<string, string>()
    for (const { id, form } of this.#sent) {
      const state = await this.#app.gateway.waitForOutcome(form, 'default', id, AbortSignal.timeout(60_000))
      bodies.set(`${form}/${id}`, state.state === 'done' ? state.body : `is ${state.state}`)
    }
    const inOrder = this.#sent
      .map((sent) => ({ ...sent, name: `${sent.form}/${sent.id}`, body: JSON.parse(bodies.get(`${sent.form}/${sent.id}`) ?? '') as Body }))
      .sort((a, b) => a.body.position - b.body.position)
    // One loop over all commands, one after the other.
    const accounts = new Map<string, number>()
    const applied: unknown[] = []
    for (const { name, form, id, input, body } of inOrder) {
      const { account, amount } = input
      const balance = (accounts.get(account) ?? 0) + amount
      const failsInSave = input.fate === 'fails in save' && (form === 'account.run' || balance >= 0)
      const expected = failsInSave || this.#lasts(form, id, input.fate) ? 'failed' : balance < 0 ? 'rejected' : 'committed'
      // The first difference says more than all that follow from it.
      if (body.status !== expected || body.result?.balance !== (expected === 'committed' ? balance : undefined))
        expect({ name, input, body }).toEqual({ expected, balance })
      if (expected !== 'committed') continue
      accounts.set(account, balance)
      applied.push({ id: name, account, amount, position: body.position })
    }
    const rows = rowsOf<{ id: string; account: string; amount: number; position: number }>(
      join(this.#dataDir, 'entries.sqlite'),
      'select id, account, amount, position from entry order by n',
    )
    expect(rows.map(({ id }) => id).sort()).toEqual(applied.map((row) => (row as { id: string }).id).sort())
    // In the order of each account, not only in the end.
    for (const account of accounts.keys()) {
      const of = (all: readonly unknown[]): unknown[] => all.filter((row) => (row as { account: string }).account === account)
      expect(of(rows)).toEqual(of(applied))
    }
    expect(
      new Map(
        rowsOf<{ name: string; balance: number }>(join(this.#dataDir, 'balances.sqlite'), 'select name, balance from account').map(
          ({ name, balance }) => [name, balance],
        ),
      ),
    ).toEqual(accounts)
    this.#checkAnswers(bodies)
    const { counts, inFlight } = await this.#app.status()
    const dead = (await this.#app.deadLetters.list({ limit: 100_000 })).length
    expect({ ...counts, inFlight }).toEqual({
      queued: 0,
      queuedBytes: 0,
      parked: 0,
      outcomes: this.#sent.length,
      dead,
      blockedKeys: 0,
      events: 0,
      oldestAcceptedAt: null,
      inFlight: 0,
    })
  }

  /** Whether the command fails for good: it has no effect. */
  #lasts(form: string, id: string, fate: Fate): boolean {
    if (fate === 'dies' || fate === 'is impure') return true
    return fate === 'can be healed' && !this.#healed.has(`${form}/default/${id}`)
  }

  /** Everybody who asked for an id got the one outcome of it, but for those who asked before a redrive. */
  #checkAnswers(bodies: ReadonlyMap<string, string>): void {
    expect(this.#reused).toEqual([])
    const others: string[] = []
    for (const [name, body] of bodies) {
      const [form, id] = name.split('/')
      const healed = this.#healed.has(`${form}/default/${id}`)
      for (const answer of this.#answers.get(name) ?? []) {
        if (answer !== body && !(healed && (JSON.parse(answer) as Body).status === 'failed')) others.push(`${answer} instead of ${body}`)
      }
    }
    expect(others).toEqual([])
  }
}

describe('the whole app', () => {
  it('ends as a loop over its commands would, whatever repeats, fails, waits, spills or restarts on the way', async () => {
    const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
    try {
      await new World(seed).run()
    } catch (error) {
      throw new Error(
        `HEADRACE_SEED=${seed} npx vitest run src/pipeline/app-model.test.ts: ${error instanceof Error ? error.message : String(error)}`,
        { cause: error },
      )
    }
  }, 180_000)
})
