/**
 * A command: one kind of write. Written in one of two forms.
 *
 * - `load / decide / save`, the fast form: load and save run once per batch,
 *   decide once per command, in order of position per key.
 * - `run`, the simple form: one command at a time in the transaction of the
 *   batch, inside a savepoint, so that a rejection undoes only itself.
 */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { checkWhole } from '../contracts/bounds.ts'
import type { Database, DatabaseHandle } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { MessageHeaders } from '../contracts/queue.ts'
import { checkOptions, limitTable } from './options.ts'

export interface Accepted<Result> {
  readonly accepted: true
  readonly result: Result
  /** Published if and only if the command commits. */
  readonly events?: readonly EmittedEvent[]
}

/** What a command emits when it is accepted. */
export interface EmittedEvent {
  /** One of the topics that the app declares in `events`. */
  readonly topic: string
  /** Anything that JSON can hold. */
  readonly message: unknown
  /** What orders it. Default: the key of the command. */
  readonly key?: string
  /** Attributes of CloudEvents and the like: texts by lower-case name. */
  readonly headers?: MessageHeaders
}

export interface AcceptOptions {
  readonly emit?: readonly EmittedEvent[]
}

export interface Rejected<Code extends string> {
  readonly accepted: false
  readonly code: Code
  readonly detail: string | undefined
}
export type Decision = Accepted<unknown> | Rejected<string>

/**
 * The command takes effect; `result` goes into its outcome, as JSON. What it
 * emits is published once it has committed, to topics that the app declares in
 * `events`.
 */
export function accept(): Accepted<null>
export function accept<Result>(result: Result, options?: AcceptOptions): Accepted<Result>
export function accept(result: unknown = null, { emit }: AcceptOptions = {}): Accepted<unknown> {
  return emit === undefined ? { accepted: true, result } : { accepted: true, result, events: emit }
}

/** The command is refused by the rules of the business; it leaves nothing but its outcome. `code` is for programs, `detail` for people. */
export function reject<Code extends string>(code: Code, detail?: string): Rejected<Code> {
  return { accepted: false, code, detail }
}

/** A command in the hands of the app. */
export interface Submitted<Input> {
  readonly input: Input
  /** The caller's id (Idempotency-Key), unique per tenant and command. */
  readonly id: string
  readonly key: string
  readonly tenant: string
  /** Grows with every command of the partition; a good version for what it writes. */
  readonly position: number
  /** When it was accepted, in milliseconds since 1970: the clock that decide() may use. */
  readonly acceptedAt: number
}

export interface Applied<Input, Result> extends Submitted<Input> {
  readonly result: Result
}

export type Handles = Readonly<Record<string, DatabaseHandle>>
export type Databases<H extends Handles> = { readonly [K in keyof H]: Database }

/** What happens to the key of a command that was dead-lettered. */
export type OnDeadLetter = 'skip' | 'block'

export interface CommandOptions<Schema extends StandardSchemaV1, H extends Handles> {
  /** The shape of the input: any Standard Schema (zod, valibot, arktype …). */
  readonly input: Schema
  /** What orders commands: the same key is applied strictly in order. 1 to 512 bytes. */
  readonly key: (input: StandardSchemaV1.InferOutput<Schema>) => string | number
  /** The databases it changes; all of them or none. */
  readonly databases?: H
  /** One line for /openapi.json. */
  readonly summary?: string
  /** How often a command that fails alone is tried again before it is dead-lettered, at most 1000. Default: 3. */
  readonly retries?: number
  /** What becomes of later commands of its key. Default: 'skip', they go on. */
  readonly onDeadLetter?: OnDeadLetter
  /** Longest time for load, save or run, in milliseconds. Default: the app's handlerTimeoutMs. */
  readonly timeoutMs?: number
  /** Keys of queries whose cached answers this command makes old, as the `key` of the query builds them. They fall before the outcome goes out. */
  readonly invalidates?: (input: StandardSchemaV1.InferOutput<Schema>) => readonly string[]
}

export interface BatchHandlers<Input, H extends Handles, State, Answer extends Decision> {
  /** Once per batch: reads what the whole batch needs to know. */
  readonly load: (batch: readonly Submitted<Input>[], databases: Databases<H>) => Promise<State> | State
  /**
   * Once per command, in order: accept or reject, and on accept move `state` on
   * for the commands that follow. Pure: no I/O, no clock, no randomness; reject
   * before the first change.
   */
  readonly decide: (state: State, input: Input, command: Submitted<Input>) => Answer
  /** Once per batch that has an accepted command: writes all changes, as sets of rows. */
  readonly save: (state: State, accepted: readonly Applied<Input, ResultOf<Answer>>[], databases: Databases<H>) => Promise<void> | void
}

export interface RunContext<Input, H extends Handles> extends Submitted<Input> {
  readonly databases: Databases<H>
  /** Aborts when the command has run out of time. */
  readonly signal: AbortSignal
}

export interface RunHandler<Input, H extends Handles, Answer extends Decision> {
  /** Runs one command; what it changed is undone when it rejects or throws. */
  readonly run: (context: RunContext<Input, H>) => Promise<Answer> | Answer
}

export type ResultOf<Answer> = Answer extends Accepted<infer Result> ? Result : never
export type CodeOf<Answer> = Answer extends Rejected<infer Code> ? Code : never

/** A command as an app registers it. The type parameters carry its input, result and rejection codes. */
export interface Command<Name extends string = string, Input = never, Output = unknown, Result = unknown, Code extends string = string> {
  readonly kind: 'command'
  readonly name: Name
  readonly options: CommandOptions<StandardSchemaV1<Input, Output>, Handles>
  readonly handlers: BatchHandlers<Output, Handles, unknown, Decision> | RunHandler<Output, Handles, Decision>
  /** Types only; never present. */
  readonly types?: { readonly input: Input; readonly output: Output; readonly result: Result; readonly code: Code }
}

/** Any command, whatever its types. */
// biome-ignore lint/suspicious/noExplicitAny: the one place where the types of a command are forgotten
export type AnyCommand = Command<string, any, any, any, any>

const namePattern = /^[a-z][a-z0-9]*(?:[._-][a-z0-9]+)*$/

export function checkName(what: string, name: string): void {
  if (name.length > 64 || !namePattern.test(name)) {
    throw new HeadraceError(
      'app-invalid',
      `The ${what} name ${JSON.stringify(name)} is not valid: use up to 64 lower-case letters and digits, with dots, dashes or underscores between them.`,
    )
  }
}

/**
 * Defines a command with load / decide / save.
 *
 * Throws 'app-invalid' when the definition is not complete.
 */
export function command<
  const Name extends string,
  Schema extends StandardSchemaV1,
  State,
  Answer extends Decision,
  H extends Handles = Record<never, DatabaseHandle>,
>(
  name: Name,
  definition: CommandOptions<Schema, H> & BatchHandlers<StandardSchemaV1.InferOutput<Schema>, H, State, Answer>,
): Command<Name, StandardSchemaV1.InferInput<Schema>, StandardSchemaV1.InferOutput<Schema>, ResultOf<Answer>, CodeOf<Answer>>
/** Defines a command with `run`. */
export function command<
  const Name extends string,
  Schema extends StandardSchemaV1,
  Answer extends Decision,
  H extends Handles = Record<never, DatabaseHandle>,
>(
  name: Name,
  definition: CommandOptions<Schema, H> & RunHandler<StandardSchemaV1.InferOutput<Schema>, H, Answer>,
): Command<Name, StandardSchemaV1.InferInput<Schema>, StandardSchemaV1.InferOutput<Schema>, ResultOf<Answer>, CodeOf<Answer>>
export function command(
  name: string,
  definition: CommandOptions<StandardSchemaV1, Handles> &
    Partial<BatchHandlers<unknown, Handles, unknown, Decision> & RunHandler<unknown, Handles, Decision>>,
): AnyCommand {
  checkName('command', name)
  const { load, decide, save, run, ...options } = definition
  checkOptions(`command '${name}'`, options, commandOptionNames)
  if (typeof options.input?.['~standard']?.validate !== 'function') {
    throw new HeadraceError('app-invalid', `Command '${name}' has no input schema: give a Standard Schema, such as z.object({ … }).`)
  }
  if (typeof options.key !== 'function') {
    throw new HeadraceError(
      'app-invalid',
      `Command '${name}' has no key: give key: (input) => input.…, which says what must stay in order.`,
    )
  }
  checkCommandOptions(name, options)
  for (const [handler, given] of Object.entries({ load, decide, save, run })) {
    if (given !== undefined && typeof given !== 'function')
      throw new HeadraceError('app-invalid', `The ${handler} of command '${name}' is no function.`)
  }
  if (run !== undefined && load === undefined && decide === undefined && save === undefined) {
    return Object.freeze({ kind: 'command', name, options: Object.freeze(options), handlers: { run } })
  }
  if (run === undefined && load !== undefined && decide !== undefined && save !== undefined) {
    return Object.freeze({ kind: 'command', name, options: Object.freeze(options), handlers: { load, decide, save } })
  }
  throw new HeadraceError('app-invalid', `Command '${name}' needs either run, or all of load, decide and save.`)
}

function checkCommandOptions(
  name: string,
  { databases, retries, timeoutMs, onDeadLetter, invalidates }: Partial<CommandOptions<StandardSchemaV1, Handles>>,
): void {
  checkDatabases(`command '${name}'`, databases)
  if (retries !== undefined) checkWhole(`retries of command '${name}'`, retries, 0, retriesMax)
  if (timeoutMs !== undefined)
    checkWhole(`timeoutMs of command '${name}'`, timeoutMs, limitTable.handlerTimeoutMs.min, limitTable.handlerTimeoutMs.max)
  if (onDeadLetter !== undefined && onDeadLetter !== 'skip' && onDeadLetter !== 'block') {
    throw new HeadraceError(
      'option-invalid',
      `onDeadLetter of command '${name}' must be 'skip' or 'block', not ${JSON.stringify(onDeadLetter)}.`,
    )
  }
  if (invalidates !== undefined && typeof invalidates !== 'function')
    throw new HeadraceError('option-invalid', `invalidates of command '${name}' must be a function.`)
}

/** Throws 'app-invalid' when something else than handles of databases was given. */
export function checkDatabases(owner: string, databases: Handles | undefined): void {
  if (databases === undefined) return
  for (const [name, handle] of Object.entries(databases)) {
    if ((handle as DatabaseHandle | null | undefined)?.kind !== 'database')
      throw new HeadraceError(
        'app-invalid',
        `'${name}' of the databases of ${owner} is no database: give what sqlite('…') and its like return.`,
      )
  }
}

/** Most tries of a command that fails alone. */
const retriesMax = 1_000

const commandOptionNames = ['input', 'key', 'databases', 'summary', 'retries', 'onDeadLetter', 'timeoutMs', 'invalidates']
