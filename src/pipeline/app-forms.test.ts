import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { heard, notes, rowsOf, started, temporaryFolder } from '../../test/support/apps.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { accept, command, defineApp, reject } from '../index.ts'

for (const form of ['batch', 'run'] as const) {
  describe(`a command in the ${form === 'batch' ? 'load / decide / save' : 'run'} form`, () => {
    it('changes all of its databases and answers with its result', async () => {
      const n = notes()
      await started(n.app)
      const first = await n.app.submit(n[form], { key: 'a', value: 2 }, { id: 'one' })
      const second = await n.app.submit(n[form], { key: 'a', value: 3 }, { id: 'two' })
      expect(first).toEqual({ id: 'one', command: `note.${form}`, status: 'committed', position: expect.any(Number), result: { total: 2 } })
      expect(second).toMatchObject({ status: 'committed', result: { total: 5 } })
      expect(n.effects().map(({ id, value }) => [id, value])).toEqual([
        ['one', 2],
        ['two', 3],
      ])
      expect(n.totals()).toEqual({ a: 5 })
    })

    it('leaves nothing but its outcome when it is rejected', async () => {
      const n = notes({ does: ({ value }) => (value < 0 ? 'reject' : 'accept') })
      await started(n.app)
      const rejected = await n.app.submit(n[form], { key: 'a', value: -1 }, { id: 'no' })
      expect(rejected).toEqual({
        id: 'no',
        command: `note.${form}`,
        status: 'rejected',
        position: expect.any(Number),
        code: 'not-wanted',
        detail: 'value -1',
      })
      await n.app.submit(n[form], { key: 'a', value: 4 })
      expect(n.effects().map(({ value }) => value)).toEqual([4])
      expect(n.totals()).toEqual({ a: 4 })
      expect((await n.app.status()).counts).toMatchObject({ outcomes: 2, queued: 0, dead: 0 })
    })

    it('sees within a batch what the commands before it did, and its rejected neighbours leave nothing', async () => {
      const n = notes({ does: ({ value }) => (value < 0 ? 'reject' : 'accept') })
      await started(n.app)
      const release = await n.hold()
      const batches = heard('headrace:batch')
      const outcomes = [5, -1, 7, -2, 11].map((value) => n.app.submit(n[form], { key: 'a', value }))
      await release()
      expect(
        (await Promise.all(outcomes)).map((outcome) => (outcome.status === 'committed' ? outcome.result.total : outcome.status)),
      ).toEqual([5, 'rejected', 12, 'rejected', 23])
      expect(batches.map(({ commands }) => commands)).toEqual([1, 5])
      expect(n.totals()).toEqual({ a: 23 })
    })
  })
}

describe('a run command', () => {
  it('that writes and then rejects is undone alone; the rest of its batch stays', async () => {
    const n = notes({ does: ({ value }) => (value < 0 ? 'write and reject' : 'accept') })
    await started(n.app)
    const release = await n.hold()
    const batches = heard('headrace:batch')
    const outcomes = [1, -5, 2, -6, 3].map((value) => n.app.submit(n.run, { key: `k${value % 2}`, value }))
    await release()
    expect((await Promise.all(outcomes)).map(({ status }) => status)).toEqual([
      'committed',
      'rejected',
      'committed',
      'rejected',
      'committed',
    ])
    expect(batches.map(({ commands }) => commands)).toEqual([1, 5])
    expect(n.effects().map(({ value }) => value)).toEqual([1, 2, 3])
    expect(Object.values(n.totals()).reduce((sum, total) => sum + total, 0)).toBe(6)
  })

  it('that writes and then throws is undone alone, without a second try of the batch', async () => {
    const n = notes({ retries: 0, does: ({ value }) => (value < 0 ? 'write and throw' : 'accept') })
    await started(n.app)
    const release = await n.hold()
    const batches = heard('headrace:batch')
    const retries = heard('headrace:retry')
    const outcomes = [1, -5, 2].map((value) => n.app.submit(n.run, { key: `k${value}`, value }))
    await release()
    expect(await Promise.all(outcomes)).toMatchObject([
      { status: 'committed' },
      { status: 'failed', code: 'handler-failed', detail: 'note -5 is poisoned' },
      { status: 'committed' },
    ])
    expect(batches.map(({ commands }) => commands)).toEqual([1, 3])
    expect(retries).toEqual([])
    expect(n.effects().map(({ value }) => value)).toEqual([1, 2])
    expect(n.totals()).toEqual({ k1: 1, k2: 2 })
  })

  it('gets its id, tenant, key, position and time', async () => {
    let got: unknown
    const given = command('thing.look', {
      input: z.object({ at: z.number() }),
      key: ({ at }) => at,
      run: ({ id, tenant, key, position, acceptedAt, input, signal }) => {
        got = { id, tenant, key, position, acceptedAt, input, aborted: signal.aborted }
        return accept()
      },
    })
    const app = await started(defineApp({ name: 'looking', commands: [given], dataDir: temporaryFolder() }))
    const before = Date.now()
    const outcome = await app.submit(given, { at: 7 }, { id: 'look', tenant: 'acme' })
    expect(got).toEqual({
      id: 'look',
      tenant: 'acme',
      key: '7',
      position: outcome.position,
      acceptedAt: expect.any(Number),
      input: { at: 7 },
      aborted: false,
    })
    expect((got as { acceptedAt: number }).acceptedAt).toBeGreaterThanOrEqual(before)
  })
})

describe('commands of both forms', () => {
  it('on one key in one batch take effect in the order they came, in one commit', async () => {
    const n = notes()
    await started(n.app)
    const release = await n.hold()
    const batches = heard('headrace:batch')
    const outcomes = Array.from({ length: 12 }, (_, index) =>
      n.app.submit(index % 3 === 0 ? n.run : n.batch, { key: 'a', value: index + 1 }),
    )
    await release()
    const totals = (await Promise.all(outcomes)).map((outcome) => (outcome.status === 'committed' ? outcome.result.total : null))
    expect(totals).toEqual([1, 3, 6, 10, 15, 21, 28, 36, 45, 55, 66, 78])
    expect(batches.map(({ commands }) => commands)).toEqual([1, 12])
    expect(n.effects().map(({ value }) => value)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
  })

  it('over different databases join one batch, each with its own handles', async () => {
    const left = sqlite('left', { schema: 'create table if not exists t (id text primary key not null)' })
    const right = sqlite('right', { schema: 'create table if not exists t (id text primary key not null)' })
    const input = z.object({ id: z.string() })
    const putLeft = command('put.left', {
      input,
      key: ({ id }) => id,
      databases: { mine: left },
      run: async ({ input, databases }) => accept(await databases.mine.insertMany('t', [input])),
    })
    const putRight = command('put.right', {
      input,
      key: ({ id }) => id,
      databases: { mine: right },
      run: async ({ input, databases }) => accept(await databases.mine.insertMany('t', [input])),
    })
    const dataDir = temporaryFolder()
    const app = await started(defineApp({ name: 'two-sides', commands: [putLeft, putRight], dataDir }))
    await Promise.all([app.submit(putLeft, { id: 'l' }), app.submit(putRight, { id: 'r' })])
    expect(rowsOf(join(dataDir, 'left.sqlite'), 'select * from t')).toEqual([{ id: 'l' }])
    expect(rowsOf(join(dataDir, 'right.sqlite'), 'select * from t')).toEqual([{ id: 'r' }])
  })
})

describe('an app without databases', () => {
  it('still decides each id once and keeps its outcomes', async () => {
    let decided = 0
    const count = command('count.up', {
      input: z.object({ by: z.number() }),
      key: () => 'counter',
      load: () => ({ at: 0 }),
      decide: (state, { by }) => {
        decided += 1
        if (by < 0) return reject('too-small')
        state.at += by
        return accept(state.at)
      },
      save: () => undefined,
    })
    const app = await started(defineApp({ name: 'counting', commands: [count], dataDir: temporaryFolder() }))
    expect(await app.submit(count, { by: 2 }, { id: 'a' })).toMatchObject({ status: 'committed', result: 2 })
    expect(await app.submit(count, { by: 2 }, { id: 'a' })).toMatchObject({ status: 'committed', result: 2 })
    expect(await app.submit(count, { by: -2 }, { id: 'b' })).toMatchObject({ status: 'rejected', code: 'too-small' })
    expect(decided).toBe(2)
  })
})
