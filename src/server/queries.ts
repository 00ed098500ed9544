/**
 * GET /queries/:name?…: runs a query; its input are the parameters of the
 * query string, a repeated one as an array. All values are strings: the schema
 * of the query turns them into what it needs.
 */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import { nearest } from '../contracts/nearest.ts'
import { jsonMediaType } from './answers.ts'
import type { Edge } from './edge.ts'
import { asHeadraceError } from './problem.ts'

export function getQuery(edge: Edge) {
  return async (
    request: FastifyRequest<{ Params: { name: string }; Querystring: Record<string, unknown> }>,
    reply: FastifyReply,
  ): Promise<string> => {
    const { name } = request.params
    if (!edge.gateway.queries.has(name)) {
      const proposal = nearest(name, [...edge.gateway.queries.keys()])
      throw new HeadraceError(
        'query-unknown',
        `There is no query ${JSON.stringify(name.slice(0, 64))}${proposal === null ? '' : `; did you mean '${proposal}'?`} See ${edge.prefix}/openapi.json for the queries of this app.`,
      )
    }
    if (Object.hasOwn(request.query, '__proto__')) throw new HeadraceError('parameter-invalid', 'A parameter cannot be named __proto__.')
    try {
      const answer = await edge.gateway.ask(name, { ...request.query })
      reply.header('content-type', jsonMediaType).header('cache-control', 'no-store')
      return answer
    } catch (error) {
      throw asHeadraceError(error)
    }
  }
}
