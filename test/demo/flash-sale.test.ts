import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { flashSale, get, headrace, onlyDocument, spawnHeadrace, temporaryFolder } from '../cli/headrace.ts'

interface Sale {
  readonly ok: boolean
  readonly orders: number
  readonly accepted: number
  readonly rejected: number
  readonly sold: number
  readonly lost: number
  readonly duplicated: number
  readonly oversold: number
  readonly halfWritten: number
  readonly kills: number
  readonly throughput: number
  readonly p50Ms: number
  readonly p99Ms: number
  readonly disordered: number
  readonly repeats: { readonly sent: number }
  readonly checks: readonly { readonly name: string; readonly ok: boolean }[]
}

const folder = temporaryFolder()
afterAll(() => folder.drop())

const sell = (...more: string[]) =>
  headrace(['demo', 'flash-sale', '--orders', '2000', '--buyers', '100', '--seed', '7', '--once', '--json', ...more])

/** The app of the example with one place changed. */
function brokenApp(name: string, from: string, to: string): string {
  const text = readFileSync(flashSale, 'utf8')
  if (!text.includes(from)) throw new Error(`the example has no ${from}`)
  const file = join(folder.path, `${name}.ts`)
  // The file lies elsewhere: it takes its imports from where the example does.
  writeFileSync(
    file,
    text
      .replace(from, to)
      .replace("'zod'", JSON.stringify(new URL('../../node_modules/zod/index.js', import.meta.url).pathname))
      .replace("'./databases.ts'", JSON.stringify(new URL('../../examples/flash-sale/databases.ts', import.meta.url).pathname)),
  )
  return file
}

describe('headrace demo flash-sale', () => {
  it('sells nothing twice, loses nothing and leaves nothing half-written while its server is killed', async () => {
    const ended = await sell('--kill', '3', '--connections', '32')
    const sale = onlyDocument<Sale>(ended)
    expect(sale.checks.filter((check) => !check.ok)).toEqual([])
    expect(sale).toMatchObject({ ok: true, orders: 2000, lost: 0, duplicated: 0, oversold: 0, halfWritten: 0, disordered: 0, kills: 3 })
    expect(sale.accepted + sale.rejected).toBe(2000)
    expect(sale.accepted).toBeGreaterThan(0)
    expect(sale.rejected).toBeGreaterThan(0)
    expect(sale.repeats.sent).toBeGreaterThan(100)
    for (const figure of [sale.throughput, sale.p50Ms, sale.p99Ms, sale.sold]) expect(figure).toBeGreaterThan(0)
    expect(ended.code).toBe(0)
  })

  it('keeps the databases of a folder that it is given, and refuses one with something in it', async () => {
    const data = join(folder.path, 'kept')
    expect((await sell('--kill', '0', '--orders', '50', '--data', data)).code).toBe(0)
    for (const name of ['stock', 'orders', 'wallet', 'journal']) expect(existsSync(join(data, `${name}.sqlite`)), name).toBe(true)
    const again = await sell('--data', data)
    expect(again.code).toBe(2)
    expect(onlyDocument(again)).toMatchObject({ error: { code: 'data-not-empty' } })
  })

  it.each([
    [
      'forgets the wallets of some batches',
      'databases.wallet.updateMany(',
      'accepted.length % 2 === 0 && databases.wallet.updateMany(',
      'halfWritten',
    ],
    [
      'writes an order twice',
      'accepted.map(({ id, input, result, position })',
      'accepted.flatMap((order) => (order.position % 50 === 0 ? [order, order] : [order])).map(({ id, input, result, position })',
      'duplicated',
    ],
    [
      'forgets an order row',
      'accepted.map(({ id, input, result, position })',
      'accepted.filter(({ position }) => position % 50 !== 0).map(({ id, input, result, position })',
      'lost',
    ],
    ['sells what it has not', 'if (item.remaining < order.quantity) return', 'if (item.remaining < order.quantity - 1) return', 'oversold'],
  ])('says no, with exit code 1, of an app that %s', async (_name, from, to, figure) => {
    const ended = await sell('--kill', '0', '--data', join(folder.path, figure), '--app', brokenApp(figure, from, to))
    expect(ended.code).toBe(1)
    const sale = onlyDocument<Sale & Record<string, number>>(ended)
    expect(sale.ok).toBe(false)
    expect(sale[figure]).toBeGreaterThan(0)
  })

  it('leaves the server up without --once, with lines that can be copied, and stops it on Ctrl-C', async () => {
    const running = spawnHeadrace(['demo', 'flash-sale', '--orders', '200', '--kill', '1', '--seed', '5'])
    await running.line(/Verdict: it all adds up/)
    await running.line(/Ctrl-C stops the server/)
    const url = /http:\/\/\S+/.exec(await running.line(/still up at/))?.[0]?.replace(/\.$/, '') ?? ''
    expect(await run(await running.line(/curl .*stock\.put/))).toMatchObject({ status: 'committed' })
    const order = await running.line(/curl .*order\.buy -H/)
    const first = await run(order)
    expect(first).toMatchObject({ command: 'order.buy', id: 'mine-1', status: expect.stringMatching(/committed|rejected/) as string })
    expect(await run(order)).toEqual(first)
    expect(await run(await running.line(/curl .*stock\.left/))).toMatchObject({ price: 500 })
    expect(await run(await running.line(/curl .*outcomes/))).toEqual(first)

    running.child.kill('SIGINT')
    const { code, stderr } = await running.ended
    expect(code).toBe(0)
    await expect(get(`${url}/livez`)).rejects.toThrow()
    const data = /data +(\S+):/.exec(stderr)?.[1] ?? ''
    expect(data).toContain('headrace-flash-sale-')
    expect(existsSync(data)).toBe(false)
  })

  it('stops in the middle on Ctrl-C, and takes its server with it', async () => {
    const running = spawnHeadrace(['demo', 'flash-sale', '--orders', '2000000', '--kill', '0', '--buyers', '10'])
    let stderr = ''
    const started = new Promise<string>((resolve) => {
      running.child.stderr?.on('data', (text: string) => {
        stderr += text
        if (/put in place/.test(stderr)) resolve(/http:\/\/[^,\s]+/.exec(stderr)?.[0] ?? '')
      })
    })
    const url = await started
    expect(await get(`${url}/livez`)).toMatchObject({ status: 200 })
    running.child.kill('SIGINT')
    expect((await running.ended).code).toBe(130)
    await expect(get(`${url}/livez`)).rejects.toThrow()
  })
})

/** Runs a line as a shell does, and reads its JSON. */
async function run(line: string): Promise<unknown> {
  const shell = spawn('sh', ['-c', `${line.trim()} -s`], { stdio: ['ignore', 'pipe', 'inherit'] })
  let text = ''
  shell.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  await once(shell, 'close')
  return JSON.parse(text)
}
