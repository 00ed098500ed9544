/** Tickets for tests of the parts of the pipeline: real ones, whose owner does nothing. */
import type { Entry } from '../../src/contracts/ledger.ts'
import type { AnyCommand } from '../../src/pipeline/command.ts'
import { scopedId } from '../../src/pipeline/outcome.ts'
import { Ticket } from '../../src/pipeline/ticket.ts'
import { digestOf, hash32 } from '../../src/std/hash.ts'

const owner = { persist: () => undefined, attach: () => undefined }

export function entryFor(position: number, given: Partial<Entry> & { readonly callerId?: string } = {}): Entry {
  const { callerId = `id-${position}`, command = 'thing.do', tenant = 'default', key = 'k', input = '{}', ...rest } = given
  return {
    position,
    partition: hash32(key) % 64,
    key,
    id: scopedId(command, tenant, callerId),
    command,
    tenant,
    input,
    digest: digestOf(input),
    acceptedAt: 1_700_000_000_000 + position,
    attempts: 0,
    queued: false,
    ...rest,
  }
}

export function ticketFor(
  position: number,
  given: Partial<Entry> & { readonly callerId?: string } = {},
  command: AnyCommand | null = null,
): Ticket {
  const entry = entryFor(position, given)
  return new Ticket(entry, given.callerId ?? `id-${position}`, command, { value: JSON.parse(entry.input) }, owner)
}
