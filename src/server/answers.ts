/** The forms of an answer about a command: its outcome, or that it waits. */
import type { FastifyReply } from 'fastify'
import type { Outcome } from '../pipeline/app-contract.ts'

export const jsonMediaType = 'application/json; charset=utf-8'

/** Where the outcome of a command is found; an id is unique per tenant and command. */
export function outcomePath(prefix: string, command: string, id: string): string {
  return `${prefix}/outcomes/${command}/${encodeURIComponent(id)}`
}

/** The stored document, byte for byte. */
export function outcomeReply(
  reply: FastifyReply,
  outcome: { readonly status: Outcome['status']; readonly body: string },
  httpStatus: number,
): string {
  reply.code(httpStatus).header('content-type', jsonMediaType).header('headrace-status', outcome.status)
  return outcome.body
}

export function pendingDocument(command: string, id: string): string {
  return JSON.stringify({ id, command, status: 'pending' })
}

export function pendingReply(reply: FastifyReply, command: string, id: string): string {
  reply.code(202).header('content-type', jsonMediaType).header('headrace-status', 'pending')
  return pendingDocument(command, id)
}
