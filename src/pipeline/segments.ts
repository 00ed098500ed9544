/**
 * Cuts a batch into segments of one command each, so that load and save work on
 * sets, while commands of one key keep their order.
 *
 * A command joins the first segment of its kind that does not stand before the
 * last segment of its key. One transaction holds all segments.
 */
import type { Ticket } from './ticket.ts'

export function segmentsOf(tickets: readonly Ticket[]): Ticket[][] {
  const segments: Ticket[][] = []
  /** Per command, its segments by index. */
  const places = new Map<string, number[]>()
  const lastOfKey = new Map<string, number>()
  for (const ticket of tickets) {
    const { command, key } = ticket.entry
    const earliest = lastOfKey.get(key) ?? 0
    let own = places.get(command)
    if (own === undefined) {
      own = []
      places.set(command, own)
    }
    let index = own.find((place) => place >= earliest)
    if (index === undefined) {
      index = segments.push([]) - 1
      own.push(index)
    }
    segments[index]?.push(ticket)
    lastOfKey.set(key, index)
  }
  return segments
}
