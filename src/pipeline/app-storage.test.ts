import { join } from 'node:path'
import { DatabaseSync } from '@photostructure/sqlite'
import { describe, expect, it } from 'vitest'
import { z } from 'zod'
import { afterTest, codeOf, errorOf, heard, next, notes, started, temporaryFolder } from '../../test/support/apps.ts'
import { accept, command, defineApp } from '../index.ts'

/** Locks a file of an app as another program would, until the way back is called. */
function lock(file: string): () => void {
  const other = new DatabaseSync(file)
  other.exec('begin immediate')
  let locked = true
  const release = (): void => {
    if (!locked) return
    locked = false
    other.exec('rollback')
    other.close()
  }
  afterTest(release)
  return release
}

const fast = { retryBaseMs: 1, retryMaxMs: 5 }

describe('a database that another program has locked', () => {
  it('delays the commands on it, which then take effect once; nobody is told otherwise', async () => {
    const n = notes(fast)
    await started(n.app)
    const release = lock(join(n.dataDir, 'book.sqlite'))
    const retried = next('headrace:retry', ({ way }) => way === 'whole')
    const outcomes = [1, 2, 3].map((value) => n.app.submit(value === 2 ? n.batch : n.run, { key: 'a', value }))
    await retried
    release()
    expect((await Promise.all(outcomes)).map(({ status }) => status)).toEqual(['committed', 'committed', 'committed'])
    expect(n.effects().map(({ value }) => value)).toEqual([1, 2, 3])
  })

  it('for too long gives back what only memory has, and keeps what was promised', async () => {
    const n = notes({ ...fast, batchRetriesMax: 1 })
    await started(n.app)
    const leave = await n.hold()
    const promised = await n.app.enqueue(n.run, { key: 'a', value: 1 })
    const refused = errorOf(n.app.submit(n.run, { key: 'a', value: 2 }, { id: 'given back'.replace(' ', '-') }))
    const release = lock(join(n.dataDir, 'book.sqlite'))
    await leave()
    expect(await refused).toMatchObject({ code: 'sql-busy', status: 503, retryAfterMs: expect.any(Number) })
    expect(await n.app.gateway.outcomeState('note.run', 'default', 'given-back')).toEqual({ state: 'unknown' })
    release()
    expect(JSON.parse((await promised.outcome).body)).toMatchObject({ status: 'committed' })
    expect(n.effects().map(({ value }) => value)).toEqual([1])
    expect((await n.app.status()).inFlight).toBe(0)
  })

  it('lets commands on others go on, in another lane', async () => {
    const n = notes({ ...fast, lanes: 2, batchRetriesMax: 100 })
    const free = command('free.do', { input: z.object({ key: z.string() }), key: ({ key }) => key, run: () => accept() })
    const app = await started(
      defineApp({ name: 'lanes', commands: [n.run, free], dataDir: n.dataDir, lanes: 2, ...fast, batchRetriesMax: 100 }),
    )
    const release = lock(join(n.dataDir, 'book.sqlite'))
    const stuck = await app.gateway.take('note.run', { key: 'a', value: 1 }, {})
    const others = await Promise.all(['b', 'c', 'd', 'e', 'f'].map((key) => app.gateway.take('free.do', { key }, {})))
    const other = others.find(({ partition }) => partition % 2 !== stuck.partition % 2)
    expect(JSON.parse((await other?.outcome)?.body ?? '')).toMatchObject({ status: 'committed' })
    release()
    expect(JSON.parse((await stuck.outcome).body)).toMatchObject({ status: 'committed' })
  })
})

describe('a journal that cannot be written for a while', () => {
  it('refuses what asks to be kept, with nothing kept, and takes it afterwards', async () => {
    const n = notes(fast)
    await started(n.app)
    const leave = await n.hold()
    const release = lock(join(n.dataDir, 'journal.sqlite'))
    expect(await codeOf(n.app.enqueue(n.run, { key: 'a', value: 1 }, { id: 'x' }))).toBe('sql-busy')
    release()
    expect(await n.app.gateway.outcomeState('note.run', 'default', 'x')).toEqual({ state: 'unknown' })
    const receipt = await n.app.enqueue(n.run, { key: 'a', value: 1 }, { id: 'x' })
    await leave()
    expect(JSON.parse((await receipt.outcome).body)).toMatchObject({ status: 'committed' })
    expect(n.effects()).toHaveLength(1)
  })

  it('gives a failed command back as well, and is not asked without a pause', async () => {
    const n = notes({
      retryBaseMs: 20,
      retryMaxMs: 20,
      batchRetriesMax: 1,
      retries: 0,
      does: ({ value }) => (value < 0 ? 'throw' : 'accept'),
    })
    await started(n.app)
    const retries = heard('headrace:retry')
    const release = lock(join(n.dataDir, 'journal.sqlite'))
    expect(await codeOf(n.app.submit(n.batch, { key: 'a', value: -1 }))).toBe('sql-busy')
    expect(retries.filter(({ way }) => way === 'whole').length).toBeLessThanOrEqual(2)
    release()
    expect(await n.app.submit(n.batch, { key: 'a', value: 1 })).toMatchObject({ status: 'committed' })
    expect(await n.app.deadLetters.list()).toEqual([])
    expect((await n.app.status()).inFlight).toBe(0)
  })

  it('delays the retry of a failed command, and the app goes on', async () => {
    let failures = 1
    const n = notes({ ...fast, does: ({ value }) => (value === 1 && failures-- > 0 ? 'throw' : 'accept') })
    await started(n.app)
    // Parked by the time the batch is told of.
    let release = (): void => undefined
    const parked = next('headrace:batch').then(() => {
      release = lock(join(n.dataDir, 'journal.sqlite'))
    })
    const first = n.app.submit(n.run, { key: 'a', value: 1 })
    await parked
    const notices = heard('headrace:notice')
    await new Promise((resolve) => setTimeout(resolve, 50))
    release()
    expect(await first).toMatchObject({ status: 'committed' })
    expect(notices).toEqual([])
    expect((await n.app.status()).state).toBe('ready')
  })

  it('does not keep a stop waiting', async () => {
    const n = notes({ ...fast, dataDir: temporaryFolder(), stopTimeoutMs: 60_000 })
    await started(n.app)
    const release = lock(join(n.dataDir, 'journal.sqlite'))
    const waiting = codeOf(n.app.submit(n.run, { key: 'a', value: 1 }))
    await next('headrace:retry')
    await n.app.stop()
    expect(['sql-busy', 'stopping']).toContain(await waiting)
    release()
  })
})

describe('several culprits of one key in one batch', () => {
  it('are judged in their order, also when the later one is found first', async () => {
    let healed = false
    const n = notes({ ...fast, retries: 0, onDeadLetter: 'block', does: ({ value }) => (value === 2 && !healed ? 'throw' : 'accept') })
    await started(n.app)
    const leave = await n.hold()
    // decide() of the second names it at once; the first breaks save(), and is found by splitting the batch.
    const dead = next('headrace:dead-letter')
    const [, second, third] = await Promise.all([0.5, 2, 3].map((value) => n.app.enqueue(n.batch, { key: 'a', value })))
    await leave()
    await dead
    const letters = await n.app.deadLetters.list()
    expect(letters.map(({ input }) => JSON.parse(input).value)).toEqual([0.5])
    expect(await n.app.deadLetters.blockedKeys()).toMatchObject([{ key: 'a', retryAt: null, parked: 2 }])
    healed = true
    await n.app.deadLetters.drop(letters[0]?.position ?? 0)
    await Promise.all([second?.outcome, third?.outcome])
    expect(n.effects().map(({ value }) => value)).toEqual([2, 3])
  })

  it('are judged one after the other when the key must wait: each blocks on its own', async () => {
    const n = notes({ ...fast, retries: 0, onDeadLetter: 'block' })
    await started(n.app)
    const leave = await n.hold()
    // Taken from disk, where the schema looks at them again; by then it knows better.
    const receipts = await Promise.all([1, 2, 3, 4].map((value) => n.app.enqueue(n.run, { key: 'a', value })))
    await leave()
    await Promise.all(receipts.map(({ outcome }) => outcome))
    await n.app.stop()

    const picky = (fails: readonly number[]) =>
      command('note.run', {
        input: z.object({ key: z.string(), value: z.number() }).refine(({ value }) => !fails.includes(value)),
        key: ({ key }) => key,
        onDeadLetter: 'block',
        run: ({ input }) => accept(input.value),
      })
    const dataDir = temporaryFolder()
    const lenient = picky([])
    const before = await started(defineApp({ name: 'notes', commands: [lenient, n.pass], dataDir, stopTimeoutMs: 30 }))
    const held = before.submit(n.pass, { gate: 'stop' }).catch(() => undefined)
    await n.gates.reached('stop')
    for (let value = 1; value <= 4; value++) await before.enqueue(lenient, { key: 'a', value })
    await before.stop()
    await held

    const strict = picky([2, 3])
    const after = await started(defineApp({ name: 'notes', commands: [strict, n.pass], dataDir, ...fast }))
    await next('headrace:dead-letter')
    const letters = await after.deadLetters.list()
    expect(letters.map(({ input }) => JSON.parse(input).value)).toEqual([2])
    expect(await after.deadLetters.blockedKeys()).toMatchObject([{ key: 'a', retryAt: null, parked: 2 }])
    // The next one dies when its turn comes, and holds the last one.
    const second = next('headrace:dead-letter')
    await after.deadLetters.drop(letters[0]?.position ?? 0)
    await second
    expect((await after.deadLetters.list()).map(({ input }) => JSON.parse(input).value)).toEqual([3])
    expect(await after.deadLetters.blockedKeys()).toMatchObject([{ key: 'a', retryAt: null, parked: 1 }])
    n.gates.open('stop')
  })
})
