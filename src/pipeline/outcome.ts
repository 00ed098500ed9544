/** Outcome documents: what is stored, and answered byte for byte. */
import { HeadraceError } from '../contracts/errors.ts'
import type { OutcomeStatus, StoredOutcome } from '../contracts/ledger.ts'
import type { Ticket } from './ticket.ts'

/** Unique over the whole app: none of the parts before the id can hold a slash. */
export function scopedId(command: string, tenant: string, id: string): string {
  return `${command}/${tenant}/${id}`
}

/** The caller's id in a scoped one. */
export function callerId(scoped: string): string {
  return scoped.slice(scoped.indexOf('/', scoped.indexOf('/') + 1) + 1)
}

function stored(ticket: Ticket, status: OutcomeStatus, rest: string): StoredOutcome {
  const { id, command, digest, position, partition } = ticket.entry
  const body = `{"id":${JSON.stringify(ticket.id)},"command":${JSON.stringify(command)},"status":"${status}","position":${position},${rest}}`
  return { id, status, digest, body, position, partition, at: Date.now() }
}

/** Throws 'result-invalid' when the result is not plain data or too large. */
export function committedOutcome(ticket: Ticket, result: unknown, bytesMax: number): StoredOutcome {
  let text: string | undefined
  try {
    text = JSON.stringify(result)
  } catch (error) {
    throw new HeadraceError(
      'result-invalid',
      `The result of command '${ticket.entry.command}' cannot be stored as JSON: ${error instanceof Error ? error.message : String(error)}`,
    )
  }
  if (text === undefined) text = 'null'
  checkSize(ticket, text, bytesMax)
  return stored(ticket, 'committed', `"result":${text}`)
}

/** Throws 'result-invalid' when code and detail are too large. */
export function rejectedOutcome(ticket: Ticket, code: string, detail: string | undefined, bytesMax: number): StoredOutcome {
  const text = `"code":${JSON.stringify(code)}${detail === undefined ? '' : `,"detail":${JSON.stringify(String(detail))}`}`
  checkSize(ticket, text, bytesMax)
  return stored(ticket, 'rejected', text)
}

function checkSize(ticket: Ticket, text: string, bytesMax: number): void {
  // A character has at most three bytes, so most texts need not be counted.
  if (text.length * 3 <= bytesMax || Buffer.byteLength(text) <= bytesMax) return
  throw new HeadraceError(
    'result-invalid',
    `The result of command '${ticket.entry.command}' has ${Buffer.byteLength(text)} bytes; resultBytesMax is ${bytesMax}.`,
  )
}

export function failedOutcome(ticket: Ticket, code: string, detail: string): StoredOutcome {
  return stored(ticket, 'failed', `"code":${JSON.stringify(code)},"detail":${JSON.stringify(detail)}`)
}
