/** Callers that wait for runs to end: told at once by the work of this process, else found out by asking the log. */
import type { SagaLog, StoredRun } from '../../contracts/saga.ts'
import { type Deferred, deferred } from '../../std/deferred.ts'

const askedMax = 500

export class Waiters {
  readonly #log: SagaLog
  readonly #byId = new Map<string, Set<Deferred<StoredRun | null>>>()
  #count = 0

  constructor(log: SagaLog) {
    this.#log = log
  }

  get count(): number {
    return this.#count
  }

  /** The run when it goes on no longer; null when there is none. */
  async wait(id: string, signal: AbortSignal): Promise<StoredRun | null> {
    const waiter = deferred<StoredRun | null>()
    waiter.promise.catch(() => undefined)
    const leave = (): void => waiter.reject(signal.reason)
    const waiting = this.#byId.get(id) ?? new Set()
    waiting.add(waiter)
    this.#byId.set(id, waiting)
    this.#count += 1
    try {
      if (signal.aborted) leave()
      signal.addEventListener('abort', leave, { once: true })
      // It may have ended before anybody listened.
      const known = await Promise.race([this.#read(id), waiter.promise])
      if (known === null || known.status !== 'running') return known
      return await waiter.promise
    } finally {
      signal.removeEventListener('abort', leave)
      waiting.delete(waiter)
      if (waiting.size === 0 && this.#byId.get(id) === waiting) this.#byId.delete(id)
      this.#count -= 1
    }
  }

  tell(run: StoredRun): void {
    for (const waiter of this.#byId.get(run.id) ?? []) waiter.resolve(run)
  }

  /** Asks the log for all that are waited for. */
  async ask(isOwn: (id: string) => boolean): Promise<void> {
    const ids = [...this.#byId.keys()].filter((id) => !isOwn(id))
    for (let from = 0; from < ids.length; from += askedMax) {
      const asked = ids.slice(from, from + askedMax)
      const found = new Map((await this.#log.read(asked)).map((run) => [run.id, run]))
      for (const id of asked) {
        const run = found.get(id)
        if (run === undefined) for (const waiter of this.#byId.get(id) ?? []) waiter.resolve(null)
        else if (run.status !== 'running') this.tell(run)
      }
    }
  }

  async #read(id: string): Promise<StoredRun | null> {
    return (await this.#log.read([id]))[0] ?? null
  }
}
