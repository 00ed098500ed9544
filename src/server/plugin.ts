/**
 * The routes of an app as a Fastify plugin: the app lives in a server that the
 * user already has.
 *
 *   await fastify.register(headrace, { app, prefix: '/hr' })
 *
 * The plugin keeps to itself: body parsers, error answers and limits are those
 * of its own routes, and hooks of the server around it (authentication, CORS)
 * run before them. It neither starts nor stops the app; when the server closes,
 * it takes no new commands and brings streams to their end. The timeouts of
 * connections are the server's own: its requestTimeout bounds bulk requests too.
 */
import type { FastifyPluginAsync } from 'fastify'
import fastifyPlugin from 'fastify-plugin'
import type { App } from '../pipeline/app-contract.ts'
import { type EdgeOptions, resolveEdgeOptions } from './options.ts'
import { registerRoutes } from './routes.ts'

export interface HeadraceOptions extends EdgeOptions {
  readonly app: App
  /** The path that the routes lie under, such as '/hr'. Default: none. */
  readonly prefix?: string
}

const register: FastifyPluginAsync<HeadraceOptions> = async (fastify, { app, prefix, ...given }) => {
  const ours = prefix !== undefined && prefix !== '' && prefix !== '/'
  registerRoutes(fastify, { app, limits: resolveEdgeOptions(given, process.env), bulkSockets: new WeakSet(), index: ours, notFound: ours })
}

/** Fastify plugin: registers the routes of an app. Throws 'option-unknown' and 'option-invalid'. */
export const headrace: FastifyPluginAsync<HeadraceOptions> = fastifyPlugin(register, {
  name: 'headrace',
  fastify: '5.x',
  encapsulate: true,
})
