/**
 * A server of our own around the routes, and its life:
 *
 *   listening ──> app starts ──> ready ──close()──> draining ──> closed
 *
 * It listens before the app starts, so that /livez answers while recovery
 * runs, and /readyz says why it is not ready. On close it first says so
 * (/readyz 503, new commands refused with 'stopping'), then finishes what is in
 * flight, then stops the app, and closes what is still open; all of it within
 * `stopTimeoutMs` of the app for the requests, and as much for the app.
 */
import type { Server } from 'node:http'
import type { Socket } from 'node:net'
import { fastify as createFastify, type FastifyBaseLogger, type FastifyInstance, LogController } from 'fastify'
import { HeadraceError } from '../contracts/errors.ts'
import { logEvents } from '../observe/log.ts'
import type { App } from '../pipeline/app-contract.ts'
import { pause } from '../std/backoff.ts'
import { deferred } from '../std/deferred.ts'
import { clientErrorHandler } from './client-error.ts'
import type { Edge } from './edge.ts'
import { type ResolvedServerOptions, resolveServerOptions, type ServerOptions } from './options.ts'
import { answerAllErrors, answerNotFound, registerRoutes } from './routes.ts'
import { late, within } from './within.ts'

export interface CreateServerOptions extends ServerOptions {
  /** A pino logger, or one like it. Default: JSON lines on standard output, at logLevel. */
  readonly logger?: FastifyBaseLogger
  /** Registers more on the server before it listens: routes for operators, hooks that authenticate. */
  readonly register?: (fastify: FastifyInstance) => void
}

export interface RunningServer {
  /** Such as http://127.0.0.1:8080 */
  readonly url: string
  readonly fastify: FastifyInstance
  /** Closes gracefully; repeated calls share one closing. */
  close(): Promise<void>
}

interface Built {
  readonly app: App
  readonly sockets: ReadonlySet<Socket>
  readonly fastify: FastifyInstance
  readonly options: ResolvedServerOptions
  readonly edge: Promise<Edge>
}

/** How often connections that came to rest are closed while the server closes. */
const sweepMs = 25
/** How much longer than its own stopTimeoutMs the app may take to stop. */
const stopSlackMs = 1_000

/** A Fastify instance with the routes of the app, which does not listen yet. It neither starts nor stops the app. */
export function createServer(app: App, options: CreateServerOptions = {}): FastifyInstance {
  const { fastify } = build(app, options)
  const stopLogging = logEvents(app.name, fastify.log)
  fastify.addHook('onClose', async () => stopLogging())
  return fastify
}

function build(app: App, { logger, register, ...given }: CreateServerOptions): Built {
  const options = resolveServerOptions(given, process.env)
  const bulkSockets = new WeakSet<Socket>()
  const fastify = createFastify({
    http: {
      maxHeaderSize: options.headerBytesMax,
      headersTimeout: options.headersTimeoutMs,
      requestTimeout: options.requestTimeoutMs,
      connectionsCheckingInterval: Math.max(50, Math.min(2_000, options.headersTimeoutMs / 4)),
      noDelay: true,
    },
    requestTimeout: options.requestTimeoutMs,
    keepAliveTimeout: options.idleTimeoutMs,
    connectionTimeout: options.socketTimeoutMs,
    bodyLimit: options.bodyBytesMax,
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    ...(logger === undefined ? { logger: { level: options.logLevel } } : { loggerInstance: logger }),
    // One logger for all requests: a child for each would cost more than the rest of a small request.
    childLoggerFactory: (parent) => parent,
    logController: new LogController({ disableRequestLogging: true }),
    clientErrorHandler: clientErrorHandler(bulkSockets),
    frameworkErrors: answerAllErrors,
  })
  fastify.server.maxConnections = options.connectionsMax
  const sockets = new Set<Socket>()
  fastify.server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  fastify.setErrorHandler(answerAllErrors)
  fastify.setNotFoundHandler(answerNotFound)
  register?.(fastify)
  const edge = deferred<Edge>()
  fastify.register(async (scope) => {
    edge.resolve(registerRoutes(scope, { app, limits: options, bulkSockets, index: true, notFound: false }))
  })
  return { app, sockets, fastify, options, edge: edge.promise }
}

/**
 * Listens, starts the app unless it is started already, and resolves when it
 * takes commands. Throws 'option-unknown', 'option-invalid', 'listen-failed',
 * and whatever the start of the app throws.
 */
export async function serve(app: App, options: CreateServerOptions = {}): Promise<RunningServer> {
  const built = build(app, options)
  const { fastify } = built
  const stopLogging = logEvents(app.name, fastify.log)
  try {
    await fastify.ready()
    const url = await listen(built)
    if ((await app.status()).state === 'new') await app.start()
    let closing: Promise<void> | undefined
    const close = (): Promise<void> => {
      closing ??= shutDown(built).finally(stopLogging)
      return closing
    }
    return { url, fastify, close }
  } catch (error) {
    await fastify.close()
    stopLogging()
    throw error
  }
}

async function listen({ fastify, options }: Built): Promise<string> {
  const { host, port } = options
  try {
    return await fastify.listen({ host, port, listenTextResolver: (address) => `Listening on ${address}` })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    const why = code === 'EADDRINUSE' ? 'the port is in use' : code === 'EACCES' ? 'it is not permitted' : `${code ?? error}`
    throw new HeadraceError(
      'listen-failed',
      `Cannot listen on ${host}:${port}: ${why}. Name another port or host, or stop what listens there.`,
      { cause: error },
    )
  }
}

/**
 * Closes connections that came to rest after the listener was closed, which
 * would stay for their keep-alive time, and those that never said a word,
 * which Node does not count as idle.
 */
function closeResting(server: Server, sockets: ReadonlySet<Socket>): void {
  server.closeIdleConnections()
  for (const socket of sockets) {
    if (socket.bytesRead === 0) socket.destroy()
  }
}

async function shutDown({ app, sockets, fastify, options, edge }: Built): Promise<void> {
  const { log, server } = fastify
  const halfMs = app.options.stopTimeoutMs / 2
  const routes = await edge
  routes.leave()
  if (options.drainDelayMs > 0) await pause(options.drainDelayMs)
  routes.drain()
  const closed = fastify.close()
  const sweeper = setInterval(() => closeResting(server, sockets), sweepMs)
  try {
    if ((await within(closed, halfMs)) === late) log.warn(`Requests are still in flight after ${halfMs} ms; the app stops now.`)
    if ((await within(app.stop(), app.options.stopTimeoutMs + stopSlackMs)) === late) log.error('The app did not stop in time.')
    if ((await within(closed, halfMs)) === late) log.warn('Closing connections that did not come to their end.')
  } finally {
    clearInterval(sweeper)
    server.closeAllConnections()
    await closed
  }
}
