import { afterEach, describe, expect, expectTypeOf, it } from 'vitest'
import type { Database } from '../contracts/database.ts'
import { listen } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Decision, DecisionLog } from '../contracts/participant.ts'
import { memory, type MemoryCall, type MemoryFault, MemoryParticipant, type MemoryOptions, MemoryStore } from '../drivers/memory/index.ts'
import { deferred } from '../std/deferred.ts'
import { createCoordinator } from './coordinator.ts'
import type { Coordinator, CoordinatorOptions } from './coordinator-contract.ts'
import { parseGid } from './gid.ts'

const open: Coordinator[] = []
afterEach(async () => {
  await Promise.all(open.splice(0).map((each) => each.close()))
})

interface World {
  readonly stores: Readonly<Record<string, MemoryStore>>
  readonly participants: MemoryParticipant[]
  readonly coordinator: Coordinator
  /** What happens to the next calls of this kind at this database. */
  plan(database: string, call: MemoryCall, ...faults: (MemoryFault | null)[]): void
}

const names = ['stock', 'orders', 'wallet'] as const
const table = { key: 'id', rows: [{ id: 'x', n: 10 }] }

async function world(
  options: Partial<CoordinatorOptions> = {},
  abilities: Readonly<Record<string, Partial<MemoryOptions>>> = {},
  stores: Readonly<Record<string, MemoryStore>> = Object.fromEntries(names.map((name) => [name, new MemoryStore(name, { t: table })])),
): Promise<World> {
  const faults = new Map<string, (MemoryFault | null)[]>()
  const participants = Object.entries(stores).map(
    ([name, store]) =>
      new MemoryParticipant(name, store, {
        tables: {},
        lateMs: () => 21,
        lockWaitMs: 200,
        fault: (call) => faults.get(`${name} ${call}`)?.shift() ?? null,
        ...abilities[name],
      }),
  )
  const coordinator = await createCoordinator({
    deployment: 'test',
    databases: participants,
    recovery: false,
    retriesMax: 0,
    forgetEveryMs: 5,
    finishMaxMs: 40,
    graceMs: 0,
    ...options,
  })
  open.push(coordinator)
  return {
    stores,
    participants,
    coordinator,
    plan: (database, call, ...next) => faults.set(`${database} ${call}`, [...(faults.get(`${database} ${call}`) ?? []), ...next]),
  }
}

const take = (database: Database, n = -1): Promise<number> => database.addMany('t', 'id', [{ id: 'x', n }])
const valueIn = (store: MemoryStore | undefined): unknown => store?.rows('t')[0]?.['n']
const values = ({ stores }: World): unknown[] => names.map((name) => valueIn(stores[name]))
const code = (expected: string): unknown => expect.objectContaining({ code: expected })
const all = async (tx: { database(name: string): Database }, which: readonly string[] = names): Promise<void> => {
  await Promise.all(which.map((name) => take(tx.database(name))))
}

describe('a transaction', () => {
  it('commits in all of its databases, and returns what its callback returned', async () => {
    const here = await world()
    const result = await here.coordinator.transaction({ databases: names }, async (tx) => {
      await Promise.all(Object.values(tx.databases).map((each) => take(each)))
      return { plain: [1, 2] }
    })
    expect(result).toEqual({ plain: [1, 2] })
    expect(values(here)).toEqual([9, 9, 9])
  })

  it('gives the callback its databases under the names of the record, with types', async () => {
    const here = await world()
    const stock = memory('stock', { tables: {} })
    const result = await here.coordinator.transaction({ databases: { shelf: stock, purse: 'wallet' } }, async ({ databases, database }) => {
      expectTypeOf(databases.shelf).toEqualTypeOf<Database>()
      // @ts-expect-error: it is not in the record.
      expect(databases.orders).toBeUndefined()
      await take(databases.shelf)
      await take(database('purse'))
      return 7
    })
    expectTypeOf(result).toEqualTypeOf<number>()
    expect(values(here)).toEqual([9, 10, 9])
  })

  it('undoes everything when its callback throws, and throws that on, unchanged', async () => {
    const here = await world()
    const mine = new Error('sold out')
    const running = here.coordinator.transaction({}, async (tx) => {
      await all(tx)
      throw mine
    })
    await expect(running).rejects.toBe(mine)
    expect(values(here)).toEqual([10, 10, 10])
    expect(here.coordinator.counts).toMatchObject({ running: 0, unfinished: 0 })
    // Its locks are gone.
    await here.coordinator.transaction({}, all)
    expect(values(here)).toEqual([9, 9, 9])
  })

  it('takes a statement that failed as a vote to abort, caught or not awaited', async () => {
    const here = await world()
    const caught = here.coordinator.transaction({}, async (tx) => {
      await all(tx)
      await tx
        .database('stock')
        .insertMany('t', [{ id: 'x', n: 1 }])
        .catch(() => undefined)
    })
    await expect(caught).rejects.toEqual(code('sql-failed'))
    const left = here.coordinator.transaction({}, async (tx) => {
      await take(tx.database('wallet'))
      void tx.database('stock').insertMany('t', [{ id: 'x', n: 1 }])
    })
    await expect(left).rejects.toEqual(code('sql-failed'))
    expect(values(here)).toEqual([10, 10, 10])
  })

  it('repeats the whole after a failure that passes, and not after others', async () => {
    const here = await world({ retriesMax: 3, retryBaseMs: 1 })
    here.plan('orders', 'statement', 'refused', null, 'lost-before')
    here.plan('stock', 'prepare', 'refused')
    here.plan('wallet', 'prepare', 'refused')
    const attempts: number[] = []
    await here.coordinator.transaction({}, async (tx) => {
      attempts.push(tx.attempt)
      await all(tx)
    })
    expect(attempts.length).toBeGreaterThan(1)
    expect(attempts).toEqual(attempts.map((_, index) => index))
    expect(values(here)).toEqual([9, 9, 9])
    here.plan('orders', 'statement', ...Array.from({ length: 4 }, () => 'refused' as const))
    await expect(here.coordinator.transaction({}, all)).rejects.toEqual(code('sql-conflict'))
    let calls = 0
    const other = here.coordinator.transaction({}, async () => {
      calls += 1
      throw new Error('mine')
    })
    await expect(other).rejects.toThrow('mine')
    expect(calls).toBe(1)
  })

  it('ends at its deadline, even when its callback never does', async () => {
    const here = await world()
    const hanging = here.coordinator.transaction({ timeoutMs: 30 }, async (tx) => {
      await all(tx)
      await new Promise(() => undefined)
    })
    await expect(hanging).rejects.toEqual(code('transaction-timeout'))
    await here.coordinator.transaction({}, all)
    expect(values(here)).toEqual([9, 9, 9])
  })

  it('ends when its caller gives up, with the reason of the signal', async () => {
    const here = await world()
    const stop = new AbortController()
    const begun = deferred<void>()
    const running = here.coordinator.transaction({ signal: stop.signal }, async (tx) => {
      await all(tx)
      begun.resolve()
      await new Promise(() => undefined)
    })
    await begun.promise
    stop.abort(new Error('the user left'))
    await expect(running).rejects.toThrow('the user left')
    expect(values(here)).toEqual([10, 10, 10])
    await expect(here.coordinator.transaction({ signal: stop.signal }, all)).rejects.toThrow('the user left')
  })

  it('refuses a call after its end, and a transaction inside a transaction', async () => {
    const here = await world()
    let kept: Database | undefined
    await here.coordinator.transaction({}, async (tx) => {
      kept = tx.database('stock')
      await take(kept)
    })
    await expect(take(kept as Database)).rejects.toEqual(code('transaction-closed'))
    const nested = here.coordinator.transaction({}, async () => {
      await here.coordinator.transaction({}, all)
    })
    await expect(nested).rejects.toEqual(code('transaction-nested'))
    const other = await world()
    await here.coordinator.transaction({}, async () => {
      await other.coordinator.transaction({}, all)
    })
    expect(values(other)).toEqual([9, 9, 9])
  })

  it('undoes a savepoint alone, also in a database that was not used before it', async () => {
    const here = await world()
    await here.coordinator.transaction({}, async (tx) => {
      await take(tx.database('stock'))
      const failing = tx.savepoint(async () => {
        await all(tx)
        await tx.database('stock').insertMany('t', [{ id: 'x', n: 1 }])
      })
      await expect(failing).rejects.toEqual(code('sql-failed'))
      await expect(tx.savepoint(() => tx.savepoint(async () => undefined))).rejects.toEqual(code('transaction-nested'))
      await tx.savepoint(() => take(tx.database('wallet'), -2))
    })
    expect(values(here)).toEqual([9, 10, 8])
  })

  it('refuses options and databases that it does not know, before it begins', async () => {
    const here = await world()
    await expect(here.coordinator.transaction({ retrysMax: 1 } as never, all)).rejects.toThrow("did you mean 'retriesMax'")
    await expect(here.coordinator.transaction({ databases: ['stok'] }, all)).rejects.toThrow("no database 'stok'")
    await expect(here.coordinator.transaction({ databases: ['stock'] }, (tx) => all(tx))).rejects.toThrow('not part of this transaction')
    await expect(world({ deployment: 'My Shop' })).rejects.toEqual(code('option-invalid'))
    await expect(world({ home: 'nowhere' })).rejects.toEqual(code('option-invalid'))
    await expect(world({ timeoutMs: 0 })).rejects.toEqual(code('option-invalid'))
    const twice = [memory('stock', { tables: {} }), memory('stock', { tables: {} })]
    await expect(createCoordinator({ deployment: 'test', databases: twice })).rejects.toThrow("Two databases are named 'stock'")
  })

  it('lets a bounded number run and wait, and refuses the next at once', async () => {
    const here = await world({ transactionsMax: 1, waitersMax: 1 })
    const go = deferred<void>()
    const first = here.coordinator.transaction({}, () => go.promise)
    const second = here.coordinator.transaction({}, all)
    await expect(here.coordinator.transaction({}, all)).rejects.toEqual(code('overloaded'))
    expect(here.coordinator.counts).toMatchObject({ running: 1, waiting: 1 })
    go.resolve()
    await Promise.all([first, second])
    expect(values(here)).toEqual([9, 9, 9])
    // Waiting counts as time of the transaction.
    const held = here.coordinator.transaction({}, () => new Promise((resolve) => setTimeout(resolve, 100)))
    await expect(here.coordinator.transaction({ timeoutMs: 20 }, all)).rejects.toEqual(code('transaction-timeout'))
    await held
  })
})

describe('the protocol', () => {
  it('is none, one phase or last resource, as the writes need it, and is told', async () => {
    const here = await world()
    const told: string[] = []
    const stop = listen('headrace:transaction', ({ gid, protocol, end, databases }) => {
      if (parseGid(gid)?.deployment === 'test') told.push(`${protocol} ${end} ${databases.join('+')}`)
    })
    await here.coordinator.transaction({}, async (tx) => {
      await tx.database('stock').selectIn('t', 'id', ['x'], { lock: false })
    })
    await here.coordinator.transaction({}, async (tx) => {
      await tx.database('stock').selectIn('t', 'id', ['x'], { lock: false })
      await take(tx.database('wallet'))
      expect(tx.explain()).toMatchObject({ protocol: 'one-phase', commit: 'wallet', readOnly: ['stock'], waitsForDisk: 1 })
    })
    await here.coordinator.transaction({}, async (tx) => {
      await all(tx)
      expect(tx.explain()).toMatchObject({ protocol: 'last-resource', commit: 'stock', prepare: ['orders', 'wallet'], waitsForDisk: 2 })
    })
    stop()
    expect(told).toEqual(['none committed stock', 'one-phase committed stock+wallet', 'last-resource committed stock+orders+wallet'])
  })

  it('keeps the decision in a database that was not written to, when that one is home', async () => {
    const here = await world({ home: 'orders' })
    await here.coordinator.transaction({ databases: ['stock', 'wallet'] }, async (tx) => {
      await all(tx, ['stock', 'wallet'])
      expect(tx.explain()).toMatchObject({ protocol: 'two-phase', home: 'orders', waitsForDisk: 3 })
    })
    expect(values(here)).toEqual([9, 10, 9])
  })

  it('commits one database that cannot prepare, and refuses two', async () => {
    const here = await world({}, { wallet: { canPrepare: false } })
    await here.coordinator.transaction({}, async (tx) => {
      await all(tx)
      expect(tx.explain()).toMatchObject({ protocol: 'last-resource', commit: 'wallet' })
    })
    expect(values(here)).toEqual([9, 9, 9])
    const two = await world({}, { wallet: { canPrepare: false }, orders: { canPrepare: false } })
    await expect(two.coordinator.transaction({}, all)).rejects.toEqual(code('protocol-unavailable'))
    expect(values(two)).toEqual([10, 10, 10])
  })

  it('drops decisions and markers when every branch has confirmed', async () => {
    const here = await world({ forgetEveryMs: 1 })
    for (let number = 0; number < 20; number += 1) await here.coordinator.transaction({}, all)
    await here.coordinator.close()
    for (const store of Object.values(here.stores)) {
      expect(store.markers.size).toBe(0)
      expect(store.decisions.size).toBe(0)
    }
  })

  it('answers when it is decided, though a database is away, finishes behind the answer, and bounds how many do so', async () => {
    const here = await world({ phase2WaitMs: 10, unfinishedMax: 1 })
    here.plan('wallet', 'commitPrepared', ...Array.from({ length: 5 }, () => 'lost-before' as const))
    await here.coordinator.transaction({}, all)
    expect(values(here)).toEqual([9, 9, 10])
    await expect(here.coordinator.transaction({}, all)).rejects.toEqual(code('decision-log-full'))
    await here.coordinator.close()
    expect(values(here)).toEqual([9, 9, 9])
  })
})

describe('many transactions that wait for one database', () => {
  it('go on behind the answer without a warning of the process', async () => {
    const warnings: Error[] = []
    const hear = (warning: Error): void => void warnings.push(warning)
    process.on('warning', hear)
    const here = await world(
      { phase2WaitMs: 0, closeTimeoutMs: 50 },
      { wallet: { fault: (call) => (call === 'commitPrepared' ? 'lost-before' : null) } },
    )
    for (let number = 0; number < 15; number += 1) {
      await here.coordinator.transaction({ databases: ['stock', 'wallet'] }, async (tx) => {
        await tx.database('stock').upsertMany('t', 'id', [{ id: `i${number}`, n: 1 }])
        await tx.database('wallet').upsertMany('t', 'id', [{ id: `i${number}`, n: 1 }])
      })
    }
    expect(here.coordinator.counts.unfinished).toBe(15)
    await here.coordinator.close()
    process.off('warning', hear)
    expect(warnings).toEqual([])
  })
})

describe('a commit whose connection is lost', () => {
  it('is found out, whether it happened or not', async () => {
    const here = await world()
    for (const which of [['stock'], [...names]]) {
      const before = valueIn(here.stores['stock']) as number
      here.plan('stock', 'commit', 'lost-after')
      await here.coordinator.transaction({}, (tx) => all(tx, which))
      expect(valueIn(here.stores['stock'])).toBe(before - 1)
      here.plan('stock', 'commit', 'lost-before')
      await expect(here.coordinator.transaction({}, (tx) => all(tx, which))).rejects.toEqual(code('engine-unavailable'))
      here.plan('stock', 'commit', 'late')
      await here.coordinator.transaction({}, (tx) => all(tx, which)).catch(() => undefined)
      await here.coordinator.transaction({ timeoutMs: 5_000 }, (tx) => all(tx, which))
    }
    await here.coordinator.close()
    expect(here.stores['orders']?.prepared.size).toBe(0)
  })

  it('is told as unknown when home stays away, and later as it was', async () => {
    const here = await world({ settleWaitMs: 5 })
    for (const [fault, end] of [
      ['lost-after', 'committed'],
      ['lost-before', 'aborted'],
    ] as const) {
      const before = values(here)
      here.plan('stock', 'commit', fault)
      here.plan('stock', 'decideAbort', 'lost-before', 'lost-before', 'lost-before')
      const error: unknown = await here.coordinator.transaction({}, all).catch((thrown: unknown) => thrown)
      expect(error).toEqual(code('transaction-unknown'))
      const gid = HeadraceError.is(error) ? String(error.details?.['gid']) : ''
      expect(await here.coordinator.ended(gid)).toBe(end)
      await expect.poll(() => here.coordinator.counts.unfinished).toBe(0)
      expect(values(here)).toEqual(end === 'committed' ? before.map((each) => Number(each) - 1) : before)
    }
  })

  it('is never told as undone once another process may have dropped the decision', async () => {
    const here = await world({ settleWaitMs: 5 })
    const other = await world({ graceMs: 0 }, {}, here.stores)
    const away = Array.from({ length: 30 }, () => 'lost-before' as const)
    here.plan('stock', 'commit', 'lost-after')
    here.plan('stock', 'decideAbort', ...away)
    const error: unknown = await here.coordinator.transaction({}, all).catch((thrown: unknown) => thrown)
    const gid = HeadraceError.is(error) ? String(error.details?.['gid']) : ''
    // The other recoverer ends the branches, and drops the decision in the same pass or the next.
    await other.coordinator.recover()
    await other.coordinator.recover()
    await expect.poll(() => here.stores['stock']?.decisions.has(gid)).toBe(false)
    expect(values(here)).toEqual([9, 9, 9])
    expect(await here.coordinator.ended(gid)).toBe('unknown')
  })
})

describe('a decision outside of the databases', () => {
  class Journal implements DecisionLog {
    readonly name = 'journal'
    readonly rows = new Map<string, Decision>()
    async decision(gid: string): Promise<Decision | null> {
      return this.rows.get(gid) ?? null
    }
    async decideAbort(gid: string, participants: readonly string[]): Promise<Decision> {
      const held = this.rows.get(gid) ?? { gid, verdict: 'abort' as const, participants, decidedAt: 0 }
      this.rows.set(gid, held)
      return held
    }
    async decisions(prefix: string, limit: number): Promise<Decision[]> {
      return [...this.rows.values()].filter(({ gid }) => gid.startsWith(prefix)).slice(0, limit)
    }
    async forget(gids: readonly string[]): Promise<void> {
      for (const gid of gids) this.rows.delete(gid)
    }
    write(gid: string, participants: readonly string[]): void {
      if (this.rows.has(gid)) throw new Error('the place is taken')
      this.rows.set(gid, { gid, verdict: 'commit', participants, decidedAt: 0 })
    }
  }

  it('is asked for when all are prepared, and its answer is handed on', async () => {
    const journal = new Journal()
    const here = await world({ logs: [journal], home: 'journal' })
    const tx = await here.coordinator.begin()
    await all(tx)
    const receipt = await tx.commit({
      decide: async ({ gid, participants }) => {
        expect(participants).toEqual([...names])
        for (const store of Object.values(here.stores)) expect([...store.prepared.keys()]).toEqual([gid])
        journal.write(gid, participants)
        return 'written'
      },
    })
    expect(receipt).toMatchObject({ decided: 'written', finished: true, plan: { protocol: 'two-phase', home: 'journal' } })
    expect(values(here)).toEqual([9, 9, 9])
    await here.coordinator.close()
    expect(journal.rows.size).toBe(0)
  })

  it('undoes everything when it fails', async () => {
    const here = await world({ logs: [new Journal()], home: 'journal' })
    const tx = await here.coordinator.begin()
    await all(tx)
    const full = new Error('disk full')
    await expect(tx.commit({ decide: () => Promise.reject(full) })).rejects.toBe(full)
    expect(values(here)).toEqual([10, 10, 10])
    expect(here.stores['stock']?.prepared.size).toBe(0)
  })

  it('is looked up when it is unknown, and then followed', async () => {
    const journal = new Journal()
    const here = await world({ logs: [journal], home: 'journal', settleWaitMs: 0 })
    for (const written of [true, false]) {
      const before = values(here)
      const tx = await here.coordinator.begin()
      await all(tx)
      const decide = async ({ gid, participants }: { gid: string; participants: readonly string[] }): Promise<void> => {
        if (written) journal.write(gid, participants)
        throw new HeadraceError('transaction-unknown')
      }
      await tx.commit({ decide }).catch(() => undefined)
      await expect.poll(() => here.coordinator.counts.unfinished).toBe(0)
      expect(values(here)).toEqual(written ? before.map((each) => Number(each) - 1) : before)
    }
  })

  it('needs a decide function, and a home outside; else nothing is done', async () => {
    const here = await world({ logs: [new Journal()] })
    const outside = await here.coordinator.begin({ home: 'journal' })
    await all(outside)
    await expect(outside.commit()).rejects.toEqual(code('option-invalid'))
    const inside = await here.coordinator.begin()
    await all(inside)
    await expect(inside.commit({ decide: async () => undefined })).rejects.toEqual(code('option-invalid'))
    expect(values(here)).toEqual([10, 10, 10])
  })
})

describe('a transaction by hand', () => {
  it('has savepoints in all databases, and is undone when it is left', async () => {
    const here = await world()
    {
      await using tx = await here.coordinator.begin()
      await all(tx)
    }
    expect(values(here)).toEqual([10, 10, 10])
    const tx = await here.coordinator.begin({ databases: ['stock', 'wallet'] })
    await take(tx.database('stock'))
    await tx.savepoint()
    await all(tx, ['stock', 'wallet'])
    await tx.rollbackToSavepoint()
    await tx.releaseSavepoint()
    await tx.commit()
    expect(values(here)).toEqual([9, 10, 10])
    await expect(tx.commit()).rejects.toEqual(code('transaction-closed'))
  })

  it('gives its place and its locks back at the deadline, whoever forgot it', async () => {
    const here = await world({ transactionsMax: 1 })
    const left = await here.coordinator.begin({ timeoutMs: 20 })
    await all(left)
    await here.coordinator.transaction({}, all)
    await expect(left.commit()).rejects.toEqual(code('transaction-timeout'))
    expect(values(here)).toEqual([9, 9, 9])
  })

  it('holds fences, and is refused under a lower epoch', async () => {
    const here = await world()
    const fence = (epoch: number) => ({ deployment: 'test', partition: 3, epoch })
    const tx = await here.coordinator.begin({ fences: [fence(5)] })
    await all(tx)
    await tx.commit()
    await here.participants[1]?.raise([fence(6)])
    const old = await here.coordinator.begin({ fences: [fence(5)] })
    await expect(all(old)).rejects.toEqual(code('fenced'))
    await expect(old.commit()).rejects.toEqual(code('fenced'))
    expect(values(here)).toEqual([9, 9, 9])
  })
})

describe('closing', () => {
  it('waits for what runs, then undoes it, and refuses the next', async () => {
    const here = await world({ closeTimeoutMs: 30 })
    const hanging = here.coordinator.transaction({}, async (tx) => {
      await all(tx)
      await new Promise(() => undefined)
    })
    const closed = here.coordinator.close()
    await expect(hanging).rejects.toEqual(code('stopping'))
    await closed
    await expect(here.coordinator.transaction({}, all)).rejects.toEqual(code('stopping'))
    expect(values(here)).toEqual([10, 10, 10])
  })
})

describe('the statistics', () => {
  it('put the model beside what was measured', async () => {
    const here = await world({ retriesMax: 2, retryBaseMs: 1, retryMaxMs: 1 })
    for (let number = 0; number < 200; number += 1) {
      // One try in five is refused by orders, one in ten by wallet.
      here.plan('orders', 'prepare', number % 5 === 0 ? 'refused' : null)
      here.plan('wallet', 'prepare', number % 10 === 3 ? 'refused' : null)
      await here.coordinator.transaction({}, all).catch(() => undefined)
    }
    const { protocols, participants, sets, retries } = here.coordinator.stats()
    expect(protocols['last-resource'].commits).toBeGreaterThan(190)
    expect(participants['stock']?.success).toBe(1)
    expect(participants['orders']?.prepareFailures).toBeGreaterThan(20)
    expect(retries).toBeGreaterThan(30)
    const [set] = sets
    expect(set?.databases).toEqual(['orders', 'stock', 'wallet'])
    expect(Math.abs((set?.predictedTry ?? 0) - (set?.measuredTry.share ?? 1))).toBeLessThan(0.05)
    expect(Math.abs((set?.predicted ?? 0) - (set?.measured.share ?? 1))).toBeLessThan(0.03)
  })
})
