import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, describe, expect, it } from 'vitest'
import { createRandom } from '../../std/random.ts'
import type { Answered } from './answer.ts'
import { type LoadEnd, type LoadOptions, runLoad } from './engine.ts'
import { bulkSender, mixedSender, querySender, singleSender } from './sender.ts'
import { isClean, Tally } from './tally.ts'
import { createTransport, type Transport } from './transport.ts'

/** The server of a test: it answers as the test says, with the number of the request and what arrived. */
type Script = (
  request: { readonly number: number; readonly id: string; readonly body: string; readonly raw: IncomingMessage },
  response: ServerResponse,
) => void

let server: Server | null = null
let transport: Transport | null = null

afterEach(async () => {
  await transport?.close()
  server?.closeAllConnections()
  await new Promise((resolve) => (server === null ? resolve(null) : server.close(resolve)))
  server = null
  transport = null
})

async function open(script: Script): Promise<Transport> {
  let number = 0
  const started = createServer((raw, response) => {
    let body = ''
    raw.setEncoding('utf8').on('data', (text: string) => {
      body += text
    })
    raw.on('end', () => script({ number: number++, id: String(raw.headers['idempotency-key']), body, raw }, response))
  })
  server = started
  await new Promise<void>((resolve) => started.listen(0, '127.0.0.1', resolve))
  transport = createTransport({
    url: `http://127.0.0.1:${(started.address() as AddressInfo).port}`,
    connections: 8,
    requestTimeoutMs: 5_000,
  })
  return transport
}

function json(response: ServerResponse, status: number, value: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(value))
}

const committed = (id: string, position = 1): object => ({ id, command: 'do.it', status: 'committed', position, result: null })

interface Run extends Partial<LoadOptions> {
  readonly bulk?: number
}

async function run(opened: Transport, { bulk, ...more }: Run): Promise<{ end: LoadEnd; answers: Answered[]; tally: Tally }> {
  const answers: Answered[] = []
  const tally = new Tally()
  const end = await runLoad({
    sender: bulk === undefined ? singleSender(opened, { command: 'do.it' }) : bulkSender(opened, { command: 'do.it' }, bulk),
    next: (index) => JSON.stringify({ index }),
    idOf: (index) => `id-${index}`,
    connections: 8,
    repeat: 0,
    random: createRandom(1),
    retryForMs: 5_000,
    onRetry: (answer) => tally.retry(answer),
    ...more,
    onAnswer: (answered) => {
      answers.push(answered)
      tally.add(answered)
    },
  })
  return { end, answers, tally }
}

describe('a load run', () => {
  it('sends every command once, with its id and input, and never more at once than it has connections', async () => {
    const seen = new Map<string, string>()
    let atOnce = 0
    let most = 0
    const opened = await open(({ id, body }, response) => {
      seen.set(id, body)
      atOnce += 1
      most = Math.max(most, atOnce)
      setImmediate(() => {
        atOnce -= 1
        json(response, 200, committed(id))
      })
    })
    const { end, answers } = await run(opened, { commandsMax: 200, connections: 4 })
    expect(end.commands).toBe(200)
    expect(answers).toHaveLength(200)
    expect(seen.size).toBe(200)
    expect(seen.get('id-17')).toBe('{"index":17}')
    expect(most).toBeLessThanOrEqual(4)
  })

  it('sends a command again with the same id after 503, 429 and a broken connection, until it is answered', async () => {
    const tries = new Map<string, number>()
    const opened = await open(({ id, raw }, response) => {
      const attempt = (tries.get(id) ?? 0) + 1
      tries.set(id, attempt)
      if (attempt === 1) json(response, 503, { status: 503, code: 'queue-full' })
      else if (attempt === 2) raw.socket.destroy()
      else if (attempt === 3) json(response, 429, { status: 429, code: 'overloaded' })
      else json(response, 200, committed(id))
    })
    const { answers, tally } = await run(opened, { commandsMax: 10 })
    expect(answers.every(({ answer, attempts }) => answer.kind === 'committed' && attempts === 4)).toBe(true)
    expect(tally.retries).toBe(30)
  })

  it('waits as long as Retry-After says', async () => {
    const times: number[] = []
    const opened = await open(({ number, id }, response) => {
      times.push(performance.now())
      if (number === 0) json(response, 503, { status: 503, code: 'queue-full' }, { 'retry-after': '1' })
      else json(response, 200, committed(id))
    })
    await run(opened, { commandsMax: 1 })
    expect((times[1] as number) - (times[0] as number)).toBeGreaterThan(950)
  })

  it('gives a command up when its time for trying is over, with the last answer', async () => {
    const opened = await open((_request, response) => json(response, 503, { status: 503, code: 'stopping' }))
    const { answers, tally, end } = await run(opened, { commandsMax: 2, retryForMs: 150 })
    expect(answers.map(({ answer }) => [answer.kind, answer.code, answer.status])).toEqual([
      ['problem', 'stopping', 503],
      ['problem', 'stopping', 503],
    ])
    expect(isClean(tally.summary(end))).toBe(false)
  })

  it('sends nothing again that was answered for good', async () => {
    let requests = 0
    const opened = await open((_request, response) => {
      requests += 1
      json(response, 422, { status: 422, code: 'id-reused' })
    })
    const { answers } = await run(opened, { commandsMax: 5 })
    expect(requests).toBe(5)
    expect(answers.every(({ answer }) => answer.kind === 'problem' && answer.code === 'id-reused')).toBe(true)
  })

  it('tells apart what was answered', async () => {
    const replies: readonly (readonly [number, object])[] = [
      [200, committed('a')],
      [200, { status: 'rejected', code: 'sold-out', position: 2 }],
      [500, { status: 'failed', code: 'handler-failed', position: 3 }],
      [202, { status: 'pending' }],
      [500, { status: 500, code: 'internal' }],
      [404, { nothing: 'known' }],
    ]
    const opened = await open(({ number }, response) => json(response, ...(replies[number] as readonly [number, object])))
    const { tally, end } = await run(opened, { commandsMax: replies.length, connections: 1 })
    expect(tally.summary(end).answers).toEqual({
      committed: 1,
      rejected: { 'sold-out': 1 },
      failed: { 'handler-failed': 1 },
      pending: 1,
      problem: { internal: 1, 'http-404': 1 },
      transport: {},
    })
  })

  it('counts latency in the open loop from the moment a command was due, so that a stall cannot hide what it made wait', async () => {
    const stallMs = 400
    const stalling: Script = ({ number, id }, response) => {
      if (number === 20) setTimeout(() => json(response, 200, committed(id)), stallMs)
      else json(response, 200, committed(id))
    }
    const late = (answers: readonly Answered[]): number =>
      answers.filter(({ job, answeredAt }) => answeredAt - job.dueAt > stallMs / 4).length
    const opened = await open(stalling)
    const { answers } = await run(opened, { commandsMax: 200, connections: 1, rate: 250 })
    expect(answers).toHaveLength(200)
    // The stall of 0.4 s holds up 100 commands; three quarters of them by more than 0.1 s.
    expect(late(answers)).toBeGreaterThan(50)

    await transport?.close()
    const closed = await run(await open(stalling), { commandsMax: 200, connections: 1 })
    expect(late(closed.answers)).toBe(1)
  })

  it('keeps to the rate when answers are fast', async () => {
    const opened = await open(({ id }, response) => json(response, 200, committed(id)))
    const { end } = await run(opened, { commandsMax: 100, rate: 200 })
    expect(end.elapsedMs).toBeGreaterThan(490)
  })

  it('stops sending when the time is up, and awaits what is in flight', async () => {
    const opened = await open(({ id }, response) => setTimeout(() => json(response, 200, committed(id)), 20))
    const { end, answers } = await run(opened, { durationMs: 200 })
    expect(end.commands).toBeGreaterThan(8)
    expect(answers).toHaveLength(end.commands)
    expect(end.elapsedMs).toBeLessThan(2_000)
  })

  it('stops when it is told to, without another try', async () => {
    const stop = new AbortController()
    const opened = await open((_request, response) => {
      stop.abort()
      json(response, 503, { status: 503, code: 'queue-full' })
    })
    const { end, answers } = await run(opened, { commandsMax: 1_000_000, retryForMs: 60_000, signal: stop.signal })
    expect(answers).toHaveLength(end.commands)
    expect(end.commands).toBeLessThanOrEqual(8)
  })

  it('takes inputs that come one after the other, until they end', async () => {
    const bodies: string[] = []
    const opened = await open(({ id, body }, response) => {
      bodies.push(body)
      json(response, 200, committed(id))
    })
    const { end } = await run(opened, { next: async (index) => (index < 25 ? `"line ${index}"` : null), connections: 3 })
    expect(end.commands).toBe(25)
    expect(new Set(bodies).size).toBe(25)
  })

  it('ends with the error of its inputs', async () => {
    const opened = await open(({ id }, response) => json(response, 200, committed(id)))
    await expect(run(opened, { next: () => Promise.reject(new Error('no such file')) })).rejects.toThrow('no such file')
    await expect(
      run(opened, {
        next: () => {
          throw new Error('broken generator')
        },
      }),
    ).rejects.toThrow('broken generator')
  })
})

describe('repeats with the same Idempotency-Key', () => {
  it('are a share of all commands, some at once and some later, and counted apart', async () => {
    const sequence: string[] = []
    const opened = await open(({ id }, response) => {
      sequence.push(id)
      json(response, 200, committed(id))
    })
    const { end, tally } = await run(opened, { commandsMax: 2_000, repeat: 0.2 })
    expect(end.repeats.sent).toBeGreaterThan(330)
    expect(end.repeats.sent).toBeLessThan(470)
    expect(end.repeats).toEqual({ sent: end.repeats.sent, same: end.repeats.sent, different: 0, open: 0 })
    expect(sequence).toHaveLength(2_000 + end.repeats.sent)
    expect(tally.answered).toBe(2_000)
    const gaps = [...new Set(sequence)].map((id) => sequence.lastIndexOf(id) - sequence.indexOf(id)).filter((gap) => gap > 0)
    expect(gaps.some((gap) => gap < 10)).toBe(true)
    expect(gaps.some((gap) => gap > 200)).toBe(true)
  })

  it('show a server that answers the second time otherwise', async () => {
    let position = 0
    const opened = await open(({ id }, response) => {
      position += 1
      json(response, 200, committed(id, position))
    })
    const { end, tally } = await run(opened, { commandsMax: 100, repeat: 0.2 })
    expect(end.repeats.different).toBe(end.repeats.sent)
    expect(end.differences[0]?.first).not.toBe(end.differences[0]?.second)
    expect(isClean(tally.summary(end))).toBe(false)
  })
})

describe('bulk requests', () => {
  it('hold many commands as lines, each with its id, and match answers to lines', async () => {
    const sizes: number[] = []
    const opened = await open(({ body, raw }, response) => {
      const lines = body.trimEnd().split('\n')
      sizes.push(lines.length)
      expect(raw.headers['content-type']).toBe('application/x-ndjson')
      response.writeHead(200)
      for (const line of lines) {
        const { id, input } = JSON.parse(line) as { id: string; input: { index: number } }
        response.write(
          `${JSON.stringify(input.index % 2 === 0 ? committed(id, input.index) : { id, status: 'rejected', code: 'odd', position: input.index })}\n`,
        )
      }
      response.end()
    })
    const { answers } = await run(opened, { commandsMax: 95, bulk: 10, connections: 1 })
    expect(sizes).toEqual([10, 10, 10, 10, 10, 10, 10, 10, 10, 5])
    expect(
      answers.every(({ job, answer }) => answer.position === job.index && answer.kind === (job.index % 2 === 0 ? 'committed' : 'rejected')),
    ).toBe(true)
  })

  it('send only those lines again that had no room, or no answer', async () => {
    const asked: string[][] = []
    const opened = await open(({ body, number }, response) => {
      const ids = body
        .trimEnd()
        .split('\n')
        .map((line) => (JSON.parse(line) as { id: string }).id)
      asked.push(ids)
      const lines = ids.map((id) =>
        number === 0 && id === 'id-1' ? { status: 503, code: 'queue-full', line: 2, id, retryAfter: 0 } : committed(id),
      )
      response.end(
        lines
          .slice(0, number === 0 ? 3 : undefined)
          .map((line) => `${JSON.stringify(line)}\n`)
          .join(''),
      )
    })
    const { answers } = await run(opened, { commandsMax: 5, bulk: 5, connections: 1 })
    expect(asked).toEqual([
      ['id-0', 'id-1', 'id-2', 'id-3', 'id-4'],
      ['id-1', 'id-3', 'id-4'],
    ])
    expect(answers.filter(({ answer }) => answer.kind === 'committed')).toHaveLength(5)
  })

  it('count a line that was broken as a problem of that line alone', async () => {
    const opened = await open(({ body }, response) => {
      const ids = body
        .trimEnd()
        .split('\n')
        .map((line) => (JSON.parse(line) as { id: string }).id)
      response.end(
        ids.map((id) => `${JSON.stringify(id === 'id-2' ? { status: 400, code: 'input-invalid', line: 3 } : committed(id))}\n`).join(''),
      )
    })
    const { tally, end } = await run(opened, { commandsMax: 4, bulk: 4 })
    expect(tally.summary(end).answers).toMatchObject({ committed: 3, problem: { 'input-invalid': 1 } })
  })
})

describe('a mix of commands and queries', () => {
  it('keeps to its proportion, asks queries with GET, repeats commands alone, and counts the two apart', async () => {
    const seen: { method: string; url: string; id: string }[] = []
    const opened = await open(({ id, raw }, response) => {
      seen.push({ method: raw.method ?? '', url: raw.url ?? '', id })
      json(response, 200, raw.method === 'GET' ? { status: 'failed', left: 3 } : committed(id))
    })
    const tallies = { command: new Tally(), query: new Tally() }
    const end = await runLoad({
      sender: mixedSender(singleSender(opened, { command: 'do.it' }), querySender(opened, 'stock.left')),
      next: (index) => (index % 4 === 0 ? '{}' : `sku=s${index}`),
      idOf: (index) => `id-${index / 4}`,
      kindOf: (index) => (index % 4 === 0 ? 'command' : 'query'),
      commandsMax: 400,
      connections: 4,
      repeat: 1,
      random: createRandom(1),
      retryForMs: 1_000,
      onAnswer: (answered) => tallies[answered.job.kind].add(answered),
    })
    expect(end).toMatchObject({ commands: 100, queries: 300, repeats: { sent: 100, same: 100 } })
    expect(seen.filter(({ method }) => method === 'GET')).toHaveLength(300)
    expect(seen.filter(({ method }) => method === 'GET').every(({ url }) => /^\/queries\/stock\.left\?sku=s\d+$/.test(url))).toBe(true)
    expect(new Set(seen.filter(({ method }) => method === 'POST').map(({ id }) => id)).size).toBe(100)
    // What a query answers may look like an outcome, and is none.
    expect(tallies.query.readSummary('stock.left', end)).toMatchObject({ requests: 300, answers: { answered: 300, problem: {} } })
    expect(tallies.command.summary(end)).toMatchObject({ commands: 100, answers: { committed: 100 } })
  })

  it('sends a query again after 503, and shows one that is refused as a problem', async () => {
    const opened = await open(({ number, raw }, response) => {
      if (number === 0) json(response, 503, { code: 'overloaded' }, { 'retry-after': '0' })
      else if (raw.url?.endsWith('sku=bad') === true) json(response, 400, { code: 'input-invalid' })
      else json(response, 200, 3)
    })
    const tally = new Tally()
    const end = await runLoad({
      sender: querySender(opened, 'stock.left'),
      next: (index) => (index === 1 ? 'sku=bad' : 'sku=a'),
      idOf: () => '',
      kindOf: () => 'query',
      commandsMax: 3,
      connections: 1,
      repeat: 0,
      random: createRandom(1),
      retryForMs: 1_000,
      onAnswer: (answered) => tally.add(answered),
      onRetry: (answer) => tally.retry(answer),
    })
    expect(tally.readSummary('stock.left', end)).toMatchObject({
      requests: 3,
      answers: { answered: 2, problem: { 'input-invalid': 1 } },
      retries: { '503 overloaded': 1 },
    })
  })
})
