/**
 * Runs queries: input checked, time and number bounded, on committed data; with
 * a key, through the cache.
 */
import type { Cache } from '../cache/index.ts'
import type { ReadDatabase } from '../contracts/database.ts'
import { tell } from '../contracts/diagnostics.ts'
import { HeadraceError } from '../contracts/errors.ts'
import type { Ledger } from '../contracts/ledger.ts'
import { nearest } from '../contracts/nearest.ts'
import { abortable } from './door.ts'
import type { Limits } from './options.ts'
import { type AnyQuery, answerTtlMs } from './query.ts'
import { validated } from './validate.ts'
import { withinTime } from './within-time.ts'

export class QueryRunner {
  readonly #app: string
  readonly #queries: ReadonlyMap<string, AnyQuery>
  readonly #ledger: Ledger
  readonly #limits: Limits
  readonly #cache: Cache
  #running = 0

  constructor(app: string, queries: ReadonlyMap<string, AnyQuery>, ledger: Ledger, limits: Limits, cache: Cache) {
    this.#app = app
    this.#queries = queries
    this.#ledger = ledger
    this.#limits = limits
    this.#cache = cache
  }

  /** Throws 'query-unknown', 'input-invalid', 'overloaded', 'query-timeout', 'query-failed', 'wait-aborted'. */
  async ask(name: string, input: unknown, signal: AbortSignal | undefined): Promise<unknown> {
    const query = this.#query(name)
    const value = await validated(
      `query '${name}'`,
      query.definition.input,
      input,
      query.definition.timeoutMs ?? this.#limits.queryTimeoutMs,
    )
    if (this.#running >= this.#limits.queriesMax)
      throw new HeadraceError(
        'overloaded',
        `${this.#running} queries are running; queriesMax is ${this.#limits.queriesMax}. Ask again after the pause.`,
        { retryAfterMs: 1_000 },
      )
    return abortable(this.#counted(query, value), signal)
  }

  /** Counts as running until it ends, also when its caller has left before. */
  async #counted(query: AnyQuery, value: unknown): Promise<unknown> {
    const startedAt = performance.now()
    this.#running += 1
    let ok = false
    try {
      const answer = await this.#answer(query, value)
      ok = true
      return answer
    } finally {
      this.#running -= 1
      tell('headrace:query', () => ({ app: this.#app, query: query.name, ms: performance.now() - startedAt, ok }))
    }
  }

  async #answer(query: AnyQuery, value: unknown): Promise<unknown> {
    const { key, ttlMs, timeoutMs } = query.definition
    if (key === undefined) return this.#load(query, value)
    const limitMs = timeoutMs ?? this.#limits.queryTimeoutMs
    return this.#cache.get(key(value), () => this.#load(query, value), {
      hardTimeoutMs: limitMs,
      loadTimeoutMs: limitMs,
      ttlMs: ttlMs ?? answerTtlMs,
    })
  }

  async #load(query: AnyQuery, value: unknown): Promise<unknown> {
    const databases: Record<string, ReadDatabase> = {}
    for (const [name, handle] of Object.entries(query.definition.databases ?? {})) databases[name] = this.#ledger.reader(handle.name)
    try {
      return await withinTime(
        `query '${query.name}'`,
        query.definition.timeoutMs ?? this.#limits.queryTimeoutMs,
        () => query.definition.load(value, databases as never),
        'query-timeout',
      )
    } catch (error) {
      if (HeadraceError.is(error)) throw error
      throw new HeadraceError('query-failed', `Query '${query.name}' failed: ${error instanceof Error ? error.message : String(error)}`, {
        cause: error,
      })
    }
  }

  #query(name: string): AnyQuery {
    const query = this.#queries.get(name)
    if (query !== undefined) return query
    const proposal = nearest(name, [...this.#queries.keys()])
    throw new HeadraceError(
      'query-unknown',
      `There is no query ${JSON.stringify(name.slice(0, 80))}${proposal === null ? '' : `; did you mean '${proposal}'?`}`,
    )
  }
}
