/** A PostgreSQL server of its own for a test, in a temporary folder; as root it runs under another user, as the server demands. */
import { execFileSync } from 'node:child_process'
import { programPath } from './binaries.ts'
import { type Server, startServer } from './server-process.ts'

export interface PostgresServerOptions {
  /** Default: 64. The server's own default is 0, which refuses PREPARE TRANSACTION. */
  readonly maxPreparedTransactions?: number
  /** Default: 100. */
  readonly maxConnections?: number
  /** More settings, such as `['-c', 'synchronous_commit=off']`. */
  readonly args?: readonly string[]
}

/** Starts PostgreSQL with one superuser `postgres` and no password. It refuses to run as root: as root it runs as the user `postgres`. */
export function startPostgres(options: PostgresServerOptions = {}): Promise<Server> {
  const { maxPreparedTransactions = 64, maxConnections = 100, args = [] } = options
  return startServer({
    name: 'postgres',
    runAs: 'postgres',
    stopSignal: 'SIGINT',
    readyLine: /database system is ready to accept connections/,
    prepare(directory, identity) {
      execFileSync(programPath('initdb'), ['-D', directory, '-U', 'postgres', '-A', 'trust', '--no-sync', '--locale=C', '-E', 'UTF8'], {
        ...identity,
        cwd: directory,
        stdio: 'pipe',
      })
    },
    command: (directory, port) => ({
      program: programPath('postgres'),
      args: [
        ...['-D', directory, '-p', String(port), '-c', 'listen_addresses=127.0.0.1', '-c', 'unix_socket_directories='],
        ...['-c', `max_prepared_transactions=${maxPreparedTransactions}`, '-c', `max_connections=${maxConnections}`],
        ...args,
      ],
    }),
    url: (port) => `postgres://postgres@127.0.0.1:${port}/postgres`,
  })
}
