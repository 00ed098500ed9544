/**
 * The journal of a run, and what it tells.
 *
 * Before anything is called, a record says so; what is not in the journal was
 * not called. Read from the start, the records give the state of the run: which
 * calls were begun, which ended and how, and what was decided. Nothing else is
 * kept, so any process goes on from where the journal ends.
 */
import { HeadraceError } from '../../contracts/errors.ts'

/** Why something failed, as it is kept. */
export interface RunError {
  /** The step or participant; empty when it was the run as a whole. */
  readonly branch: string
  readonly operation: string
  readonly code: string
  readonly message: string
}

export type Decision = 'forward' | 'back'

export type RunRecord =
  /** Is about to be called; the answer may never be known. */
  | { readonly kind: 'call'; readonly branch: string; readonly operation: string; readonly attempt: number }
  | { readonly kind: 'done'; readonly branch: string; readonly operation: string; readonly result?: unknown }
  /** Will not be called again. `certain`: it is known that the call had no effect. */
  | { readonly kind: 'failed'; readonly branch: string; readonly operation: string; readonly error: RunError; readonly certain: boolean }
  /** From here on there is one way only. */
  | { readonly kind: 'decided'; readonly decision: Decision; readonly error?: RunError }
  | { readonly kind: 'parked'; readonly error: RunError }
  /** `at`: milliseconds since 1970, for people. */
  | { readonly kind: 'redriven'; readonly at?: number }

export interface CallState {
  /** All that were begun. */
  readonly attempts: number
  /** Those since the last redrive: what bounds are counted in. */
  readonly tries: number
  readonly done: boolean
  readonly result: unknown
  /** Set when it will not be called again. */
  readonly failed: { readonly error: RunError; readonly certain: boolean } | null
}

const untouched: CallState = Object.freeze({ attempts: 0, tries: 0, done: false, result: undefined, failed: null })

const messageLengthMax = 500

export class RunState {
  readonly #calls = new Map<string, CallState>()
  #decision: Decision | null = null
  #error: RunError | null = null

  /** What the journal of a run tells. Throws 'data-corrupt' when it cannot be read. */
  static of(records: readonly string[]): RunState {
    const state = new RunState()
    for (const text of records) state.apply(parseRecord(text))
    return state
  }

  get decision(): Decision | null {
    return this.#decision
  }

  /** Why the run went back. */
  get error(): RunError | null {
    return this.#error
  }

  /** What was ever called, as branch and operation. */
  get called(): { readonly branch: string; readonly operation: string }[] {
    return [...this.#calls.keys()].map((key) => {
      const [branch = '', operation = ''] = key.split('/')
      return { branch, operation }
    })
  }

  call(branch: string, operation: string): CallState {
    return this.#calls.get(`${branch}/${operation}`) ?? untouched
  }

  /** Whether the call may have had an effect: it was begun, and nobody knows that it had none. */
  maybe(branch: string, operation: string): boolean {
    const { attempts, failed } = this.call(branch, operation)
    return attempts > 0 && failed?.certain !== true
  }

  apply(record: RunRecord): void {
    switch (record.kind) {
      case 'call': {
        const call = this.call(record.branch, record.operation)
        this.#set(record, { ...call, attempts: record.attempt, tries: call.tries + 1 })
        break
      }
      case 'done':
        this.#set(record, { ...this.call(record.branch, record.operation), done: true, result: record.result })
        break
      case 'failed':
        this.#set(record, {
          ...this.call(record.branch, record.operation),
          failed: { error: record.error, certain: record.certain },
        })
        break
      case 'decided':
        this.#decision ??= record.decision
        this.#error ??= record.error ?? null
        break
      case 'redriven':
        for (const [key, call] of this.#calls) this.#calls.set(key, { ...call, tries: 0 })
        break
      case 'parked':
        break
    }
  }

  #set({ branch, operation }: { readonly branch: string; readonly operation: string }, call: CallState): void {
    this.#calls.set(`${branch}/${operation}`, call)
  }
}

/** Throws 'data-corrupt'. */
export function parseRecord(text: string): RunRecord {
  try {
    return JSON.parse(text) as RunRecord
  } catch (error) {
    throw new HeadraceError('data-corrupt', `A record of a run cannot be read: ${text.slice(0, 80)}`, { cause: error })
  }
}

/** Any error in the words of a record. */
export function runError(error: unknown, branch = '', operation = ''): RunError {
  const code = codeOf(error)
  const message = error instanceof Error ? error.message : String(error)
  return { branch, operation, code, message: message.slice(0, messageLengthMax) }
}

function codeOf(error: unknown): string {
  if (StepRefused.is(error)) return error.code
  return HeadraceError.is(error) ? error.code : 'saga-failed'
}

const codePattern = /^[a-z0-9][a-z0-9-]{0,63}$/

/**
 * Thrown by a step or a try that says no, for good, and has changed nothing:
 * `throw new StepRefused('sold-out', 'There is no seat left.')`. It is not
 * called again, and need not be undone.
 */
export class StepRefused extends Error {
  /** Lower-case letters, digits and dashes, at most 64. */
  readonly code: string

  constructor(code: string, message?: string) {
    super(message ?? code)
    if (!codePattern.test(code))
      throw new HeadraceError(
        'saga-invalid',
        `The code ${JSON.stringify(code)} of a refusal must be lower-case letters, digits and dashes.`,
      )
    this.name = 'StepRefused'
    this.code = code
  }

  /** By its shape, so that two copies of the package in one process understand each other. */
  static is(error: unknown): error is StepRefused {
    return error instanceof Error && error.name === 'StepRefused' && 'code' in error && typeof error.code === 'string'
  }
}

/** Ends the work on a run until a person redrives it. */
export class ParkRun extends Error {
  readonly error: RunError

  constructor(error: RunError) {
    super(error.message)
    this.name = 'ParkRun'
    this.error = error
  }
}

/**
 * This process works on the run no longer: it has another owner (`taken`), the
 * log does not answer (`log`), or the process is closing (`closing`).
 */
export class RunLeft extends Error {
  readonly why: 'taken' | 'log' | 'closing'

  constructor(why: RunLeft['why'], cause?: unknown) {
    super(`The run was left: ${why}`, { cause })
    this.name = 'RunLeft'
    this.why = why
  }
}
