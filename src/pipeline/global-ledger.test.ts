/** The commit over databases on servers, at its narrow places: databases in memory fail on demand, over a real journal. */
import { describe, expect, test, vi } from 'vitest'
import {
  commit,
  crash,
  decidedIn,
  heal,
  idsIn,
  newFolder,
  opened,
  put,
  Remote,
  recordFor,
  withCommit,
} from '../../test/support/global-ledgers.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { DecidingLedger, Ledger } from '../contracts/ledger.ts'
import type { Branch, Participant } from '../contracts/participant.ts'
import type { MemoryFault } from '../drivers/memory/index.ts'
import { codeOf, none } from '../testing/ledger-harness.ts'
import { claimOf } from './take-over.ts'

describe.concurrent('a commit over files and servers', () => {
  test('is true in all of them, and nothing is kept about it', async () => {
    const remotes = [new Remote('a'), new Remote('b')]
    const ledger = await opened({ dataDir: newFolder(), remotes })
    for (const number of [1, 2, 3]) await commit(ledger, remotes, number)
    for (const name of ['file', 'a', 'b']) expect(await idsIn(ledger, name), name).toEqual(['id-1', 'id-2', 'id-3'])
    expect(remotes[0]?.store.markers.size).toBe(3)
    await ledger.close()
    for (const { store } of remotes) {
      expect([...store.markers]).toEqual([])
      expect([...store.prepared]).toEqual([])
      expect([...store.decisions.keys()]).toEqual([claimOf('unit')])
    }
  })

  test('is true in none of them when one does not prepare', async () => {
    const remotes = [new Remote('a'), new Remote('b')]
    const ledger = await opened({ dataDir: newFolder(), remotes })
    for (const fault of ['refused', 'lost-before', 'lost-after'] as const) {
      const batch = await put(ledger, remotes, 1)
      ;(remotes[1] as Remote).fault = (call) => (call === 'prepare' ? fault : null)
      expect(['engine-unavailable', 'sql-busy']).toContain(await codeOf(batch.commit(recordFor(1))))
      ;(remotes[1] as Remote).fault = () => null
      for (const name of ['file', 'a', 'b']) expect(await idsIn(ledger, name), `${name}, ${fault}`).toEqual([])
      expect(await decidedIn(ledger, 1)).toBe(false)
      for (const { store } of remotes) expect([...store.prepared]).toEqual([])
    }
    await commit(ledger, remotes, 1)
    for (const name of ['file', 'a', 'b']) expect(await idsIn(ledger, name)).toEqual(['id-1'])
  })

  test('goes on with phase 2 until every database confirms', async () => {
    const remotes = [new Remote('a'), new Remote('b')]
    const ledger = await opened({ dataDir: newFolder(), remotes })
    const faults: MemoryFault[] = ['lost-before', 'refused', 'lost-after']
    ;(remotes[0] as Remote).fault = (call) => (call === 'commitPrepared' ? (faults.shift() ?? null) : null)
    await commit(ledger, remotes, 1)
    expect(faults).toEqual([])
    for (const name of ['file', 'a', 'b']) expect(await idsIn(ledger, name)).toEqual(['id-1'])
  })

  test('is undone everywhere when the journal refuses it', async () => {
    const remotes = [new Remote('a')]
    const change = withCommit(async (inner) => {
      await inner.abort()
      throw new HeadraceError('disk-full')
    })
    const ledger = await opened({ dataDir: newFolder(), remotes, change })
    expect(await codeOf(commit(ledger, remotes, 1))).toBe('disk-full')
    expect(remotes[0]?.store.prepared.size).toBe(0)
    for (const name of ['file', 'a']) expect(await idsIn(ledger, name)).toEqual([])
  })
})

describe.concurrent('while a database does not show what is decided', () => {
  async function unshown(): Promise<{ readonly ledger: Ledger; readonly remotes: readonly [Remote, Remote] }> {
    const remotes = [new Remote('a'), new Remote('b')] as const
    const ledger = await opened({ dataDir: newFolder(), remotes })
    remotes[0].fault = (call) => (call === 'commitPrepared' ? 'lost-before' : null)
    await commit(ledger, remotes, 1)
    expect(remotes[0].ids()).toEqual([])
    return { ledger, remotes }
  }

  test('reads of it are refused, and answered when it does', async () => {
    const { ledger, remotes } = await unshown()
    expect(await decidedIn(ledger, 1)).toBe(true)
    expect(await codeOf(idsIn(ledger, 'a'))).toBe('engine-unavailable')
    expect(await codeOf(ledger.reader('a').selectIn('item', 'id', ['id-1']))).toBe('engine-unavailable')
    expect(await idsIn(ledger, 'file')).toEqual(['id-1'])
    remotes[0].fault = () => null
    await vi.waitFor(async () => expect(await idsIn(ledger, 'a')).toEqual(['id-1']), { timeout: 5_000 })
  })

  test('no batch begins on it: a handler would decide by what is old', async () => {
    const { ledger, remotes } = await unshown()
    expect(await codeOf(put(ledger, [remotes[0]], 2))).toBe('engine-unavailable')
    await (await put(ledger, [], 3)).commit(recordFor(3))
    remotes[0].fault = () => null
    await vi.waitFor(async () => expect(await codeOf(commit(ledger, [remotes[0]], 4))).toBe('nothing'), { timeout: 5_000 })
    expect(await idsIn(ledger, 'a')).toEqual(['id-1', 'id-4'])
  })
})

describe.concurrent('a journal that cannot say whether it decided', () => {
  test('leaves everything prepared, for the next start to commit', async () => {
    const [dataDir, remotes] = [newFolder(), [new Remote('a'), new Remote('b')]]
    let failed = false
    heal.push(() => {
      failed = false
    })
    const failure = new HeadraceError('storage-failed', 'The test pulls the disk out.')
    const refuse = <T>(call: () => Promise<T>): Promise<T> => (failed ? Promise.reject(failure) : call())
    const change = (inner: DecidingLedger): DecidingLedger => ({
      ...withCommit(async (transaction, record) => {
        await transaction.commit(record)
        failed = true
        throw failure
      })(inner),
      decisions: {
        name: inner.decisions.name,
        decision: (gid) => refuse(() => inner.decisions.decision(gid)),
        decideAbort: (gid, names) => refuse(() => inner.decisions.decideAbort(gid, names)),
        decisions: (prefix, limit) => refuse(() => inner.decisions.decisions(prefix, limit)),
        forget: (gids) => refuse(() => inner.decisions.forget(gids)),
      },
    })
    const ledger = await opened({ dataDir, remotes, change })
    expect(await codeOf(commit(ledger, remotes, 1))).toBe('storage-failed')
    for (const { store } of remotes) expect(store.prepared.size).toBe(1)
    const next = await opened({ dataDir: crash(dataDir, remotes), remotes })
    expect(await decidedIn(next, 1)).toBe(true)
    for (const name of ['file', 'a', 'b']) expect(await idsIn(next, name), name).toEqual(['id-1'])
  })

  test('but did: the batch is tried again, and found decided', async () => {
    const remotes = [new Remote('a')]
    const change = withCommit(async (transaction, record) => {
      await transaction.commit(record)
      throw new HeadraceError('disk-full', 'Decided, and the files have no room.', { details: { decided: true } })
    })
    const ledger = await opened({ dataDir: newFolder(), remotes, change })
    await expect(commit(ledger, remotes, 1)).rejects.toMatchObject({ code: 'disk-full', details: { decided: true } })
    const again = await ledger.begin(['file', 'a'], { ...none, arriving: ['id-1'] })
    expect([...again.known.keys()]).toEqual(['id-1'])
    await again.abort()
    for (const name of ['file', 'a']) expect(await idsIn(ledger, name)).toEqual(['id-1'])
  })
})

describe.concurrent('a slow statement', () => {
  test('is its own fault when the database answers others, and nobody’s when it does not', async () => {
    const remote = new Remote('a')
    const ledger = await opened({ dataDir: newFolder(), remotes: [remote] })
    const holder = await put(ledger, [remote], 1)
    for (const [answers, code] of [
      [true, 'engine-timeout'],
      [false, 'engine-unavailable'],
    ] as const) {
      remote.answers = answers
      const waiting = await ledger.begin(['a'], none)
      expect(await codeOf(waiting.database('a').insertMany('item', [{ id: 'id-1', n: 1 }]))).toBe(code)
      await waiting.abort()
    }
    await holder.abort()
  })

  test('is nobody’s fault when it is one of a savepoint, or of the commit', async () => {
    for (const part of ['savepoint', 'rollbackToSavepoint', 'releaseSavepoint', 'prepare'] as const) {
      const remote = new Remote('a', (participant) => slowIn(part, participant))
      const ledger = await opened({ dataDir: newFolder(), remotes: [remote] })
      const batch = await put(ledger, [remote], 1)
      const running = async (): Promise<unknown> => {
        if (part === 'prepare') return batch.commit(recordFor(1))
        await batch.savepoint()
        return part === 'releaseSavepoint' ? batch.releaseSavepoint() : batch.rollbackToSavepoint()
      }
      expect(await codeOf(running()), part).toBe('engine-unavailable')
      await batch.abort().catch(() => undefined)
      expect(remote.ids()).toEqual([])
    }
  })
})

/** The same participant, but for one call of its branches, which runs out of time. */
function slowIn(part: keyof Branch, participant: Participant): Participant {
  const slow = async (): Promise<never> => {
    throw new HeadraceError('engine-timeout', 'The test lets time run out.')
  }
  return Object.assign(participant, {
    begin: (
      (begin) =>
      async (start: Parameters<Participant['begin']>[0]): Promise<Branch> =>
        Object.defineProperty(await begin(start), part, { value: slow })
    )(participant.begin.bind(participant)),
  })
}
