import { describe, expect, it } from 'vitest'
import { HeadraceError } from '../contracts/errors.ts'
import { Admission } from './admission.ts'
import { type AppOptions, resolveOptions } from './options.ts'

const door = (given: AppOptions = {}): Admission => new Admission(resolveOptions({ batchCommandsMax: 100, ...given }, {}))

function refusal(action: () => void): HeadraceError | null {
  try {
    action()
    return null
  } catch (error) {
    if (HeadraceError.is(error)) return error
    throw error
  }
}

describe('the expected wait', () => {
  it('is none until a batch was seen', () => {
    const admission = door()
    admission.queued = 1_000_000
    expect(admission.expectedWaitMs(1_000)).toBe(0)
  })

  it('takes every batch to be full until a full one was seen', () => {
    const admission = door()
    admission.served(1, 10)
    admission.queued = 150
    // Two batches of up to 100, of 10 ms each.
    expect(admission.expectedWaitMs(50)).toBe(20)
    expect(admission.expectedWaitMs(51)).toBe(30)
  })

  it('follows the commands of batches that were at least half full', () => {
    const admission = door()
    admission.served(1, 1_000)
    admission.served(50, 25)
    admission.queued = 100
    expect(admission.expectedWaitMs(0)).toBeCloseTo(50)
    admission.served(49, 9_999)
    expect(admission.expectedWaitMs(0)).toBeCloseTo(50)
  })

  it('moves towards the newest batches, by a fifth each', () => {
    const admission = door()
    admission.served(100, 100)
    admission.queued = 1_000
    expect(admission.expectedWaitMs(0)).toBeCloseTo(1_000)
    admission.served(100, 600)
    expect(admission.expectedWaitMs(0)).toBeCloseTo(2_000)
    for (let batch = 0; batch < 60; batch++) admission.served(100, 600)
    expect(admission.expectedWaitMs(0)).toBeCloseTo(6_000, 0)
  })

  it('leaves out what waits for its key, and is never negative', () => {
    const admission = door()
    admission.served(100, 100)
    admission.queued = 50
    admission.parked = 40
    expect(admission.expectedWaitMs(5)).toBeCloseTo(15)
    admission.parked = 60
    expect(admission.expectedWaitMs(5)).toBe(0)
  })
})

describe('the door', () => {
  it('lets in up to each limit, and not one more', () => {
    const admission = door({ inFlightMax: 10, queuedCommandsMax: 20, queuedBytesMax: 5_000 })
    admission.inFlight = 9
    admission.queued = 19
    admission.queuedBytes = 4_000
    expect(refusal(() => admission.admit(0, 1_000))).toBeNull()
    expect(refusal(() => admission.admit(0, 1_001))?.code).toBe('queue-full')
    admission.queued = 20
    expect(refusal(() => admission.admit(0, 1))?.code).toBe('queue-full')
    admission.inFlight = 10
    expect(refusal(() => admission.admit(0, 1))?.code).toBe('overloaded')
  })

  it('refuses a wait that is too long, in words and with a pause of half of it', () => {
    const admission = door({ queueWaitMsMax: 5_000 })
    admission.served(100, 1_000)
    admission.queued = 400
    expect(refusal(() => admission.admit(100, 1))).toBeNull()
    const refused = refusal(() => admission.admit(300, 1))
    expect(refused?.code).toBe('queue-slow')
    expect(refused?.message).toContain('about 7 s')
    expect(refused?.retryAfterMs).toBeCloseTo(3_500)
  })

  it('tells a pause between a second and a minute, whatever the wait', () => {
    const admission = door({ inFlightMax: 1, queueWaitMsMax: 86_400_000 })
    admission.inFlight = 1
    expect(refusal(() => admission.admit(0, 1))?.retryAfterMs).toBe(1_000)
    admission.served(100, 100_000)
    admission.queued = 100_000
    expect(refusal(() => admission.admit(0, 1))?.retryAfterMs).toBe(60_000)
  })
})
