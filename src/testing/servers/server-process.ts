/**
 * A real server as a child process, for tests: started on a free port of the
 * loopback address, in a temporary folder of its own; ready when it says so in
 * its log; killed, paused, resumed and started again at will.
 *
 * States: started → (pause → paused → resume → started) → kill or stop → ended
 * → restart → started. `stop` is final: it removes the folder.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chownSync, existsSync, mkdtempSync, readdirSync, readFileSync, realpathSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { forgetProcess, watchFolder, watchProcess } from './reaper.ts'

const startTimeoutMs = 30_000
const stopTimeoutMs = 10_000
const startAttemptsMax = 3
const logBytesMax = 256 * 1024

export interface Server {
  /** How a client names it, credentials included. */
  readonly url: string
  readonly host: '127.0.0.1'
  readonly port: number
  /** The process that runs now. */
  readonly pid: number
  /** Its data folder. */
  readonly directory: string
  /** The last lines that it wrote, to explain a failure. */
  log(): string
  /** Sends a signal and, when it ends the server, waits for the end. Default: SIGKILL, which also ends its child processes. */
  kill(signal?: 'SIGKILL' | 'SIGTERM' | 'SIGINT'): Promise<void>
  /** Stops every process of the server where it stands (SIGSTOP): connections stay open and nothing answers. */
  pause(): void
  resume(): void
  /** Ends it (SIGKILL when `hard`, else gently) unless it has ended, and starts it again on the same port; `empty` loses its data. */
  restart(options?: { readonly hard?: boolean; readonly empty?: boolean }): Promise<void>
  /** Ends it gently, and removes its folder. */
  stop(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

export interface ServerSpec {
  readonly name: string
  /** The user that must run it when the tests run as root, if the server refuses root. */
  readonly runAs?: string
  /** Makes an empty data folder usable. */
  prepare?(directory: string, identity: Identity): void
  command(directory: string, port: number): { readonly program: string; readonly args: readonly string[] }
  /** Seen in its output when it takes connections; null asks `answers` instead. */
  readonly readyLine: RegExp | null
  answers?(port: number): Promise<boolean>
  readonly stopSignal: 'SIGTERM' | 'SIGINT'
  /** Longest time until it is ready, in milliseconds. Default: 30000. */
  readonly startTimeoutMs?: number
  url(port: number): string
}

export interface Identity {
  readonly uid?: number
  readonly gid?: number
}

export async function startServer(spec: ServerSpec): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    const server = new ServerProcess(spec, await freePort())
    try {
      await server.start()
      return server
    } catch (error) {
      await server.stop()
      // Between finding a free port and listening on it somebody else may have taken it.
      const taken = /address already in use|bind on unix|could not bind/i.test(server.log())
      if (!taken || attempt >= startAttemptsMax) throw error
    }
  }
}

class ServerProcess implements Server {
  readonly host = '127.0.0.1'
  readonly port: number
  readonly #spec: ServerSpec
  readonly #identity: Identity
  readonly #root: string
  #folders = 0
  #directory: string
  #child: ChildProcess | null = null
  #ended: Promise<unknown> = Promise.resolve()
  #output = ''

  constructor(spec: ServerSpec, port: number) {
    this.#spec = spec
    this.port = port
    this.#identity = identityOf(spec.runAs)
    this.#root = mkdtempSync(join(realpathSync(tmpdir()), `headrace-test-${spec.name}-`))
    watchFolder(this.#root)
    own(this.#root, this.#identity)
    this.#directory = this.#newDirectory()
  }

  get url(): string {
    return this.#spec.url(this.port)
  }

  get directory(): string {
    return this.#directory
  }

  get pid(): number {
    const pid = this.#child?.pid
    if (pid === undefined) throw new Error(`${this.#spec.name} is not running`)
    return pid
  }

  log(): string {
    return this.#output
  }

  async start(): Promise<void> {
    if (!existsSync(this.#directory)) throw new Error(`${this.#spec.name} was stopped for good`)
    const { program, args } = this.#spec.command(this.#directory, this.port)
    this.#output = ''
    const child = spawn(program, args, {
      ...this.#identity,
      cwd: this.#directory,
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
    })
    this.#child = child
    this.#ended = once(child, 'close').catch(() => {})
    const failed = new Promise<never>((_, reject) => {
      child.once('error', (error) => reject(error))
      child.once('exit', (code, signal) =>
        reject(new Error(`${this.#spec.name} ended with ${signal ?? code} before it was ready:\n${this.#output}`)),
      )
    })
    failed.catch(() => {})
    if (child.pid !== undefined) watchProcess(child.pid)
    const ready = new Promise<void>((resolve) => {
      const read = (chunk: Buffer): void => {
        this.#output = (this.#output + chunk.toString()).slice(-logBytesMax)
        if (this.#spec.readyLine?.test(this.#output)) resolve()
      }
      child.stdout?.on('data', read)
      child.stderr?.on('data', read)
      if (this.#spec.readyLine === null) void this.#untilItAnswers(child).then(resolve)
    })
    const timeoutMs = this.#spec.startTimeoutMs ?? startTimeoutMs
    await bounded(
      Promise.race([ready, failed]),
      timeoutMs,
      () => `${this.#spec.name} was not ready after ${timeoutMs} ms:\n${this.#output}`,
    )
  }

  async #untilItAnswers(child: ChildProcess): Promise<void> {
    while (child.exitCode === null && child.signalCode === null) {
      if (await this.#spec.answers?.(this.port)) return
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }

  async kill(signal: 'SIGKILL' | 'SIGTERM' | 'SIGINT' = 'SIGKILL'): Promise<void> {
    const child = this.#child
    if (child?.pid === undefined) return
    const family = signal === 'SIGKILL' ? [child.pid, ...descendants(child.pid)] : [child.pid]
    for (const pid of family) send(pid, signal)
    await bounded(
      this.#ended,
      stopTimeoutMs,
      () => `${this.#spec.name} did not end within ${stopTimeoutMs} ms of ${signal}:\n${this.#output}`,
    )
    forgetProcess(child.pid)
    this.#child = null
  }

  pause(): void {
    // The parent first, so that no new child is born between.
    send(this.pid, 'SIGSTOP')
    for (const pid of descendants(this.pid)) send(pid, 'SIGSTOP')
  }

  resume(): void {
    for (const pid of descendants(this.pid)) send(pid, 'SIGCONT')
    send(this.pid, 'SIGCONT')
  }

  async restart(options: { readonly hard?: boolean; readonly empty?: boolean } = {}): Promise<void> {
    if (this.#child !== null) await this.kill(options.hard === true ? 'SIGKILL' : this.#spec.stopSignal)
    if (options.empty === true) this.#directory = this.#newDirectory()
    await this.start()
  }

  async stop(): Promise<void> {
    if (this.#child !== null) {
      this.resume()
      await this.kill(this.#spec.stopSignal).catch(() => this.kill('SIGKILL'))
    }
    await rm(this.#root, { recursive: true, force: true, maxRetries: 5 })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop()
  }

  #newDirectory(): string {
    this.#folders += 1
    const directory = mkdtempSync(join(this.#root, `${this.#folders}-`))
    own(directory, this.#identity)
    this.#spec.prepare?.(directory, this.#identity)
    return directory
  }
}

/** A port of 127.0.0.1 that nobody listens on at this moment. */
export async function freePort(): Promise<number> {
  const server = createServer()
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

function identityOf(user: string | undefined): Identity {
  if (user === undefined || process.getuid?.() !== 0) return {}
  const id = (flag: string): number => Number(execFileSync('id', [flag, user], { encoding: 'utf8' }).trim())
  return { uid: id('-u'), gid: id('-g') }
}

function own(path: string, identity: Identity): void {
  if (identity.uid !== undefined && identity.gid !== undefined) chownSync(path, identity.uid, identity.gid)
}

function send(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

/** Every process below this one; servers such as PostgreSQL work in children of their own process groups. */
function descendants(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const [pid, parent] of processes()) {
    const siblings = children.get(parent)
    if (siblings === undefined) children.set(parent, [pid])
    else siblings.push(pid)
  }
  const found: number[] = []
  const open = [root]
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    const below = children.get(pid) ?? []
    found.push(...below)
    open.push(...below)
  }
  return found
}

function* processes(): Generator<readonly [pid: number, parent: number]> {
  if (!existsSync('/proc/self/stat')) {
    for (const line of execFileSync('ps', ['-A', '-o', 'pid=,ppid='], { encoding: 'utf8' }).split('\n')) {
      const [pid, parent] = line.trim().split(/\s+/)
      if (pid !== undefined && parent !== undefined) yield [Number(pid), Number(parent)]
    }
    return
  }
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    try {
      const stat = readFileSync(`/proc/${name}/stat`, 'latin1')
      // The command may hold spaces and brackets: the fields start after the last one.
      const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
      yield [Number(name), Number(fields[1])]
    } catch {
      // It ended while we looked.
    }
  }
}

async function bounded<T>(work: Promise<T>, timeoutMs: number, message: () => string): Promise<T> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(message())), timeoutMs)
  })
  try {
    return await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
