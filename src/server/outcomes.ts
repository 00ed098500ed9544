/** GET /outcomes/:command/:id: the stored outcome, or that the command still waits. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import { outcomeReply, pendingReply } from './answers.ts'
import type { Edge } from './edge.ts'
import { lastEventWasOutcome, outcomeEvents, wantsEvents } from './events.ts'
import { checkId, readTenant } from './headers.ts'
import { asHeadraceError } from './problem.ts'

export function getOutcome(edge: Edge) {
  return async (request: FastifyRequest<{ Params: { command: string; '*': string } }>, reply: FastifyReply): Promise<unknown> => {
    const { headers } = request.raw
    const { command } = request.params
    const tenant = readTenant(headers['headrace-tenant'])
    const id = checkId(request.params['*'])
    reply.header('cache-control', 'no-store').header('vary', 'accept, headrace-tenant')
    try {
      const known = await edge.gateway.outcomeState(command, tenant, id)
      if (known.state === 'unknown')
        throw new HeadraceError(
          'outcome-unknown',
          `There is no outcome ${JSON.stringify(id)} of command ${JSON.stringify(command.slice(0, 64))}. It was never accepted, or is past its retention.`,
        )
      if (request.method === 'GET' && wantsEvents(headers.accept)) {
        if (lastEventWasOutcome(headers['last-event-id'])) return await reply.code(204).send()
        return outcomeEvents(edge, reply, { command, tenant, id }, known)
      }
      if (known.state === 'done') return outcomeReply(reply, known, 200)
      reply.header('retry-after', '1')
      return pendingReply(reply, command, id)
    } catch (error) {
      throw asHeadraceError(error)
    }
  }
}
