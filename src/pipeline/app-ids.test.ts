import { describe, expect, it } from 'vitest'
import { codeOf, heard, notes, started, temporaryFolder } from '../../test/support/apps.ts'

const fast = { retryBaseMs: 1, retryMaxMs: 1 }

describe('a repeated id', () => {
  for (const form of ['batch', 'run'] as const) {
    it(`joins the command in flight, which takes effect once (${form})`, async () => {
      const n = notes()
      await started(n.app)
      const release = await n.hold()
      const answers = heard('headrace:admission')
      const all = Array.from({ length: 10 }, () => n.app.submit(n[form], { key: 'a', value: 1 }, { id: 'same' }))
      await new Promise(setImmediate)
      await release()
      const outcomes = await Promise.all(all)
      expect(new Set(outcomes.map((outcome) => JSON.stringify(outcome))).size).toBe(1)
      expect(n.effects()).toHaveLength(1)
      expect(answers.map(({ answer }) => answer)).toEqual(['taken', ...new Array<string>(9).fill('joined')])
    })

    it(`gets the stored outcome byte for byte afterwards, and nothing happens again (${form})`, async () => {
      let decided = 0
      const n = notes({
        does: ({ value }) => {
          decided += 1
          return value < 0 ? 'reject' : 'accept'
        },
      })
      await started(n.app)
      for (const value of [1, -1]) {
        const input = { key: 'a', value }
        const id = `id ${value}`.replace(' ', '')
        const first = await (await n.app.gateway.take(`note.${form}`, input, { id })).outcome
        const again = await (await n.app.gateway.take(`note.${form}`, input, { id })).outcome
        expect(again).toEqual(first)
        expect(await n.app.gateway.outcomeState(`note.${form}`, 'default', id)).toEqual({
          state: 'done',
          status: first.status,
          body: first.body,
        })
      }
      expect(decided).toBe(2)
      expect(n.effects()).toHaveLength(1)
    })

    it(`gets the stored outcome byte for byte after a restart (${form})`, async () => {
      const dataDir = temporaryFolder()
      const before = notes({ dataDir })
      await started(before.app)
      const first = await (await before.app.gateway.take(`note.${form}`, { key: 'a', value: 1 }, { id: 'same' })).outcome
      await before.app.stop()
      const after = notes({ dataDir })
      await started(after.app)
      const again = await (await after.app.gateway.take(`note.${form}`, { key: 'a', value: 1 }, { id: 'same' })).outcome
      expect(again.body).toBe(first.body)
      expect(after.effects()).toHaveLength(1)
    })
  }

  it('is another command for another tenant, and for another kind of command', async () => {
    const n = notes()
    await started(n.app)
    const input = { key: 'a', value: 1 }
    await n.app.submit(n.run, input, { id: 'x', tenant: 'one' })
    await n.app.submit(n.run, input, { id: 'x', tenant: 'two' })
    await n.app.submit(n.batch, input, { id: 'x', tenant: 'one' })
    expect(n.effects()).toHaveLength(3)
  })
})

describe('an id with another input', () => {
  const one = { key: 'a', value: 1 }
  // Another key, too: it goes to another partition, and meets the first nowhere but by its id.
  const others = [
    { key: 'a', value: 2 },
    { key: 'b', value: 2 },
  ]

  it.each(others)('is refused while the first is in flight (%j)', async (other) => {
    const n = notes()
    await started(n.app)
    const release = await n.hold()
    const first = n.app.submit(n.run, one, { id: 'x' })
    expect(await codeOf(n.app.submit(n.run, other, { id: 'x' }))).toBe('id-reused')
    await release()
    expect(await first).toMatchObject({ status: 'committed' })
    expect(n.effects()).toMatchObject([{ value: 1 }])
  })

  it.each(others)('is refused afterwards (%j)', async (other) => {
    const n = notes({ lanes: 3 })
    await started(n.app)
    await n.app.submit(n.run, one, { id: 'x' })
    expect(await codeOf(n.app.submit(n.run, other, { id: 'x' }))).toBe('id-reused')
    expect(await codeOf(n.app.enqueue(n.run, other, { id: 'x' }))).toBe('id-reused')
    expect(n.effects()).toMatchObject([{ value: 1 }])
    expect(await n.app.submit(n.run, one, { id: 'x' })).toMatchObject({ status: 'committed' })
  })

  it.each(others)('is refused while the first is parked behind its key on disk, and the first still takes effect (%j)', async (other) => {
    let poisoned = true
    const n = notes({ ...fast, retries: 0, onDeadLetter: 'block', does: ({ value }) => (value === 0 && poisoned ? 'throw' : 'accept') })
    await started(n.app)
    const { position } = await n.app.submit(n.run, { key: 'a', value: 0 })
    const receipt = await n.app.enqueue(n.run, one, { id: 'x' })
    // Another key's batch after it: the first is parked now, and nobody in memory knows it.
    await n.app.submit(n.run, { key: 'c', value: 9 })
    const refused = codeOf(n.app.submit(n.run, other, { id: 'x' }))
    if (other.key !== 'a') expect(await refused).toBe('id-reused')
    poisoned = false
    await n.app.deadLetters.redrive(position)
    expect(await refused).toBe('id-reused')
    expect(JSON.parse((await receipt.outcome).body)).toMatchObject({ status: 'committed' })
    expect(n.effects().map(({ key, value }) => [key, value])).toEqual([
      ['c', 9],
      ['a', 0],
      ['a', 1],
    ])
    expect(await n.app.submit(n.run, one, { id: 'x' })).toMatchObject({ status: 'committed' })
  })

  it.each(others)('is refused while the first waits in the backlog on disk (%j)', async (other) => {
    const n = notes({ lanes: 3, windowCommandsMax: 16, batchCommandsMax: 16 })
    await started(n.app)
    // All lanes are stopped, so that both commands wait.
    const gates = new Map<number, string>()
    for (let index = 0; gates.size < 3; index++) {
      const receipt = await n.app.gateway.take('gate.pass', { gate: `g${index}` }, {})
      const lane = receipt.partition % 3
      if (!gates.has(lane)) gates.set(lane, `g${index}`)
      else n.gates.open(`g${index}`)
    }
    for (const gate of gates.values()) await n.gates.reached(gate)
    const filling = Array.from({ length: 40 }, (_, value) => n.app.enqueue(n.run, { key: 'a', value: value + 100 }))
    await Promise.all(filling)
    const receipt = await n.app.enqueue(n.run, one, { id: 'x' })
    const refused = codeOf(n.app.submit(n.run, other, { id: 'x' }))
    for (const gate of gates.values()) n.gates.open(gate)
    expect(await refused).toBe('id-reused')
    expect(JSON.parse((await receipt.outcome).body)).toMatchObject({ status: 'committed' })
    expect(n.effects().filter(({ value }) => value === 1 || value === 2)).toMatchObject([{ value: 1 }])
  })

  it('does not harm the first one, which is asked for again while the other is in flight', async () => {
    const n = notes()
    await started(n.app)
    const first = await n.app.submit(n.run, one, { id: 'decided' })
    const release = await n.hold()
    const promised = await n.app.enqueue(n.run, { key: 'q', value: 5 }, { id: 'queued' })
    const misused = [
      codeOf(n.app.submit(n.run, { key: 'z', value: 2 }, { id: 'decided' })),
      codeOf(n.app.submit(n.run, { key: 'z', value: 2 }, { id: 'queued' })),
    ]
    const again = await n.app.gateway.take('note.run', one, { id: 'decided' })
    expect(JSON.parse((await again.outcome).body)).toEqual(first)
    await again.durable()
    const waiting = n.app.gateway.waitForOutcome('note.run', 'default', 'decided', AbortSignal.timeout(10_000))
    const queuedAgain = n.app.submit(n.run, { key: 'q', value: 5 }, { id: 'queued' })
    await release()
    expect(await Promise.all(misused)).toEqual(['id-reused', 'id-reused'])
    expect(await waiting).toMatchObject({ state: 'done', status: 'committed' })
    expect(await queuedAgain).toEqual(JSON.parse((await promised.outcome).body))
    expect(n.effects().map(({ value }) => value)).toEqual([1, 5])
    expect((await n.app.status()).inFlight).toBe(0)
  })

  it('does not keep a stop waiting when it was refused on its way to disk', async () => {
    const n = notes({ stopTimeoutMs: 60_000 })
    await started(n.app)
    await n.app.submit(n.run, one, { id: 'x' })
    const release = await n.hold()
    expect(await codeOf(n.app.enqueue(n.run, { key: 'a', value: 2 }, { id: 'x' }))).toBe('id-reused')
    await release()
    await n.app.stop()
    expect((await n.app.status()).state).toBe('stopped')
  })
})
