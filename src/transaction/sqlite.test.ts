/** Transactions over SQLite files, which cannot prepare, and over them and databases that can. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { Database } from '../contracts/database.ts'
import { type MemoryCall, type MemoryFault, MemoryParticipant, MemoryStore } from '../drivers/memory/index.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { createCoordinator } from './coordinator.ts'
import type { Coordinator, CoordinatorOptions } from './coordinator-contract.ts'

const schema = 'create table if not exists t (id text primary key not null, n integer not null)'
let folder: string
let store: MemoryStore
const open: Coordinator[] = []

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'headrace-sqlite-'))
  store = new MemoryStore('server', { t: { key: 'id', rows: [{ id: 'x', n: 10 }] } })
})
afterEach(async () => {
  await Promise.all(open.splice(0).map((each) => each.close()))
  rmSync(folder, { recursive: true, force: true })
})

const file = <Name extends string>(name: Name) => sqlite(name, { file: join(folder, `${name}.sqlite`), schema })
const take = (database: Database, n = -1): Promise<number> => database.addMany('t', 'id', [{ id: 'x', n }])
const code = (expected: string): unknown => expect.objectContaining({ code: expected })
const inServer = (): unknown => store.rows('t')[0]?.['n']
const inFile = async (coordinator: Coordinator, name = 'shop'): Promise<unknown> =>
  (await coordinator.site.participant(name).reader.selectIn('t', 'id', ['x']))[0]?.['n']

async function start(options: Partial<CoordinatorOptions> = {}, fault?: (call: MemoryCall) => MemoryFault | null): Promise<Coordinator> {
  const server = new MemoryParticipant('server', store, { tables: {}, lockWaitMs: 200, ...(fault === undefined ? {} : { fault }) })
  const coordinator = await createCoordinator({
    deployment: 'test',
    databases: [server, file('shop'), file('side')],
    recovery: false,
    retriesMax: 0,
    forgetEveryMs: 5,
    finishMaxMs: 40,
    graceMs: 0,
    ...options,
  })
  open.push(coordinator)
  for (const name of ['shop', 'side']) {
    await coordinator.transaction({ databases: [name] }, async (tx) => {
      await tx.database(name).insertMany('t', [{ id: 'x', n: 10 }], { onConflict: 'ignore' })
    })
  }
  return coordinator
}

describe('a transaction that writes to a SQLite file', () => {
  it('commits it alone in one phase', async () => {
    const coordinator = await start()
    const plan = await coordinator.transaction({ databases: ['shop'] }, async (tx) => {
      await take(tx.database('shop'))
      return tx.explain()
    })
    expect(plan).toMatchObject({ protocol: 'one-phase', commit: 'shop', waitsForDisk: 1 })
    expect(await inFile(coordinator)).toBe(9)
  })

  it('makes it home, whatever the order of the databases, and commits it last', async () => {
    const coordinator = await start()
    for (const databases of [
      ['server', 'shop'],
      ['shop', 'server'],
    ]) {
      const plan = await coordinator.transaction({ databases }, async (tx) => {
        await Promise.all(databases.map((name) => take(tx.database(name))))
        return tx.explain()
      })
      expect(plan).toMatchObject({ protocol: 'last-resource', prepare: ['server'], commit: 'shop', home: 'shop' })
    }
    expect([await inFile(coordinator), inServer()]).toEqual([8, 8])
    await coordinator.close()
    expect([store.markers.size, store.prepared.size]).toEqual([0, 0])
  })

  it('keeps the decision in it also when only others are written to', async () => {
    const coordinator = await start()
    const other = new MemoryStore('second', { t: { key: 'id', rows: [{ id: 'x', n: 10 }] } })
    const second = await createCoordinator({
      deployment: 'two',
      databases: [
        new MemoryParticipant('first', store, { tables: {} }),
        new MemoryParticipant('second', other, { tables: {} }),
        file('shop'),
      ],
      recovery: false,
    })
    open.push(second)
    const plan = await second.transaction({ databases: ['first', 'second', 'shop'] }, async (tx) => {
      await Promise.all(['first', 'second'].map((name) => take(tx.database(name))))
      return tx.explain()
    })
    expect(plan).toMatchObject({ protocol: 'two-phase', home: 'shop', prepare: ['first', 'second'] })
    expect([inServer(), other.rows('t')[0]?.['n'], await inFile(coordinator)]).toEqual([9, 9, 10])
  })

  it('changes nothing anywhere when two such files are written to, and says why', async () => {
    const coordinator = await start()
    await expect(
      coordinator.transaction({}, async (tx) => {
        for (const name of ['server', 'shop', 'side']) await take(tx.database(name))
        expect(tx.explain().protocol).toBe('unavailable')
      }),
    ).rejects.toEqual(code('protocol-unavailable'))
    expect([inServer(), await inFile(coordinator), await inFile(coordinator, 'side')]).toEqual([10, 10, 10])
  })

  it('may read as many such files as it likes', async () => {
    const coordinator = await start()
    const plan = await coordinator.transaction({}, async (tx) => {
      const [row] = await tx.database('side').selectIn('t', 'id', ['x'])
      await take(tx.database('shop'), -Number(row?.['n']))
      return tx.explain()
    })
    expect(plan).toMatchObject({ protocol: 'one-phase', commit: 'shop', readOnly: ['side'] })
    expect([await inFile(coordinator), await inFile(coordinator, 'side')]).toEqual([0, 10])
  })

  it('refuses another home, which could not decide for it', async () => {
    const coordinator = await start({ home: 'server' })
    await expect(
      coordinator.transaction({ databases: ['server', 'shop'] }, async (tx) => {
        for (const name of ['server', 'shop']) await take(tx.database(name))
      }),
    ).rejects.toEqual(code('protocol-unavailable'))
    expect([inServer(), await inFile(coordinator)]).toEqual([10, 10])
  })

  it('undoes all when the other does not prepare, and lets go of the file', async () => {
    let refuse = false
    const coordinator = await start({}, (call) => (refuse && call === 'prepare' ? 'refused' : null))
    refuse = true
    await expect(
      coordinator.transaction({ databases: ['server', 'shop'] }, async (tx) => {
        await take(tx.database('shop'))
        await take(tx.database('server'))
      }),
    ).rejects.toEqual(code('sql-busy'))
    refuse = false
    await coordinator.transaction({ databases: ['server', 'shop'] }, async (tx) => {
      for (const name of ['server', 'shop']) await take(tx.database(name), -2)
    })
    expect([inServer(), await inFile(coordinator)]).toEqual([8, 8])
  })

  it('takes its turn: of many at once, in two processes, every one is applied once', async () => {
    const [one, two] = [await start(), await start()]
    await Promise.all(
      Array.from({ length: 60 }, (_, number) =>
        (number % 2 === 0 ? one : two).transaction({ databases: ['shop'] }, async (tx) => {
          const [row] = await tx.database('shop').selectIn('t', 'id', ['x'])
          await Promise.resolve()
          await tx.database('shop').updateMany('t', 'id', [{ id: 'x', n: Number(row?.['n']) + 1 }])
        }),
      ),
    )
    expect(await inFile(one)).toBe(70)
  })

  it('is completed by another coordinator, which finds the decision in the file', async () => {
    // Phase 2 of the first never gets through.
    const dying = await start({ phase2WaitMs: 0, closeTimeoutMs: 0 }, (call) => (call === 'commitPrepared' ? 'lost-before' : null))
    const tx = await dying.begin({ databases: ['server', 'shop'] })
    for (const name of ['server', 'shop']) await take(tx.database(name))
    await tx.commit()
    expect([...store.prepared.keys()]).toEqual([tx.gid])
    const other = await start()
    const { resolved } = await other.recover()
    expect(resolved).toEqual([{ gid: tx.gid, participant: 'server', end: 'committed' }])
    expect([inServer(), await inFile(other)]).toEqual([9, 9])
  })

  it('is undone by another coordinator when the file has no decision, and the late commit is refused', async () => {
    const [one, two] = [await start(), await start()]
    const tx = await one.begin({ databases: ['server', 'shop'] })
    await take(tx.database('server'))
    const { gid } = tx
    const shop = two.site.participant('shop')
    // Recovery of the other process decides before this one has begun its branch in the file.
    expect((await shop.decideAbort(gid, ['server'])).verdict).toBe('abort')
    await take(tx.database('shop'))
    await expect(tx.commit()).rejects.toEqual(code('transaction-aborted'))
    expect([inServer(), await inFile(one)]).toEqual([10, 10])
    expect([...store.prepared.keys()]).toEqual([])
  })
})
