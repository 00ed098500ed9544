/** GET /livez, /readyz and /metrics: what an orchestrator, a balancer and Prometheus ask. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import type { AppStatus } from '../pipeline/app-contract.ts'
import { jsonMediaType } from './answers.ts'
import type { Edge } from './edge.ts'
import { asHeadraceError } from './problem.ts'

/** Alive as long as the event loop turns: nothing else is asked, so that a slow disk never restarts the process. */
export function getLivez() {
  return (_request: FastifyRequest, reply: FastifyReply): void => {
    reply.header('content-type', jsonMediaType).header('cache-control', 'no-store').send('{"status":"alive"}')
  }
}

/** Ready while the app takes commands; else 503 with the reason. */
export function getReadyz(edge: Edge) {
  return async (_request: FastifyRequest, reply: FastifyReply): Promise<string> => {
    reply.header('cache-control', 'no-store')
    if (edge.leaving) throw new HeadraceError('stopping')
    const status = await edge.status().catch((error: unknown) => {
      throw asHeadraceError(error)
    })
    if (status.state !== 'ready') throw notReady(status)
    reply.header('content-type', jsonMediaType)
    return '{"status":"ready"}'
  }
}

function notReady(status: AppStatus): HeadraceError {
  const code = status.state === 'stopping' || status.state === 'stopped' ? 'stopping' : 'not-ready'
  return new HeadraceError(code, status.reason ?? `The app is ${status.state}.`)
}

export function getMetrics(edge: Edge) {
  return async (_request: FastifyRequest, reply: FastifyReply): Promise<string> => {
    const status = await edge.status().catch(() => undefined)
    const text = await edge.metrics.text(status)
    reply.header('content-type', edge.metrics.contentType).header('cache-control', 'no-store')
    return text
  }
}
