/**
 * A node as a process of its own: `headrace start app.ts`, on one port for all
 * of its lives. It ends with this process, however this one ends: the channel
 * between them breaks, and the node stops by itself.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { CliError, exitCodes } from '../exit.ts'
import { mainFile } from '../package.ts'

/** Longest time until a start answers, in milliseconds. */
const startTimeoutMs = 60_000
/** Longest time for a graceful stop, in milliseconds; then SIGKILL. */
const stopTimeoutMs = 30_000
/** Lines of the log kept for the message about a node that ended by itself. */
const logLinesMax = 20

export interface NodeOptions {
  readonly app: string
  readonly dataDir: string
  /** More arguments of `headrace start`. */
  readonly more?: readonly string[]
  /** More environment: where the databases of the app are. */
  readonly environment?: Readonly<Record<string, string>>
  /** Called when the node ends without having been told to. */
  readonly onCrash: (error: CliError) => void
}

export class NodeProcess {
  readonly #options: NodeOptions
  #child: ChildProcess | null = null
  #url = ''
  #ending = false
  readonly #log: string[] = []

  constructor(options: NodeOptions) {
    this.#options = options
  }

  /** Such as http://127.0.0.1:40123; the same after every restart. */
  get url(): string {
    return this.#url
  }

  get pid(): number {
    return this.#child?.pid ?? 0
  }

  /** Starts the node and resolves when it takes commands; gives the milliseconds that took. */
  async start(): Promise<number> {
    const startedAt = performance.now()
    const port = this.#url === '' ? '0' : new URL(this.#url).port
    const { app, dataDir, more = [], environment = {} } = this.#options
    const child = spawn(
      process.execPath,
      [mainFile, 'start', app, '--port', port, '--data', dataDir, '--json', '--log-level', 'warn', ...more],
      { stdio: ['ignore', 'pipe', 'pipe', 'ipc'], env: { ...process.env, ...environment } },
    )
    this.#child = child
    this.#ending = false
    const ready = new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => reject(this.#failure(`did not start within ${startTimeoutMs / 1000} s`)), startTimeoutMs)
      const settle = (): void => clearTimeout(timer)
      child.once('error', (error) => reject(this.#failure(`cannot be started: ${error.message}`)))
      child.once('exit', (code, signal) => {
        settle()
        const error = this.#failure(`ended by itself (${signal ?? `exit code ${code}`})`)
        reject(error)
        if (!this.#ending) this.#options.onCrash(error)
      })
      this.#read(child.stdout, (line) => {
        const url = readyUrl(line)
        if (url === null) return
        settle()
        resolve(url)
      })
      this.#read(child.stderr, () => {})
    })
    this.#url = await ready
    return performance.now() - startedAt
  }

  /** SIGKILL: the process has no chance to do anything more. Resolves when it is gone. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL')
  }

  /** SIGTERM, and SIGKILL when that takes too long. */
  async stop(): Promise<void> {
    const timer = setTimeout(() => this.#child?.kill('SIGKILL'), stopTimeoutMs)
    try {
      await this.#end('SIGTERM')
    } finally {
      clearTimeout(timer)
    }
  }

  async #end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const child = this.#child
    this.#ending = true
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const gone = once(child, 'exit')
    child.kill(signal)
    await gone
  }

  #read(stream: NodeJS.ReadableStream | null, onLine: (line: string) => void): void {
    if (stream === null) return
    createInterface({ input: stream }).on('line', (line) => {
      this.#log.push(line)
      if (this.#log.length > logLinesMax) this.#log.shift()
      onLine(line)
    })
  }

  #failure(what: string): CliError {
    return new CliError(exitCodes.unavailable, 'node-failed', [`The server ${what}.`, ...this.#log].join('\n'))
  }
}

function readyUrl(line: string): string | null {
  if (!line.startsWith('{"event":"ready"')) return null
  const { url } = JSON.parse(line) as { url: string }
  return url
}
