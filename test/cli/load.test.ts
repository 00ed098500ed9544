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
