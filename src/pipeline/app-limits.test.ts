import { describe, expect, it } from 'vitest'
import { codeOf, errorOf, heard, notes, started } from '../../test/support/apps.ts'

const fast = { retryBaseMs: 1, retryMaxMs: 1 }

describe('a full app', () => {
  it('refuses at once past inFlightMax, with a pause, and keeps nothing of what it refused', async () => {
    const n = notes({ inFlightMax: 5 })
    await started(n.app)
    const release = await n.hold()
    const taken = [1, 2, 3, 4].map((value) => n.app.submit(n.run, { key: 'a', value }))
    const answers = heard('headrace:admission')
    const refused = await errorOf(n.app.submit(n.run, { key: 'a', value: 5 }, { id: 'x' }))
    expect(refused).toMatchObject({ code: 'overloaded', status: 429, retryable: true })
    expect(refused.retryAfterMs).toBeGreaterThanOrEqual(1_000)
    expect(answers.map(({ answer }) => answer)).toEqual(['taken', 'taken', 'taken', 'taken', 'overloaded'])
    expect(await n.app.gateway.outcomeState('note.run', 'default', 'x')).toEqual({ state: 'unknown' })
    // A repeated id is not one more command.
    await release()
    await Promise.all(taken)
    expect(await n.app.submit(n.run, { key: 'a', value: 5 }, { id: 'x' })).toMatchObject({ status: 'committed' })
    expect(n.effects().map(({ value }) => value)).toEqual([1, 2, 3, 4, 5])
    expect((await n.app.status()).inFlight).toBe(0)
  })

  it('joins a repeated id even when it is full', async () => {
    const n = notes({ inFlightMax: 2 })
    await started(n.app)
    const release = await n.hold()
    const first = n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'x' })
    const again = n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'x' })
    await release()
    expect(await again).toEqual(await first)
  })

  it('refuses past queuedCommandsMax', async () => {
    const n = notes({ queuedCommandsMax: 3 })
    await started(n.app)
    const release = await n.hold()
    for (let value = 1; value <= 3; value++) await n.app.enqueue(n.run, { key: 'a', value })
    const refused = await errorOf(n.app.submit(n.run, { key: 'a', value: 4 }))
    expect(refused).toMatchObject({ code: 'queue-full', status: 503, retryAfterMs: expect.any(Number) })
    await release()
    expect(await n.app.submit(n.run, { key: 'a', value: 4 })).toMatchObject({ status: 'committed' })
    expect(n.effects().map(({ value }) => value)).toEqual([1, 2, 3, 4])
  })

  it('refuses past queuedBytesMax, and counts down what is decided, dead-lettered, redriven and dropped', async () => {
    let poisoned = true
    const n = notes({ ...fast, retries: 0, queuedBytesMax: 1024, does: ({ value }) => (value < 0 && poisoned ? 'throw' : 'accept') })
    await started(n.app)
    const key = 'x'.repeat(100)
    for (let round = 0; round < 3; round++) {
      const { position } = await n.app.submit(n.run, { key, value: -1 - round })
      if (round === 0) await n.app.deadLetters.drop(position)
      else {
        poisoned = false
        await n.app.deadLetters.redrive(position)
        await n.app.submit(n.run, { key, value: 1000 + round })
        poisoned = true
      }
    }
    const release = await n.hold()
    const bytes = JSON.stringify({ key, value: 1 }).length
    const room = Math.floor(1024 / bytes)
    for (let value = 1; value <= room; value++) await n.app.enqueue(n.run, { key, value })
    expect(await codeOf(n.app.enqueue(n.run, { key, value: 9 }))).toBe('queue-full')
    await release()
    expect(await n.app.submit(n.run, { key, value: 9 })).toMatchObject({ status: 'committed' })
    expect((await n.app.status()).counts).toMatchObject({ queued: 0, queuedBytes: 0 })
  })

  it('refuses when the wait would be longer than queueWaitMsMax', async () => {
    const n = notes({ queueWaitMsMax: 1, batchCommandsMax: 1, windowCommandsMax: 16 })
    await started(n.app)
    // A slow batch tells how long the next ones take.
    const held = n.app.submit(n.pass, { gate: 'slow' })
    await n.gates.reached('slow')
    await new Promise((resolve) => setTimeout(resolve, 30))
    n.gates.open('slow')
    await held
    const release = await n.hold()
    const codes = await Promise.all(
      Array.from({ length: 3 }, (_, value) => codeOf(Promise.race([n.app.submit(n.run, { key: 'a', value }), new Promise(setImmediate)]))),
    )
    expect(codes.at(-1)).toBe('queue-slow')
    expect((await n.app.status()).expectedWaitMs).toBeGreaterThan(1)
    await release()
  })

  it('is not full for others because of what waits behind a blocked key', async () => {
    const n = notes({
      ...fast,
      retries: 0,
      onDeadLetter: 'block',
      queueWaitMsMax: 5,
      batchCommandsMax: 1,
      windowCommandsMax: 16,
      does: ({ value }) => (value === 0 ? 'throw' : 'accept'),
    })
    await started(n.app)
    await n.app.submit(n.run, { key: 'a', value: 0 })
    for (let value = 1; value <= 60; value++) {
      await n.app.enqueue(n.run, { key: 'a', value })
      await n.app.submit(n.run, { key: 'b', value })
    }
    expect((await n.app.status()).counts.parked).toBe(60)
    expect(await n.app.submit(n.run, { key: 'b', value: 100 })).toMatchObject({ status: 'committed' })
  })
})

describe('stored outcomes', () => {
  it('are kept up to outcomesMax, the newest of them, however many come at once', async () => {
    const n = notes({ outcomesMax: 1_000 })
    await started(n.app)
    const total = 12_000
    for (let value = 0; value < total; value += 2_000)
      await Promise.all(
        Array.from({ length: 2_000 }, (_, index) =>
          n.app.submit(n.batch, { key: `k${index % 50}`, value: value + index }, { id: `id${value + index}` }),
        ),
      )
    while ((await n.app.status()).counts.outcomes > 1_000) await new Promise((resolve) => setTimeout(resolve, 20))
    expect((await n.app.status()).counts.outcomes).toBe(1_000)
    expect(await n.app.gateway.outcomeState('note.batch', 'default', `id${total - 1}`)).toMatchObject({ state: 'done' })
    expect(await n.app.gateway.outcomeState('note.batch', 'default', `id${total - 1_000}`)).toMatchObject({ state: 'done' })
    expect(await n.app.gateway.outcomeState('note.batch', 'default', `id${total - 1_001}`)).toEqual({ state: 'unknown' })
    expect(n.effects()).toHaveLength(total)
  })

  it('are dropped past their retention, and not before', async () => {
    const n = notes({ outcomeRetentionMs: 1_000 })
    await started(n.app)
    await n.app.submit(n.run, { key: 'a', value: 1 }, { id: 'old' })
    const at = Date.now()
    while ((await n.app.gateway.outcomeState('note.run', 'default', 'old')).state === 'done')
      await new Promise((resolve) => setTimeout(resolve, 20))
    expect(Date.now() - at).toBeGreaterThanOrEqual(900)
    expect(await n.app.submit(n.run, { key: 'a', value: 2 }, { id: 'old' })).toMatchObject({ status: 'committed' })
  })
})
