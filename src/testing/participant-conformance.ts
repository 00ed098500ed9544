/**
 * What every participant of a global transaction promises
 * (contracts/participant.ts), as tests on a real server. A driver's test gives
 * the ways to open the participant, to break what lies between, and to do by
 * hand what a person might do:
 *
 *   participantConformance({ describe, it }, 'postgres', harness)
 *
 * Every case works under gids and ids of its own, so cases may share a server.
 * What an engine cannot do is left out of its harness, and shows as skipped.
 */
import assert from 'node:assert/strict'
import { HeadraceError } from '../contracts/errors.ts'
import type { Ledger, Transaction } from '../contracts/ledger.ts'
import type { Branch, BranchEnd, BranchStart, Decision, Fence, Participant } from '../contracts/participant.ts'
import { databaseConformance } from './database-conformance.ts'
import { codeOf, type OnStore } from './ledger-harness.ts'
import type { TcpProxy } from './tcp-proxy.ts'

export interface OpenParticipantOptions {
  /** Its connections go through `proxy()`. Default: false. */
  readonly proxied?: boolean
  /** 'missing': on a database that has none of Headrace's tables. Default: 'migrated'. */
  readonly tables?: 'migrated' | 'missing'
  /** The name of the participant. Default: 'left'. All names mean the same database. */
  readonly name?: string
}

export interface ParticipantHarness {
  /**
   * Opens one more participant, as another process would, on one database that
   * has Headrace's tables and `item (id text primary key not null, n bigint not
   * null, note text)` and `pair (a text, b bigint, n bigint not null, primary
   * key (a, b))`. The suite closes it.
   */
  open(options?: OpenParticipantOptions): Promise<Participant>
  /** Removes the rows of `item` and `pair`. */
  empty(): Promise<void>
  /** Adds a row to `item` through the client of a branch. */
  insertRaw(client: unknown, id: string, n: number): Promise<void>
  /** Ends a prepared branch as a person would, at the prompt of the engine. Left out: the engine cannot prepare. */
  byHand?(end: BranchEnd, gid: string, participant: string): Promise<void>
  /** Ends the server and starts it again on the same data. Left out: there is no server. */
  restart?(how: 'gently' | 'kill -9'): Promise<void>
  /** What lies between a proxied participant and the server. Left out: there is no network. */
  proxy?(): TcpProxy
  /** Whether several branches write side by side. Default: true. */
  readonly concurrent?: boolean
  /** Whether it makes Headrace's tables by itself, so that they are never missing. Default: false. */
  readonly setsItselfUp?: boolean
}

export interface ParticipantRunner {
  describe(name: string, define: () => void): void
  readonly it: ((name: string, run: () => Promise<void>) => void) & { readonly skip?: (name: string, run: () => Promise<void>) => void }
}

const statementTimeoutMs = 5_000
/** How long a call that asks for another call is repeated, in milliseconds. */
const patienceMs = 12_000

let names = 0
const run = `${process.pid.toString(36)}${Date.now().toString(36)}`
const newGid = (): string => `t_${run}_${names++}`
const newId = (): string => `i-${run}-${names++}`

export function participantConformance(runner: ParticipantRunner, engine: string, harness: ParticipantHarness): void {
  const { describe } = runner
  const { concurrent = true, setsItselfUp = false } = harness

  type Open = (options?: OpenParticipantOptions) => Promise<Participant>
  /** A case with participants of its own, closed afterwards; skipped where the harness lacks what it needs. */
  const promise = (
    name: string,
    needs: readonly (keyof ParticipantHarness | 'concurrency' | 'missing tables')[],
    test: (open: Open) => Promise<void>,
  ): void => {
    const lacking = needs.filter((need) =>
      need === 'concurrency' ? !concurrent : need === 'missing tables' ? setsItselfUp : harness[need] === undefined,
    )
    const body = async (): Promise<void> => {
      const opened: Participant[] = []
      try {
        await test(async (options) => {
          const participant = await harness.open(options)
          opened.push(participant)
          return participant
        })
      } finally {
        harness.proxy?.().heal()
        await Promise.all(opened.map((participant) => participant.close()))
      }
    }
    if (lacking.length === 0) runner.it(name, body)
    else runner.it.skip?.(`${name} (${engine} has no ${lacking.join(', ')})`, body)
  }

  describe(`the participant ${engine}: a branch`, () => {
    promise('is true at once and with its marker when it commits', [], async (open) => {
      const [one, other] = [await open(), await open()]
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      assert.equal(branch.participant, one.name)
      assert.equal(branch.gid, gid)
      assert.equal(await branch.database.insertMany('item', [item(id, 1)]), 1)
      assert.equal(await amountOf(other, id), null, 'seen before the commit')
      await branch.commit()
      assert.equal(await amountOf(other, id), 1)
      assert.equal(await other.marker(gid), 'committed')
    })

    promise('leaves nothing when it is aborted, and refuses calls afterwards', [], async (open) => {
      const one = await open()
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [item(id, 1)])
      await branch.abort()
      await branch.abort()
      assert.equal(await amountOf(one, id), null)
      assert.equal(await one.marker(gid), null)
      assert.equal(await codeOf(branch.database.selectIn('item', 'id', [id])), 'transaction-closed')
      assert.equal(await codeOf(branch.commit()), 'transaction-closed')
      assert.equal(await codeOf(branch.savepoint()), 'transaction-closed')
    })

    promise('undoes what came after its savepoint, and only that', [], async (open) => {
      const one = await open()
      const [a, b, c] = [newId(), newId(), newId()]
      const branch = await begin(one, newGid())
      await branch.database.insertMany('item', [item(a, 1)])
      await branch.savepoint()
      await branch.database.insertMany('item', [item(b, 1)])
      await branch.rollbackToSavepoint()
      await branch.savepoint()
      await branch.database.insertMany('item', [item(c, 1)])
      await branch.releaseSavepoint()
      await branch.commit()
      assert.deepEqual([await amountOf(one, a), await amountOf(one, b), await amountOf(one, c)], [1, null, 1])
    })

    promise('takes the error of a statement as a vote to abort', [], async (open) => {
      for (const end of ['commit', 'prepare'] as const) {
        const one = await open()
        if (end === 'prepare' && !one.canPrepare) continue
        const [gid, id] = [newGid(), newId()]
        const branch = await begin(one, gid)
        await branch.database.insertMany('item', [item(id, 1)])
        assert.equal(await codeOf(branch.database.insertMany('item', [item(id, 2)])), 'sql-failed')
        assert.notEqual(await codeOf(branch[end]()), 'nothing')
        await branch.abort()
        assert.equal(await amountOf(one, id), null)
        assert.equal(await one.marker(gid), null)
        if (one.canPrepare) assert.deepEqual(await one.prepared(gid), [])
      }
    })

    promise('is held to the failure of a call that nobody awaited', [], async (open) => {
      const one = await open()
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [item(id, 1)])
      void branch.database.insertMany('item', [item(id, 2)])
      assert.notEqual(await codeOf(branch.commit()), 'nothing')
      await branch.abort()
      assert.equal(await amountOf(one, id), null)
    })

    promise('goes on after the error of a statement when the savepoint before it is rolled back', [], async (open) => {
      const one = await open()
      const [id, next] = [newId(), newId()]
      const branch = await begin(one, newGid())
      await branch.database.insertMany('item', [item(id, 1)])
      await branch.savepoint()
      assert.equal(await codeOf(branch.database.insertMany('item', [item(id, 2)])), 'sql-failed')
      await branch.rollbackToSavepoint()
      await branch.database.insertMany('item', [item(next, 3)])
      await branch.commit()
      assert.deepEqual([await amountOf(one, id), await amountOf(one, next)], [1, 3])
    })

    promise('knows whether it wrote', [], async (open) => {
      const one = await open()
      const reading = await begin(one, newGid())
      assert.equal(reading.wrote, false)
      await reading.database.selectIn('item', 'id', [newId()], { lock: false })
      assert.equal(reading.wrote, false)
      await reading.database.deleteIn('item', 'id', [newId()])
      assert.equal(reading.wrote, true)
      await reading.abort()

      const raw = await begin(one, newGid())
      const id = newId()
      await harness.insertRaw(raw.client, id, 5)
      assert.equal(raw.wrote, true)
      await raw.commit()
      assert.equal(await amountOf(one, id), 5)
    })

    promise('cannot take a gid that is taken, and changes nothing then', [], async (open) => {
      const one = await open()
      const [gid, id] = [newGid(), newId()]
      await commitOne(one, gid, newId())
      for (const end of ['commit', 'prepare'] as const) {
        if (end === 'prepare' && !one.canPrepare) continue
        const branch = await begin(one, gid)
        await branch.database.insertMany('item', [item(id, 1)])
        assert.equal(await codeOf(branch[end]()), 'gid-taken')
        await branch.abort()
        assert.equal(await amountOf(one, id), null)
      }
    })

    promise('refuses a gid that is not of the alphabet', [], async (open) => {
      const one = await open()
      for (const gid of ['', 'A', "a'; drop table item; --", 'é', 'a'.repeat(61)]) {
        const code = await codeOf(begin(one, gid).then((branch) => branch.abort()))
        assert.equal(code, 'option-invalid', gid)
      }
    })

    promise('ends a statement that takes too long, and takes that as a vote to abort', ['concurrency'], async (open) => {
      const one = await open()
      const id = newId()
      await commitOne(one, newGid(), id)
      const holder = await begin(one, newGid())
      await holder.database.addMany('item', 'id', [{ id, n: 1 }])
      const waiter = await begin(one, newGid(), { statementTimeoutMs: 200 })
      assert.equal(await codeOf(waiter.database.addMany('item', 'id', [{ id, n: 1 }])), 'engine-timeout')
      assert.notEqual(await codeOf(waiter.commit()), 'nothing')
      await waiter.abort()
      await holder.commit()
      assert.equal(await amountOf(one, id), 2)
    })

    promise('ends the statement under way when its signal says so', ['concurrency'], async (open) => {
      const one = await open()
      const id = newId()
      await commitOne(one, newGid(), id)
      const holder = await begin(one, newGid())
      await holder.database.addMany('item', 'id', [{ id, n: 1 }])
      const given = new AbortController()
      const waiter = await begin(one, newGid(), { statementTimeoutMs: 15_000, signal: given.signal })
      const waiting = codeOf(waiter.database.addMany('item', 'id', [{ id, n: 1 }]))
      const started = performance.now()
      given.abort()
      assert.equal(await waiting, 'wait-aborted')
      assert.ok(performance.now() - started < 5_000, 'the signal did not end the statement')
      assert.notEqual(await codeOf(waiter.commit()), 'nothing')
      await waiter.abort()
      await holder.commit()
      assert.equal(await amountOf(one, id), 2)
    })

    promise('begins no more when its signal has been given', [], async (open) => {
      const one = await open()
      assert.equal(await codeOf(begin(one, newGid(), { signal: AbortSignal.abort() })), 'wait-aborted')
    })

    promise('is refused by a participant that is closed', [], async (open) => {
      const one = await open()
      await one.close()
      await one.close()
      assert.equal(await codeOf(begin(one, newGid())), 'engine-unavailable')
      assert.equal(await codeOf(one.marker(newGid())), 'engine-unavailable')
      assert.equal(await codeOf(one.reader.selectIn('item', 'id', ['x'])), 'engine-unavailable')
    })

    promise('says which tables are missing, and how to make them', ['missing tables'], async (open) => {
      const bare = await open({ tables: 'missing' })
      const code = await codeOf(
        (async () => {
          const branch = await begin(bare, newGid())
          try {
            await branch.commit()
          } finally {
            await branch.abort()
          }
        })(),
      )
      assert.equal(code, 'tables-missing')
      assert.equal(await codeOf(bare.marker(newGid())), 'tables-missing')
      const findings = await bare.check()
      assert.ok(
        findings.some(({ level, message }) => level === 'error' && /headrace_/.test(message)),
        JSON.stringify(findings),
      )
    })

    promise('finds nothing wrong with a database that is set up, and can be set up twice', [], async (open) => {
      const one = await open()
      await one.migrate()
      const findings = await one.check()
      assert.ok(findings.length > 0)
      assert.deepEqual(
        findings.filter(({ level }) => level === 'error'),
        [],
      )
      assert.match(one.migration(), /headrace_branch/)
    })
  })

  describe(`the participant ${engine}: prepare`, () => {
    promise('changes nothing that others see, until anybody commits it', ['byHand'], async (open) => {
      const [one, other] = [await open(), await open()]
      const [gid, id] = [newGid(), newId()]
      await prepareOne(one, gid, id)
      assert.equal(await amountOf(other, id), null)
      assert.deepEqual(
        (await other.prepared(gid)).map((branch) => branch.gid),
        [gid],
      )
      await insist(() => other.commitPrepared(gid))
      assert.equal(await amountOf(one, id), 1)
      assert.equal(await one.marker(gid), 'committed')
      assert.deepEqual(await other.prepared(gid), [])
      await insist(() => other.commitPrepared(gid))
      await insist(() => one.commitPrepared(gid))
      assert.equal(await amountOf(one, id), 1)
    })

    promise('is undone by anybody, again and again', ['byHand'], async (open) => {
      const [one, other] = [await open(), await open()]
      const [gid, id] = [newGid(), newId()]
      await prepareOne(one, gid, id)
      await insist(() => other.rollbackPrepared(gid))
      await insist(() => one.rollbackPrepared(gid))
      assert.equal(await amountOf(one, id), null)
      assert.equal(await one.marker(gid), 'aborted')
      assert.deepEqual(await one.prepared(gid), [])
      await commitOne(one, newGid(), id)
    })

    promise('refuses calls on the branch afterwards', ['byHand'], async (open) => {
      const one = await open()
      const gid = newGid()
      const branch = await prepareOne(one, gid, newId())
      assert.equal(await codeOf(branch.database.deleteIn('item', 'id', ['x'])), 'transaction-closed')
      assert.equal(await codeOf(branch.commit()), 'transaction-closed')
      await branch.abort()
      assert.equal((await one.prepared(gid)).length, 1, 'abort undid a prepared branch')
      await insist(() => one.rollbackPrepared(gid))
    })

    for (const how of ['gently', 'kill -9'] as const) {
      promise(`survives a restart of the server (${how}) between prepare and commit`, ['byHand', 'restart'], async (open) => {
        const one = await open()
        const [kept, undone] = [newGid(), newGid()]
        const [keptId, undoneId] = [newId(), newId()]
        await prepareOne(one, kept, keptId)
        await prepareOne(one, undone, undoneId)
        await harness.restart?.(how)
        const other = await open()
        assert.deepEqual((await insist(() => other.prepared('t_'))).map(({ gid }) => gid).sort(), [kept, undone].sort())
        await insist(() => one.commitPrepared(kept))
        await insist(() => other.rollbackPrepared(undone))
        assert.deepEqual([await amountOf(other, keptId), await amountOf(other, undoneId)], [1, null])
        assert.deepEqual(await other.prepared('t_'), [])
      })
    }

    promise('keeps a commit over kill -9 of the server', ['restart'], async (open) => {
      const one = await open()
      const [gid, id] = [newGid(), newId()]
      await commitOne(one, gid, id)
      await harness.restart?.('kill -9')
      assert.equal(await insist(() => amountOf(one, id)), 1)
      assert.equal(await one.marker(gid), 'committed')
    })

    promise('finds its marker taken when it comes after the rollback', ['byHand', 'concurrency'], async (open) => {
      const [one, other] = [await open(), await open()]
      const [gid, id] = [newGid(), newId()]
      const late = await begin(one, gid)
      await late.database.insertMany('item', [item(id, 1)])
      await insist(() => other.rollbackPrepared(gid))
      assert.equal(await codeOf(late.prepare()), 'gid-taken')
      await late.abort()
      assert.deepEqual(await one.prepared(gid), [])
      assert.equal(await amountOf(one, id), null)
      assert.equal(await other.marker(gid), 'aborted')
    })

    promise('is ended one way, however many end it at once', ['byHand'], async (open) => {
      const participants = [await open(), await open(), await open()]
      const [first] = participants as [Participant]
      for (const end of ['commitPrepared', 'rollbackPrepared'] as const) {
        const [gid, id] = [newGid(), newId()]
        await prepareOne(first, gid, id)
        await Promise.all(participants.flatMap((one) => [insist(() => one[end](gid)), insist(() => one[end](gid))]))
        assert.equal(await amountOf(first, id), end === 'commitPrepared' ? 1 : null)
        assert.equal(await first.marker(gid), end === 'commitPrepared' ? 'committed' : 'aborted')
      }
    })

    promise('is listed under its prefix, and not under that of another', ['byHand'], async (open) => {
      const one = await open()
      const [mine, others] = [newGid(), `other_${newGid()}`]
      await prepareOne(one, mine, newId())
      await prepareOne(one, others, newId())
      assert.deepEqual(
        (await one.prepared('t_')).map(({ gid }) => gid),
        [mine],
      )
      assert.deepEqual(
        (await one.prepared('other_t_')).map(({ gid }) => gid),
        [others],
      )
      assert.deepEqual(await one.prepared('none_'), [])
      const [listed] = await one.prepared(mine)
      if (listed?.preparedAt !== null && listed?.preparedAt !== undefined)
        assert.ok(Math.abs(listed.preparedAt - Date.now()) < 600_000, String(listed.preparedAt))
      for (const gid of [mine, others]) await insist(() => one.rollbackPrepared(gid))
    })

    promise('keeps the branches of two participants of one database apart', ['byHand', 'concurrency'], async (open) => {
      const [left, right] = [await open({ name: 'left' }), await open({ name: 'right' })]
      const [gid, leftId, rightId] = [newGid(), newId(), newId()]
      await prepareOne(left, gid, leftId)
      await prepareOne(right, gid, rightId)
      assert.equal((await left.prepared(gid)).length, 1)
      assert.equal((await right.prepared(gid)).length, 1)
      await insist(() => left.commitPrepared(gid))
      assert.equal(await right.marker(gid), null)
      await insist(() => right.commitPrepared(gid))
      assert.deepEqual([await amountOf(left, leftId), await amountOf(left, rightId)], [1, 1])
    })

    promise('reports a branch that a person undid although it was to be committed', ['byHand'], async (open) => {
      const one = await open()
      const [gid, id] = [newGid(), newId()]
      await prepareOne(one, gid, id)
      await harness.byHand?.('aborted', gid, one.name)
      assert.equal(await codeOf(insist(() => one.commitPrepared(gid))), 'transaction-heuristic')
      assert.equal(await amountOf(one, id), null)
    })

    promise('reports a branch that a person committed although it was to be undone', ['byHand'], async (open) => {
      const one = await open()
      const [gid, id] = [newGid(), newId()]
      await prepareOne(one, gid, id)
      await harness.byHand?.('committed', gid, one.name)
      assert.equal(await codeOf(insist(() => one.rollbackPrepared(gid))), 'transaction-heuristic')
      assert.equal(await amountOf(one, id), 1)
      assert.equal(await one.marker(gid), 'committed')
    })

    promise('is at ease with a person who ended it as decided', ['byHand'], async (open) => {
      const one = await open()
      for (const end of ['committed', 'aborted'] as const) {
        const gid = newGid()
        await prepareOne(one, gid, newId())
        await harness.byHand?.(end, gid, one.name)
        await insist(() => (end === 'committed' ? one.commitPrepared(gid) : one.rollbackPrepared(gid)))
        assert.equal(await one.marker(gid), end)
      }
    })

    promise('says in good time that the server is away, and ends the branch when it is back', ['byHand', 'proxy'], async (open) => {
      const one = await open({ proxied: true })
      const [gid, id] = [newGid(), newId()]
      await prepareOne(one, gid, id)
      harness.proxy?.().cut()
      const error = await errorOf(one.commitPrepared(gid))
      assert.equal(error.retryable, true, error.message)
      harness.proxy?.().heal()
      await insist(() => one.commitPrepared(gid))
      assert.equal(await amountOf(one, id), 1)
    })
  })

  describe(`the participant ${engine}: a commit that is lost`, () => {
    promise('is found committed when only its answer was lost', ['proxy'], async (open) => {
      const [one, other] = [await open({ proxied: true }), await open()]
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [item(id, 1)])
      harness.proxy?.().hold('down')
      const lost = codeOf(branch.commit())
      await eventually(async () => (await other.marker(gid)) === 'committed')
      harness.proxy?.().drop()
      assert.equal(await lost, 'transaction-unknown')
      harness.proxy?.().heal()
      assert.equal(await insist(() => one.settle(gid)), 'committed')
      assert.equal(await amountOf(other, id), 1)
    })

    promise('is found aborted when it never arrived, and stays so', ['proxy'], async (open) => {
      const [one, other] = [await open({ proxied: true }), await open()]
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [item(id, 1)])
      harness.proxy?.().hold('up')
      const lost = codeOf(branch.commit())
      await turns(5)
      harness.proxy?.().drop()
      assert.equal(await lost, 'transaction-unknown')
      harness.proxy?.().heal()
      assert.equal(await insist(() => one.settle(gid)), 'aborted')
      assert.equal(await insist(() => other.settle(gid)), 'aborted')
      assert.equal(await amountOf(other, id), null)
      assert.equal(await other.marker(gid), 'aborted')
    })

    promise('ends in a bounded time when the network swallows it', ['proxy'], async (open) => {
      const one = await open({ proxied: true })
      const branch = await begin(one, newGid(), { statementTimeoutMs: 300 })
      await branch.database.insertMany('item', [item(newId(), 1)])
      harness.proxy?.().hold()
      assert.equal(await codeOf(branch.commit()), 'transaction-unknown')
      harness.proxy?.().heal()
    })

    promise('is settled by whoever asks first: a late commit is refused', ['concurrency'], async (open) => {
      const [one, other] = [await open(), await open()]
      const [gid, id] = [newGid(), newId()]
      const late = await begin(one, gid)
      await late.database.insertMany('item', [item(id, 1)])
      assert.equal(await insist(() => other.settle(gid)), 'aborted')
      assert.equal(await codeOf(late.commit()), 'gid-taken')
      await late.abort()
      assert.equal(await amountOf(one, id), null)
      assert.equal(await other.marker(gid), 'aborted')
    })

    promise('is told committed, again and again, once it is', [], async (open) => {
      const one = await open()
      const gid = newGid()
      await commitOne(one, gid, newId())
      assert.equal(await one.settle(gid), 'committed')
      assert.equal(await one.settle(gid), 'committed')
      assert.equal(await one.marker(newGid()), null)
    })

    promise('of a branch whose connection broke before is no riddle: nothing of it is true', ['proxy'], async (open) => {
      const one = await open({ proxied: true })
      const [gid, id] = [newGid(), newId()]
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [item(id, 1)])
      harness.proxy?.().drop()
      assert.equal(await codeOf(branch.database.selectIn('item', 'id', [id])), 'engine-unavailable')
      assert.notEqual(await codeOf(branch.commit()), 'nothing')
      await branch.abort()
      assert.equal(await insist(() => one.settle(gid)), 'aborted')
    })

    promise('comes through a black hole in a statement in bounded time', ['proxy'], async (open) => {
      const one = await open({ proxied: true })
      const branch = await begin(one, newGid(), { statementTimeoutMs: 300 })
      await branch.database.selectIn('item', 'id', ['x'])
      harness.proxy?.().hold()
      assert.equal(await codeOf(branch.database.selectIn('item', 'id', ['x'])), 'engine-timeout')
      await branch.abort()
      harness.proxy?.().heal()
    })
  })

  describe(`the participant ${engine}: decisions`, () => {
    const decided = (gid: string, given: Partial<Decision> = {}): Decision => ({
      gid,
      verdict: 'commit',
      participants: ['left', 'right'],
      decidedAt: 1_700_000_000_000,
      ...given,
    })

    promise('are made in the commit of home, and not without it', [], async (open) => {
      const one = await open()
      if (!one.canDecide) return
      const [gid, id, none] = [newGid(), newId(), newGid()]
      assert.equal(await one.decision(gid), null)
      const branch = await begin(one, gid)
      await branch.database.insertMany('item', [item(id, 1)])
      await branch.commit(decided(gid))
      assert.deepEqual({ ...(await one.decision(gid)) }, decided(gid))
      const dropped = await begin(one, none)
      await dropped.abort()
      assert.equal(await one.decision(none), null)
      await one.forget([gid])
    })

    promise('are made once: whoever comes later follows', [], async (open) => {
      const [one, other] = [await open(), await open()]
      if (!one.canDecide) return
      const [gid, id] = [newGid(), newId()]
      const aborted = await one.decideAbort(gid, ['right'])
      assert.equal(aborted.verdict, 'abort')
      assert.deepEqual(aborted.participants, ['right'])
      const late = await begin(other, gid)
      await late.database.insertMany('item', [item(id, 1)])
      assert.equal(await codeOf(late.commit(decided(gid))), 'gid-taken')
      await late.abort()
      assert.equal(await amountOf(one, id), null)
      assert.equal((await one.decision(gid))?.verdict, 'abort')

      const second = newGid()
      const branch = await begin(one, second)
      await branch.commit(decided(second))
      assert.deepEqual({ ...(await other.decideAbort(second, [])) }, decided(second))
      await one.forget([gid, second])
    })

    promise('have one winner when commit and abort race', [], async (open) => {
      const [one, other] = [await open(), await open()]
      if (!one.canDecide) return
      for (let round = 0; round < 20; round++) {
        const [gid, id] = [newGid(), newId()]
        const branch = await begin(one, gid)
        await branch.database.insertMany('item', [item(id, 1)])
        const [commit, abort, again] = await Promise.all([
          codeOf(branch.commit(decided(gid))),
          insist(() => other.decideAbort(gid, ['left'])),
          insist(() => one.decideAbort(gid, ['left'])),
        ])
        await branch.abort()
        const { verdict } = (await one.decision(gid)) ?? { verdict: null }
        assert.equal(abort.verdict, verdict)
        assert.equal(again.verdict, verdict)
        assert.equal(commit, verdict === 'commit' ? 'nothing' : 'gid-taken')
        assert.equal(await amountOf(one, id), verdict === 'commit' ? 1 : null)
        await one.forget([gid])
      }
    })

    promise('are listed by prefix, the oldest first, up to a number, and forgotten with their markers', [], async (open) => {
      const one = await open()
      if (!one.canDecide) return
      const prefix = `${newGid()}_`
      const gids = ['c', 'a', 'b'].map((name) => prefix + name)
      for (const [at, gid] of gids.entries()) {
        const branch = await begin(one, gid)
        await branch.commit(decided(gid, { decidedAt: 1_700_000_000_000 + at }))
      }
      const listed = async (limit: number): Promise<string[]> => (await one.decisions(prefix, limit)).map(({ gid }) => gid)
      assert.deepEqual(await listed(10), gids)
      assert.deepEqual(await listed(2), gids.slice(0, 2))
      assert.deepEqual(await one.decisions(`${prefix}x`, 10), [])
      await one.forget(gids.slice(0, 2))
      assert.deepEqual(await listed(10), gids.slice(2))
      assert.equal(await one.marker(gids[0] as string), null)
      assert.equal(await one.marker(gids[2] as string), 'committed')
      await one.forget(gids)
      await one.forget([])
      assert.deepEqual(await listed(10), [])
    })

    promise('survive kill -9 of the server', ['restart'], async (open) => {
      const one = await open()
      if (!one.canDecide) return
      const [gid, abort] = [newGid(), newGid()]
      const branch = await begin(one, gid)
      await branch.commit(decided(gid))
      await one.decideAbort(abort, ['left'])
      await harness.restart?.('kill -9')
      assert.equal((await insist(() => one.decision(gid)))?.verdict, 'commit')
      assert.equal((await one.decision(abort))?.verdict, 'abort')
      await one.forget([gid, abort])
    })
  })

  describe(`the participant ${engine}: fences`, () => {
    const fence = (epoch: number, partition = 0, deployment = `d${run}${names}`): Fence => ({ deployment, partition, epoch })

    promise('let the owner write, and everybody above; never one below', [], async (open) => {
      const one = await open()
      const deployment = newGid()
      for (const epoch of [5, 5, 7]) {
        const branch = await begin(one, newGid(), { fences: [fence(epoch, 1, deployment)] })
        await branch.commit()
      }
      assert.equal(await codeOf(begin(one, newGid(), { fences: [fence(6, 1, deployment)] })), 'fenced')
      const elsewhere = await begin(one, newGid(), { fences: [fence(1, 2, deployment), fence(1, 1, newGid())] })
      await elsewhere.commit()
    })

    promise('refuse a branch when one of many is too low, and then change none', [], async (open) => {
      const one = await open()
      const deployment = newGid()
      await one.raise([fence(9, 2, deployment)])
      assert.equal(await codeOf(begin(one, newGid(), { fences: [1, 2, 3].map((partition) => fence(8, partition, deployment)) })), 'fenced')
      const below = await begin(one, newGid(), { fences: [fence(1, 1, deployment), fence(1, 3, deployment)] })
      await below.commit()
    })

    promise('are raised once and for all, by anybody', [], async (open) => {
      const [one, other] = [await open(), await open()]
      const deployment = newGid()
      await one.raise([fence(4, 0, deployment), fence(4, 1, deployment)])
      await other.raise([fence(4, 0, deployment)])
      assert.equal(await codeOf(other.raise([fence(3, 1, deployment)])), 'fenced')
      assert.equal(await codeOf(begin(other, newGid(), { fences: [fence(3, 0, deployment)] })), 'fenced')
      const branch = await begin(other, newGid(), { fences: [fence(4, 0, deployment), fence(4, 1, deployment)] })
      await branch.commit()
      await one.raise([])
    })

    promise('wait, when raised, for a branch that holds them', [], async (open) => {
      const [one, other] = [await open(), await open()]
      const deployment = newGid()
      const id = newId()
      await one.raise([fence(1, 0, deployment)])
      const branch = await begin(one, newGid(), { fences: [fence(1, 0, deployment)] })
      await branch.database.insertMany('item', [item(id, 1)])
      const raising = insist(() => other.raise([fence(2, 0, deployment)]))
      // The owner goes on writing while the newer one waits for it.
      for (let n = 0; n < 5; n++) await branch.database.addMany('item', 'id', [{ id, n: 1 }])
      assert.equal(await waits(raising), true)
      await branch.commit()
      await raising
      assert.equal(await amountOf(other, id), 6)
      assert.equal(await codeOf(begin(one, newGid(), { fences: [fence(1, 0, deployment)] })), 'fenced')
    })

    promise('are held by a prepared branch until it ends', ['byHand', 'concurrency'], async (open) => {
      const [one, other] = [await open(), await open()]
      const deployment = newGid()
      const gid = newGid()
      const branch = await begin(one, gid, { fences: [fence(1, 0, deployment)] })
      await branch.database.insertMany('item', [item(newId(), 1)])
      await branch.prepare()
      const raising = insist(() => other.raise([fence(2, 0, deployment)]))
      assert.equal(await waits(raising), true)
      await insist(() => other.commitPrepared(gid))
      await raising
    })
  })

  const onStore: OnStore = (name, test) =>
    promise(name, [], async (open) => {
      await harness.empty()
      await test(async () => ledgerOf(await open()))
    })
  databaseConformance(runner, engine, onStore)
}

const item = (id: string, n: number) => ({ id, n, note: null })

function begin(participant: Participant, gid: string, given: Partial<BranchStart> = {}): Promise<Branch> {
  return participant.begin({ gid, statementTimeoutMs, ...given })
}

async function commitOne(participant: Participant, gid: string, id: string): Promise<void> {
  const branch = await begin(participant, gid)
  await branch.database.insertMany('item', [item(id, 1)])
  await branch.commit()
  if ((await amountOf(participant, id)) === null) throw new Error('The commit cannot be seen.')
  await branch.abort()
}

async function prepareOne(participant: Participant, gid: string, id: string): Promise<Branch> {
  const branch = await begin(participant, gid)
  await branch.database.insertMany('item', [item(id, 1)])
  await branch.prepare()
  return branch
}

async function amountOf(participant: Participant, id: string): Promise<number | null> {
  const [row] = await participant.reader.selectIn('item', 'id', [id])
  return row === undefined ? null : Number(row['n'])
}

async function errorOf(running: Promise<unknown>): Promise<HeadraceError> {
  try {
    await running
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
  throw new Error('It did not fail.')
}

/** Calls again while the error says that another call is worth it, as recovery does. */
async function insist<T>(call: () => Promise<T>): Promise<T> {
  const started = performance.now()
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if (!HeadraceError.is(error) || !error.retryable || performance.now() - started > patienceMs) throw error
      await new Promise((resolve) => setTimeout(resolve, 20))
    }
  }
}

async function eventually(holds: () => Promise<boolean>): Promise<void> {
  const started = performance.now()
  while (!(await holds())) {
    if (performance.now() - started > patienceMs) throw new Error(`It did not become true within ${patienceMs} ms.`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}

/** Whether it is still under way after a time in which it would long have ended, were it not held up. */
async function waits(running: Promise<unknown>): Promise<boolean> {
  const waiting = Symbol('waiting')
  const timer = new Promise((resolve) => setTimeout(() => resolve(waiting), 400))
  return (await Promise.race([running, timer])) === waiting
}

/** Lets the event loop turn: what is ready to be sent is handed to the socket. */
async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await new Promise((resolve) => setImmediate(resolve))
}

/** As much of a ledger as the verbs' suite uses, on one participant. */
function ledgerOf(participant: Participant): Ledger {
  const ledger: Pick<Ledger, 'reader'> & { begin(): Promise<unknown> } = {
    reader: () => participant.reader,
    async begin() {
      const branch = await begin(participant, newGid())
      const transaction: Pick<Transaction, 'database' | 'abort'> & { commit(): Promise<void> } = {
        database: () => branch.database,
        abort: () => branch.abort(),
        commit: () => branch.commit(),
      }
      return transaction
    },
  }
  return ledger as unknown as Ledger
}
