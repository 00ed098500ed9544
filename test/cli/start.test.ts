import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, describe, expect, it } from 'vitest'
import { flashSale, get, headrace, onlyDocument, post, spawnHeadrace, startNode, temporaryFolder } from './headrace.ts'

const folder = temporaryFolder()
afterAll(() => folder.drop())

let files = 0
/** Writes an app of the test, far away from the package and its node_modules. */
function app(text: string): string {
  const file = join(folder.path, `app-${++files}.ts`)
  writeFileSync(file, text)
  return file
}

function data(): string {
  return join(folder.path, `data-${++files}`)
}

/** A schema that takes anything, without a library. */
const anySchema = `{ '~standard': { version: 1, vendor: 'test', validate: (value: unknown) => ({ value: value as any }) } } as const`

const slowApp = (ms: number, more = ''): string => `
  import { accept, command, defineApp } from 'headrace'
  import { sqlite } from 'headrace/sqlite'
  const notes = sqlite('notes', { schema: 'create table if not exists notes (id text primary key)' })
  const note = command('note.add', {
    input: ${anySchema},
    key: () => 'k',
    databases: { notes },
    async run({ id, databases }) {
      console.error('handling ' + id)
      await databases.notes.insertMany('notes', [{ id }])
      await new Promise((resolve) => setTimeout(resolve, ${ms}))
      return accept({ id })
    },
  })
  export default defineApp({ name: 'notes', commands: [note], ${more} })`

function stderrLine(child: ChildProcess, words: string): Promise<void> {
  return new Promise((resolve) => {
    child.stderr?.on('data', (text: string) => {
      if (text.includes(words)) resolve()
    })
  })
}

describe('headrace start', () => {
  it('serves a TypeScript app, says where, and what to try', async () => {
    const running = spawnHeadrace(['start', flashSale, '--port', '0', '--data', data()])
    await running.line(/Ctrl-C/)
    const listening = await running.line(/listening/)
    const url = /http:\/\/\S+/.exec(listening)?.[0] ?? ''
    expect(await get(`${url}/readyz`)).toMatchObject({ status: 200 })
    const curl = await running.line(/curl .*\/commands\/order\.buy/)
    const shell = spawn('sh', ['-c', `${curl.trim()} -s`], { stdio: ['ignore', 'pipe', 'inherit'] })
    const [answer] = (await once(shell.stdout, 'data')) as [Buffer]
    expect(JSON.parse(answer.toString())).toMatchObject({ command: 'order.buy', status: 'rejected', code: 'unknown-sku' })
    running.child.kill('SIGINT')
    expect((await running.ended).code).toBe(0)
  })

  it('answers within a second or so, data directory and all', async () => {
    const node = await startNode(flashSale, data())
    // Many times the goal, for machines that do other things at once.
    expect(node.ready['readyMs']).toBeLessThan(10_000)
    expect((await node.stop()).code).toBe(0)
  })

  it('gives an app the very modules that it runs on itself, wherever the file lies', async () => {
    const own = fileURLToPath(new URL('../../dist/index.js', import.meta.url))
    const file = app(`
      import * as imported from 'headrace'
      import { createRequire } from 'node:module'
      const own = createRequire(import.meta.url)(${JSON.stringify(own)})
      console.error('same: ' + (imported.HeadraceError === own.HeadraceError && imported.defineApp === own.defineApp))
      ${slowApp(0).replace("import { accept, command, defineApp } from 'headrace'", 'const { accept, command, defineApp } = imported')}`)
    const node = await startNode(file, data())
    expect(await post(node.url, 'note.add', 'a', {})).toMatchObject({ status: 200, body: { status: 'committed' } })
    expect((await node.stop()).stderr).toContain('same: true')
  })

  it('takes an export named app as well', async () => {
    const node = await startNode(app(slowApp(0).replace('export default', 'export const app =')), data())
    expect((await node.stop()).code).toBe(0)
  })

  it.each([
    ['a file that does not parse', 'export default {{{', 'file-failed'],
    ['a file that throws', "throw new Error('no luck today')", 'file-failed'],
    ['a file without an app', 'export const other = 1', 'app-missing'],
    ['an app with an unknown option', slowApp(0, 'batchComandsMax: 1'), 'option-unknown'],
    ['a package that is not there', "import 'not-a-package-of-anybody'", 'file-failed'],
  ])('refuses %s with exit code 2', async (_name, text, code) => {
    const ended = await headrace(['start', app(text), '--json', '--data', data()])
    expect(ended.code).toBe(2)
    expect(onlyDocument(ended)).toMatchObject({ error: { code } })
  })

  it('sets limits by flag, and refuses a flag that the app overrules', async () => {
    const node = await startNode(app(slowApp(0)), data(), ['--input-bytes-max', '64', '--body-bytes-max', '1000'])
    expect(await post(node.url, 'note.add', 'a', { text: 'x'.repeat(100) })).toMatchObject({
      body: { code: expect.stringMatching(/^(input|body)-/) as string },
    })
    expect((await node.stop()).code).toBe(0)

    const ended = await headrace(['start', app(slowApp(0, 'batchCommandsMax: 3')), '--batch-commands-max', '4', '--json', '--data', data()])
    expect(ended.code).toBe(2)
    expect(onlyDocument(ended)).toMatchObject({
      error: { code: 'option-invalid', message: expect.stringContaining('--batch-commands-max') as string },
    })
  })

  it('ends with 3 when the port or the data directory is taken', async () => {
    const taken = createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    const { port } = taken.address() as { port: number }
    const ended = await headrace(['start', flashSale, '--port', String(port), '--json', '--data', data()])
    taken.close()
    expect(ended.code).toBe(3)
    expect(ended.stdout).toContain('listen-failed')

    const dataDir = data()
    const node = await startNode(flashSale, dataDir)
    const second = await headrace(['start', flashSale, '--port', '0', '--json', '--data', dataDir])
    expect(second.code).toBe(3)
    expect(second.stdout).toContain('data-in-use')
    expect((await node.stop()).code).toBe(0)
  })

  it('finishes on SIGTERM what is in flight, and ends with 0', async () => {
    const node = await startNode(app(slowApp(500)), data())
    const handling = stderrLine(node.child, 'handling a')
    const answer = post(node.url, 'note.add', 'a', {})
    await handling
    const ended = node.stop('SIGTERM')
    expect(await answer).toMatchObject({ status: 200, body: { status: 'committed' } })
    expect(await ended).toMatchObject({ code: 0 })
    expect((await ended).stdout).toContain('"graceful":true')
  })

  it('ends at once on a second signal', async () => {
    const node = await startNode(app(slowApp(60_000, 'handlerTimeoutMs: 90_000, stopTimeoutMs: 90_000')), data())
    const handling = stderrLine(node.child, 'handling a')
    post(node.url, 'note.add', 'a', {}).catch(() => {})
    await handling
    node.child.kill('SIGTERM')
    await node.line(/"event":"stopping"/)
    expect(await node.stop('SIGTERM')).toMatchObject({ code: 130 })
  })

  it('ends when the process that started it is gone', async () => {
    const node = await startNode(flashSale, data(), [], {}, true)
    node.child.disconnect()
    expect(await node.ended).toMatchObject({ code: 0 })
  })

  it('goes on after SIGKILL where it was', async () => {
    const dataDir = data()
    const first = await startNode(flashSale, dataDir)
    await post(first.url, 'stock.put', 'k1', { sku: 'a', price: 5, remaining: 3 })
    await first.stop('SIGKILL')
    const second = await startNode(flashSale, dataDir)
    expect(await get(`${second.url}/queries/stock.left?sku=a`)).toMatchObject({ body: { remaining: 3 } })
    expect((await second.stop()).code).toBe(0)
  })
})
