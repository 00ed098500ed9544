/** A Redis server of its own for a test, in a temporary folder. */
import { programPath } from './binaries.ts'
import { type Server, startServer } from './server-process.ts'

export interface RedisServerOptions {
  /** Keeps data in an append-only file, synced like this. Default: no file, so a restart loses everything. */
  readonly appendfsync?: 'always' | 'everysec' | 'no'
  readonly password?: string
  /** More arguments of redis-server, such as `['--maxmemory', '8mb']`. */
  readonly args?: readonly string[]
  /** Runs the server under this environment, such as a preloaded clock. */
  readonly program?: string
}

/** Starts redis-server. */
export function startRedis(options: RedisServerOptions = {}): Promise<Server> {
  const { appendfsync, password, args = [] } = options
  return startServer({
    name: 'redis',
    stopSignal: 'SIGTERM',
    readyLine: /Ready to accept connections/,
    command: (directory, port) => ({
      program: options.program ?? programPath('redis-server'),
      args: [
        ...['--port', String(port), '--bind', '127.0.0.1', '--dir', directory, '--daemonize', 'no', '--save', ''],
        ...['--appendonly', appendfsync === undefined ? 'no' : 'yes'],
        ...(appendfsync === undefined ? [] : ['--appendfsync', appendfsync]),
        ...(password === undefined ? [] : ['--requirepass', password]),
        ...args,
      ],
    }),
    url: (port) => `redis://${password === undefined ? '' : `:${encodeURIComponent(password)}@`}127.0.0.1:${port}`,
  })
}
