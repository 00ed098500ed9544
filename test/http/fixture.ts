/** A real app on real SQLite files in a temporary folder, served on a free port of the loopback address. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach } from 'vitest'
import { z } from 'zod'
import { listen } from '../../src/contracts/diagnostics.ts'
import { sqlite } from '../../src/drivers/sqlite/index.ts'
import { type App, type AppOptions, accept, command, defineApp, query, reject } from '../../src/index.ts'
import { type CreateServerOptions, type RunningServer, serve } from '../../src/server/index.ts'
import { type Deferred, deferred } from '../../src/std/deferred.ts'

const cleanups: (() => Promise<unknown>)[] = []

/** Registers what a test must undo; the newest goes first. */
export function afterTest(cleanup: () => Promise<unknown>): void {
  cleanups.push(cleanup)
}

afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup()
})

export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'headrace-http-'))
  afterTest(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** Commands `gate.pass` wait here until the test opens their gate. */
export class Gates {
  readonly #open = new Map<string, Deferred<void>>()
  readonly #seen = new Map<string, Deferred<void>>()

  async pass(gate: string): Promise<void> {
    this.#of(this.#seen, gate).resolve()
    await this.#of(this.#open, gate).promise
  }

  open(gate: string): void {
    this.#of(this.#open, gate).resolve()
  }

  /** Resolves when a command stands before the gate. */
  reached(gate: string): Promise<void> {
    return this.#of(this.#seen, gate).promise
  }

  #of(map: Map<string, Deferred<void>>, gate: string): Deferred<void> {
    const known = map.get(gate) ?? deferred<void>()
    map.set(gate, known)
    return known
  }
}

const stockSchema = `create table if not exists stock (sku text primary key, left integer not null check (left >= 0));
create table if not exists sale (sku text not null, id text not null, number integer not null, primary key (sku, id));`

export function shop(options: AppOptions & { readonly gates?: Gates }): App {
  const { gates = new Gates(), ...limits } = options
  const stock = sqlite('stock', { schema: stockSchema })
  const buy = command('stock.buy', {
    summary: 'Buys one piece',
    input: z.object({ sku: z.string().min(1).max(64), quantity: z.int().min(1).max(5).default(1) }),
    key: ({ sku }) => sku,
    databases: { stock },
    load: async (batch, db) =>
      new Map(
        (await db.stock.selectIn('stock', 'sku', [...new Set(batch.map(({ input }) => input.sku))])).map((row) => [
          String(row['sku']),
          Number(row['left']),
        ]),
      ),
    decide: (left, { sku, quantity }) => {
      const now = left.get(sku)
      if (now === undefined) return reject('sku-unknown', `There is no ${sku}.`)
      if (now < quantity) return reject('sold-out')
      left.set(sku, now - quantity)
      return accept({ left: now - quantity })
    },
    save: async (left, accepted, db) => {
      const touched = new Set(accepted.map(({ input }) => input.sku))
      await db.stock.updateMany(
        'stock',
        'sku',
        [...touched].map((sku) => ({ sku, left: left.get(sku) ?? 0 })),
      )
      await db.stock.insertMany(
        'sale',
        accepted.map(({ id, input, position }) => ({ sku: input.sku, id, number: position })),
      )
    },
  })
  const fill = command('stock.fill', {
    input: z.object({ sku: z.string(), left: z.int() }),
    key: ({ sku }) => sku,
    databases: { stock },
    run: async ({ input, databases }) => {
      await databases.stock.upsertMany('stock', 'sku', [input])
      return accept()
    },
  })
  const pass = command('gate.pass', {
    input: z.object({ gate: z.string() }),
    key: ({ gate }) => gate,
    databases: { stock },
    timeoutMs: 60_000,
    run: async ({ input }) => {
      await gates.pass(input.gate)
      return accept({ passed: input.gate })
    },
  })
  const boom = command('boom.now', {
    input: z.object({ secret: z.string() }),
    key: ({ secret }) => secret,
    databases: { stock },
    retries: 0,
    run: ({ input }) => {
      throw new Error(`the ${input.secret} is out`)
    },
  })
  const echo = command('echo.any', { input: z.unknown(), key: () => 'echo', run: ({ input }) => accept(input) })
  const left = query('stock.left', {
    input: z.object({ sku: z.string(), least: z.coerce.number().optional() }),
    databases: { stock },
    load: async ({ sku }, db) => (await db.stock.selectIn('stock', 'sku', [sku]))[0]?.['left'] ?? null,
  })
  const many = query('stock.many', { input: z.object({ sku: z.array(z.string()) }), load: ({ sku }) => sku.length })
  const broken = query('query.broken', {
    input: z.object({}),
    load: () => {
      throw new Error('password=hunter2')
    },
  })
  return defineApp({ name: 'shop', commands: [buy, fill, pass, boom, echo], queries: [left, many, broken], ...limits })
}

export interface Shop {
  readonly app: App
  readonly server: RunningServer
  readonly url: string
  readonly gates: Gates
}

export async function startShop({
  app: appOptions = {},
  server: serverOptions = {},
}: {
  readonly app?: AppOptions
  readonly server?: CreateServerOptions
} = {}): Promise<Shop> {
  const gates = new Gates()
  const app = shop({ dataDir: await temporaryFolder(), gates, ...appOptions })
  const server = await serve(app, { port: 0, logLevel: 'silent', ...serverOptions })
  afterTest(() => server.close())
  return { app, server, url: server.url, gates }
}

/** Resolves when the app takes the next command of this name. */
export function nextTaken(app: App, command: string): Promise<void> {
  return new Promise((resolve) => {
    const stop = listen('headrace:admission', (event) => {
      if (event.app !== app.name || event.command !== command || event.answer !== 'taken') return
      stop()
      resolve()
    })
  })
}

/** Keeps the lane of the app busy until the returned function is called: commands sent meanwhile wait in the queue. */
export async function busyLane({ url, gates }: Shop): Promise<() => Promise<void>> {
  const waiting = post(`${url}/commands/gate.pass`, { gate: 'lane' }, { 'idempotency-key': 'busy-lane' })
  await gates.reached('lane')
  return async () => {
    gates.open('lane')
    await waiting
  }
}

export interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly json: Record<string, unknown>
}

export async function call(url: string, init: RequestInit = {}): Promise<Answer> {
  const response = await fetch(url, init)
  const text = await response.text()
  let json: Record<string, unknown> = {}
  if (response.headers.get('content-type')?.includes('json') === true && text !== '' && !text.includes('\n{'))
    json = JSON.parse(text) as Record<string, unknown>
  return { status: response.status, headers: response.headers, text, json }
}

export function post(url: string, body: unknown, headers: Record<string, string> = {}): Promise<Answer> {
  return call(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: typeof body === 'string' ? body : JSON.stringify(body),
  })
}
