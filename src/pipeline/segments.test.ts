import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ticketFor } from '../../test/support/tickets.ts'
import { segmentsOf } from './segments.ts'
import type { Ticket } from './ticket.ts'

const mix = (commands: number, keys: number): fc.Arbitrary<Ticket[]> =>
  fc
    .array(fc.record({ command: fc.nat(commands - 1), key: fc.nat(keys - 1) }), { maxLength: 200, size: 'max' })
    .map((items) => items.map(({ command, key }, index) => ticketFor(index + 1, { command: `command-${command}`, key: `key-${key}` })))

const positions = (tickets: readonly Ticket[]): number[] => tickets.map(({ entry }) => entry.position)

describe('the segments of a batch', () => {
  it('keep the order of every key, for any mix of commands', () => {
    fc.assert(
      fc.property(mix(4, 6), (tickets) => {
        const applied = segmentsOf(tickets).flat()
        for (const key of new Set(tickets.map((ticket) => ticket.key))) {
          const ofKey = (all: readonly Ticket[]): number[] => positions(all.filter((ticket) => ticket.key === key))
          expect(ofKey(applied)).toEqual(ofKey(tickets))
        }
      }),
    )
  })

  it('hold every command exactly once, and one kind of command each', () => {
    fc.assert(
      fc.property(mix(4, 6), (tickets) => {
        const segments = segmentsOf(tickets)
        expect(positions(segments.flat()).sort((a, b) => a - b)).toEqual(positions(tickets))
        for (const segment of segments) expect(new Set(segment.map(({ entry }) => entry.command)).size).toBe(1)
      }),
    )
  })

  it('keep the order of arrival within a segment', () => {
    fc.assert(
      fc.property(mix(4, 6), (tickets) => {
        for (const segment of segmentsOf(tickets)) expect(positions(segment)).toEqual(positions(segment).sort((a, b) => a - b))
      }),
    )
  })

  it('are one per command when no key has commands of two kinds, however they are mixed', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(3), { minLength: 1, maxLength: 200, size: 'max' }), (commands) => {
        const tickets = commands.map((command, index) =>
          ticketFor(index + 1, { command: `command-${command}`, key: `key-${command}-${index % 5}` }),
        )
        expect(segmentsOf(tickets)).toHaveLength(new Set(commands).size)
      }),
    )
  })

  it('are no more than the commands change on one key, and no fewer', () => {
    const alternating = Array.from({ length: 10 }, (_, index) => ticketFor(index + 1, { command: index % 2 === 0 ? 'a' : 'b', key: 'one' }))
    expect(segmentsOf(alternating)).toHaveLength(10)
    // Other keys join these segments; they make no more of them.
    const others = Array.from({ length: 50 }, (_, index) =>
      ticketFor(index + 11, { command: index % 2 === 0 ? 'a' : 'b', key: `other-${index}` }),
    )
    expect(segmentsOf([...alternating, ...others])).toHaveLength(10)
  })

  it('are never more than the longest chain of changes on any key asks for', () => {
    fc.assert(
      fc.property(mix(2, 1), (tickets) => {
        const changes = tickets.filter((ticket, index) => index > 0 && tickets[index - 1]?.entry.command !== ticket.entry.command).length
        expect(segmentsOf(tickets)).toHaveLength(tickets.length === 0 ? 0 : changes + 1)
      }),
    )
  })
})
