/**
 * A real process with the app of child.mjs in it: started, asked, and killed.
 *
 * Everything the process said before its end is known when `ended` resolves, so
 * that nothing it acknowledged is missed.
 */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { type Deferred, deferred } from '../../src/std/deferred.ts'
import type { CrashPointName, QueueCrashPointName, TransactionCrashPointName } from '../../src/std/crash-point.ts'
import { builtDist, type Places, world } from './world.ts'

const childFile = fileURLToPath(new URL('child.mjs', import.meta.url))

/** Longest time for one answer of the process, in milliseconds; past it the test fails instead of hanging. */
const answerMsMax = 30_000
/** How much of the process's standard error is kept for messages. */
const stderrBytesMax = 16 * 1024

export interface CrashPlace {
  readonly name: CrashPointName | TransactionCrashPointName | QueueCrashPointName
  readonly visit: number
}

export interface ProcessOptions {
  readonly dataDir: string
  readonly dist?: string
  /** Databases on servers. Default: none. */
  readonly places?: Places
  /** The queue on a server, or the file, that commands go through, and the app whose they are. Default: none. */
  readonly queue?: { readonly url: string; readonly app: string } | undefined
  readonly crashAt?: CrashPlace
  /** Limits of the app, by the names of their environment variables. */
  readonly limits?: Readonly<Record<string, number>>
  /** SQL added to the schema of 'orders'. */
  readonly extraSchema?: string
  /** A program that runs node, with its arguments: strace, a change of user. */
  readonly under?: readonly string[]
}

export interface Refusal {
  readonly refused: string
  readonly message: string
  readonly details?: Readonly<Record<string, unknown>>
}

/** What the process answered to one request; 'lost' when it ended first. */
export type Answer =
  | { readonly outcome: string }
  | {
      readonly error: string
      readonly message: string
      /** What the node says of the command when asked for its outcome after the refusal. */
      readonly known?: string
    }
  | { readonly answer: unknown }
  | 'lost'

export interface End {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

interface Pending {
  readonly answer: Deferred<Answer>
  readonly onDurable: () => void
}

export interface Submission {
  readonly command: string
  readonly input: object
  readonly id: string
}

export class AppProcess {
  /** 'ready', the refusal to start, or how it ended before it could say. */
  readonly started: Promise<'ready' | Refusal | End>
  readonly ended: Promise<End>
  readonly #process: ChildProcessWithoutNullStreams
  readonly #pending = new Map<number, Pending>()
  /** How often a batch was tried again because of the storage. */
  retries = 0
  #said: Deferred<void> = deferred()
  #deaf = false
  #next = 1
  #over: End | null = null
  #stderr = ''

  constructor(options: ProcessOptions) {
    const { dist = builtDist, dataDir, extraSchema, places, queue } = options
    const settings = { ...world, dist, dataDir, extraSchema, places, queue }
    const [program = process.execPath, ...before] = [...(options.under ?? []), process.execPath]
    this.#process = spawn(program, [...before, childFile, JSON.stringify(settings)], {
      env: environmentOf(options),
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    const started = deferred<'ready' | Refusal | End>()
    const ended = deferred<End>()
    this.started = started.promise
    this.ended = ended.promise
    this.#process.stderr.on('data', (text: Buffer) => {
      this.#stderr = (this.#stderr + text.toString()).slice(-stderrBytesMax)
    })
    // The process may be gone while a request is on its way to it.
    this.#process.stdin.on('error', () => undefined)
    createInterface({ input: this.#process.stdout }).on('line', (text) => this.#hear(JSON.parse(text) as Record<string, unknown>, started))
    this.#process.on('error', (error) => started.reject(error))
    this.#process.on('close', (code, signal) => {
      this.#over = { code, signal }
      for (const { answer } of this.#pending.values()) answer.resolve('lost')
      this.#pending.clear()
      started.resolve(this.#over)
      ended.resolve(this.#over)
    })
  }

  /** Starts a process and waits until it is ready. Throws when it is not. */
  static async ready(options: ProcessOptions): Promise<AppProcess> {
    const started = new AppProcess(options)
    const how = await started.started
    if (how !== 'ready') throw new Error(`The process did not start: ${JSON.stringify(how)} ${started.stderr}`)
    return started
  }

  /** Starts a process that must refuse to start, and returns its words. */
  static async refused(options: ProcessOptions): Promise<Refusal> {
    const started = new AppProcess(options)
    const how = await started.started
    if (how === 'ready' || !('refused' in how)) {
      await started.kill()
      throw new Error(`The process was to be refused, but: ${JSON.stringify(how)} ${started.stderr}`)
    }
    await started.ended
    return how
  }

  get stderr(): string {
    return this.#stderr
  }

  get over(): End | null {
    return this.#over
  }

  get pid(): number {
    return this.#process.pid ?? 0
  }

  /** The outcome of a command, or why there is none. */
  submit(submission: Submission): Promise<Answer> {
    return this.#ask({ do: 'submit', ...submission })
  }

  /** `durable` resolves true when the process said that the command is safe, false when it never did. */
  enqueue(submission: Submission): { readonly durable: Promise<boolean>; readonly answer: Promise<Answer> } {
    const durable = deferred<boolean>()
    const answer = this.#ask({ do: 'enqueue', ...submission }, () => durable.resolve(true))
    void answer.then(() => durable.resolve(false))
    return { durable: durable.promise, answer }
  }

  async ask(request: { readonly do: 'redrive' | 'drop' | 'dead' | 'status' | 'stop'; readonly position?: number }): Promise<unknown> {
    const answer = await this.#ask(request)
    if (answer !== 'lost' && 'answer' in answer) return answer.answer
    throw new Error(`'${request.do}' was not done: ${JSON.stringify(answer)} ${this.#stderr}`)
  }

  /** Resolves once it is so, asked whenever the process has said something. Throws when it ends before. */
  async until(isSo: () => boolean): Promise<void> {
    while (!isSo()) {
      if (this.#over !== null) throw new Error(`The process ended first: ${JSON.stringify(this.#over)} ${this.#stderr}`)
      await Promise.race([this.#said.promise, this.ended])
      // Those who were answered take note of it first.
      await new Promise(setImmediate)
    }
  }

  async stop(): Promise<End> {
    await this.#ask({ do: 'stop' })
    return this.ended
  }

  async kill(): Promise<End> {
    if (this.#over === null) this.#process.kill('SIGKILL')
    return this.ended
  }

  /** Hears nothing that the process says from now on, as when the machine that it runs on is gone. */
  deafen(): void {
    this.#deaf = true
  }

  /** Stops the process where it stands, and lets it go on. */
  signal(name: 'SIGSTOP' | 'SIGCONT'): void {
    this.#process.kill(name)
  }

  async #ask(request: object, onDurable: () => void = () => undefined): Promise<Answer> {
    if (this.#over !== null) return 'lost'
    const n = this.#next++
    const pending = { answer: deferred<Answer>(), onDurable }
    this.#pending.set(n, pending)
    this.#process.stdin.write(`${JSON.stringify({ n, ...request })}\n`)
    const timer = setTimeout(
      () => pending.answer.reject(new Error(`No answer within ${answerMsMax} ms to ${JSON.stringify(request)}. ${this.#stderr}`)),
      answerMsMax,
    )
    try {
      return await pending.answer.promise
    } finally {
      clearTimeout(timer)
    }
  }

  #hear(line: Record<string, unknown>, started: Deferred<'ready' | Refusal | End>): void {
    if (this.#deaf) return
    this.#said.resolve()
    this.#said = deferred()
    if ('retried' in line) {
      this.retries += 1
      return
    }
    if (line['ready'] === true) return started.resolve('ready')
    if ('refused' in line) return started.resolve(line as unknown as Refusal)
    const pending = this.#pending.get(Number(line['n']))
    if (line['durable'] === true) return pending?.onDurable()
    this.#pending.delete(Number(line['n']))
    pending?.answer.resolve(line as Answer & object)
  }
}

function environmentOf({ crashAt, limits = {} }: ProcessOptions): NodeJS.ProcessEnv {
  const environment: NodeJS.ProcessEnv = {}
  for (const [name, value] of Object.entries(process.env))
    if (!name.startsWith('HEADRACE_') && !name.startsWith('VITEST')) environment[name] = value
  const all: Record<string, number> = {
    HEADRACE_RETRY_BASE_MS: 5,
    HEADRACE_RETRY_MAX_MS: 40,
    HEADRACE_PARTITIONS: 16,
    HEADRACE_QUEUE_WAIT_MS_MAX: 86_400_000,
    ...limits,
  }
  for (const [name, value] of Object.entries(all)) environment[name] = String(value)
  if (crashAt !== undefined) environment['HEADRACE_CRASH_POINT'] = `${crashAt.name}:${crashAt.visit}`
  return environment
}
