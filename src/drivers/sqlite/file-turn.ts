/**
 * Writers of one SQLite file in this process take turns, first come, first
 * served. SQLite has one writer; without turns those of one process would poll
 * against each other, and some would wait for ever.
 *
 * The turn belongs to the file, not to the handle: two handles of one file
 * share it. Other processes are waited for by polling, with the turn held.
 */
import { HeadraceError } from '../../contracts/errors.ts'

/** Writers that wait for one file, at most. */
const waitersMax = 10_000

export interface TurnOptions {
  /** The name of the database, for messages. */
  readonly name: string
  /** The global transaction that wants to write; null when none does. */
  readonly gid: string | null
  readonly waitMs: number
  readonly signal?: AbortSignal | undefined
}

interface Waiter {
  readonly gid: string | null
  go(): void
}

interface Line {
  /** The transaction whose turn it is. */
  holder: string | null
  readonly waiting: Set<Waiter>
}

/** By real path; a file that nobody writes to has none. */
const lines = new Map<string, Line>()

/**
 * Resolves when it is the caller's turn, with what ends it. `file` is the real
 * path. Throws 'sql-busy' when it takes longer than `waitMs`, and what the
 * signal says; 'protocol-unavailable' when the same transaction holds the file
 * under another name, since it would wait for itself.
 */
export function takeTurn(file: string, { name, gid, waitMs, signal }: TurnOptions): Promise<() => void> {
  if (signal?.aborted === true) return Promise.reject(givenUp(name, signal))
  const line = lines.get(file)
  if (line === undefined) {
    lines.set(file, { holder: gid, waiting: new Set() })
    return Promise.resolve(once(() => next(file)))
  }
  if (gid !== null && line.holder === gid)
    return Promise.reject(
      new HeadraceError(
        'protocol-unavailable',
        `SQLite '${name}' is the file ${file}, which this transaction uses under another name: name each file once.`,
        { details: { database: name, gid } },
      ),
    )
  if (line.waiting.size >= waitersMax) return Promise.reject(busy(name, `${waitersMax} writers wait for it already`))
  return new Promise((resolve, reject) => {
    const leave = (error: unknown): void => {
      clearTimeout(timer)
      signal?.removeEventListener('abort', onSignal)
      line.waiting.delete(waiter)
      reject(error)
    }
    const onSignal = (): void => leave(givenUp(name, signal))
    const waiter: Waiter = {
      gid,
      go: () => {
        clearTimeout(timer)
        signal?.removeEventListener('abort', onSignal)
        resolve(once(() => next(file)))
      },
    }
    const timer = setTimeout(() => leave(busy(name, `others of this process wrote to it for longer than ${waitMs} ms`)), waitMs)
    signal?.addEventListener('abort', onSignal, { once: true })
    line.waiting.add(waiter)
  })
}

export function busy(name: string, why: string): HeadraceError {
  return new HeadraceError('sql-busy', `SQLite '${name}' has one writer at a time, and ${why}. Try again.`, {
    details: { database: name },
    retryAfterMs: 100,
  })
}

export function givenUp(name: string, signal: AbortSignal | undefined): HeadraceError {
  const reason: unknown = signal?.reason
  if (HeadraceError.is(reason)) return reason
  return new HeadraceError('wait-aborted', `The transaction on SQLite '${name}' was given up by its signal.`, { cause: reason })
}

function next(file: string): void {
  const line = lines.get(file)
  if (line === undefined) return
  const [first] = line.waiting
  if (first === undefined) {
    lines.delete(file)
    return
  }
  line.waiting.delete(first)
  line.holder = first.gid
  first.go()
}

function once(end: () => void): () => void {
  let over = false
  return () => {
    if (over) return
    over = true
    end()
  }
}
