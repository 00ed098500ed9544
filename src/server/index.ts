/** The HTTP edge: the routes as a Fastify plugin, and a server of our own around them. */
export { edgeTable, type EdgeLimits, type EdgeOptions, type LogLevel, type ServerOptions, serverTable } from './options.ts'
export { headrace, type HeadraceOptions } from './plugin.ts'
export type { Problem } from './problem.ts'
export { createServer, type CreateServerOptions, type RunningServer, serve } from './serve.ts'
export { closeOnSignals } from './signals.ts'
