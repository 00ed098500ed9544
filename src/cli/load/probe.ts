/** Looks at the target once before a run, so that ten thousand requests do not fail for one reason. */
import { nearest } from '../../contracts/nearest.ts'
import { CliError, exitCodes } from '../exit.ts'
import { parseObject } from './answer.ts'
import type { Transport } from './transport.ts'

/** A query as the node describes it. */
export interface DescribedQuery {
  readonly name: string
  /** Names of its parameters; null when the node does not tell. */
  readonly parameters: readonly string[] | null
  readonly required: readonly string[] | null
  /** How long an answer of it is cached, in milliseconds; null when it is not, or the node does not tell. */
  readonly ttlMs: number | null
}

interface Wanted {
  readonly command: string | null
  readonly query: string | null
}

type Paths = Readonly<Record<string, { readonly get?: Readonly<Record<string, unknown>> }>>

/** The query as described; null when none is wanted. Throws 'node-unreachable' when nothing answers there, 'command-unknown' and 'query-unknown'. */
export async function probe(transport: Transport, url: string, { command, query }: Wanted): Promise<DescribedQuery | null> {
  const reply = await transport.send('GET', '/openapi.json', [], null).catch((error: unknown) => {
    const { code, message } = error as NodeJS.ErrnoException
    throw new CliError(
      exitCodes.unavailable,
      'node-unreachable',
      `Cannot reach ${url}: ${code ?? message}.`,
      'Start the node (headrace start app.ts), or name its address: --url http://…',
    )
  })
  const described = parseObject(reply.body)?.['paths']
  // A node behind something that hides the description is taken as it is.
  const paths = reply.status === 200 && typeof described === 'object' && described !== null ? (described as Paths) : {}
  if (command !== null) mustHave(url, 'command', paths, command)
  if (query === null) return null
  mustHave(url, 'query', paths, query)
  return describedQuery(query, paths[`/queries/${query}`]?.get)
}

function mustHave(url: string, what: 'command' | 'query', paths: Paths, name: string): void {
  const place = what === 'command' ? '/commands/' : '/queries/'
  const known = Object.keys(paths)
    .filter((path) => path.startsWith(place))
    .map((path) => path.slice(place.length))
  if (known.includes(name) || (known.length === 0 && Object.keys(paths).length === 0)) return
  const proposal = nearest(name, known)
  throw new CliError(
    exitCodes.usage,
    `${what}-unknown`,
    `${url} has no ${what} '${name}'${proposal === null ? '' : `; did you mean '${proposal}'?`}`,
    known.length === 0 ? `It has no ${what === 'command' ? 'commands' : 'queries'} at all.` : `It has ${known.join(', ')}.`,
  )
}

interface Parameter {
  readonly name?: unknown
  readonly in?: unknown
  readonly required?: unknown
}

function describedQuery(name: string, get: Readonly<Record<string, unknown>> | undefined): DescribedQuery {
  const list = Array.isArray(get?.['parameters']) ? (get['parameters'] as Parameter[]) : []
  const parameters = list.filter((each) => each.in === 'query' && typeof each.name === 'string')
  const cache = get?.['x-headrace-cache'] as { readonly ttlMs?: unknown } | undefined
  // A schema library that cannot describe itself leaves the list empty.
  const known = parameters.length > 0
  return {
    name,
    parameters: known ? parameters.map((each) => String(each.name)) : null,
    required: known ? parameters.filter((each) => each.required === true).map((each) => String(each.name)) : null,
    ttlMs: typeof cache?.ttlMs === 'number' ? cache.ttlMs : null,
  }
}
