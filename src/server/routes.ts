/**
 * The table of routes, and what is the same for all of them: body parsers, the
 * form of error answers, and 405 for a method that a path does not have.
 */
import type { Socket } from 'node:net'
import type { FastifyInstance, FastifyReply, FastifyRequest, HTTPMethods, RouteHandlerMethod } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import { createMetrics } from '../observe/metrics.ts'
import type { App } from '../pipeline/app-contract.ts'
import { jsonMediaType } from './answers.ts'
import { parseBody } from './body.ts'
import { LineBody, lineMediaType } from './bulk.ts'
import { postCommand } from './commands.ts'
import { Edge } from './edge.ts'
import { getLivez, getMetrics, getReadyz } from './health.ts'
import { describeApp } from './openapi.ts'
import type { EdgeLimits } from './options.ts'
import { getOutcome } from './outcomes.ts'
import { foreignProblem, knownError, problemOf, sendProblem, worthLogging } from './problem.ts'
import { getQuery } from './queries.ts'

export interface RouteParts {
  readonly app: App
  readonly limits: EdgeLimits
  /** Sockets that a bulk request is read from, for the server's own time limits. */
  readonly bulkSockets: WeakSet<Socket>
  /** Whether the root of the prefix is ours, and tells what there is. */
  readonly index: boolean
  /** Whether unknown paths under the prefix are ours to answer. */
  readonly notFound: boolean
}

/** Registers all routes on an instance of their own. */
export function registerRoutes(fastify: FastifyInstance, { app, limits, bulkSockets, index, notFound }: RouteParts): Edge {
  const { commands, queries } = app.gateway
  const metrics = createMetrics({ app: app.name, commands: commands.keys(), queries: queries.keys(), limits: app.options })
  const edge = new Edge({ app, limits, metrics, log: fastify.log, prefix: fastify.prefix.replace(/\/$/, ''), bulkSockets })
  fastify.addHook('preClose', async () => edge.drain())
  fastify.addHook('onClose', async () => metrics.close())
  parseBodies(fastify, edge)
  fastify.setErrorHandler(answerKnownErrors)
  if (notFound) fastify.setNotFoundHandler(answerNotFound)

  const routes: readonly (readonly [string, 'GET' | 'POST', unknown])[] = [
    ['/commands/:name', 'POST', postCommand(edge)],
    ['/outcomes/:command/*', 'GET', getOutcome(edge)],
    ['/queries/:name', 'GET', getQuery(edge)],
    ['/livez', 'GET', getLivez()],
    ['/readyz', 'GET', getReadyz(edge)],
    ['/metrics', 'GET', getMetrics(edge)],
    ['/openapi.json', 'GET', getDescription(edge)],
    ...(index ? ([['/', 'GET', getIndex(edge)]] as const) : []),
  ]
  for (const [url, method, handler] of routes) {
    fastify.route({ method, url, handler: handler as RouteHandlerMethod, ...(method === 'GET' ? { exposeHeadRoute: true } : {}) })
    refuseOtherMethods(fastify, url, method === 'GET' ? ['GET', 'HEAD'] : ['POST'])
  }
  return edge
}

function parseBodies(fastify: FastifyInstance, edge: Edge): void {
  const { jsonDepthMax } = edge.app.options
  fastify.removeAllContentTypeParsers()
  fastify.addContentTypeParser(
    'application/json',
    { parseAs: 'buffer', bodyLimit: edge.limits.bodyBytesMax },
    (request, body: Buffer, done) => {
      const encoding = request.headers['content-encoding']
      try {
        if (encoding !== undefined && encoding !== 'identity')
          throw new HeadraceError('media-type-unsupported', 'Send the body without Content-Encoding.')
        if (body.length === 0) throw new HeadraceError('body-missing')
        done(null, parseBody(body, jsonDepthMax))
      } catch (error) {
        done(error as Error)
      }
    },
  )
  fastify.addContentTypeParser(lineMediaType, (_request, stream, done) => {
    done(null, new LineBody(stream))
  })
}

function answerKnownErrors(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const known = knownError(error)
  // What a hook of the server around us threw is for its own error handler.
  if (known === undefined) throw error
  if (worthLogging(known)) request.log.error({ err: known, method: request.method, url: request.url }, 'a request failed')
  sendProblem(reply, problemOf(known))
}

/** The last word in a server of our own: whatever is not known is a defect, unless it carries a status for the caller. */
export function answerAllErrors(error: unknown, request: FastifyRequest, reply: FastifyReply): void {
  const { statusCode, message } = error as { statusCode?: unknown; message?: unknown }
  if (knownError(error) === undefined && typeof statusCode === 'number' && statusCode >= 400 && statusCode < 500) {
    sendProblem(reply, foreignProblem({ statusCode, message: String(message) }))
    return
  }
  answerKnownErrors(knownError(error) ?? new HeadraceError('internal', undefined, { cause: error }), request, reply)
}

export function answerNotFound(request: FastifyRequest, reply: FastifyReply): void {
  sendProblem(
    reply,
    problemOf(
      new HeadraceError(
        'route-unknown',
        `There is no route ${request.method} ${JSON.stringify(pathOf(request.url).slice(0, 128))}. See /openapi.json for the routes of this app.`,
      ),
    ),
  )
}

function pathOf(url: string): string {
  const query = url.indexOf('?')
  return query < 0 ? url : url.slice(0, query)
}

/** 405 with Allow, and an answer to OPTIONS, before any body is read. */
function refuseOtherMethods(fastify: FastifyInstance, url: string, allowed: readonly string[]): void {
  const allow = allowed.join(', ')
  fastify.route({
    method: fastify.supportedMethods.filter((method) => !allowed.includes(method)) as HTTPMethods[],
    url,
    onRequest: async (request, reply) => {
      reply.header('allow', allow)
      if (request.method === 'OPTIONS') return reply.code(204).send()
      return sendProblem(reply, problemOf(new HeadraceError('method-not-allowed', `${request.method} is not allowed here. Use ${allow}.`)))
    },
    handler: () => {},
  })
}

function getDescription(edge: Edge) {
  let text: string | undefined
  return async (_request: FastifyRequest, reply: FastifyReply): Promise<string> => {
    text ??= JSON.stringify(describeApp(edge.app, edge.prefix))
    reply.header('content-type', jsonMediaType)
    return text
  }
}

function getIndex(edge: Edge) {
  const { prefix, gateway, app } = edge
  const text = `${JSON.stringify(
    {
      app: app.name,
      commands: [...gateway.commands.keys()].map((name) => `POST ${prefix}/commands/${name}`),
      outcomes: `GET ${prefix}/outcomes/{command}/{id}`,
      queries: [...gateway.queries.keys()].map((name) => `GET ${prefix}/queries/${name}`),
      health: [`GET ${prefix}/livez`, `GET ${prefix}/readyz`, `GET ${prefix}/metrics`],
      description: `GET ${prefix}/openapi.json`,
    },
    null,
    2,
  )}\n`
  return async (_request: FastifyRequest, reply: FastifyReply): Promise<string> => {
    reply.header('content-type', jsonMediaType)
    return text
  }
}
