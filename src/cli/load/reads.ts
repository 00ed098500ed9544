/**
 * The queries of a load run: their parameters, drawn by the same source as the
 * inputs of the commands or by one of their own, and how often each was drawn.
 */
import { CliError, exitCodes } from '../exit.ts'
import type { DrawnCounts } from './cache-figures.ts'
import { ExpressionError } from './expression.ts'
import type { DescribedQuery } from './probe.ts'
import type { NextInput } from './source.ts'

/** Keys that are counted; with more of them nothing is predicted. */
const keysMax = 500_000

export class Reads {
  readonly #query: DescribedQuery
  readonly #source: NextInput
  readonly #counts = new Map<string, { reads: number; writes: number }>()
  #overflown = false

  /** `source` gives the input of query `index`: that of a command, of which the query takes its parameters, or its own. */
  constructor(query: DescribedQuery, source: NextInput) {
    this.#query = query
    this.#source = source
  }

  /** The parameters of query `index`, as they stand in its address; null when there are no more. */
  next(index: number): string | null | Promise<string | null> {
    const input = this.#source(index)
    return input instanceof Promise ? input.then((text) => this.#read(text)) : this.#read(input)
  }

  #read(input: string | null): string | null {
    if (input === null) return null
    const search = this.#searchOf(input)
    if (search === null)
      throw new CliError(
        exitCodes.usage,
        'query-parameters',
        `An input has not what '${this.#query.name}' needs: ${(this.#query.required ?? []).join(', ')}.`,
        `Give --query-input, such as '${example(this.#query)}'.`,
      )
    this.#count(search, 'reads')
    return search
  }

  /** A command goes out: when its input has the parameters of the query, it writes what the query reads. */
  wrote(input: string): void {
    if (this.#overflown) return
    const search = this.#searchOf(input)
    if (search !== null) this.#count(search, 'writes')
  }

  /** How often each key was drawn; null when there were too many. */
  get drawn(): readonly DrawnCounts[] | null {
    return this.#overflown ? null : [...this.#counts.values()]
  }

  #count(search: string, what: 'reads' | 'writes'): void {
    const known = this.#counts.get(search)
    if (known !== undefined) known[what] += 1
    else if (this.#counts.size < keysMax) this.#counts.set(search, { reads: 0, writes: 0, [what]: 1 })
    else this.#overflown = true
  }

  /** Null when a parameter that the query needs is missing. */
  #searchOf(input: string): string | null {
    const { parameters, required } = this.#query
    const document: unknown = JSON.parse(input)
    if (typeof document !== 'object' || document === null || Array.isArray(document))
      throw new ExpressionError('the input of a query is an object: {"sku":"s{zipf(100)}"}')
    const given = document as Readonly<Record<string, unknown>>
    if (required?.some((name) => given[name] === undefined || given[name] === null) === true) return null
    const search = new URLSearchParams()
    for (const name of parameters ?? Object.keys(given)) {
      const value = given[name]
      for (const each of Array.isArray(value) ? (value as unknown[]) : [value]) {
        if (each === undefined || each === null) continue
        if (typeof each === 'object')
          throw new ExpressionError(`the parameter ${name} of a query is text or a number, not ${JSON.stringify(each)}`)
        search.append(name, String(each as string | number | boolean))
      }
    }
    return search.toString()
  }
}

function example({ required, parameters }: DescribedQuery): string {
  const names = required ?? parameters ?? ['sku']
  return JSON.stringify(Object.fromEntries(names.map((name) => [name, `${name}-{zipf(100)}`])))
}
