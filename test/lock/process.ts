/** The worker of the lock tests, as an object: calls that answer, and events that are waited for. */
import { LineProcess } from '../support/line-process.ts'

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

export class LockWorker extends LineProcess<Line> {
  #count = 0

  static async start(options: WorkerOptions): Promise<LockWorker> {
    const worker = new LockWorker(new URL('./worker.mjs', import.meta.url), options)
    await worker.seen((line) => 'ready' in line)
    return worker
  }

  /** Sends a call; `answer` resolves with its line. */
  call(what: Readonly<Record<string, unknown>>): { readonly n: number; readonly answer: Promise<Line> } {
    const n = ++this.#count
    this.say({ n, ...what })
    return { n, answer: this.seen((line) => line.n === n && line.lost === undefined) }
  }
}
