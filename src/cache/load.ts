/** What the code of the user sees of a load. */

export interface LoadContext {
  readonly key: string
  /** The version that the value must have at least; 0 when nothing is known. A load that would read from a replica behind it should read from the primary. */
  readonly floor: number
  /** Aborts when the load has run out of time, or the cache is closed. */
  readonly signal: AbortSignal
}

/** A value and the version it was read at. */
export class Versioned<T> {
  readonly value: T
  readonly version: number

  constructor(value: T, version: number) {
    this.value = value
    this.version = version
  }
}

/**
 * Says at which version a value was read: `return versioned(row, row.position)`.
 * A load that does not say is taken to have read at the floor of the moment it began.
 */
export function versioned<T>(value: T, version: number): Versioned<T> {
  return new Versioned(value, version)
}

export type Load<T> = (context: LoadContext) => Promise<T | Versioned<T>> | T | Versioned<T>

export interface LoadManyContext {
  /** For each key the version that its value must have at least. */
  readonly floors: ReadonlyMap<string, number>
  /** Aborts when the load has run out of time, or the cache is closed. */
  readonly signal: AbortSignal
}

/** Loads several keys at once. What the answer leaves out does not exist. */
export type LoadMany<T> = (
  keys: readonly string[],
  context: LoadManyContext,
) => Promise<ReadonlyMap<string, T | Versioned<T>>> | ReadonlyMap<string, T | Versioned<T>>
