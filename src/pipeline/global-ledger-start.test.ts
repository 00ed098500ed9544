/** The start over databases on servers: what a crash left is ended, and what cannot be worked with is refused. */
import { cpSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { commit, crash, decidedIn, heal, idsIn, newFolder, opened, Remote, withCommit } from '../../test/support/global-ledgers.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { DecidingLedger } from '../contracts/ledger.ts'
import type { Decision } from '../contracts/participant.ts'
import { pause } from '../std/backoff.ts'
import { deferred } from '../std/deferred.ts'
import { codeOf } from '../testing/ledger-harness.ts'
import { deploymentOf } from './take-over.ts'

describe.concurrent('a start after a crash', () => {
  test('undoes what was prepared and not decided, and decides so first', async () => {
    const [dataDir, remotes] = [newFolder(), [new Remote('a'), new Remote('b')]]
    const [reached, never] = [deferred<void>(), deferred<number>()]
    const change = withCommit(() => {
      reached.resolve()
      return never.promise
    })
    const dying = await opened({ dataDir, remotes, change })
    void codeOf(commit(dying, remotes, 1))
    heal.push(() => never.reject(new HeadraceError('disk-full')))
    await reached.promise
    for (const { store } of remotes) expect(store.prepared.size).toBe(1)
    const copy = crash(dataDir, remotes)
    let next: DecidingLedger | null = null
    const seen: Promise<Decision | null>[] = []
    for (const remote of remotes) {
      remote.fault = (call, gid) => {
        if (call === 'rollbackPrepared' && next !== null) seen.push(next.decisions.decision(gid))
        return null
      }
    }
    const ledger = await opened({
      dataDir: copy,
      remotes,
      change: (inner) => {
        next = inner
        return inner
      },
    })
    for (const { store } of remotes) expect(store.prepared.size).toBe(0)
    const verdicts = (await Promise.all(seen)).map((decision) => decision?.verdict)
    expect(verdicts.length).toBeGreaterThanOrEqual(2)
    expect(new Set(verdicts)).toEqual(new Set(['abort']))
    expect(await decidedIn(ledger, 1)).toBe(false)
    await commit(ledger, remotes, 1)
    for (const name of ['file', 'a', 'b']) expect(await idsIn(ledger, name), name).toEqual(['id-1'])
  })

  test('commits what was decided, and then forgets it', async () => {
    const [dataDir, remotes] = [newFolder(), [new Remote('a'), new Remote('b')]]
    const dying = await opened({ dataDir, remotes })
    let copy: string | null = null
    // Dies when the first of the two is committed.
    const [first, second] = remotes as [Remote, Remote]
    second.fault = (call) => (call === 'commitPrepared' ? 'lost-before' : null)
    await commit(dying, remotes, 1)
    expect(first.ids()).toEqual(['id-1'])
    expect(second.ids()).toEqual([])
    copy = crash(dataDir, remotes)
    second.fault = () => null
    const ledger = await opened({ dataDir: copy, remotes })
    for (const name of ['file', 'a', 'b']) expect(await idsIn(ledger, name), name).toEqual(['id-1'])
    expect(await decidedIn(ledger, 1)).toBe(true)
    await ledger.close()
    for (const { store } of remotes) expect([...store.markers]).toEqual([])
  })

  test('shuts out the process before it', async () => {
    const [dataDir, remotes] = [newFolder(), [new Remote('a')]]
    const older = await opened({ dataDir, remotes })
    await commit(older, remotes, 1)
    const copy = newFolder()
    cpSync(dataDir, copy, { recursive: true, filter: (path) => !path.endsWith('owner.lock') })
    const newer = await opened({ dataDir: copy, remotes })
    expect(await codeOf(commit(older, remotes, 2))).toBe('fenced')
    expect(remotes[0]?.ids()).toEqual(['id-1'])
    await commit(newer, remotes, 3)
    expect(remotes[0]?.ids()).toEqual(['id-1', 'id-3'])
  })

  test('waits for a database that is away, and goes on when it is back', async () => {
    const [dataDir, remote] = [newFolder(), new Remote('a')]
    let asked = 0
    remote.fault = (call) => {
      if (call === 'decideAbort') asked += 1
      return asked < 4 ? 'lost-before' : null
    }
    await commit(await opened({ dataDir, remotes: [remote], databaseWaitMs: 10_000 }), [remote], 1)
    expect(asked).toBe(4)
  })

  test('gives up within databaseWaitMs, by the name of the database, and lets the data directory go', async () => {
    const [dataDir, remotes] = [newFolder(), [new Remote('a'), new Remote('b')]]
    remotes[1]?.store.crash()
    const startedAt = performance.now()
    await expect(opened({ dataDir, remotes, databaseWaitMs: 200 })).rejects.toMatchObject({
      code: 'engine-unavailable',
      message: expect.stringContaining("'b'"),
    })
    expect(performance.now() - startedAt).toBeLessThan(5_000)
    remotes[1]?.store.restart()
    await commit(await opened({ dataDir, remotes }), remotes, 1)
  })

  test('asks no database any more once another has refused it', async () => {
    let asked = 0
    const away = new Remote('a', (participant) =>
      Object.assign(participant, {
        decideAbort: async () => {
          asked += 1
          throw new HeadraceError('engine-unavailable')
        },
      }),
    )
    const other = new Remote('b')
    await (await opened({ dataDir: newFolder(), remotes: [other] })).close()
    expect(await codeOf(opened({ dataDir: newFolder(), remotes: [away, other], databaseWaitMs: 60_000 }))).toBe('database-claimed')
    const before = asked
    // Longer than the longest pause between two questions.
    await pause(1_500)
    expect(asked).toBe(before)
  })
})

describe.concurrent('a database', () => {
  test('belongs to one data directory: to another it is refused, by the name of both', async () => {
    const remote = new Remote('a')
    const [first, second] = [newFolder(), newFolder()]
    let owner = ''
    const change = (inner: DecidingLedger): DecidingLedger => {
      owner = deploymentOf(inner.identity)
      return inner
    }
    await (await opened({ dataDir: first, remotes: [remote], change })).close()
    await expect(opened({ dataDir: second, remotes: [remote] })).rejects.toMatchObject({
      code: 'database-claimed',
      message: expect.stringMatching(new RegExp(`'a'.*${owner}.*${second}`)),
    })
    await commit(await opened({ dataDir: first, remotes: [remote] }), [remote], 1)
  })

  test('of another app is another: the two do not meet', async () => {
    const remote = new Remote('a')
    await (await opened({ dataDir: newFolder(), remotes: [remote], app: 'one' })).close()
    await commit(await opened({ dataDir: newFolder(), remotes: [remote], app: 'other' }), [remote], 1)
  })

  test('that is unfit is refused with what to do; one that went away meanwhile is asked again', async () => {
    const finding = {
      name: 'tables',
      level: 'error',
      message: 'The table headrace_branch is missing.',
      remedy: 'Run headrace migrate.',
    } as const
    const unfit = new Remote('a', (participant) => Object.assign(participant, { check: async () => [finding] }))
    await expect(opened({ dataDir: newFolder(), remotes: [unfit] })).rejects.toMatchObject({
      code: 'database-unfit',
      message: "Database 'a': The table headrace_branch is missing. Run headrace migrate.",
    })
    let checks = 0
    const flickering: Remote = new Remote('a', (participant) =>
      Object.assign(participant, {
        check: async () => {
          checks += 1
          if (checks > 1) return []
          flickering.store.crash()
          setTimeout(() => flickering.store.restart(), 50)
          return [{ name: 'connection', level: 'error', message: 'It does not answer.' }]
        },
      }),
    )
    await commit(await opened({ dataDir: newFolder(), remotes: [flickering], databaseWaitMs: 10_000 }), [flickering], 1)
    expect(checks).toBe(2)
  })
})
