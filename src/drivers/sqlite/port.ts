/**
 * The way from the ledger to the engine: on a thread of its own, or on the
 * caller's.
 *
 * The engine is synchronous, and an fsync stops its thread. On a worker thread
 * the event loop goes on meanwhile: it parses requests and builds the next
 * batch while the last one is on its way to disk. `npm run bench -- embedded`
 * measures both; ARCHITECTURE.md has the numbers behind the default.
 */
import { Worker } from 'node:worker_threads'
import { type ErrorCode, HeadraceError } from '../../contracts/errors.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'
import type { Call, CallName, Calls, EngineOptions, Opened, Reply } from './calls.ts'
import { openEngine } from './recovery.ts'

export interface Port {
  readonly opened: Opened
  call<Name extends CallName>(name: Name, ...parameters: Parameters<Calls[Name]>): Promise<Reply[Name]>
  close(): Promise<void>
}

export type ThreadOption = 'main' | 'worker'

export interface WireError {
  readonly code: ErrorCode
  readonly message: string
  readonly details: Readonly<Record<string, unknown>> | undefined
}
export type Answer = { readonly number: number; readonly reply: Reply[CallName] } | { readonly number: number; readonly error: WireError }
export type FromWorker = { readonly opened: Opened } | { readonly refused: WireError } | readonly Answer[]
export interface NumberedCall extends Call {
  readonly number: number
}

export async function openPort(options: EngineOptions, thread: ThreadOption): Promise<Port> {
  return thread === 'worker' ? await openWorkerPort(options) : openLocalPort(options)
}

function openLocalPort(options: EngineOptions): Port {
  const { engine, opened } = openEngine(options)
  return {
    opened,
    async call<Name extends CallName>(name: Name, ...parameters: Parameters<Calls[Name]>) {
      return engine.answer({ name, parameters }) as Reply[Name]
    },
    async close() {
      engine.close()
    },
  }
}

async function openWorkerPort(options: EngineOptions): Promise<Port> {
  const worker = new Worker(new URL('./worker.js', import.meta.url), { workerData: options, name: 'headrace-sqlite' })
  const waiting = new Map<number, Deferred<Reply[CallName]>>()
  const start = deferred<Opened>()
  const exit = deferred<void>()
  let ended: HeadraceError | null = null
  let next = 1

  // Calls made side by side, such as the writes of one save(), cross together: a message costs more than what is in it.
  let outbox: NumberedCall[] = []
  const post = (): void => {
    const calls = outbox
    outbox = []
    worker.postMessage(calls)
  }
  const end = (error: HeadraceError): void => {
    ended ??= error
    start.reject(ended)
    for (const call of waiting.values()) call.reject(ended)
    waiting.clear()
  }
  worker.on('message', (message: FromWorker) => {
    if ('opened' in message) return start.resolve(message.opened)
    if ('refused' in message) return end(fromWire(message.refused))
    for (const answer of message) {
      const call = waiting.get(answer.number)
      waiting.delete(answer.number)
      if ('error' in answer) call?.reject(fromWire(answer.error))
      else call?.resolve(answer.reply)
    }
  })
  worker.on('error', (error) =>
    end(
      new HeadraceError(
        'storage-failed',
        `The storage thread failed: ${error.message}. Start the node again; it recovers from the journal.`,
        { cause: error },
      ),
    ),
  )
  worker.on('exit', () => {
    end(new HeadraceError('storage-failed', 'The storage thread has ended. Start the node again; it recovers from the journal.'))
    exit.resolve()
  })

  const call = <Name extends CallName>(name: Name, ...parameters: Parameters<Calls[Name]>): Promise<Reply[Name]> => {
    if (ended !== null) return Promise.reject(ended)
    const answer = deferred<Reply[CallName]>()
    waiting.set(next, answer)
    outbox.push({ number: next++, name, parameters })
    if (outbox.length === 1) queueMicrotask(post)
    return answer.promise as Promise<Reply[Name]>
  }
  const opened = await start.promise
  return {
    opened,
    call,
    async close() {
      if (ended === null) await call('close')
      await exit.promise
    },
  }
}

export function toWire(error: unknown): WireError {
  if (HeadraceError.is(error)) return { code: error.code, message: error.message, details: error.details }
  return { code: 'internal', message: error instanceof Error ? (error.stack ?? error.message) : String(error), details: undefined }
}

function fromWire({ code, message, details }: WireError): HeadraceError {
  return new HeadraceError(code, message, details === undefined ? {} : { details })
}
