import { describe, expect, it } from 'vitest'
import type { TransactionClock } from './clock.ts'
import { Cutoff, Deadlines } from './cutoff.ts'

/** A clock that stands still until it is moved. */
class HandClock implements TransactionClock {
  #now = 0
  readonly #pauses = new Set<{ readonly until: number; readonly done: () => void }>()

  get pauses(): number {
    return this.#pauses.size
  }

  now(): number {
    return this.#now
  }

  pause(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const pause = {
        until: this.#now + ms,
        done: (): void => {
          this.#pauses.delete(pause)
          resolve()
        },
      }
      if (signal?.aborted === true) return resolve()
      this.#pauses.add(pause)
      signal?.addEventListener('abort', pause.done)
    })
  }

  /** Moves on, and lets everything happen that was waiting for it. */
  async to(now: number): Promise<void> {
    this.#now = now
    for (const { until, done } of [...this.#pauses]) if (until <= now) done()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

describe('a cutoff', () => {
  it('is heard once, with the first reason', () => {
    const cutoff = new Cutoff()
    const heard: unknown[] = []
    cutoff.on(() => heard.push(cutoff.reason))
    const off = (): void => void heard.push('off')
    cutoff.on(off)
    cutoff.off(off)
    expect(cutoff.cut).toBe(false)
    cutoff.now('first')
    cutoff.now('second')
    expect([cutoff.cut, heard]).toEqual([true, ['first']])
  })

  it('is the same as its signal, whether that was asked for before or after', () => {
    const [before, after] = [new Cutoff(), new Cutoff()]
    const { signal } = before
    for (const cutoff of [before, after]) cutoff.now('why')
    expect([signal.aborted, signal.reason]).toEqual([true, 'why'])
    expect([after.signal.aborted, after.signal.reason]).toEqual([true, 'why'])
  })
})

describe('deadlines', () => {
  it('are each heard at their time, whatever the order in which they were set', async () => {
    const clock = new HandClock()
    const deadlines = new Deadlines(clock)
    const heard: number[] = []
    for (const ms of [300, 100, 200]) {
      deadlines.add(ms, () => heard.push(ms))
      await clock.to(0)
    }
    await clock.to(99)
    expect(heard).toEqual([])
    await clock.to(100)
    expect(heard).toEqual([100])
    await clock.to(300)
    expect(heard.sort()).toEqual([100, 200, 300])
  })

  it('that are met are not heard, and nothing waits any more when there are none', async () => {
    const clock = new HandClock()
    const deadlines = new Deadlines(clock)
    const heard: string[] = []
    const met = deadlines.add(100, () => heard.push('met'))
    deadlines.add(200, () => heard.push('late'))
    met()
    await clock.to(150)
    expect([heard, clock.pauses]).toEqual([[], 1])
    await clock.to(200)
    expect([heard, clock.pauses]).toEqual([['late'], 0])
    const again = deadlines.add(100, () => heard.push('again'))
    expect(clock.pauses).toBe(1)
    again()
    await clock.to(200)
    expect(clock.pauses).toBe(0)
    // One that comes in the turn in which the last one goes is heard all the same.
    deadlines.add(50, () => heard.push('gone'))()
    deadlines.add(80, () => heard.push('next'))
    await clock.to(280)
    await clock.to(360)
    expect(heard).toEqual(['late', 'next'])
  })
})
