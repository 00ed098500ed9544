/**
 * A RabbitMQ server of its own for a test, in a temporary folder: its own node
 * name, ports, cookie and name service (epmd), no plugins, and nothing read from
 * the machine's settings.
 *
 * The name service is a process beside it that lives until `stop`.
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { programPath } from './binaries.ts'
import { forgetProcess, watchProcess } from './reaper.ts'
import { freePort, type Server, type ServerSpec, startServer } from './server-process.ts'

export interface RabbitmqServerOptions {
  /** Lines of rabbitmq.conf, such as `{ max_message_size: 1_048_576 }`. */
  readonly settings?: Readonly<Record<string, string | number>>
}

export interface RabbitmqServer extends Server {
  /** Runs rabbitmqctl on this server, such as `ctl('add_vhost', 'shop')`; answers what it printed. It takes a second or two. */
  ctl(...args: readonly string[]): Promise<string>
}

const ctlTimeoutMs = 60_000
/** It takes seconds of processor time, and the machine may be busy. */
const startTimeoutMs = 90_000
const cookie = 'HEADRACETESTS'
const run = promisify(execFile)

/**
 * Starts RabbitMQ with the user guest (password guest) and the virtual host /.
 * `restart` (gently, or `hard` for kill -9) keeps its data.
 */
export async function startRabbitmq(options: RabbitmqServerOptions = {}): Promise<RabbitmqServer> {
  const [epmdPort, distributionPort] = [await freePort(), await freePort()]
  const epmd = spawn(programPath('epmd'), ['-port', String(epmdPort), '-address', '127.0.0.1'], { stdio: 'ignore' })
  await once(epmd, 'spawn')
  const epmdPid = epmd.pid as number
  watchProcess(epmdPid)
  const endEpmd = (): void => {
    epmd.kill('SIGKILL')
    forgetProcess(epmdPid)
  }
  const spec: ServerSpec = {
    name: 'rabbitmq',
    stopSignal: 'SIGTERM',
    startTimeoutMs,
    readyLine: /Server startup complete/,
    prepare: (directory) => configure(directory, options.settings ?? {}),
    command: (directory, port) => ({
      program: '/usr/bin/env',
      args: [
        ...variables(directory, epmdPort),
        `RABBITMQ_NODE_PORT=${port}`,
        'RABBITMQ_NODE_IP_ADDRESS=127.0.0.1',
        `RABBITMQ_DIST_PORT=${distributionPort}`,
        // Its script then becomes the server, instead of watching over it.
        'detached=true',
        ownScript('rabbitmq-server'),
      ],
    }),
    url: (port) => `amqp://guest:guest@127.0.0.1:${port}`,
  }
  try {
    const server = await startServer(spec)
    const stop = server.stop.bind(server)
    return Object.assign(server, {
      async ctl(...args: readonly string[]): Promise<string> {
        const { stdout } = await run('/usr/bin/env', [...variables(server.directory, epmdPort), ownScript('rabbitmqctl'), '-q', ...args], {
          timeout: ctlTimeoutMs,
        })
        return stdout
      },
      async stop(): Promise<void> {
        await stop().finally(endEpmd)
      },
    })
  } catch (error) {
    endEpmd()
    throw error
  }
}

function configure(directory: string, settings: Readonly<Record<string, string | number>>): void {
  const lines = {
    'loopback_users': 'none',
    'disk_free_limit.absolute': '50MB',
    'vm_memory_high_watermark.absolute': '1GB',
    'raft.wal_max_size_bytes': 16 * 1024 ** 2,
    'log.console': 'true',
    'log.console.level': 'info',
    'log.file': 'false',
    ...settings,
  }
  writeFileSync(
    join(directory, 'rabbitmq.conf'),
    Object.entries(lines)
      .map(([name, value]) => `${name} = ${value}\n`)
      .join(''),
  )
  writeFileSync(join(directory, 'env.conf'), '')
  writeFileSync(join(directory, 'enabled_plugins'), '[].\n')
  writeFileSync(join(directory, '.erlang.cookie'), cookie, { mode: 0o400 })
  for (const folder of ['mnesia', 'log', 'schema', 'generated']) mkdirSync(join(directory, folder))
}

function variables(directory: string, epmdPort: number): string[] {
  return [
    `HOME=${directory}`,
    `ERL_EPMD_PORT=${epmdPort}`,
    'ERL_EPMD_ADDRESS=127.0.0.1',
    // The port of the name service makes the name unique on this machine.
    `RABBITMQ_NODENAME=headrace${epmdPort}@localhost`,
    `RABBITMQ_CONF_ENV_FILE=${join(directory, 'env.conf')}`,
    `RABBITMQ_CONFIG_FILE=${join(directory, 'rabbitmq.conf')}`,
    `RABBITMQ_ENABLED_PLUGINS_FILE=${join(directory, 'enabled_plugins')}`,
    `RABBITMQ_MNESIA_BASE=${join(directory, 'mnesia')}`,
    `RABBITMQ_LOG_BASE=${join(directory, 'log')}`,
    `RABBITMQ_SCHEMA_DIR=${join(directory, 'schema')}`,
    `RABBITMQ_GENERATED_CONFIG_DIR=${join(directory, 'generated')}`,
    'RABBITMQ_LOGS=-',
    // Schedulers that do not spin while they are idle: tests share a small machine.
    'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}',
    'LC_ALL=C',
  ]
}

/**
 * RabbitMQ's own script. Debian's on PATH is a wrapper that insists on the user
 * and the folders of the system's service; the real one is beside the library.
 */
function ownScript(name: 'rabbitmq-server' | 'rabbitmqctl'): string {
  const found = programPath(name)
  const debian = join('/usr/lib/rabbitmq/bin', name)
  return dirname(found) === '/usr/sbin' && existsSync(debian) ? debian : found
}
