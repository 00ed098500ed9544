import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { flashSale, get, headrace, type Node, onlyDocument, startNode, temporaryFolder } from './headrace.ts'

interface Summary {
  readonly ok: boolean
  readonly loop: string
  readonly commands: number
  readonly seed: number
  readonly answers: { readonly committed: number; readonly rejected: Record<string, number>; readonly problem: Record<string, number> }
  readonly repeats: { readonly sent: number; readonly same: number; readonly different: number }
  readonly latencyMs: { readonly p50: number; readonly p99: number }
}

interface NodeSummary extends Summary {
  readonly reads: { readonly requests: number; readonly answers: { readonly answered: number } }
  readonly cache: {
    readonly keys: number
    readonly measured: { readonly hitRatio: number; readonly loadsPerSecond: number; readonly floorsRaisedPerSecond: number } | null
    readonly predicted: { readonly hitRatio: number } | null
    readonly why: string | null
  }
  readonly queue: {
    readonly measured: { readonly batchCommands: number }
    readonly predicted: object | null
    readonly why: string | null
  }
}

const folder = temporaryFolder()
let node: Node

beforeAll(async () => {
  node = await startNode(flashSale, join(folder.path, 'data'))
})
afterAll(async () => {
  await node.stop()
  folder.drop()
})

const load = (...args: string[]) => headrace(['load', ...args, '--url', node.url, '--json'])

describe('headrace load', () => {
  it('fills a stock over NDJSON from a template, then sells it out, and counts every answer', async () => {
    const stocked = await load('stock.put', '-n', '5', '--bulk', '--input', '{"sku":"sku-{i}","price":100,"remaining":50}')
    expect(stocked.code).toBe(0)
    expect(onlyDocument<Summary>(stocked).answers.committed).toBe(5)
    expect(
      onlyDocument<Summary>(await load('wallet.put', '-n', '20', '--bulk', '7', '--input', '{"buyer":"b{i}","balance":1000000}')).answers
        .committed,
    ).toBe(20)

    const sale = await load(
      'order.buy',
      '-n',
      '1000',
      '--repeat',
      '10%',
      '--seed',
      '3',
      '--input',
      '{"sku":"sku-{i % 5}","buyer":"b{random(0, 19)}","quantity":1}',
    )
    expect(sale.code).toBe(0)
    const { ok, answers, repeats, loop, latencyMs, seed } = onlyDocument<Summary>(sale)
    expect({ ok, loop, seed, committed: answers.committed, rejected: answers.rejected }).toEqual({
      ok: true,
      loop: 'closed',
      seed: 3,
      committed: 250,
      rejected: { 'sold-out': 750 },
    })
    expect(repeats.sent).toBeGreaterThan(50)
    expect(repeats.same).toBe(repeats.sent)
    expect(latencyMs.p99).toBeGreaterThanOrEqual(latencyMs.p50)
    expect(await get(`${node.url}/queries/stock.left?sku=sku-0`)).toMatchObject({ body: { remaining: 0 } })
  })

  it('keeps to a rate and a duration', async () => {
    const { commands, loop } = onlyDocument<Summary>(
      await load('order.buy', '--duration', '1s', '--rate', '100', '--input', '{"sku":"none","buyer":"b0","quantity":1}'),
    )
    expect(loop).toBe('open')
    expect(commands).toBe(100)
  })

  it('takes lines of a file and of standard input, and names a line that is wrong by its problem', async () => {
    const file = join(folder.path, 'stock.ndjson')
    writeFileSync(file, Array.from({ length: 30 }, (_, i) => JSON.stringify({ sku: `file-${i}`, price: 1, remaining: i })).join('\n'))
    expect(onlyDocument<Summary>(await load('stock.put', '--from', file)).answers.committed).toBe(30)

    const lines = `{"sku":"in-1","price":1,"remaining":1}\n\n{"sku":"in-2"}\n{"sku":"in-3","price":1,"remaining":1}`
    const piped = await headrace(['load', 'stock.put', '--from', '-', '--bulk', '--url', node.url, '--json'], { input: lines })
    expect(piped.code).toBe(1)
    expect(onlyDocument<Summary>(piped).answers).toMatchObject({ committed: 2, problem: { 'input-invalid': 1 } })
  })

  it('takes inputs from a generator in TypeScript, until it ends', async () => {
    const file = join(folder.path, 'generator.ts')
    writeFileSync(
      file,
      "export default (i: number, random: { int(n: number): number }) => (i < 40 ? { sku: 'gen-' + i, price: random.int(100), remaining: 1 } : null)",
    )
    expect(onlyDocument<Summary>(await load('stock.put', '--generator', file)).commands).toBe(40)
  })

  it('sends the same inputs for the same seed, and is recognised by its ids', async () => {
    const args = [
      'wallet.put',
      '-n',
      '50',
      '--seed',
      '9',
      '--id-prefix',
      'same',
      '--input',
      '{"buyer":"r{random(0, 5)}","balance":"{random(0, 100)}"}',
    ]
    expect((await load(...args)).code).toBe(0)
    const again = onlyDocument<Summary>(await load(...args))
    expect(again.answers).toMatchObject({ committed: 50, problem: {} })
    const other = await load(...args, '--seed', '10')
    expect(other.code).toBe(1)
    expect(onlyDocument<Summary>(other).answers.problem['id-reused']).toBeGreaterThan(30)
  })

  it('refuses before it sends: an unknown command, a wrong template, a node that is not there', async () => {
    const unknown = await load('order.bye', '--input', '{}')
    expect(unknown.code).toBe(2)
    expect(onlyDocument(unknown)).toMatchObject({
      error: { code: 'command-unknown', message: expect.stringContaining("'order.buy'") as string },
    })
    expect(onlyDocument(await load('order.buy', '--input', '{"a":"{nope(1)}"}'))).toMatchObject({ error: { code: 'input-template' } })
    const nobody = await headrace(['load', 'order.buy', '--url', 'http://127.0.0.1:9', '--input', '{}', '--json'])
    expect(nobody.code).toBe(3)
    expect(onlyDocument(nobody)).toMatchObject({ error: { code: 'node-unreachable' } })
  })

  it('asks queries beside the commands, of keys drawn alike, and puts the model beside what the node measured', async () => {
    expect((await load('stock.put', '-n', '20', '--bulk', '--input', '{"sku":"hot-{i}","price":1,"remaining":1000000}')).code).toBe(0)
    expect((await load('wallet.put', '-n', '20', '--bulk', '--input', '{"buyer":"reader-{i}","balance":1000000}')).code).toBe(0)
    const ended = await load(
      ...['order.buy', '-n', '400', '-c', '8', '--query', 'stock.left', '--queries-per-command', '5'],
      ...['--input', '{"sku":"hot-{zipf(20)}","buyer":"reader-{i % 20}","quantity":1}'],
    )
    expect(ended.code, ended.stdout).toBe(0)
    const { commands, answers, reads, cache, queue } = onlyDocument<NodeSummary>(ended)
    expect({ commands, committed: answers.committed, reads: reads.requests, answered: reads.answers.answered }).toEqual({
      commands: 400,
      committed: 400,
      reads: 2_000,
      answered: 2_000,
    })
    expect(cache).toMatchObject({ keys: expect.any(Number) as number, ttlMs: 60_000, why: null })
    expect(cache.keys).toBeGreaterThan(10)
    expect(cache.keys).toBeLessThanOrEqual(20)
    // The same reads, counted by the node and by the driver.
    expect(cache.measured?.loadsPerSecond).toBeGreaterThan(0)
    expect(cache.measured?.floorsRaisedPerSecond).toBeGreaterThan(0)
    expect(Math.abs((cache.predicted?.hitRatio ?? 9) - (cache.measured?.hitRatio ?? 0))).toBeLessThan(0.2)
    expect(queue.measured.batchCommands).toBeGreaterThanOrEqual(1)
    expect(queue.why === null).toBe(queue.predicted !== null)
  })

  it('asks queries alone, at a rate, and shows a person the hit ratio with the predicted one', async () => {
    const args = [
      'load',
      '--query',
      'stock.left',
      '-d',
      '1s',
      '--rate',
      '200',
      '--query-input',
      '{"sku":"hot-{zipf(20)}"}',
      '--url',
      node.url,
    ]
    const { code, stdout, stderr } = await headrace(args)
    expect(code, stderr).toBe(0)
    expect(stdout).toMatch(/^Queries {2}stock\.left$/m)
    expect(stdout).toMatch(/answered +200 +100\.0 %/)
    expect(stdout).toMatch(/hit ratio +\d+\.\d % +\d+\.\d %/)
    expect(stdout).not.toMatch(/^(Answers|Queue)/m)
  })

  it('says what does not fit instead of a number: a rate that the connections cannot hold', async () => {
    const rate = onlyDocument<NodeSummary>(
      await load('order.buy', '-n', '1000', '-c', '1', '--rate', '10000', '--input', '{"sku":"none","buyer":"b0","quantity":1}'),
    )
    expect(rate.queue).toMatchObject({
      predicted: null,
      why: expect.stringMatching(/^Overload: 10,000 commands a second were due/) as string,
    })
  })

  it('refuses a mix that makes no sense, before it sends', async () => {
    const input = ['--input', '{"sku":"a"}']
    for (const [args, code, words] of [
      [[], 'usage', 'What is to be sent?'],
      [['order.buy', '--query-input', '{}', ...input], 'usage', 'Which query?'],
      [['order.buy', '--query', 'stock.left', '--bulk', ...input], 'usage', '--bulk and --query'],
      [['order.buy', '--query', 'stock.lefd', ...input], 'query-unknown', "did you mean 'stock.left'"],
      [['order.buy', '--query', 'stock.left', '--from', '-'], 'usage', 'where do the queries come from?'],
      [['order.buy', '--query', 'stock.left', '-n', '5', '--input', '{"buyer":"b"}'], 'query-parameters', "'stock.left' needs: sku"],
    ] as const) {
      const refused = await load(...args)
      expect(refused.code, words).toBe(2)
      expect(onlyDocument(refused)).toMatchObject({ error: { code, message: expect.stringContaining(words) as string } })
    }
  })

  it('shows a person what was answered, with a histogram', async () => {
    const { code, stdout } = await headrace([
      'load',
      'order.buy',
      '-n',
      '50',
      '--url',
      node.url,
      '--input',
      '{"sku":"none","buyer":"b0","quantity":1}',
    ])
    expect(code).toBe(0)
    expect(stdout).toMatch(/rejected +unknown-sku +50 +100\.0 %/)
    expect(stdout).toMatch(/per second/)
    expect(stdout).toMatch(/p50.*p99/)
    expect(stdout).toContain('█')
  })
})
