/** The worker of the queue tests, as an object: what it says can be waited for. */
import { LineProcess } from '../support/line-process.ts'

export interface WorkerOptions {
  readonly engine: 'sqlite' | 'postgres' | 'rabbitmq'
  /** A file, or a url. */
  readonly queue: string
  readonly data: string
  readonly topic: string
  readonly partitions: number
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

export class QueueWorker extends LineProcess<Line> {
  static async start(options: WorkerOptions): Promise<QueueWorker> {
    const worker = new QueueWorker(new URL('./worker.mjs', import.meta.url), options)
    await worker.seen((line) => line.ready === true)
    return worker
  }
}
