import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { backoffMs, pause } from './backoff.ts'

describe('a pause before a retry', () => {
  it('is never longer than its limit, nor shorter than half of what it doubles to', () => {
    fc.assert(
      fc.property(
        fc.nat(1_000),
        fc.integer({ min: 1, max: 60_000 }),
        fc.integer({ min: 1, max: 3_600_000 }),
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (attempt, baseMs, maxMs, random) => {
          const ms = backoffMs(attempt, baseMs, maxMs, () => random)
          const ceiling = Math.min(maxMs, baseMs * 2 ** Math.min(attempt, 30))
          expect(ms).toBeGreaterThanOrEqual(ceiling / 2)
          expect(ms).toBeLessThanOrEqual(ceiling)
          expect(ms).toBeLessThanOrEqual(maxMs)
        },
      ),
    )
  })

  it('doubles with each attempt until it meets its limit', () => {
    const longest = [0, 1, 2, 3, 4, 5].map((attempt) => backoffMs(attempt, 50, 1_000, () => 1))
    expect(longest).toEqual([50, 100, 200, 400, 800, 1_000])
  })

  it('is spread by chance, so that many who failed at once do not come back at once', () => {
    const pauses = new Set(Array.from({ length: 100 }, () => backoffMs(3, 50, 10_000)))
    expect(pauses.size).toBeGreaterThan(90)
  })
})

describe('pause', () => {
  beforeEach(() => void vi.useFakeTimers())
  afterEach(() => void vi.useRealTimers())

  it('ends when its time is over, and not before', async () => {
    let ended = false
    const pausing = pause(100).then(() => {
      ended = true
    })
    await vi.advanceTimersByTimeAsync(99)
    expect(ended).toBe(false)
    await vi.advanceTimersByTimeAsync(1)
    await pausing
    expect(ended).toBe(true)
  })

  it('ends at once when its signal aborts, and leaves no timer behind', async () => {
    const control = new AbortController()
    const pausing = pause(60_000, control.signal)
    expect(vi.getTimerCount()).toBe(1)
    control.abort()
    await pausing
    expect(vi.getTimerCount()).toBe(0)
  })

  it('does not begin when its signal has aborted already', async () => {
    await pause(60_000, AbortSignal.abort())
    expect(vi.getTimerCount()).toBe(0)
  })
})
