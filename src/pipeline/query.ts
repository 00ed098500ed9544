/** A query: one kind of read, outside of any transaction, on committed data. */
import type { StandardSchemaV1 } from '@standard-schema/spec'
import { checkWhole } from '../contracts/bounds.ts'
import type { DatabaseHandle, ReadDatabase } from '../contracts/database.ts'
import { HeadraceError } from '../contracts/errors.ts'
import { checkDatabases, checkName, type Handles } from './command.ts'
import { checkOptions, limitTable } from './options.ts'

export interface QueryDefinition<Schema extends StandardSchemaV1, H extends Handles, Result> {
  /** The shape of the input: any Standard Schema. Over HTTP it comes from the query string, so its fields are strings unless coerced. */
  readonly input: Schema
  readonly databases?: H
  /**
   * With a key the answer is cached under it: a command that names the key in
   * its `invalidates` lets it fall before its outcome goes out. Without, every
   * query reads the databases. 1 to 512 bytes, unique over all queries of the app.
   */
  readonly key?: (input: StandardSchemaV1.InferOutput<Schema>) => string
  /** How long a cached answer may stand at most, for changes made by other programs, in milliseconds. Default: 60,000. */
  readonly ttlMs?: number
  /** One line for /openapi.json. */
  readonly summary?: string
  /** Longest time, in milliseconds. Default: the app's queryTimeoutMs. */
  readonly timeoutMs?: number
  /** Reads the answer; plain data that JSON can hold. */
  readonly load: (
    input: StandardSchemaV1.InferOutput<Schema>,
    databases: { readonly [K in keyof H]: ReadDatabase },
  ) => Promise<Result> | Result
}

export interface Query<Name extends string = string, Input = never, Output = unknown, Result = unknown> {
  readonly kind: 'query'
  readonly name: Name
  readonly definition: QueryDefinition<StandardSchemaV1<Input, Output>, Handles, unknown>
  /** Types only; never present. */
  readonly types?: { readonly input: Input; readonly output: Output; readonly result: Result }
}

/** Any query, whatever its types. */
// biome-ignore lint/suspicious/noExplicitAny: the one place where the types of a query are forgotten
export type AnyQuery = Query<string, any, any, any>

/** Life of a cached answer whose query does not say, in milliseconds: the default of the cache. */
export const answerTtlMs = 60_000
/** Longest life of a cached answer, in milliseconds: a year. */
const ttlMsMax = 365 * 86_400_000

/** Defines a query. Throws 'app-invalid' when the definition is not complete. */
export function query<
  const Name extends string,
  Schema extends StandardSchemaV1,
  Result,
  H extends Handles = Record<never, DatabaseHandle>,
>(
  name: Name,
  definition: QueryDefinition<Schema, H, Result>,
): Query<Name, StandardSchemaV1.InferInput<Schema>, StandardSchemaV1.InferOutput<Schema>, Result>
export function query(name: string, definition: QueryDefinition<StandardSchemaV1, Handles, unknown>): AnyQuery {
  checkName('query', name)
  checkOptions(`query '${name}'`, definition, ['input', 'databases', 'key', 'ttlMs', 'summary', 'timeoutMs', 'load'])
  if (typeof definition.input?.['~standard']?.validate !== 'function') {
    throw new HeadraceError('app-invalid', `Query '${name}' has no input schema: give a Standard Schema, such as z.object({ … }).`)
  }
  if (definition.ttlMs !== undefined && definition.key === undefined) {
    throw new HeadraceError(
      'app-invalid',
      `Query '${name}' has a ttlMs but no key: give key: (input) => '…', under which its answer is cached.`,
    )
  }
  const { databases, timeoutMs, ttlMs, key } = definition
  checkDatabases(`query '${name}'`, databases)
  if (timeoutMs !== undefined)
    checkWhole(`timeoutMs of query '${name}'`, timeoutMs, limitTable.queryTimeoutMs.min, limitTable.queryTimeoutMs.max)
  if (ttlMs !== undefined) checkWhole(`ttlMs of query '${name}'`, ttlMs, 1, ttlMsMax)
  if (key !== undefined && typeof key !== 'function')
    throw new HeadraceError('option-invalid', `key of query '${name}' must be a function.`)
  if (typeof definition.load !== 'function') {
    throw new HeadraceError('app-invalid', `Query '${name}' has no load function.`)
  }
  return Object.freeze({ kind: 'query', name, definition: Object.freeze(definition) })
}
