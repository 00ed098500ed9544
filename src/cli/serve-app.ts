/** Serves an app until it is told to stop: what `headrace start` does. */
import { mkdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { listen } from '../contracts/diagnostics.ts'
import type { QueueEngine } from '../contracts/queue.ts'
import type { App } from '../pipeline/app-contract.ts'
import { environmentName, limitTable } from '../pipeline/options.ts'
import { adminRoutes } from '../server/admin.ts'
import { edgeTable, serverTable } from '../server/options.ts'
import { type RunningServer, serve } from '../server/serve.ts'
import { withoutPasswords } from './action.ts'
import { loadApp } from './app-file.ts'
import { CliError, exitCodes } from './exit.ts'
import { flagName, givenLimits } from './flags.ts'
import { invitation } from './invitation.ts'
import { createLog, type LogLevel, logLevels } from './log.ts'
import { version } from './package.ts'
import { counted, duration, table, type Terminal } from './terminal.ts'

export interface StartOptions extends Readonly<Record<string, unknown>> {
  readonly host?: string
  readonly port?: number
  readonly data?: string
  /** Url of the queue that commands go through, or 'none'. */
  readonly queue?: string
  readonly logLevel?: LogLevel
  readonly adminToken?: string
}

const { port: _port, ...serverLimits } = serverTable

/** Resolves with the exit code, when the node has stopped. */
export async function start(terminal: Terminal, options: StartOptions, file: string): Promise<number> {
  const end = endOfLife()
  const app = await loadWithLimits(file, options)
  const dataDir = resolve(options.data ?? app.options.dataDir)
  let recovery: Recovery = { queued: 0, redone: 0 }
  const stopListening = listen('headrace:recovery', (event) => {
    recovery = event
  })
  const server = await serveApp(terminal, app, dataDir, options)
  stopListening()
  // The monotonic clock starts with the process.
  const queue = options.queue === undefined || options.queue === 'none' ? null : withoutPasswords(options.queue)
  announce(terminal, app, server, { dataDir, queue, recovery, readyMs: performance.now() })

  const failed = failure(app)
  const reason = await Promise.race([end.first, failed.promise])
  terminal.document({ event: 'stopping', reason: typeof reason === 'string' ? reason : reason.message })
  if (typeof reason === 'string')
    terminal.note(terminal.style('dim', `${reason}: finishing what is in flight; a second signal stops at once`))
  else terminal.note(`${terminal.style('red', 'error')}: ${reason.message}`)
  const stopped = await Promise.race([server.close().then(() => true), end.second.then(() => false)])
  terminal.document({ event: 'stopped', graceful: stopped })
  if (typeof reason !== 'string') return exitCodes.failed
  return stopped ? exitCodes.ok : exitCodes.interrupted
}

/** Flags reach the app as environment variables, which it reads when it is defined. */
async function loadWithLimits(file: string, options: StartOptions): Promise<App> {
  const given = givenLimits(options, limitTable)
  for (const [name, value] of Object.entries(given)) process.env[environmentName(name)] = String(value)
  const app = await loadApp(file)
  for (const [name, value] of Object.entries(given)) {
    const actual = app.options[name as keyof typeof limitTable]
    if (actual !== value)
      throw new CliError(
        exitCodes.usage,
        'option-invalid',
        `${flagName(name)} ${value} has no effect: ${file} itself sets ${name} to ${actual}.`,
        'Remove it there, or leave the flag out.',
      )
  }
  return app
}

/** Listens while the app recovers, so that /livez answers from the start. */
async function serveApp(terminal: Terminal, app: App, dataDir: string, options: StartOptions): Promise<RunningServer> {
  const { host, port, logLevel, adminToken } = options
  const level = logLevel ?? logLevels.find((known) => known === process.env['HEADRACE_LOG_LEVEL']) ?? (terminal.json ? 'info' : 'warn')
  const queue = await queueOf(options.queue, dataDir)
  const starting = app.start({ dataDir, ...(queue === undefined ? {} : { queue }) })
  try {
    const server = await serve(app, {
      ...givenLimits(options, edgeTable),
      ...givenLimits(options, serverLimits),
      ...(host === undefined ? {} : { host }),
      ...(port === undefined ? {} : { port }),
      ...(terminal.json ? { logLevel: level } : { logger: createLog(terminal, level) }),
      register: (fastify) =>
        void fastify.register(adminRoutes, { app, prefix: '/admin', ...(adminToken === undefined ? {} : { token: adminToken }) }),
    })
    await starting
    return server
  } catch (error) {
    // Of the two, the start of the app may fail later; its error is the one that matters less then.
    await starting.then(() => app.stop()).catch(() => {})
    throw error
  }
}

/** A node consumes every partition: together they may hold this many times their number. */
const partitionPrefetch = 1_000

async function queueOf(given: string | undefined, dataDir: string): Promise<QueueEngine | 'none' | undefined> {
  if (given === undefined || given === '') return undefined
  if (given === 'none') return given
  // A file of the queue may be meant to live there.
  mkdirSync(dataDir, { recursive: true })
  const { queueEngineFromUrl } = await import('./queues/engine.ts')
  return queueEngineFromUrl(given, { make: true, prefetch: partitionPrefetch })
}

/** What the app found of an earlier life: commands that wait, and batches that a crash had left half-way. */
interface Recovery {
  readonly queued: number
  readonly redone: number
}

interface Started {
  readonly dataDir: string
  readonly queue: string | null
  readonly recovery: Recovery
  readonly readyMs: number
}

function announce(
  terminal: Terminal,
  app: App,
  { url }: RunningServer,
  { dataDir, queue, recovery: { queued, redone }, readyMs }: Started,
): void {
  const commands = [...app.gateway.commands.keys()]
  const queries = [...app.gateway.queries.keys()]
  terminal.document({
    event: 'ready',
    app: app.name,
    url,
    pid: process.pid,
    dataDir,
    ...(queue === null ? {} : { queue }),
    commands,
    queries,
    recovered: { queued, redone },
    readyMs: Math.round(readyMs),
    version,
  })
  if (terminal.json) return
  const dim = (text: string): string => terminal.style('dim', text)
  terminal.print(
    `${terminal.style('bold', app.name)} is ready ${dim(`after ${duration(readyMs)}; Headrace ${version}, Node ${process.version.slice(1)}, process ${process.pid}`)}`,
  )
  terminal.print()
  const rows = [
    ['listening', terminal.style('cyan', url)],
    ['data', dataDir],
    ...(queue === null ? [] : [['queue', queue]]),
    ...(queued + redone > 0
      ? [['recovered', `${counted(queued, 'waiting command')}, ${counted(redone, 'batch', 'batches')} finished`]]
      : []),
    ['commands', commands.join(', ')],
    ['queries', queries.join(', ') || '–'],
  ]
  for (const line of table(rows.map(([name = '', value = '']) => [dim(name), value]))) terminal.print(line)
  terminal.print()
  terminal.print('Try:')
  for (const line of invitation(app, url)) terminal.print(`  ${line}`)
  terminal.print()
  terminal.print(dim('Ctrl-C stops it.'))
}

/** Signals, and the end of the process that started this one over a channel of its own: nobody would stop it then. */
function endOfLife(): { readonly first: Promise<string>; readonly second: Promise<void> } {
  let signals = 0
  let onFirst: (reason: string) => void = () => {}
  let onSecond: () => void = () => {}
  const first = new Promise<string>((resolve) => {
    onFirst = resolve
  })
  const second = new Promise<void>((resolve) => {
    onSecond = resolve
  })
  const heard = (reason: string): void => {
    signals += 1
    if (signals === 1) onFirst(reason)
    else onSecond()
  }
  process.on('SIGINT', () => heard('SIGINT'))
  process.on('SIGTERM', () => heard('SIGTERM'))
  if (process.connected) process.once('disconnect', () => heard('parent gone'))
  return { first, second }
}

/** Resolves when the app has failed for good: another owner took over, or the storage failed. A supervisor can then start it anew. */
function failure(app: App): { readonly promise: Promise<Error> } {
  const promise = new Promise<Error>((resolve) => {
    listen('headrace:notice', (event) => {
      if (event.app !== app.name || event.level !== 'error') return
      void app.status().then(({ state, reason }) => {
        if (state === 'failed') resolve(new Error(reason ?? event.message))
      })
    })
  })
  return { promise }
}
