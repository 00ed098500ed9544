import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ticketFor } from '../../test/support/tickets.ts'
import { type Limits, resolveOptions } from './options.ts'
import type { Ticket } from './ticket.ts'
import { Window } from './window.ts'

const limits = (given: Partial<Limits>): Limits => resolveOptions({ windowCommandsMax: 16, batchCommandsMax: 4, ...given }, {})
const positions = (tickets: Iterable<Ticket>): number[] => [...tickets].map(({ entry }) => entry.position)
const sized = (position: number, bytes: number): Ticket => ticketFor(position, { input: JSON.stringify('x'.repeat(bytes - 2)) })

type Step =
  | { readonly do: 'arrive'; readonly bytes: number }
  | { readonly do: 'batch' }
  | { readonly do: 'refill' }
  | { readonly do: 'give back'; readonly count: number }

describe('the window of a lane', () => {
  it('gives everything once and in order, in memory and over the disk, whatever comes and goes', () => {
    const step: fc.Arbitrary<Step> = fc.oneof(
      { weight: 6, arbitrary: fc.record({ do: fc.constant('arrive' as const), bytes: fc.integer({ min: 2, max: 400 }) }) },
      { weight: 2, arbitrary: fc.constant({ do: 'batch' as const }) },
      { weight: 2, arbitrary: fc.constant({ do: 'refill' as const }) },
      { weight: 1, arbitrary: fc.record({ do: fc.constant('give back' as const), count: fc.integer({ min: 1, max: 4 }) }) },
    )
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200, size: 'max' }), (steps) => {
        const window = new Window(limits({ windowBytesMax: 2_000, batchBytesMax: 1024 }))
        const disk: Ticket[] = []
        const taken: number[] = []
        let next = 1
        const refill = (): void => {
          const room = window.room()
          if (room === 0) return
          let bytes = 0
          const read: Ticket[] = []
          while (disk.length > 0 && read.length < room) {
            bytes += disk[0]?.entry.input.length ?? 0
            if (read.length > 0 && bytes > window.bytesFree) break
            read.push(disk.shift() as Ticket)
          }
          for (const ticket of read) window.pushBack(ticket)
          if (read.length === 0) window.spilled = false
        }
        for (const each of steps) {
          if (each.do === 'arrive') {
            const ticket = sized(next++, each.bytes)
            if (!window.offer(ticket)) disk.push(ticket)
          } else if (each.do === 'batch') taken.push(...positions(window.take()))
          else if (each.do === 'refill') refill()
          else {
            const batch = window.take()
            const back = batch.slice(-each.count)
            taken.push(...positions(batch.slice(0, batch.length - back.length)))
            window.pushFront(back)
          }
          expect(window.length).toBeLessThanOrEqual(16)
        }
        while (window.length > 0 || disk.length > 0) {
          taken.push(...positions(window.take()))
          refill()
        }
        expect(taken).toEqual(Array.from({ length: next - 1 }, (_, index) => index + 1))
      }),
    )
  })

  it('spills when it is full, and goes on spilling until what is on disk was read: order is the order of positions', () => {
    const window = new Window(limits({}))
    for (let position = 1; position <= 16; position++) expect(window.offer(ticketFor(position))).toBe(true)
    expect(window.offer(ticketFor(17))).toBe(false)
    window.take()
    expect(window.length).toBe(12)
    expect(window.offer(ticketFor(18))).toBe(false)
    expect(window.last).toBe(16)
    window.pushBack(ticketFor(17))
    window.pushBack(ticketFor(18))
    window.spilled = false
    expect(window.offer(ticketFor(19))).toBe(true)
    expect(positions(window)).toEqual([5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19])
  })

  it('is full by bytes as well', () => {
    const window = new Window(limits({ windowBytesMax: 1024 }))
    expect(window.offer(sized(1, 600))).toBe(true)
    expect(window.offer(sized(2, 425))).toBe(false)
    expect(window.bytesFree).toBe(424)
  })

  it('takes one command that is larger than a batch, alone', () => {
    const window = new Window(limits({ windowBytesMax: 100_000, batchBytesMax: 1024 }))
    for (const [position, bytes] of [
      [1, 10],
      [2, 5_000],
      [3, 10],
      [4, 10],
    ] as const)
      window.offer(sized(position, bytes))
    expect([window.take(), window.take(), window.take(), window.take()].map(positions)).toEqual([[1], [2], [3, 4], []])
  })

  it('reads from disk again only when it is half empty, and never more than fits', () => {
    const window = new Window(limits({}))
    for (let position = 1; position <= 17; position++) window.offer(ticketFor(position))
    expect(window.room()).toBe(0)
    window.take()
    expect(window.room()).toBe(0)
    window.take()
    expect(window.room()).toBe(8)
  })

  it('lets go of a command that was refused while it waited', () => {
    const window = new Window(limits({}))
    const refused = ticketFor(1)
    window.offer(refused)
    window.offer(ticketFor(2))
    refused.refuse(new Error('no'))
    expect(positions(window.take())).toEqual([2])
    expect(window.length).toBe(0)
    expect(window.bytesFree).toBe(32 * 1024 ** 2)
  })
})
