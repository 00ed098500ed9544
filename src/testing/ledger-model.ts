/**
 * A ledger against a model of one: random appends, batches, wakings, redrives
 * and restarts, done to both, which must agree at every step.
 */
import assert from 'node:assert/strict'
import type { Entry, Ledger, StoredOutcome } from '../contracts/ledger.ts'
import { createRandom, type Random } from '../std/random.ts'
import { commitOf, deadOf, entryOf, everything, type OnStore, outcomeOf } from './ledger-harness.ts'
import type { TestRunner } from './lock-conformance.ts'

const stepsPerRun = 300
const keys = ['a', 'b', 'c']

class Model {
  readonly queued = new Map<number, Entry>()
  readonly parked = new Map<number, Entry>()
  readonly dead = new Map<number, { readonly entry: Entry; readonly blocks: boolean }>()
  readonly outcomes = new Map<string, StoredOutcome>()
  readonly blocked = new Map<string, number | null>()
  position = 0

  ordered(entries: ReadonlyMap<number, Entry>, key?: string): Entry[] {
    return [...entries.values()].filter((entry) => key === undefined || entry.key === key).sort((a, b) => a.position - b.position)
  }

  /** What is done when the ledger is closed and opened: commands given back go behind the parked ones of their key again. */
  restart(): void {
    for (const entry of [...this.queued.values()]) {
      const last = this.ordered(this.parked, entry.key).at(-1)
      if (last === undefined || last.position < entry.position) continue
      this.queued.delete(entry.position)
      this.parked.set(entry.position, entry)
    }
  }

  counts() {
    const waiting = [...this.queued.values(), ...this.parked.values()]
    const oldest = waiting.sort((a, b) => a.position - b.position)[0]
    return {
      queued: waiting.length,
      queuedBytes: waiting.reduce((sum, { input }) => sum + input.length, 0),
      parked: this.parked.size,
      outcomes: this.outcomes.size,
      dead: this.dead.size,
      blockedKeys: this.blocked.size,
      events: 0,
      oldestAcceptedAt: oldest?.acceptedAt ?? null,
    }
  }
}

async function step(ledger: Ledger, model: Model, random: Random): Promise<void> {
  const roll = random.int(10)
  if (roll < 3) return append(ledger, model, random)
  if (roll < 7) return applyBatch(ledger, model, random)
  if (roll < 8) return wake(ledger, model, random)
  return raise(ledger, model, random)
}

async function append(ledger: Ledger, model: Model, random: Random): Promise<void> {
  const entries = Array.from({ length: random.between(1, 5) }, () => {
    model.position += 1
    const id = `id-${random.int(400)}`
    return entryOf(model.position, { id, key: random.pick(keys), input: 'x'.repeat(random.int(50)), digest: `digest-of-${id}` })
  })
  const conflicts = await ledger.append(entries)
  const expected: unknown[] = []
  for (const entry of entries) {
    const { id } = entry
    const waiting = [...model.queued.values(), ...model.parked.values()].some((other) => other.id === id)
    if (model.outcomes.has(id)) expected.push({ id, known: 'decided', digest: `digest-of-${id}` })
    else if (waiting) expected.push({ id, known: 'queued', digest: `digest-of-${id}` })
    else model.queued.set(entry.position, entry)
  }
  assert.deepEqual(conflicts, expected)
}

/** Applies the front of the queue: some are done, one may fail, and those of its key behind it are parked. */
async function applyBatch(ledger: Ledger, model: Model, random: Random): Promise<void> {
  const batch = model.ordered(model.queued).slice(0, random.between(1, 6))
  const failed = random.chance(0.4) ? random.pick([...batch, null]) : null
  const dies = random.chance(0.5)
  const blocks = random.chance(0.5)
  const retryAt = dies ? null : random.int(1_000)
  const held = batch.filter(
    (entry) =>
      model.blocked.has(entry.key) ||
      (failed !== null && entry.key === failed.key && entry.position > failed.position && (!dies || blocks)),
  )
  const failedNow = failed !== null && !held.includes(failed) ? failed : null
  const done = batch.filter((entry) => entry !== failedNow && !held.includes(entry))
  const outcomes = [
    ...done.map((entry) => outcomeOf(entry, random.pick(['committed', 'rejected']))),
    ...(failedNow !== null && dies ? [outcomeOf(failedNow, 'failed')] : []),
  ]
  const again = failedNow !== null && !dies ? [{ ...failedNow, attempts: failedNow.attempts + 1 }] : []
  const blocksKey = failedNow !== null && (!dies || blocks)
  await commitOf(ledger, {
    position: model.position,
    outcomes,
    done: failedNow !== null && dies ? [...done, failedNow] : done,
    parked: [...held, ...again],
    blocked: blocksKey ? [{ key: failedNow.key, partition: failedNow.partition, retryAt }] : [],
    dead: failedNow !== null && dies ? [deadOf(failedNow, blocks)] : [],
  })
  for (const entry of batch) model.queued.delete(entry.position)
  for (const outcome of outcomes) model.outcomes.set(outcome.id, outcome)
  for (const entry of [...held, ...again]) model.parked.set(entry.position, entry)
  if (blocksKey) model.blocked.set(failedNow.key, retryAt)
  if (failedNow !== null && dies) model.dead.set(failedNow.position, { entry: failedNow, blocks })
}

async function wake(ledger: Ledger, model: Model, random: Random): Promise<void> {
  const key = random.pick(keys)
  const limit = random.between(1, 3)
  const parked = model.ordered(model.parked, key)
  const taken = parked.slice(0, limit)
  assert.deepEqual(await ledger.unblock(key, limit), { entries: taken, more: parked.length > limit })
  for (const entry of taken) {
    model.parked.delete(entry.position)
    model.queued.set(entry.position, entry)
  }
  if (parked.length <= limit) model.blocked.delete(key)
}

/** Redrives or drops a dead letter, or asks for one that is not there. */
async function raise(ledger: Ledger, model: Model, random: Random): Promise<void> {
  const position = random.pick([...model.dead.keys(), model.position + 1])
  const letter = model.dead.get(position)
  model.dead.delete(position)
  if (random.chance(0.5)) {
    const place = await ledger.redrive(position)
    if (letter === undefined) return assert.equal(place, null)
    assert.equal(place?.key, letter.entry.key)
    model.outcomes.delete(letter.entry.id)
    model.parked.set(position, { ...letter.entry, attempts: 0 })
    model.blocked.set(letter.entry.key, 0)
    return
  }
  const place = await ledger.drop(position)
  if (letter === undefined) return assert.equal(place, null)
  const lets = letter.blocks && ![...model.dead.values()].some(({ entry, blocks }) => blocks && entry.key === letter.entry.key)
  assert.equal(place?.blocked, lets)
  if (lets) model.blocked.set(letter.entry.key, 0)
}

async function agree(ledger: Ledger, model: Model): Promise<void> {
  assert.deepEqual(await ledger.counts(), model.counts())
  assert.deepEqual(await ledger.read(everything), model.ordered(model.queued))
  assert.deepEqual(
    (await ledger.deadLetters({ limit: 1_000 })).map(({ position, blocks }) => [position, blocks]),
    [...model.dead].sort(([a], [b]) => a - b).map(([position, { blocks }]) => [position, blocks]),
  )
  const blocked = await ledger.blockedKeys()
  const expected = keys.filter((key) => model.blocked.has(key) || model.ordered(model.parked, key).length > 0)
  assert.deepEqual(
    blocked.map(({ key, parked, retryAt }) => [key, parked, retryAt === null]),
    expected.map((key) => [key, model.ordered(model.parked, key).length, model.blocked.get(key) === null]),
  )
  assert.deepEqual(await ledger.outcomes([...model.outcomes.keys()]), model.outcomes)
}

export function ledgerModel({ describe }: Pick<TestRunner, 'describe'>, engine: string, onStore: OnStore): void {
  describe(`a ledger (${engine})`, () => {
    onStore('does what a simple model does, whatever is asked in whatever order, over restarts', async (open) => {
      const seed = Number(process.env['HEADRACE_SEED'] ?? Date.now() % 1_000_000)
      const random = createRandom(seed)
      const model = new Model()
      try {
        let ledger = await open()
        for (let count = 0; count < stepsPerRun; count++) {
          await step(ledger, model, random)
          if (random.chance(0.03)) {
            await ledger.close()
            ledger = await open()
            model.restart()
          }
          if (count % 10 === 0) await agree(ledger, model)
        }
        await agree(ledger, model)
      } catch (error) {
        throw new Error(`with HEADRACE_SEED=${seed}: ${String(error)}`, { cause: error })
      }
    })
  })
}
