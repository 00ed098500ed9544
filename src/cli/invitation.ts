/** What to try on a node that has just started: lines that can be copied into a shell. */
import { inputSchema } from '../server/openapi.ts'
import type { App } from '../pipeline/app-contract.ts'
import { sampleOf } from './sample.ts'

export function invitation(app: App, url: string): string[] {
  const lines: string[] = []
  const [command] = app.gateway.commands.values()
  if (command !== undefined) {
    const input = JSON.stringify(sampleOf(inputSchema(command.options.input)))
    lines.push(`curl ${url}/commands/${command.name} -H 'idempotency-key: k1' -H 'content-type: application/json' -d ${shellQuoted(input)}`)
    lines.push(`curl ${url}/outcomes/${command.name}/k1`)
  }
  const [query] = app.gateway.queries.values()
  if (query !== undefined) {
    const sample = sampleOf(inputSchema(query.definition.input))
    const parameters = new URLSearchParams(
      Object.entries(typeof sample === 'object' && sample !== null ? sample : {}).map(([name, value]): [string, string] => [
        name,
        String(value),
      ]),
    )
    const search = parameters.toString()
    lines.push(`curl ${shellQuoted(`${url}/queries/${query.name}${search === '' ? '' : `?${search}`}`)}`)
  }
  lines.push(`curl ${url}/openapi.json`)
  return lines
}

export function shellQuoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`
}
