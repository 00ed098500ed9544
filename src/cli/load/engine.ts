/**
 * Drives commands, queries, or both in a fixed mix over HTTP and reports every
 * answer. What is said of commands here goes for queries too, but they are never
 * repeated on purpose.
 *
 * Closed loop (no `rate`): every connection sends its next command when it has
 * the answer to the one before. Open loop (`rate`): command i is due at
 * i / rate seconds, whether or not earlier ones are answered, and its latency
 * counts from then; a server that stalls cannot hide the commands that it made
 * wait ("coordinated omission").
 *
 * A command without an answer, or answered 429 or 503, is sent again with the
 * same id until `retryForMs` have passed: that is safe, since ids make it once.
 */
import { setMaxListeners } from 'node:events'
import type { Random } from '../../std/random.ts'
import { backoffMs, pause } from '../../std/backoff.ts'
import { isRetryable, type Answer, type Answered, type Job, type JobKind } from './answer.ts'
import { Repeats, type Difference, type RepeatCounts } from './repeats.ts'
import type { Sender } from './sender.ts'

export interface LoadOptions {
  readonly sender: Sender
  /** The input of command `index` as JSON text; null when there are no more. */
  readonly next: (index: number) => string | null | Promise<string | null>
  /** The Idempotency-Key of command `index`; not asked for of queries. */
  readonly idOf: (index: number) => string
  /** What stands at `index`. Default: commands only. */
  readonly kindOf?: ((index: number) => JobKind) | undefined
  /** Most commands to send. Default: until `next` gives null or the time is up. */
  readonly commandsMax?: number | undefined
  /** Stop sending new commands after this time. Default: never. */
  readonly durationMs?: number | undefined
  /** Requests at once. */
  readonly connections: number
  /** Commands per second; absent for the closed loop. */
  readonly rate?: number | undefined
  /** Share of commands that are sent a second time, from 0 to 1. */
  readonly repeat: number
  readonly random: Random
  /** How long a command is sent again after transport errors and 429/503. */
  readonly retryForMs: number
  /** Stops sending; what is in flight is still awaited, without further tries. */
  readonly signal?: AbortSignal | undefined
  /** Called once per command with its last answer, and once more for its repeat. */
  readonly onAnswer: (answered: Answered) => void
  /** Called for every try that will be made again. */
  readonly onRetry?: ((answer: Answer, job: Job) => void) | undefined
}

export interface LoadEnd {
  /** Commands sent, repeats not counted. */
  readonly commands: number
  readonly queries: number
  readonly elapsedMs: number
  readonly repeats: Readonly<RepeatCounts>
  readonly differences: readonly Difference[]
}

const retryBaseMs = 20
const retryMaxMs = 1_000
/** How finely the open loop keeps its times, in milliseconds. */
const tickMs = 1

/** Resolves when every command that was sent has its last answer. Rejects only when `next`, `idOf` or `onAnswer` throws. */
export function runLoad(options: LoadOptions): Promise<LoadEnd> {
  return new LoadRun(options).run()
}

class LoadRun {
  readonly #options: LoadOptions
  readonly #repeats: Repeats
  readonly #jitter: Random
  readonly #startedAt = performance.now()
  #free: number
  #issued = 0
  #queries = 0
  #exhausted = false
  /** True while `next` is awaited. */
  #reading = false
  /** What an awaited `next` gave. */
  #read: Job | undefined
  #timer: NodeJS.Timeout | null = null
  #resolve: ((end: LoadEnd) => void) | null = null
  #reject: ((error: unknown) => void) | null = null

  constructor(options: LoadOptions) {
    this.#options = options
    this.#repeats = new Repeats(options.repeat, options.random.fork('repeats'))
    this.#jitter = options.random.fork('retries')
    this.#free = options.connections
  }

  run(): Promise<LoadEnd> {
    const { signal, connections } = this.#options
    // Every connection may wait for its next try, and listens for the end meanwhile.
    if (signal !== undefined) setMaxListeners(connections + 10, signal)
    return new Promise((resolve, reject) => {
      this.#resolve = resolve
      this.#reject = reject
      signal?.addEventListener('abort', this.#pump, { once: true })
      this.#pump()
    })
  }

  /** Fills the free connections with what is due; ends the run when nothing is left. */
  readonly #pump = (): void => {
    try {
      while (this.#free > 0) {
        const jobs = this.#draw()
        if (jobs.length === 0) break
        this.#free -= 1
        this.#serve(jobs).then(() => {
          this.#free += 1
          this.#pump()
        }, this.#fail)
      }
      if (this.#exhausted && this.#free === this.#options.connections) this.#finish()
    } catch (error) {
      this.#fail(error)
    }
  }

  readonly #fail = (error: unknown): void => {
    this.#exhausted = true
    this.#stopTimer()
    this.#reject?.(error)
  }

  #finish(): void {
    this.#stopTimer()
    this.#options.signal?.removeEventListener('abort', this.#pump)
    this.#resolve?.({
      commands: this.#issued - this.#queries,
      queries: this.#queries,
      elapsedMs: performance.now() - this.#startedAt,
      repeats: this.#repeats.counts,
      differences: this.#repeats.differences,
    })
  }

  /** The commands of the next request: repeats that are ready, then new ones that are due. */
  #draw(): Job[] {
    const jobs: Job[] = []
    const max = this.#options.sender.commandsMax
    const stopped = this.#options.signal?.aborted === true
    while (jobs.length < max && !stopped) {
      const job = this.#repeats.next(performance.now()) ?? this.#nextNew()
      if (job === undefined) break
      jobs.push(job)
    }
    if (stopped) this.#exhausted = true
    return jobs
  }

  #nextNew(): Job | undefined {
    const read = this.#read
    this.#read = undefined
    if (read !== undefined || this.#exhausted || this.#reading) return read
    const { commandsMax = Number.POSITIVE_INFINITY, durationMs = Number.POSITIVE_INFINITY, rate } = this.#options
    const index = this.#issued
    const now = performance.now()
    const dueMs = rate === undefined ? now - this.#startedAt : (index * 1000) / rate
    if (index >= commandsMax || dueMs >= durationMs) return this.#end()
    const dueAt = this.#startedAt + dueMs
    if (dueAt > now) {
      this.#timer ??= setTimeout(this.#wake, Math.max(tickMs, dueAt - now))
      return undefined
    }
    const input = this.#options.next(index)
    if (input === null) return this.#end()
    if (typeof input === 'string') return this.#issue(index, input, dueAt)
    this.#reading = true
    input
      .then((text) => {
        this.#reading = false
        if (this.#exhausted) return
        if (text === null) this.#reachEnd()
        else this.#read = this.#issue(index, text, dueAt)
        this.#pump()
      })
      .catch(this.#fail)
    return undefined
  }

  readonly #wake = (): void => {
    this.#timer = null
    this.#pump()
  }

  #stopTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
  }

  #end(): Job | undefined {
    this.#reachEnd()
    return this.#repeats.next(performance.now())
  }

  #reachEnd(): void {
    this.#exhausted = true
    this.#repeats.reachEnd()
  }

  #issue(index: number, input: string, dueAt: number): Job {
    this.#issued += 1
    this.#repeats.reach(index)
    if (this.#options.kindOf?.(index) === 'query') {
      this.#queries += 1
      return { kind: 'query', index, id: '', input, dueAt, repeat: false }
    }
    const job: Job = { kind: 'command', index, id: this.#options.idOf(index), input, dueAt, repeat: false }
    this.#repeats.plan(job)
    return job
  }

  /** Sends the commands of one request, and again those that are worth it, until each has its last answer. */
  async #serve(first: readonly Job[]): Promise<void> {
    const { sender, retryForMs, signal, onAnswer, onRetry } = this.#options
    const sentAt = performance.now()
    let jobs = first
    for (let attempt = 1; jobs.length > 0; attempt++) {
      const answers = await sender.send(jobs)
      const answeredAt = performance.now()
      const again: Job[] = []
      let waitMs = 0
      for (let i = 0; i < jobs.length; i++) {
        const job = jobs[i] as Job
        const answer = answers[i] as Answer
        if (isRetryable(answer) && answeredAt - sentAt < retryForMs && signal?.aborted !== true) {
          again.push(job)
          waitMs = Math.max(waitMs, answer.retryAfterMs ?? 0)
          onRetry?.(answer, job)
          continue
        }
        const answered: Answered = { job, answer, sentAt, answeredAt, attempts: attempt }
        this.#repeats.answered(answered)
        onAnswer(answered)
      }
      jobs = again
      if (jobs.length > 0) {
        const own = backoffMs(attempt - 1, retryBaseMs, retryMaxMs, () => this.#jitter.next())
        const left = Math.max(0, retryForMs - (answeredAt - sentAt))
        await pause(Math.min(Math.max(own, waitMs), left), signal)
      }
    }
  }
}
