/** The worker of the lock tests, as an object: calls that answer, and events that are waited for. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export interface WorkerOptions {
  readonly engine: 'redis' | 'postgres' | 'sqlite'
  readonly options: Readonly<Record<string, unknown>>
  readonly databaseUrl?: string
}

export interface Line {
  readonly n?: number
  readonly token?: number
  readonly error?: string
  readonly lost?: boolean
  readonly held?: boolean
  readonly rounds?: number
  readonly fenced?: number
  readonly stale?: number
}

const running = new Set<LockWorker>()

export class LockWorker {
  readonly #child: ChildProcess
  readonly #lines: Line[] = []
  readonly #listeners = new Set<() => void>()
  #count = 0

  private constructor(options: WorkerOptions) {
    this.#child = spawn(process.execPath, [fileURLToPath(new URL('./worker.mjs', import.meta.url)), JSON.stringify(options)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (text) => {
      this.#lines.push(JSON.parse(text) as Line)
      for (const listener of this.#listeners) listener()
    })
    this.#child.stdin?.on('error', () => {})
    running.add(this)
  }

  static async start(options: WorkerOptions): Promise<LockWorker> {
    const worker = new LockWorker(options)
    await worker.seen((line) => 'ready' in line)
    return worker
  }

  static async endAll(): Promise<void> {
    await Promise.all([...running].map((worker) => worker.kill()))
  }

  /** Sends a call; `answer` resolves with its line. */
  call(what: Readonly<Record<string, unknown>>): { readonly n: number; readonly answer: Promise<Line> } {
    const n = ++this.#count
    this.#child.stdin?.write(`${JSON.stringify({ n, ...what })}\n`)
    return { n, answer: this.seen((line) => line.n === n && line.lost === undefined) }
  }

  /** The first line, said already or to come, that fits; the runner's time is the bound. */
  seen(fits: (line: Line) => boolean): Promise<Line> {
    return new Promise((resolve) => {
      const look = (): void => {
        const line = this.#lines.find(fits)
        if (line === undefined) return
        this.#listeners.delete(look)
        resolve(line)
      }
      this.#listeners.add(look)
      look()
    })
  }

  stop(): void {
    this.#child.kill('SIGSTOP')
  }

  goOn(): void {
    this.#child.kill('SIGCONT')
  }

  async kill(): Promise<void> {
    running.delete(this)
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    this.#child.kill('SIGKILL')
    await once(this.#child, 'exit')
  }
}
