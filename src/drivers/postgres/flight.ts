/**
 * Several statements with parameters in one message: parsed where that is still
 * needed, bound and executed one after the other, with one Sync at the end. The
 * server stops at the first that fails and answers all of them at once, so a
 * transaction costs as many round trips as its caller waits.
 *
 * https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-EXT-QUERY
 *
 * The client of `pg` takes one statement per query. Its class Query is told what
 * the server answers, and copes with several results, so a subclass of it sends
 * the message.
 */
import type { PoolClient } from 'pg'
import type { Row } from '../../contracts/database.ts'
import type { PreparedStatements, Use } from './prepared.ts'
import { columnTypes } from './values.ts'

export interface Result {
  readonly command: string
  readonly rowCount: number | null
  readonly rows: Row[]
}

/** One statement of a message. */
export interface Part {
  readonly text: string
  readonly values: readonly (string | Buffer | null)[]
  /** Whether it may be kept parsed on the connection: not for texts that hold values. */
  readonly keep: boolean
  /** Whether it may return rows. */
  readonly rows: boolean
}

/** The part of the connection of `pg` that is used here. */
interface Wire {
  readonly stream: { cork(): void; uncork(): void }
  parse(message: { readonly name: string; readonly text: string }): void
  bind(message: { readonly statement: string; readonly values: readonly (string | Buffer | null)[] }): void
  describe(message: { readonly type: 'P'; readonly name: string }): void
  execute(message: undefined): void
  close(message: { readonly type: 'S'; readonly name: string }): void
  sync(): void
}

type Done = (error: Error | null, results?: Result | Result[]) => void
type QueryClass = new (
  text: string,
  values: undefined,
  callback: Done,
) => { readonly _result: { _types: unknown }; submit(wire: Wire): Error | null }
type FlightClass = new (parts: readonly Part[], uses: readonly Use[], unused: readonly string[], done: Done) => object

/** By the class Query that they extend: an app may have several versions of `pg`. */
const classes = new WeakMap<QueryClass, FlightClass>()

/** Null: the client is of another kind, and takes one statement at a time. */
export function flightClassOf(client: PoolClient): FlightClass | null {
  const { Query } = client.constructor as { readonly Query?: QueryClass }
  const { connection } = client as unknown as { readonly connection?: Partial<Wire> }
  if (typeof Query !== 'function' || typeof connection?.parse !== 'function') return null
  const known = classes.get(Query)
  if (known !== undefined) return known
  const made = extend(Query)
  classes.set(Query, made)
  return made
}

function extend(Query: QueryClass): FlightClass {
  return class Flight extends Query {
    readonly #parts: readonly Part[]
    readonly #uses: readonly Use[]
    readonly #unused: readonly string[]

    constructor(parts: readonly Part[], uses: readonly Use[], unused: readonly string[], done: Done) {
      super('several statements', undefined, done)
      this._result._types = columnTypes
      this.#parts = parts
      this.#uses = uses
      this.#unused = unused
    }

    override submit(wire: Wire): null {
      wire.stream.cork()
      try {
        for (const name of this.#unused) wire.close({ type: 'S', name })
        for (const [index, { text, values, rows }] of this.#parts.entries()) {
          const { name, parse } = this.#uses[index] as Use
          if (parse) wire.parse({ name, text })
          wire.bind({ statement: name, values })
          if (rows) wire.describe({ type: 'P', name: '' })
          wire.execute(undefined)
        }
        wire.sync()
      } finally {
        wire.stream.uncork()
      }
      return null
    }
  }
}

/** Sends the parts as one message; resolves with a result for each. */
export async function fly(
  client: PoolClient,
  Flight: FlightClass,
  prepared: PreparedStatements,
  parts: readonly Part[],
): Promise<Result[]> {
  const unused = prepared.unused
  const uses = parts.map(({ text, keep }) => (keep ? prepared.use(text) : { name: '', parse: true, kept: null }))
  const closing = [...new Set([...unused, ...prepared.unused])]
  try {
    const results = await new Promise<Result | Result[]>((resolve, reject) => {
      const done: Done = (error, given) => (error === null ? resolve(given ?? []) : reject(error))
      client.query(new Flight(parts, uses, closing, done) as never)
    })
    prepared.confirm(uses)
    prepared.closed(closing)
    return Array.isArray(results) ? results : [results]
  } catch (error) {
    prepared.doubt(uses)
    throw error
  }
}
