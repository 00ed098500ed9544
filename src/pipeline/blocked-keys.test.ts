import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { BlockedKeys } from './blocked-keys.ts'

beforeEach(() => void vi.useFakeTimers())
afterEach(() => void vi.useRealTimers())

interface Waiting {
  readonly position: number
  wakening: number
}

type Step =
  | { readonly do: 'arrive'; readonly commands: number }
  /** Applies a batch; its commands fail where `fails` says so: for a retry, or to be dead-lettered and hold their key. */
  | { readonly do: 'batch'; readonly size: number; readonly fails: readonly ('retry' | 'dead' | 'no')[] }
  | { readonly do: 'tick'; readonly ms: number }
  /** Reads parked commands back; somebody may redrive or drop a dead letter while the storage answers. */
  | { readonly do: 'wake'; readonly limit: number; readonly meanwhile: 'redrive' | 'drop' | 'nothing' }
  | { readonly do: 'redrive' | 'drop' | 'restart' }

/**
 * A lane and a queue of one key, as simple as they can be, around the real
 * state machine. `applied` tells in what order the commands took effect.
 */
class OneKeyLane {
  readonly applied: number[] = []
  readonly given = new Set<number>()
  #window: Waiting[] = []
  #parked: number[] = []
  #onDisk: number[] = []
  #dead: number[] = []
  #blocked: { retryAt: number | null } | null = null
  #woken = false
  #next = 1
  #keys = this.#machine()

  #machine(): BlockedKeys {
    return new BlockedKeys(() => {
      this.#woken = true
    })
  }

  take(step: Step): void {
    switch (step.do) {
      case 'arrive':
        for (let n = 0; n < step.commands; n++) this.#window.push({ position: this.#next++, wakening: 0 })
        break
      case 'batch':
        this.#batch(step.size, step.fails)
        break
      case 'tick':
        vi.advanceTimersByTime(step.ms)
        break
      case 'wake':
        this.#wake(step.limit, step.meanwhile)
        break
      case 'redrive':
        this.#redrive()
        break
      case 'drop':
        this.#drop()
        break
      case 'restart':
        this.#restart()
    }
    expect(this.applied).toEqual([...this.applied].sort((a, b) => a - b))
  }

  /** Lets everything succeed from now on, until nothing waits. */
  settle(): void {
    while (this.#dead.length > 0) this.#drop()
    for (let turn = 0; turn < 1_000 && (this.#window.length > 0 || this.#parked.length > 0 || this.#keys.get('k') !== undefined); turn++) {
      vi.advanceTimersByTime(10_000)
      this.#wake(3, 'nothing')
      this.#batch(4, [])
    }
    expect({ window: this.#window, parked: this.#parked, state: this.#keys.get('k') }).toEqual({ window: [], parked: [], state: undefined })
    expect(this.applied).toEqual(
      Array.from({ length: this.#next - 1 }, (_, index) => index + 1).filter((position) => !this.given.has(position)),
    )
  }

  #batch(size: number, fails: readonly ('retry' | 'dead' | 'no')[]): void {
    const taken = this.#window.splice(0, size)
    const state = this.#keys.get('k')
    const ready: Waiting[] = []
    const held: Waiting[] = []
    let failed: { readonly waiting: Waiting; readonly way: 'retry' | 'dead' } | null = null
    for (const waiting of taken) {
      const blocked = state !== undefined && (waiting.wakening === 0 || waiting.wakening !== state.wakening)
      if (blocked || failed !== null) held.push(waiting)
      else {
        const way = fails[ready.length] ?? 'no'
        if (way === 'no') ready.push(waiting)
        else failed = { waiting, way }
      }
    }
    this.#onDisk = this.#onDisk.filter((position) => !taken.some((each) => each.position === position))
    for (const { position, wakening } of ready) {
      this.applied.push(position)
      if (wakening !== 0) this.#keys.done('k')
    }
    if (failed !== null) {
      const { waiting, way } = failed
      const retryAt = way === 'retry' ? Date.now() + 100 : null
      this.#blocked = { retryAt }
      if (way === 'dead') {
        if (waiting.wakening !== 0) this.#keys.done('k')
        this.#dead.push(waiting.position)
        this.given.add(waiting.position)
      }
      this.#keys.wait('k', 0, retryAt, 0)
      if (way === 'retry') this.#park(waiting)
    }
    for (const waiting of held) this.#park(waiting)
  }

  #park({ position, wakening }: Waiting): void {
    this.#parked.push(position)
    this.#parked.sort((a, b) => a - b)
    this.#keys.parkedMore('k', 0)
    if (wakening !== 0) this.#keys.done('k')
  }

  #wake(limit: number, meanwhile: 'redrive' | 'drop' | 'nothing'): void {
    if (!this.#woken) return
    this.#woken = false
    if (!this.#keys.mayDrain('k')) return
    const entries = this.#parked.splice(0, limit)
    this.#onDisk.push(...entries)
    const more = this.#parked.length > 0
    if (!more) this.#blocked = null
    expect(this.#window.every(({ wakening }) => wakening === 0)).toBe(true)
    // The storage has answered; the lane has not heard it yet.
    if (meanwhile === 'redrive') this.#redrive()
    if (meanwhile === 'drop') this.#drop()
    const wakening = this.#keys.drain('k', entries.length, more)
    this.#window.unshift(...entries.map((position) => ({ position, wakening })))
  }

  /** A dead letter comes back under its own position. */
  #redrive(): void {
    const position = this.#dead.pop()
    if (position === undefined) return
    this.given.delete(position)
    this.#parked.push(position)
    this.#parked.sort((a, b) => a - b)
    this.#blocked = { retryAt: Date.now() }
    this.#keys.hurry('k', 0)
  }

  #drop(): void {
    if (this.#dead.pop() === undefined) return
    this.#blocked = { retryAt: Date.now() }
    this.#keys.hurry('k', 0)
  }

  #restart(): void {
    this.#keys.stop()
    vi.advanceTimersByTime(0)
    this.#woken = false
    this.#keys = this.#machine()
    // What was in memory alone nobody was told of. What had been given back goes behind the key again.
    for (const { position } of this.#window) if (!this.#onDisk.includes(position)) this.given.add(position)
    const lastParked = this.#parked.at(-1) ?? 0
    this.#parked = [...this.#parked, ...this.#onDisk.filter((position) => position < lastParked)].sort((a, b) => a - b)
    this.#onDisk = this.#onDisk.filter((position) => position > lastParked)
    this.#window = this.#onDisk.sort((a, b) => a - b).map((position) => ({ position, wakening: 0 }))
    if (this.#blocked !== null || this.#parked.length > 0)
      this.#keys.wait('k', 0, this.#blocked === null ? 0 : this.#blocked.retryAt, this.#parked.length)
  }
}

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ do: fc.constant('arrive' as const), commands: fc.integer({ min: 1, max: 4 }) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('batch' as const),
      size: fc.integer({ min: 1, max: 5 }),
      fails: fc.array(fc.constantFrom('no', 'no', 'no', 'retry', 'dead'), { maxLength: 5 }),
    }),
  },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('tick' as const), ms: fc.constantFrom(0, 1, 100, 10_000) }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('wake' as const),
      limit: fc.integer({ min: 1, max: 4 }),
      meanwhile: fc.constantFrom('nothing', 'nothing', 'redrive', 'drop'),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('redrive', 'drop') }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const) }) },
)

describe('the commands of a key that failed', () => {
  it('never overtake each other, and none is lost, whatever fails, wakes, is redriven or arrives in between', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120, size: 'max' }), (steps) => {
        const lane = new OneKeyLane()
        for (const each of steps) lane.take(each)
        lane.settle()
      }),
      { numRuns: Number(process.env['RUNS'] ?? 400) },
    )
  })
})
