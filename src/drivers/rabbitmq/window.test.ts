import { describe, expect, it } from 'vitest'
import { ConfirmWindow, type WindowBounds } from './window.ts'

/**
 * A virtual broker: a confirm is `pathMs` on its way, and it takes `eachMs` for
 * each message and `syncMs` for each group that it syncs together. Answers how
 * many messages it confirms in a second, with that many on their way.
 */
interface Broker {
  readonly pathMs: number
  readonly eachMs: number
  readonly syncMs: number
}

const near: Broker = { pathMs: 1, eachMs: 0.03, syncMs: 2 }
const far: Broker = { pathMs: 40, eachMs: 0.03, syncMs: 2 }
const slow: Broker = { pathMs: 1, eachMs: 2, syncMs: 0 }
const bounds: WindowBounds = { min: 32, max: 4_096 }

const perMs = ({ pathMs, eachMs, syncMs }: Broker, size: number): number => Math.min(1 / eachMs, size / (pathMs + syncMs + size * eachMs))

/** Publishes without end for so long, in virtual time; the rate over the last third. */
function run(window: ConfirmWindow, broker: Broker, ms: number, noise: () => number = () => 0): number {
  let now = 0
  let confirmed = 0
  let lastMs = 0
  while (now < ms) {
    const group = Math.max(1, Math.round(window.size / 4))
    const took = group / (perMs(broker, window.size) * (1 + noise()))
    now += took
    window.confirmed(group, true, now)
    if (now < (ms * 2) / 3) continue
    confirmed += group
    lastMs += took
  }
  return confirmed / lastMs
}

describe('the confirm window', () => {
  for (const [name, broker] of Object.entries({ near, far, slow })) {
    it(`finds the speed that the best fixed window has, with a broker that is ${name}`, () => {
      const best = Math.max(...[8, 32, 128, 512, 2_048, 4_096].map((size) => perMs(broker, size)))
      const window = new ConfirmWindow(bounds)
      expect(run(window, broker, 60_000)).toBeGreaterThan(0.85 * best)
    })
  }

  it('stays small where more would only wait at the broker', () => {
    const window = new ConfirmWindow(bounds)
    run(window, slow, 300_000)
    expect(window.size).toBeLessThanOrEqual(64)
  })

  it('follows a broker that goes away farther, and one that comes back', () => {
    const window = new ConfirmWindow(bounds)
    run(window, near, 30_000)
    const before = window.size
    expect(run(window, far, 60_000)).toBeGreaterThan(0.85 * perMs(far, bounds.max))
    expect(window.size).toBeGreaterThan(before)
    run(window, slow, 600_000)
    expect(window.size).toBeLessThanOrEqual(64)
  })

  it('keeps its speed when what is measured varies by a fifth', () => {
    let seed = 7
    const noise = (): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0
      return (seed / 2 ** 32 - 0.5) * 0.4
    }
    expect(run(new ConfirmWindow(bounds), far, 200_000, noise)).toBeGreaterThan(0.8 * perMs(far, bounds.max))
  })

  it('never leaves its bounds, and never moves where they are the same', () => {
    for (const [min, max] of [
      [1, 1],
      [100, 100],
      [3, 700],
    ] as const) {
      const window = new ConfirmWindow({ min, max })
      for (const broker of [near, far, slow, far]) {
        run(window, broker, 20_000)
        expect(window.size).toBeGreaterThanOrEqual(min)
        expect(window.size).toBeLessThanOrEqual(max)
      }
    }
  })

  it('learns nothing while it is not the limit', () => {
    const window = new ConfirmWindow(bounds)
    for (let now = 0; now < 60_000; now += 10) window.confirmed(window.size * 10, false, now)
    expect(window.size).toBe(1_024)
  })
})
