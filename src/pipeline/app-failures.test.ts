import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { codeOf, errorOf, heard, next, type NoteContext, notes, type Notes, started, temporaryFolder } from '../../test/support/apps.ts'
import { sqlite } from '../drivers/sqlite/index.ts'
import { accept, command, defineApp } from '../index.ts'
import { createRandom } from '../std/random.ts'

/** A retry comes at once, so that no test waits for one. */
const fast = { retryBaseMs: 1, retryMaxMs: 1 }

/** Fails each of these values so many times, then no more. */
function failing(times: Readonly<Record<number, number>>): (note: NoteContext) => 'throw' | 'accept' {
  const left = new Map(Object.entries(times).map(([value, count]) => [Number(value), count]))
  return ({ value }) => {
    const count = left.get(value) ?? 0
    left.set(value, count - 1)
    return count > 0 ? 'throw' : 'accept'
  }
}

const valuesOf = (n: Notes, key?: string): number[] =>
  n
    .effects()
    .filter((effect) => key === undefined || effect.key === key)
    .map(({ value }) => value)

for (const form of ['batch', 'run'] as const) {
  describe(`a poisoned command in the ${form} form`, () => {
    it('is found in its batch, and all others commit, each once', async () => {
      const n = notes({ ...fast, retries: 0, does: ({ value }) => (value === 37 ? 'throw' : 'accept') })
      await started(n.app)
      const release = await n.hold()
      const batches = heard('headrace:batch')
      const outcomes = Array.from({ length: 64 }, (_, value) => n.app.submit(n[form], { key: `k${value % 8}`, value }))
      await release()
      const statuses = (await Promise.all(outcomes)).map(({ status }) => status)
      expect(statuses.filter((status) => status === 'failed')).toHaveLength(1)
      expect(statuses[37]).toBe('failed')
      expect(valuesOf(n).sort((a, b) => a - b)).toEqual(Array.from({ length: 64 }, (_, value) => value).filter((value) => value !== 37))
      // decide() names its culprit, run() is undone alone: neither needs more than one further batch.
      expect(batches.length).toBeLessThanOrEqual(3)
    })

    it('is tried again as often as the command says, then dead-lettered with its error', async () => {
      let tries = 0
      const n = notes({
        ...fast,
        retries: 2,
        does: ({ value }) => {
          if (value !== 13) return 'accept'
          tries += 1
          return 'throw'
        },
      })
      await started(n.app)
      const dead = heard('headrace:dead-letter')
      const outcome = await n.app.submit(n[form], { key: 'a', value: 13 }, { id: 'bad' })
      expect(outcome).toEqual({
        id: 'bad',
        command: `note.${form}`,
        status: 'failed',
        position: expect.any(Number),
        code: 'handler-failed',
        detail: 'note 13 is poisoned',
      })
      expect(tries).toBe(3)
      expect(await n.app.deadLetters.list()).toEqual([
        {
          position: outcome.position,
          partition: expect.any(Number),
          key: 'a',
          id: `note.${form}/default/bad`,
          command: `note.${form}`,
          tenant: 'default',
          input: '{"key":"a","value":13}',
          acceptedAt: expect.any(Number),
          attempts: 3,
          code: 'handler-failed',
          message: 'note 13 is poisoned',
          diedAt: expect.any(Number),
          blocks: false,
        },
      ])
      expect(dead).toMatchObject([{ command: `note.${form}`, key: 'a', position: outcome.position, code: 'handler-failed' }])
      expect(valuesOf(n)).toEqual([])
    })

    it('that fails for a while takes effect once, before the followers of its key, and holds up no other key', async () => {
      const n = notes({ ...fast, retries: 3, does: failing({ 1: 2 }) })
      await started(n.app)
      const release = await n.hold()
      const followers = Array.from({ length: 40 }, (_, index) =>
        n.app.submit(n[index % 3 === 0 ? 'run' : form], { key: index % 2 === 0 ? 'slow' : 'other', value: index + 100 }),
      )
      const slow = n.app.submit(n[form], { key: 'slow', value: 1 })
      const later = Array.from({ length: 40 }, (_, index) =>
        n.app.submit(n[form], { key: index % 2 === 0 ? 'slow' : 'other', value: index + 200 }),
      )
      await release()
      await Promise.all([...followers, slow, ...later])
      const even = (from: number): number[] => Array.from({ length: 20 }, (_, index) => from + 2 * index)
      expect(valuesOf(n, 'slow')).toEqual([...even(100), 1, ...even(200)])
      expect(valuesOf(n, 'other')).toEqual([...even(101), ...even(201)])
      // The other key did not wait for the retry.
      const all = n.effects()
      expect(all.findIndex(({ value }) => value === 239)).toBeLessThan(all.findIndex(({ value }) => value === 1))
    })
  })
}

describe('a command whose save fails', () => {
  it('is found by halving the batch, though nobody names it, and the others commit once', async () => {
    const n = notes({ ...fast, retries: 0 })
    await started(n.app)
    const release = await n.hold()
    const retries = heard('headrace:retry')
    // A number that the table refuses: only the statement finds it.
    const outcomes = Array.from({ length: 32 }, (_, value) =>
      n.app.submit(n.batch, { key: `k${value}`, value: value === 21 ? 0.5 : value }),
    )
    await release()
    const statuses = (await Promise.all(outcomes)).map(({ status }) => status)
    expect(statuses.map((status, value) => (status === 'failed' ? value : -1)).filter((value) => value >= 0)).toEqual([21])
    expect(valuesOf(n).sort((a, b) => a - b)).toEqual(Array.from({ length: 32 }, (_, value) => value).filter((value) => value !== 21))
    // log2(32) times in half.
    expect(retries.map(({ way, commands }) => [way, commands])).toEqual([
      ['split', 32],
      ['split', 16],
      ['split', 8],
      ['split', 4],
      ['split', 2],
    ])
  })
})

describe('a dead letter', () => {
  it('lets the followers of its key go on when the command says skip', async () => {
    const n = notes({ ...fast, retries: 0, onDeadLetter: 'skip', does: ({ value }) => (value === 1 ? 'throw' : 'accept') })
    await started(n.app)
    const release = await n.hold()
    const outcomes = [1, 2, 3].map((value) => n.app.submit(n.run, { key: 'a', value }))
    await release()
    expect((await Promise.all(outcomes)).map(({ status }) => status)).toEqual(['failed', 'committed', 'committed'])
    expect(valuesOf(n)).toEqual([2, 3])
    expect(await n.app.deadLetters.blockedKeys()).toEqual([])
  })

  it('holds the followers of its key when the command says block, and nobody else', async () => {
    const n = notes({ ...fast, retries: 0, onDeadLetter: 'block', does: ({ value }) => (value === 1 ? 'throw' : 'accept') })
    await started(n.app)
    const release = await n.hold()
    const first = n.app.submit(n.run, { key: 'a', value: 1 })
    const held = [2, 3].map((value) => n.app.enqueue(n.run, { key: 'a', value }))
    const other = n.app.submit(n.run, { key: 'b', value: 4 })
    await release()
    expect(await first).toMatchObject({ status: 'failed' })
    expect(await other).toMatchObject({ status: 'committed' })
    await Promise.all(held)
    expect(valuesOf(n)).toEqual([4])
    expect(await n.app.deadLetters.blockedKeys()).toEqual([{ key: 'a', partition: expect.any(Number), retryAt: null, parked: 2 }])
    expect((await n.app.status()).counts).toMatchObject({ queued: 2, parked: 2, dead: 1, blockedKeys: 1 })
  })

  for (const form of ['batch', 'run'] as const) {
    it(`takes effect before those it held when it is redriven, in the ${form} form`, async () => {
      let poisoned = true
      const n = notes({ ...fast, retries: 0, onDeadLetter: 'block', does: ({ value }) => (value === 1 && poisoned ? 'throw' : 'accept') })
      await started(n.app)
      const release = await n.hold()
      const first = n.app.submit(n[form], { key: 'a', value: 1 }, { id: 'first' })
      const held = Array.from({ length: 20 }, (_, index) => n.app.submit(n[form], { key: 'a', value: index + 2 }))
      await release()
      const { position } = await first
      // Redriven while it is still poisoned, it dies again and goes on holding.
      const diedAgain = next('headrace:dead-letter')
      await n.app.deadLetters.redrive(position)
      await diedAgain
      expect(valuesOf(n)).toEqual([])
      poisoned = false
      await n.app.deadLetters.redrive(position)
      await Promise.all(held)
      expect(valuesOf(n)).toEqual(Array.from({ length: 21 }, (_, index) => index + 1))
      expect(await n.app.submit(n[form], { key: 'a', value: 1 }, { id: 'first' })).toMatchObject({ status: 'committed', position })
      expect(await n.app.deadLetters.list()).toEqual([])
      expect(await n.app.deadLetters.blockedKeys()).toEqual([])
      expect((await n.app.status()).counts).toMatchObject({ queued: 0, parked: 0, dead: 0, blockedKeys: 0 })
    })
  }

  it('lets its key go on when it is dropped, and its outcome stays failed', async () => {
    const n = notes({ ...fast, retries: 0, onDeadLetter: 'block', does: ({ value }) => (value === 1 ? 'throw' : 'accept') })
    await started(n.app)
    const release = await n.hold()
    const first = n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'first' })
    const held = [2, 3, 4].map((value) => n.app.submit(n.run, { key: 'a', value }))
    await release()
    const { position } = await first
    await n.app.deadLetters.drop(position)
    await Promise.all(held)
    expect(valuesOf(n)).toEqual([2, 3, 4])
    expect(await n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'first' })).toMatchObject({ status: 'failed', position })
    expect(await n.app.deadLetters.list()).toEqual([])
  })

  it('that is not there is refused by name', async () => {
    const n = notes()
    await started(n.app)
    for (const ask of [n.app.deadLetters.get(7), n.app.deadLetters.redrive(7), n.app.deadLetters.drop(7)])
      expect(await codeOf(ask)).toBe('dead-letter-unknown')
  })

  it('of a blocked key bounds how many may wait behind it, and tells the rest at once', async () => {
    const n = notes({
      ...fast,
      retries: 0,
      onDeadLetter: 'block',
      keyParkedMax: 5,
      does: ({ value }) => (value === 1 ? 'throw' : 'accept'),
    })
    await started(n.app)
    await n.app.submit(n.run, { key: 'a', value: 1 })
    for (let value = 2; value <= 6; value++) {
      await n.app.enqueue(n.run, { key: 'a', value })
      // On disk is not yet behind the key: the next batch puts it there.
      await n.app.submit(n.run, { key: 'b', value })
    }
    const refused = await errorOf(n.app.submit(n.run, { key: 'a', value: 7 }, { id: 'seventh' }))
    expect(refused.code).toBe('key-blocked')
    expect(refused.retryAfterMs).toBeGreaterThan(0)
    expect(await n.app.gateway.outcomeState('note.run', 'default', 'seventh')).toEqual({ state: 'unknown' })
    expect(await n.app.submit(n.run, { key: 'b', value: 100 })).toMatchObject({ status: 'committed' })
    const [letter] = await n.app.deadLetters.list()
    await n.app.deadLetters.drop(letter?.position ?? 0)
    expect(await n.app.submit(n.run, { key: 'b', value: 101 })).toMatchObject({ status: 'committed' })
  })
})

describe('a command that fails for good', () => {
  it('is not tried again when no try can end otherwise', async () => {
    let tries = 0
    const bad = command('bad.statement', {
      input: z.object({}),
      key: () => 'k',
      databases: { db: sqlite('db', { schema: 'create table if not exists t (id text primary key not null)' }) },
      async run({ databases }) {
        tries += 1
        await databases.db.sql`drop table t`
        return accept()
      },
    })
    const app = await started(defineApp({ name: 'refusing', commands: [bad], dataDir: temporaryFolder(), ...fast }))
    expect(await app.submit(bad, {})).toMatchObject({ status: 'failed', code: 'statement-refused' })
    expect(tries).toBe(1)
  })
})

describe('a retry never overtakes', () => {
  const seeds = process.env['HEADRACE_SEED'] === undefined ? [1, 2, 3, 4, 5] : [Number(process.env['HEADRACE_SEED'])]
  it.each(seeds)('with seed %i: whatever fails how often, each key takes effect in the order it was sent', async (seed) => {
    const random = createRandom(seed)
    const times: Record<number, number> = {}
    const total = 300
    for (let value = 0; value < total; value++) if (random.chance(0.08)) times[value] = random.between(1, 3)
    const n = notes({
      retryBaseMs: 1,
      retryMaxMs: 2,
      retries: 3,
      batchCommandsMax: random.pick([1, 3, 7, 512]),
      windowCommandsMax: 512,
      does: failing(times),
    })
    await started(n.app)
    const sent = new Map<string, number[]>()
    const outcomes: Promise<{ readonly status: string }>[] = []
    for (let value = 0; value < total; value++) {
      const key = `k${random.int(4)}`
      sent.set(key, [...(sent.get(key) ?? []), value])
      outcomes.push(n.app.submit(random.chance(0.5) ? n.run : n.batch, { key, value }))
      if (random.chance(0.1)) await new Promise(setImmediate)
    }
    expect((await Promise.all(outcomes)).filter(({ status }) => status !== 'committed')).toEqual([])
    for (const [key, values] of sent) expect(valuesOf(n, key)).toEqual(values)
    expect((await n.app.status()).counts).toMatchObject({ queued: 0, parked: 0, blockedKeys: 0 })
  })
})
