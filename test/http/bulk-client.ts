/** Sends bulk requests, and serves a shop that tells what it was asked to take. */
import type { App, Gateway } from '../../src/index.ts'
import { type CreateServerOptions, serve } from '../../src/server/index.ts'
import { afterTest, type Answer, call, Gates, shop, temporaryFolder } from './fixture.ts'
import { withGateway } from './wrapped-app.ts'

export const ndjson = { 'content-type': 'application/x-ndjson' }

type Line = Record<string, unknown>

export function bulk(
  url: string,
  command: string,
  lines: readonly unknown[] | string,
  headers: Record<string, string> = {},
): Promise<Answer & { lines: Line[] }> {
  const body =
    typeof lines === 'string' ? lines : `${lines.map((line) => (typeof line === 'string' ? line : JSON.stringify(line))).join('\n')}\n`
  return call(`${url}/commands/${command}`, { method: 'POST', headers: { ...ndjson, ...headers }, body }).then((answer) => ({
    ...answer,
    lines: linesOf(answer.text),
  }))
}

function linesOf(text: string): Line[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Line)
}

export async function gaugeOf(url: string, name: string): Promise<number> {
  const { text } = await call(`${url}/metrics`)
  return Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(text)?.[1])
}

/** Serves a shop whose gateway counts what it is asked to take. */
export async function countingShop(
  options: {
    readonly app?: Parameters<typeof shop>[0]
    readonly server?: CreateServerOptions
    readonly change?: (app: App) => Partial<Gateway>
  } = {},
) {
  const gates = new Gates()
  const app = shop({ dataDir: await temporaryFolder(), gates, ...options.app })
  const taken: string[] = []
  const wrapped = withGateway(app, {
    take: (command, input, how) => {
      taken.push(how.id ?? '')
      return app.gateway.take(command, input, how)
    },
    ...options.change?.(app),
  })
  const server = await serve(wrapped, { port: 0, logLevel: 'silent', ...options.server })
  afterTest(() => server.close())
  return { app, gates, taken, url: server.url, server }
}
