/**
 * A run in the hands of its owner: its state, its journal, and how something of
 * it is called.
 *
 * What must hold:
 * - A record of a call is in the log before the call is made. `note` puts records
 *   in line, `flush` writes what stands there; side by side, one append carries
 *   the records of all.
 * - When an append fails, nobody of this process goes on with the run: what is in
 *   the log is not known, so it is claimed anew, under a higher epoch, and read.
 */
import { setMaxListeners } from 'node:events'
import { HeadraceError } from '../../contracts/errors.ts'
import type { RunWrite, SagaLog, StoredRun } from '../../contracts/saga.ts'
import { tell } from '../../contracts/diagnostics.ts'
import { backoffMs } from '../../std/backoff.ts'
import { crashPoint } from '../../std/crash-point.ts'
import type { TransactionClock } from '../clock.ts'
import type { CallLimits } from './call-options.ts'
import { ParkRun, type RunError, runError, RunLeft, type RunRecord, RunState, StepRefused } from './records.ts'

/** What every call is told. */
export interface CallContext {
  /** The id of the run. */
  readonly id: string
  /** The name of the run to the outside: the same for all of its calls, for ever. */
  readonly gid: string
  /** The name of the step or participant. */
  readonly branch: string
  readonly operation: string
  /** From 1; grows with each call, over restarts too. */
  readonly attempt: number
  /** The same for all attempts of this call, and for no other call. */
  readonly idempotencyKey: string
  /** Aborts when the time of the call is up, or its result is not needed any more. */
  readonly signal: AbortSignal
}

export interface CallSpec {
  readonly branch: string
  readonly operation: string
  readonly limits: CallLimits
  run(context: CallContext): unknown
  /** Ends the attempts; the one under way is told, and waited for within its time. */
  readonly signal?: AbortSignal
}

export type CallEnd =
  | { readonly kind: 'done'; readonly result: unknown }
  | { readonly kind: 'failed'; readonly error: RunError; readonly certain: boolean }

export interface RunParts {
  readonly log: SagaLog
  readonly clock: TransactionClock
  readonly random: () => number
  readonly recordsMax: number
  readonly resultBytesMax: number
  /** Aborts when no call may be begun any more. */
  readonly closing: AbortSignal
}

export class OwnedRun {
  readonly id: string
  readonly gid: string
  readonly kind: string
  readonly name: string
  readonly input: unknown
  /** Milliseconds since 1970. */
  readonly startedAt: number
  readonly state: RunState
  readonly #parts: RunParts
  readonly #epoch: number
  readonly #left = new AbortController()
  #records: number
  #pending: string[] = []
  #flight: Promise<void> | null = null

  /** Throws 'data-corrupt' when the journal cannot be read. */
  constructor(run: StoredRun, records: readonly string[], parts: RunParts) {
    const [kind = '', name = ''] = run.name.split('/')
    this.id = run.id
    this.gid = run.gid
    this.kind = kind
    this.name = name
    this.input = JSON.parse(run.input)
    this.startedAt = run.startedAt
    // Each call of a group listens.
    setMaxListeners(0, this.#left.signal)
    this.state = RunState.of(records)
    this.#parts = parts
    this.#epoch = run.epoch
    this.#records = records.length
  }

  /** Aborts when this process does not own the run any more. */
  get left(): AbortSignal {
    return this.#left.signal
  }

  /** Gives the run up: its calls are aborted, and nothing is written any more. */
  leave(why: RunLeft): void {
    this.#left.abort(why)
  }

  /** Calls back after `ms`, unless it is cancelled. */
  after(ms: number, callback: () => void): { cancel(): void } {
    const stop = new AbortController()
    void this.#parts.clock.pause(ms, stop.signal).then(() => {
      if (!stop.signal.aborted) callback()
    })
    return { cancel: () => stop.abort() }
  }

  /** Puts a record in line; it counts at once for this process, and is durable after `flush`. */
  note(record: RunRecord): void {
    this.state.apply(record)
    this.#pending.push(JSON.stringify(record))
    if (record.kind !== 'decided' || record.decision !== 'back') return
    const { branch, operation, code } = record.error ?? { branch: '', operation: '', code: null }
    this.#tell('turned', { branch, operation }, 0, code, 0)
  }

  /** Resolves when everything noted is in the log. Throws RunLeft. */
  async flush(): Promise<void> {
    // Those who note in the same turn go together.
    await Promise.resolve()
    while (this.#pending.length > 0 || this.#flight !== null) {
      this.left.throwIfAborted()
      this.#flight ??= this.#append().finally(() => {
        this.#flight = null
      })
      await this.#flight
    }
    this.left.throwIfAborted()
  }

  /** Writes what is in line, and the end. */
  async end(status: 'completed' | 'undone' | 'parked', error: RunError | null): Promise<void> {
    if (this.#flight !== null) await this.#flight
    this.left.throwIfAborted()
    if (status === 'parked' && error !== null) this.note({ kind: 'parked', error })
    crashPoint('saga.before-end')
    await this.#append({ status, error: error === null ? null : JSON.stringify(error) })
    crashPoint('saga.after-end')
  }

  /** Calls until it is done, refused, or out of bounds. What the log already knows is not called again. */
  async call(spec: CallSpec): Promise<CallEnd> {
    const { branch, operation, limits } = spec
    let last: unknown = new HeadraceError('saga-failed', `The process died in each of the attempts to call ${operation} of '${branch}'.`)
    for (;;) {
      const { attempts, tries, done, result, failed } = this.state.call(branch, operation)
      if (done) return { kind: 'done', result }
      if (failed !== null) return { kind: 'failed', ...failed }
      if (isOver(spec)) return this.#failed(spec, spec.signal?.reason ?? last, false)
      if (tries > limits.retriesMax) return this.#failed(spec, last, false)
      this.left.throwIfAborted()
      if (this.#parts.closing.aborted) throw new RunLeft('closing')
      const attempt = attempts + 1
      this.#mayNote(branch, operation)
      this.note({ kind: 'call', branch, operation, attempt })
      await this.flush()
      this.#tell('call', spec, attempt, null, 0)
      crashPoint('saga.before-call')
      const begunAt = this.#parts.clock.now()
      const end = await this.#attempt(spec, attempt)
      const ms = this.#parts.clock.now() - begunAt
      crashPoint('saga.after-call')
      if ('value' in end) {
        this.note({ kind: 'done', branch, operation, ...(end.value === undefined ? {} : { result: end.value }) })
        this.#tell('called', spec, attempt, null, ms)
        return { kind: 'done', result: end.value }
      }
      last = end.error
      const refused = StepRefused.is(last)
      const over = refused || (HeadraceError.is(last) && !last.retryable) || tries >= limits.retriesMax || isOver(spec)
      this.#tell(over ? 'failed' : 'retry', spec, attempt, runError(last).code, ms)
      // A refusal proves that nothing was done only if no earlier attempt may have done it.
      if (over) return this.#failed(spec, last, refused && attempt === 1)
      await this.#pause(spec, tries, last)
    }
  }

  async #attempt(spec: CallSpec, attempt: number): Promise<{ readonly value: unknown } | { readonly error: unknown }> {
    const { branch, operation, limits } = spec
    const { clock } = this.#parts
    const stop = new AbortController()
    const over = linked([this.left, spec.signal])
    const left = new Promise<never>((_, reject) => {
      const leave = (): void => reject(this.left.reason as Error)
      if (this.left.aborted) leave()
      this.left.addEventListener('abort', leave, { once: true, signal: stop.signal })
    })
    left.catch(() => undefined)
    try {
      const idempotencyKey = `${this.gid}:${branch}:${operation}`
      const work = (async () =>
        spec.run({ id: this.id, gid: this.gid, branch, operation, attempt, idempotencyKey, signal: over.controller.signal }))().then(
        (value) => this.#checked(value, branch),
        (error: unknown) => ({ error: error ?? new Error('nothing was thrown') }),
      )
      const late = clock.pause(limits.timeoutMs, stop.signal).then(() => {
        const error = new HeadraceError('saga-step-timeout', `${operation} of '${branch}' did not end within ${limits.timeoutMs} ms.`)
        if (!stop.signal.aborted) over.controller.abort(error)
        return { error }
      })
      return await Promise.race([work, late, left])
    } finally {
      stop.abort()
      over.unlink()
    }
  }

  /** A result as it will be read from the log. */
  #checked(value: unknown, branch: string): { readonly value: unknown } | { readonly error: unknown } {
    if (value === undefined) return { value }
    try {
      const text = JSON.stringify(value) as string | undefined
      if (text !== undefined && Buffer.byteLength(text) <= this.#parts.resultBytesMax) return { value: JSON.parse(text) as unknown }
    } catch (error) {
      return { error: new HeadraceError('result-invalid', `The result of '${branch}' cannot be stored as JSON.`, { cause: error }) }
    }
    const limit = this.#parts.resultBytesMax
    return {
      error: new HeadraceError('result-invalid', `The result of '${branch}' is no JSON of at most ${limit} bytes (resultBytesMax).`),
    }
  }

  async #pause(spec: CallSpec, tries: number, error: unknown): Promise<void> {
    const { retryBaseMs, retryMaxMs } = spec.limits
    const asked = HeadraceError.is(error) ? (error.retryAfterMs ?? 0) : 0
    const ms = Math.max(backoffMs(tries, retryBaseMs, retryMaxMs, this.#parts.random), Math.min(asked, retryMaxMs))
    const over = linked([this.left, this.#parts.closing, spec.signal])
    await this.#parts.clock.pause(ms, over.controller.signal)
    over.unlink()
  }

  #failed({ branch, operation }: CallSpec, error: unknown, certain: boolean): CallEnd {
    return { kind: 'failed', error: runError(error, branch, operation), certain }
  }

  #mayNote(branch: string, operation: string): void {
    const { recordsMax } = this.#parts
    if (this.#records + this.#pending.length < recordsMax) return
    const full = new HeadraceError('saga-journal-full', `The run '${this.id}' has ${recordsMax} records (recordsMax).`)
    throw new ParkRun(runError(full, branch, operation))
  }

  async #append(end?: NonNullable<RunWrite['end']>): Promise<void> {
    const records = this.#pending.splice(0)
    crashPoint('saga.before-append')
    try {
      await this.#parts.log.append({
        id: this.id,
        epoch: this.#epoch,
        after: this.#records,
        records,
        ...(end === undefined ? {} : { end }),
      })
    } catch (error) {
      const left = new RunLeft(HeadraceError.is(error) && error.code === 'saga-taken' ? 'taken' : 'log', error)
      this.leave(left)
      throw left
    }
    this.#records += records.length
    crashPoint('saga.after-append')
  }

  #tell(
    event: 'call' | 'called' | 'retry' | 'failed' | 'turned',
    { branch, operation }: Pick<CallSpec, 'branch' | 'operation'>,
    attempt: number,
    code: string | null,
    ms: number,
  ): void {
    tell('headrace:saga', () => ({ kind: this.kind, name: this.name, id: this.id, event, branch, operation, attempt, code, ms }))
  }
}

const isOver = ({ signal }: CallSpec): boolean => signal?.aborted === true

/** Aborts with the first of the signals; `unlink` ends that. (AbortSignal.any keeps what it made alive as long as its sources.) */
function linked(signals: readonly (AbortSignal | undefined)[]): { readonly controller: AbortController; unlink(): void } {
  const controller = new AbortController()
  const links = signals.flatMap((signal) => (signal === undefined ? [] : [{ signal, abort: () => controller.abort(signal.reason) }]))
  for (const { signal, abort } of links) {
    if (signal.aborted) abort()
    signal.addEventListener('abort', abort, { once: true })
  }
  return {
    controller,
    unlink: () => {
      for (const { signal, abort } of links) signal.removeEventListener('abort', abort)
    },
  }
}

/** Waits for all, then throws what the first one threw: nobody is left calling behind the back of the others. */
export async function allSettled<T>(works: readonly Promise<T>[]): Promise<T[]> {
  const ends = await Promise.allSettled(works)
  return ends.map((end) => {
    if (end.status === 'rejected') throw end.reason
    return end.value
  })
}
