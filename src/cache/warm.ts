/** Warm-up: loads keys before they are asked for, a few at a time, and says how far it is. */
import { HeadraceError } from '../contracts/errors.ts'
import { pause } from '../std/backoff.ts'
import type { Core } from './core.ts'

export interface WarmProgress {
  readonly done: number
  readonly failed: number
  /** How many keys there are, when the source tells. */
  readonly total: number | null
  readonly perSecond: number
}

export interface WarmOptions {
  /** Loads at once. Default: 8. */
  readonly concurrency?: number
  /** Keys per second at most, to spare the database. Default: no limit. */
  readonly perSecondMax?: number
  readonly onProgress?: (progress: WarmProgress) => void
  readonly signal?: AbortSignal
}

export interface WarmReport extends WarmProgress {
  /** The first errors, by key. */
  readonly errors: readonly { readonly key: string; readonly error: unknown }[]
  readonly ms: number
}

const errorsMax = 10
const concurrencyMax = 1_000

/** Loads all keys of the source. Keys that fail are counted, and do not stop it; an aborted signal does. */
export async function warm(
  get: (key: string, signal: AbortSignal | undefined) => Promise<unknown>,
  keys: Iterable<string> | AsyncIterable<string>,
  options: WarmOptions,
  core: Pick<Core, 'now'>,
): Promise<WarmReport> {
  const { concurrency = 8, perSecondMax = Number.POSITIVE_INFINITY, onProgress, signal } = options
  if (!Number.isSafeInteger(concurrency) || concurrency < 1 || concurrency > concurrencyMax) {
    throw new HeadraceError('option-invalid', `concurrency must be a whole number from 1 to ${concurrencyMax}, not ${String(concurrency)}.`)
  }
  if (!(perSecondMax > 0)) throw new HeadraceError('option-invalid', `perSecondMax must be above 0, not ${String(perSecondMax)}.`)
  const began = core.now()
  const total = Array.isArray(keys) ? keys.length : keys instanceof Set || keys instanceof Map ? keys.size : null
  const errors: { key: string; error: unknown }[] = []
  let taken = 0
  let done = 0
  let failed = 0
  const progress = (): WarmProgress => ({
    done,
    failed,
    total,
    perSecond: Math.round((done + failed) / Math.max((core.now() - began) / 1_000, 0.001)),
  })

  const source = Symbol.asyncIterator in keys ? keys[Symbol.asyncIterator]() : keys[Symbol.iterator]()
  const worker = async (): Promise<void> => {
    while (signal?.aborted !== true) {
      const next = await source.next()
      if (next.done === true) return
      const dueMs = began + (taken++ / perSecondMax) * 1_000 - core.now()
      if (dueMs > 1) await pause(dueMs, signal)
      try {
        await get(next.value, signal)
        done++
      } catch (error) {
        failed++
        if (errors.length < errorsMax) errors.push({ key: next.value, error })
      }
      onProgress?.(progress())
    }
  }
  await Promise.all(Array.from({ length: concurrency }, worker))
  if (signal?.aborted === true) await source.return?.()
  return { ...progress(), errors, ms: core.now() - began }
}
