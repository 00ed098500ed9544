/** The worker of the queue tests, as an object: what it says can be waited for. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

export interface WorkerOptions {
  readonly engine: 'sqlite' | 'postgres'
  readonly queue: string
  readonly data: string
  readonly topic: string
  readonly ttlMs: number
  readonly fault?: 'no-inbox'
}

export interface Line {
  readonly ready?: boolean
  readonly begun?: string
  readonly inside?: string
  readonly done?: string
  readonly failed?: string
  readonly error?: string
  readonly epoch?: number
}

const running = new Set<QueueWorker>()

export class QueueWorker {
  readonly lines: Line[] = []
  readonly #child: ChildProcess
  readonly #listeners = new Set<() => void>()

  private constructor(options: WorkerOptions) {
    this.#child = spawn(process.execPath, [fileURLToPath(new URL('./worker.mjs', import.meta.url)), JSON.stringify(options)], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    createInterface({ input: this.#child.stdout as NodeJS.ReadableStream }).on('line', (text) => {
      this.lines.push(JSON.parse(text) as Line)
      for (const listener of this.#listeners) listener()
    })
    this.#child.stdin?.on('error', () => {})
    running.add(this)
  }

  static async start(options: WorkerOptions): Promise<QueueWorker> {
    const worker = new QueueWorker(options)
    await worker.seen((line) => line.ready === true)
    return worker
  }

  static async endAll(): Promise<void> {
    await Promise.all([...running].map((worker) => worker.kill()))
  }

  /** The first line, said already or to come, that fits; the runner's time is the bound. */
  seen(fits: (line: Line) => boolean): Promise<Line> {
    return new Promise((resolve) => {
      const look = (): void => {
        const line = this.lines.find(fits)
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
