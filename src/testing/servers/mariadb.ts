/** A MariaDB server of its own for a test, in a temporary folder. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { programPath } from './binaries.ts'
import { type Server, startServer } from './server-process.ts'

export interface MariadbServerOptions {
  /** Settings by name, such as `{ max_connections: 20 }`. */
  readonly settings?: Readonly<Record<string, string | number>>
  /** More arguments of mariadbd, such as `['--innodb-lock-wait-timeout=1']`. */
  readonly args?: readonly string[]
}

/**
 * Starts MariaDB with the user `root`, no password, and an empty database `test`
 * in utf8mb4. `restart` (gently, or `hard` for kill -9) keeps its data.
 */
export function startMariadb(options: MariadbServerOptions = {}): Promise<Server> {
  const { args = [], settings = {} } = options
  const asRoot = process.getuid?.() === 0 ? ['--user=root'] : []
  return startServer({
    name: 'mariadb',
    stopSignal: 'SIGTERM',
    readyLine: /ready for connections/,
    prepare(directory) {
      const data = join(directory, 'data')
      mkdirSync(data)
      // Of its own: a server that starts drops the temporary tables of all that share the folder.
      const tmp = join(directory, 'tmp')
      mkdirSync(tmp)
      execFileSync(
        programPath('mariadb-install-db'),
        ['--no-defaults', `--datadir=${data}`, '--auth-root-authentication-method=normal', '--skip-test-db', ...asRoot],
        { stdio: 'pipe', env: { ...process.env, TMPDIR: tmp } },
      )
      writeFileSync(
        join(directory, 'init.sql'),
        "CREATE USER IF NOT EXISTS 'root'@'127.0.0.1';\nGRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\nCREATE DATABASE IF NOT EXISTS test CHARACTER SET utf8mb4;\n",
      )
    },
    command: (directory, port) => ({
      program: programPath('mariadbd'),
      args: [
        ...[
          '--no-defaults',
          `--datadir=${join(directory, 'data')}`,
          `--tmpdir=${join(directory, 'tmp')}`,
          `--port=${port}`,
          '--bind-address=127.0.0.1',
          `--socket=${join(directory, 's')}`,
        ],
        ...[
          `--pid-file=${join(directory, 'pid')}`,
          `--init-file=${join(directory, 'init.sql')}`,
          '--skip-name-resolve',
          '--innodb-buffer-pool-size=64M',
          ...asRoot,
        ],
        ...Object.entries(settings).map(([name, value]) => `--${name.replaceAll('_', '-')}=${value}`),
        ...args,
      ],
    }),
    url: (port) => `mysql://root@127.0.0.1:${port}/test`,
  })
}
