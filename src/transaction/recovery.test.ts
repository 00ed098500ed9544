import { afterEach, describe, expect, it } from 'vitest'
import type { Database } from '../contracts/database.ts'
import { listen } from '../contracts/diagnostics.ts'
import { type MemoryCall, type MemoryFault, MemoryParticipant, MemoryStore } from '../drivers/memory/index.ts'
import { createCoordinator } from './coordinator.ts'
import type { Coordinator, CoordinatorOptions } from './coordinator-contract.ts'
import { listDoubts, resolveDoubt, showDoubt } from './doubts.ts'
import { openSite } from './site.ts'

const names = ['a', 'b', 'c'] as const
const open: Coordinator[] = []
afterEach(async () => {
  await Promise.all(open.splice(0).map((each) => each.close()))
})

interface Node {
  readonly coordinator: Coordinator
  readonly clients: MemoryParticipant[]
  kill(): void
}

/** One deployment on stores in memory: any number of processes. */
class Deployment {
  readonly stores: readonly MemoryStore[] = names.map((name) => new MemoryStore(name, { t: { key: 'id', rows: [{ id: 'x', n: 10 }] } }))

  clients(fault: (name: string, call: MemoryCall) => MemoryFault | null = () => null): MemoryParticipant[] {
    return this.stores.map((store) => new MemoryParticipant(store.name, store, { tables: {}, fault: (call) => fault(store.name, call) }))
  }

  async node(options: Partial<CoordinatorOptions> = {}, fault?: (name: string, call: MemoryCall) => MemoryFault | null): Promise<Node> {
    const clients = this.clients(fault)
    const coordinator = await createCoordinator({
      deployment: 'test',
      databases: clients,
      recovery: false,
      graceMs: 0,
      retriesMax: 0,
      forgetEveryMs: 1,
      closeTimeoutMs: 0,
      settleWaitMs: 20,
      phase2WaitMs: 20,
      finishMaxMs: 20,
      ...options,
    })
    open.push(coordinator)
    return {
      coordinator,
      clients,
      kill: () => {
        for (const each of clients) each.kill()
      },
    }
  }

  get values(): unknown[] {
    return this.stores.map((store) => store.rows('t')[0]?.['n'])
  }

  get prepared(): string[] {
    return this.stores.flatMap((store) => [...store.prepared.keys()].map(() => store.name))
  }

  /** A process that dies at the n-th call of a kind to one of the databases, with everything it holds. */
  async die(call: MemoryCall, visit: number): Promise<void> {
    let visits = 0
    const ref: { node?: Node } = {}
    ref.node = await this.node({}, (_, which) => {
      if (which === call) visits += 1
      if (which === call && visits === visit) ref.node?.kill()
      return null
    })
    await ref.node.coordinator.transaction({}, take).catch(() => undefined)
    ref.node.kill()
    open.splice(open.indexOf(ref.node.coordinator), 1)
    await ref.node.coordinator.close()
  }
}

async function take(tx: { database(name: string): Database }): Promise<void> {
  await Promise.all(names.map((name) => tx.database(name).addMany('t', 'id', [{ id: 'x', n: -1 }])))
}

describe('recovery', () => {
  it('ends what a process left that died after any of its calls, all or none', async () => {
    for (const call of ['prepare', 'commit', 'commitPrepared'] as const) {
      for (const visit of [1, 2]) {
        const deployment = new Deployment()
        await deployment.die(call, visit)
        const { coordinator } = await deployment.node()
        await coordinator.recover()
        expect(deployment.prepared, `${call} ${visit}`).toEqual([])
        expect(new Set(deployment.values).size, `${call} ${visit}: ${deployment.values.join(' ')}`).toBe(1)
        expect(await coordinator.doubts()).toEqual([])
      }
    }
  })

  it('goes on where a recoverer died', async () => {
    for (const call of ['prepared', 'decision', 'decideAbort', 'rollbackPrepared'] as const) {
      for (const visit of [1, 2]) {
        const deployment = new Deployment()
        await deployment.die('prepare', 2)
        let visits = 0
        const ref: { node?: Node } = {}
        ref.node = await deployment.node({}, (_, which) => {
          if (which === call) visits += 1
          if (which === call && visits === visit) ref.node?.kill()
          return null
        })
        await ref.node.coordinator.recover()
        const { coordinator } = await deployment.node()
        await coordinator.recover()
        expect(deployment.prepared, `${call} ${visit}`).toEqual([])
        expect(deployment.values).toEqual([10, 10, 10])
      }
    }
  })

  it('undoes a live transaction of another whole, when it is first to decide, and the other tries again', async () => {
    const deployment = new Deployment()
    const other = await deployment.node()
    let meddle = true
    const { coordinator } = await deployment.node({ retriesMax: 1, retryBaseMs: 1 })
    const told: (string | null)[] = []
    const stop = listen('headrace:transaction', ({ code, end }) => told.push(code ?? end))
    const home = deployment.stores[0] as MemoryStore
    const { beginCommit } = home
    const recovering: Promise<unknown>[] = []
    home.beginCommit = (session, decision) => {
      // All is prepared, and the decision is on its way: somebody else is faster.
      if (meddle) {
        meddle = false
        home.decideAbort(session.gid, ['b', 'c'])
        recovering.push(other.coordinator.recover())
      }
      beginCommit.call(home, session, decision)
    }
    await coordinator.transaction({}, take)
    await Promise.all(recovering)
    stop()
    expect(told).toEqual(['transaction-aborted', 'committed'])
    expect(deployment.values).toEqual([9, 9, 9])
  })

  it('leaves the transactions of its own coordinator alone, and those of other deployments', async () => {
    const deployment = new Deployment()
    const { coordinator } = await deployment.node()
    const stranger = await deployment.node({ deployment: 'test2' })
    const reports: unknown[] = []
    const commits = deployment.stores[0] as MemoryStore
    const { beginCommit } = commits
    const passes: Promise<unknown>[] = []
    commits.beginCommit = (session, decision) => {
      passes.push(coordinator.recover().then((report) => reports.push(report)))
      beginCommit.call(commits, session, decision)
    }
    await coordinator.transaction({}, take)
    await stranger.coordinator.transaction({}, take)
    await Promise.all(passes)
    expect(reports).toHaveLength(2)
    for (const report of reports) expect(report).toMatchObject({ resolved: [], heuristics: [], waiting: [] })
    expect(deployment.values).toEqual([8, 8, 8])
  })

  it('gives branches of others a grace, and none to its own', async () => {
    const deployment = new Deployment()
    await deployment.die('prepare', 2)
    let now = 0
    const clock = { now: () => now, pause: (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, Math.min(ms, 5))) }
    const { coordinator } = await deployment.node({ graceMs: 1_000, clock })
    const first = await coordinator.recover()
    expect(first.waiting.length).toBeGreaterThan(0)
    now = 999
    expect(await coordinator.recover()).toMatchObject({ oldestMs: 999, resolved: [] })
    now = 1_000
    expect((await coordinator.recover()).waiting).toEqual([])
    expect(deployment.prepared).toEqual([])
  })

  it('waits for a home that is away, and is told when it is back', async () => {
    const deployment = new Deployment()
    await deployment.die('commit', 1)
    const home = deployment.stores[0] as MemoryStore
    home.crash()
    const { coordinator } = await deployment.node()
    const report = await coordinator.recover()
    expect(report.waiting).toHaveLength(1)
    expect(report.away).toHaveProperty('a')
    expect(await coordinator.doubts()).toEqual([expect.objectContaining({ state: 'away', home: 'a' })])
    home.restart()
    await coordinator.recover()
    expect(deployment.prepared).toEqual([])
    expect(deployment.values).toEqual([10, 10, 10])
  })

  it('runs by itself, and ends what is left within a moment of the databases being back', async () => {
    const deployment = new Deployment()
    await deployment.die('commit', 1)
    deployment.stores[1]?.crash()
    await deployment.node({ recovery: true, recoveryIntervalMs: 20, finishBaseMs: 1 })
    await expect.poll(() => deployment.prepared).toEqual(['b'])
    deployment.stores[1]?.restart()
    await expect.poll(() => deployment.prepared).toEqual([])
    expect(deployment.values).toEqual([10, 10, 10])
  })

  it('drops the decisions of the dead once all have confirmed, but keeps an abort, whose commit may be late', async () => {
    const deployment = new Deployment()
    const home = deployment.stores[0] as MemoryStore
    const { coordinator } = await deployment.node()
    await deployment.die('prepare', 2)
    await coordinator.recover()
    await deployment.die('commitPrepared', 1)
    await coordinator.recover()
    await coordinator.recover()
    await expect.poll(() => [...home.decisions.values()].map(({ verdict }) => verdict)).toEqual(['abort', 'abort'])
    // One is the abort; the other says that an incarnation is over.
    expect([...home.decisions.keys()].filter((gid) => gid.endsWith('_0'))).toHaveLength(1)
    expect(deployment.stores[1]?.markers.size).toBeLessThanOrEqual(1)
    const knowing = await deployment.node({ isRetired: () => true })
    await knowing.coordinator.recover()
    await expect.poll(() => [...home.decisions.keys()].filter((gid) => !gid.endsWith('_0'))).toEqual([])
  })

  it('does not touch a branch whose home is not connected here, and says so', async () => {
    const deployment = new Deployment()
    await deployment.die('commitPrepared', 1)
    const before = deployment.prepared
    expect(before.length).toBeGreaterThan(0)
    const some = await createCoordinator({ deployment: 'test', databases: deployment.clients().slice(1), recovery: false, graceMs: 0 })
    open.push(some)
    const report = await some.recover()
    expect(report.homeless.length).toBe(1)
    expect(deployment.prepared).toEqual(before)
    expect(await some.doubts()).toEqual([expect.objectContaining({ state: 'home-unknown', home: null })])
    const whole = await deployment.node()
    await whole.coordinator.recover()
    expect(deployment.values).toEqual([9, 9, 9])
  })
})

describe('a branch that a person ended', () => {
  it('against a decision to commit is found, reported, kept, and forgotten only by a person', async () => {
    const deployment = new Deployment()
    await deployment.die('commitPrepared', 1)
    const [gid] = [...(deployment.stores[1] as MemoryStore).prepared.keys()]
    const session = deployment.stores[1]?.prepared.get(gid as string)?.session
    if (session !== undefined) deployment.stores[1]?.end(session)
    const { coordinator } = await deployment.node()
    for (let pass = 0; pass < 3; pass += 1) {
      expect((await coordinator.recover()).heuristics).toEqual([{ gid, participant: 'b' }])
    }
    expect(deployment.values).toEqual([9, 10, 9])
    // Another process finds the same, from the databases alone.
    const site = await openSite({ deployment: 'test', databases: deployment.clients() })
    expect(await listDoubts(site)).toEqual([
      expect.objectContaining({
        gid,
        state: 'heuristic',
        home: 'a',
        decision: expect.objectContaining({ verdict: 'commit' }),
        branches: expect.arrayContaining([expect.objectContaining({ participant: 'b', state: 'gone' })]),
      }),
    ])
    await expect(resolveDoubt(site, gid as string, 'abort')).rejects.toThrow("decided 'commit'")
    await resolveDoubt(site, gid as string, 'forget')
    expect(await showDoubt(site, gid as string)).toBeNull()
    expect((await coordinator.recover()).heuristics).toEqual([])
  })

  it('is not forgotten while another branch is prepared, which would then be undone', async () => {
    const deployment = new Deployment()
    await deployment.die('commitPrepared', 1)
    const [ended, left] = deployment.stores.slice(1) as [MemoryStore, MemoryStore]
    const [gid = ''] = ended.prepared.keys()
    const session = ended.prepared.get(gid)?.session
    if (session !== undefined) ended.end(session)
    const site = await openSite({ deployment: 'test', databases: deployment.clients() })
    expect(await showDoubt(site, gid)).toMatchObject({ state: 'heuristic' })
    await expect(resolveDoubt(site, gid, 'forget')).rejects.toThrow(`not ended in ${left.name} (prepared)`)
    await resolveDoubt(site, gid, 'commit')
    expect(left.rows('t')[0]?.['n']).toBe(9)
    await resolveDoubt(site, gid, 'forget')
    expect(await showDoubt(site, gid)).toBeNull()
  })

  it('against an abort is found too', async () => {
    const deployment = new Deployment()
    await deployment.die('prepare', 2)
    const store = deployment.stores.find((each) => each.prepared.size > 0) as MemoryStore
    const [gid = ''] = store.prepared.keys()
    store.endPrepared(gid, 'committed')
    ;(deployment.stores[0] as MemoryStore).decideAbort(gid, [store.name])
    const { coordinator } = await deployment.node()
    expect((await coordinator.recover()).heuristics).toEqual([{ gid, participant: store.name }])
    expect(await coordinator.doubts()).toEqual([expect.objectContaining({ gid, state: 'heuristic' })])
  })

  it('is what it takes when home is lost for good: then a person decides, and nobody else', async () => {
    const deployment = new Deployment()
    await deployment.die('commitPrepared', 1)
    const home = deployment.stores[0] as MemoryStore
    const { coordinator } = await deployment.node()
    const [gid = ''] = (deployment.stores[1] as MemoryStore).prepared.keys()
    home.crash()
    await coordinator.recover()
    expect(deployment.prepared.length).toBeGreaterThan(0)
    await coordinator.resolveDoubt(gid, 'commit')
    expect(deployment.prepared).toEqual([])
    expect(deployment.values.slice(1)).toEqual([9, 9])
    await expect(coordinator.resolveDoubt('test_n_aaaaaaaa_nohome_1', 'abort')).rejects.toThrow('not in doubt')
  })
})
