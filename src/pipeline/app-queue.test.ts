import { describe, expect, it } from 'vitest'
import { codeOf, heard, next, notes, type Notes, started, temporaryFolder } from '../../test/support/apps.ts'
import { createRandom } from '../std/random.ts'

const fast = { retryBaseMs: 1, retryMaxMs: 1 }
const tiny = { windowCommandsMax: 16, batchCommandsMax: 4 }

const statusOf = async (outcome: Promise<{ readonly body: string }>): Promise<string> =>
  (JSON.parse((await outcome).body) as { status: string }).status
const valuesOf = (n: Notes, key: string): number[] =>
  n
    .effects()
    .filter((effect) => effect.key === key)
    .map(({ value }) => value)

describe('an enqueued command', () => {
  it('is on disk when enqueue returns, before it is applied, and its outcome can be asked for late', async () => {
    const n = notes()
    await started(n.app)
    const release = await n.hold()
    const receipt = await n.app.enqueue(n.run, { key: 'a', value: 1 }, { id: 'x' })
    expect(receipt).toMatchObject({ id: 'x', key: 'a' })
    expect((await n.app.status()).counts).toMatchObject({ queued: 1, queuedBytes: 21 })
    expect(await n.app.gateway.outcomeState('note.run', 'default', 'x')).toEqual({ state: 'pending' })
    await release()
    // Decided and forgotten long ago.
    await n.app.submit(n.run, { key: 'a', value: 2 })
    expect(await statusOf(receipt.outcome)).toBe('committed')
    expect((await n.app.status()).counts).toMatchObject({ queued: 0, queuedBytes: 0 })
    expect((await n.app.status()).inFlight).toBe(0)
  })

  it('that was decided before it was asked to be durable is durable at once', async () => {
    const n = notes()
    await started(n.app)
    const receipt = await n.app.gateway.take('note.run', { key: 'a', value: 1 }, { id: 'x' })
    await n.app.submit(n.run, { key: 'a', value: 2 })
    const appends = heard('headrace:append')
    await receipt.durable()
    expect(appends).toEqual([])
    expect(await statusOf(receipt.outcome)).toBe('committed')
  })

  it('waits with the others of its turn for one append', async () => {
    const n = notes()
    await started(n.app)
    const release = await n.hold()
    const appends = heard('headrace:append')
    await Promise.all(Array.from({ length: 50 }, (_, value) => n.app.enqueue(n.run, { key: 'a', value })))
    expect(appends.map(({ commands }) => commands)).toEqual([50])
    await release()
  })

  it('can be waited for by its id, by as many as like, before and after', async () => {
    const n = notes()
    await started(n.app)
    const release = await n.hold()
    const wait = (): Promise<unknown> => n.app.gateway.waitForOutcome('note.run', 'default', 'x', AbortSignal.timeout(10_000))
    await n.app.enqueue(n.run, { key: 'a', value: 1 }, { id: 'x' })
    const early = [wait(), wait()]
    await release()
    const answers = await Promise.all([...early, wait()])
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1)
    expect(answers[0]).toMatchObject({ state: 'done', status: 'committed' })
    expect(await n.app.gateway.waitForOutcome('note.run', 'default', 'never', AbortSignal.timeout(10_000))).toEqual({ state: 'unknown' })
  })

  it('that is parked behind its key can be waited for by its id, and a waiter who leaves takes nothing with him', async () => {
    let poisoned = true
    const n = notes({ ...fast, retries: 0, onDeadLetter: 'block', does: ({ value }) => (value === 0 && poisoned ? 'throw' : 'accept') })
    await started(n.app)
    const { position } = await n.app.submit(n.run, { key: 'a', value: 0 })
    const receipt = await n.app.enqueue(n.run, { key: 'a', value: 1 }, { id: 'x' })
    await n.app.submit(n.run, { key: 'b', value: 9 })
    const gone = new AbortController()
    const leaving = codeOf(n.app.gateway.waitForOutcome('note.run', 'default', 'x', gone.signal))
    const staying = n.app.gateway.waitForOutcome('note.run', 'default', 'x', AbortSignal.timeout(10_000))
    await n.app.submit(n.run, { key: 'b', value: 10 })
    gone.abort()
    expect(await leaving).toBe('wait-aborted')
    poisoned = false
    await n.app.deadLetters.redrive(position)
    expect(await staying).toMatchObject({ state: 'done', status: 'committed' })
    expect(await statusOf(receipt.outcome)).toBe('committed')
    expect((await n.app.status()).inFlight).toBe(0)
  })
})

describe('a backlog that does not fit in memory', () => {
  it('is kept on disk and applied in order per key, each once, whoever waits', async () => {
    const n = notes(tiny)
    await started(n.app)
    const release = await n.hold()
    const waiting: Promise<string>[] = []
    for (let value = 0; value < 400; value++) {
      const input = { key: `k${value % 3}`, value }
      if (value % 2 === 0) waiting.push(n.app.submit(value % 5 === 0 ? n.run : n.batch, input).then(({ status }) => status))
      else waiting.push(n.app.enqueue(n.run, input).then(({ outcome }) => statusOf(outcome)))
      if (value % 50 === 49) await new Promise(setImmediate)
    }
    expect((await n.app.status()).counts.queued).toBeGreaterThan(300)
    await release()
    expect(new Set(await Promise.all(waiting))).toEqual(new Set(['committed']))
    for (const rest of [0, 1, 2])
      expect(valuesOf(n, `k${rest}`)).toEqual(Array.from({ length: 400 }, (_, value) => value).filter((value) => value % 3 === rest))
    expect((await n.app.status()).counts).toMatchObject({ queued: 0, queuedBytes: 0 })
    expect((await n.app.status()).inFlight).toBe(0)
  })

  it('keeps the order of a key through spills and retries at once', async () => {
    const failures = new Map([
      [10, 2],
      [50, 1],
      [120, 3],
    ])
    const n = notes({
      ...tiny,
      ...fast,
      does: ({ value }) => {
        const left = failures.get(value) ?? 0
        failures.set(value, left - 1)
        return left > 0 ? 'throw' : 'accept'
      },
    })
    await started(n.app)
    const random = createRandom(7)
    const outcomes: Promise<unknown>[] = []
    for (let value = 0; value < 200; value++) {
      outcomes.push(n.app.submit(random.chance(0.5) ? n.run : n.batch, { key: value % 4 === 0 ? 'b' : 'a', value }))
      if (random.chance(0.05)) await new Promise(setImmediate)
    }
    await Promise.all(outcomes)
    const all = Array.from({ length: 200 }, (_, value) => value)
    expect(valuesOf(n, 'a')).toEqual(all.filter((value) => value % 4 !== 0))
    expect(valuesOf(n, 'b')).toEqual(all.filter((value) => value % 4 === 0))
  })

  it('counts bytes as well as commands', async () => {
    const n = notes({ windowBytesMax: 1024 })
    await started(n.app)
    const release = await n.hold()
    const appends = heard('headrace:append')
    const outcomes = Array.from({ length: 20 }, (_, value) => n.app.submit(n.run, { key: 'x'.repeat(200), value }))
    await next('headrace:append')
    expect(appends.reduce((sum, { commands }) => sum + commands, 0)).toBeGreaterThan(10)
    await release()
    await Promise.all(outcomes)
    expect(valuesOf(n, 'x'.repeat(200))).toEqual(Array.from({ length: 20 }, (_, value) => value))
  })
})

describe('several lanes', () => {
  it('keep the order of each key, with one another and with a spill', async () => {
    const n = notes({ lanes: 3, ...tiny })
    await started(n.app)
    const outcomes: Promise<unknown>[] = []
    for (let value = 0; value < 600; value++) {
      outcomes.push(n.app.submit(value % 2 === 0 ? n.run : n.batch, { key: `k${value % 11}`, value }))
      if (value % 97 === 0) await new Promise(setImmediate)
    }
    await Promise.all(outcomes)
    expect(n.effects()).toHaveLength(600)
    for (let rest = 0; rest < 11; rest++)
      expect(valuesOf(n, `k${rest}`)).toEqual(Array.from({ length: 600 }, (_, value) => value).filter((value) => value % 11 === rest))
  })

  it('do not wait for each other', async () => {
    const n = notes({ lanes: 3 })
    await started(n.app)
    const release = await n.hold()
    // Keys enough for every lane; those of the lane that stands wait.
    const outcomes = Array.from({ length: 30 }, (_, value) => n.app.submit(n.run, { key: `k${value}`, value }))
    await Promise.race(outcomes)
    await release()
    await Promise.all(outcomes)
  })
})

describe('a stop', () => {
  it('finishes what only memory has, and what was promised is there after the next start', async () => {
    const dataDir = temporaryFolder()
    const n = notes({ dataDir, ...tiny })
    await started(n.app)
    const release = await n.hold()
    const unqueued = Array.from({ length: 5 }, (_, value) => n.app.submit(n.run, { key: 'a', value }).then(({ status }) => status))
    const promised = await Promise.all(
      Array.from({ length: 60 }, (_, index) => n.app.enqueue(n.run, { key: 'a', value: index + 5 }, { id: `q${index}` })),
    )
    const late = promised.map(({ outcome }) => codeOf(outcome))
    const stopping = n.app.stop()
    expect(await codeOf(n.app.submit(n.run, { key: 'a', value: 999 }))).toBe('stopping')
    await release()
    await stopping
    expect(await Promise.all(unqueued)).toEqual(new Array<string>(5).fill('committed'))
    expect((await Promise.all(late)).every((code) => code === 'stopping' || code === 'nothing')).toBe(true)
    const before = n.effects().length
    expect(before).toBeGreaterThanOrEqual(5)
    expect(before).toBeLessThan(65)

    const again = notes({ dataDir, ...tiny })
    await started(again.app)
    expect(await again.app.gateway.waitForOutcome('note.run', 'default', 'q59', AbortSignal.timeout(10_000))).toMatchObject({
      state: 'done',
    })
    expect(valuesOf(again, 'a')).toEqual(Array.from({ length: 65 }, (_, value) => value))
    expect((await again.app.status()).counts).toMatchObject({ queued: 0 })
  })

  it('ends within its bound when a handler does not, and tells those who wait', async () => {
    const n = notes({ stopTimeoutMs: 50 })
    await started(n.app)
    const held = codeOf(n.app.submit(n.pass, { gate: 'never' }))
    await n.gates.reached('never')
    await n.app.stop()
    expect(await held).toBe('stopping')
    n.gates.open('never')
  })

  it('twice is one stop, and before the start is none', async () => {
    const n = notes()
    await n.app.stop()
    expect((await n.app.status()).state).toBe('stopped')
    const m = notes()
    await started(m.app)
    await Promise.all([m.app.stop(), m.app.stop()])
    expect((await m.app.status()).state).toBe('stopped')
    expect(await codeOf(m.app.submit(m.run, { key: 'a', value: 1 }))).toBe('stopping')
  })

  it('while the app starts leaves nothing open', async () => {
    const n = notes()
    const starting = codeOf(n.app.start())
    const stopping = n.app.stop()
    await stopping
    expect(['nothing', 'stopping']).toContain(await starting)
    expect((await n.app.status()).state).toBe('stopped')
    // The directory is free again.
    const other = notes({ dataDir: n.dataDir })
    await started(other.app)
  })
})

describe('a restart', () => {
  it('keeps a blocked key blocked, with those it holds, in order, and a redrive then lets them go', async () => {
    const dataDir = temporaryFolder()
    const n = notes({ dataDir, ...fast, retries: 0, onDeadLetter: 'block', does: ({ value }) => (value === 0 ? 'throw' : 'accept') })
    await started(n.app)
    const { position } = await n.app.submit(n.run, { key: 'a', value: 0 })
    for (let value = 1; value <= 5; value++) await n.app.enqueue(n.run, { key: 'a', value })
    await n.app.submit(n.run, { key: 'b', value: 100 })
    await n.app.stop()

    const again = notes({ dataDir, ...fast, onDeadLetter: 'block' })
    await started(again.app)
    expect(await again.app.deadLetters.blockedKeys()).toMatchObject([{ key: 'a', retryAt: null, parked: 5 }])
    const newer = again.app.submit(again.run, { key: 'a', value: 6 })
    await again.app.submit(again.run, { key: 'b', value: 101 })
    expect(valuesOf(again, 'a')).toEqual([])
    await again.app.deadLetters.redrive(position)
    await newer
    expect(valuesOf(again, 'a')).toEqual([0, 1, 2, 3, 4, 5, 6])
  })

  it('goes on with a retry that was waiting', async () => {
    const dataDir = temporaryFolder()
    const n = notes({
      dataDir,
      retryBaseMs: 3_600_000 / 100,
      retryMaxMs: 3_600_000,
      does: ({ value }) => (value === 0 ? 'throw' : 'accept'),
    })
    await started(n.app)
    const waiting = codeOf(n.app.submit(n.run, { key: 'a', value: 0 }))
    const follower = codeOf(n.app.submit(n.run, { key: 'a', value: 1 }))
    await n.app.submit(n.run, { key: 'b', value: 100 })
    const [blocked] = await n.app.deadLetters.blockedKeys()
    expect(blocked).toMatchObject({ key: 'a', parked: 2 })
    expect(blocked?.retryAt).toBeGreaterThan(Date.now())
    await n.app.stop()
    expect([await waiting, await follower]).toEqual(['stopping', 'stopping'])

    const again = notes({ dataDir })
    await started(again.app)
    expect(await again.app.deadLetters.blockedKeys()).toEqual([blocked])
    // Newer ones of the key still do not pass.
    void again.app.submit(again.run, { key: 'a', value: 2 }).catch(() => undefined)
    await again.app.submit(again.run, { key: 'b', value: 101 })
    expect(valuesOf(again, 'a')).toEqual([])
  })

  it('between the waking of a key and the end of its commands keeps their order', async () => {
    const dataDir = temporaryFolder()
    const gate = { closed: true }
    const n = notes({
      dataDir,
      ...fast,
      stopTimeoutMs: 30,
      retries: 0,
      onDeadLetter: 'block',
      batchCommandsMax: 2,
      windowCommandsMax: 16,
      does: ({ value }) => (value === 0 && gate.closed ? 'throw' : 'accept'),
    })
    await started(n.app)
    const { position } = await n.app.submit(n.run, { key: 'a', value: 0 })
    for (let value = 1; value <= 6; value++) await n.app.enqueue(n.run, { key: 'a', value })
    await n.app.submit(n.run, { key: 'b', value: 100 })
    gate.closed = false
    // The first two come back; the stop cuts in before the rest.
    const firstBatch = next('headrace:batch')
    await n.app.deadLetters.redrive(position)
    await firstBatch
    await n.app.stop()
    const before = valuesOf(n, 'a')
    expect(before.length).toBeLessThan(7)

    const again = notes({ dataDir, ...fast, batchCommandsMax: 2, windowCommandsMax: 16 })
    await started(again.app)
    const last = await again.app.submit(again.run, { key: 'a', value: 7 })
    expect(last.status).toBe('committed')
    expect(valuesOf(again, 'a')).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
  })
})
